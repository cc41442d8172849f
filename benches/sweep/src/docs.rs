//! The parts of `docs/performance.md` that are made from records: what stands between two marks,
//! `<!-- <folder of the record>: <part> -->` and `<!-- end -->`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lanenorm_harness::record::{Kernel, Record};
use lanenorm_harness::report::wrapped;
use lanenorm_harness::table::{Table, three_digits};
use serde::de::DeserializeOwned;

use crate::pictures::records::{self, distinct};
use crate::scaling::Row;

const PAGE: &str = "docs/performance.md";
const END: &str = "<!-- end -->";

/// Writes the page anew.
///
/// # Errors
/// If the page or a record cannot be read, or the page not be written.
pub fn main() -> anyhow::Result<()> {
    let path = root().join(PAGE);
    fs::write(&path, made(&fs::read_to_string(&path)?)?).with_context(|| format!("{PAGE} cannot be written"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The page with all parts made anew.
fn made(page: &str) -> anyhow::Result<String> {
    let mut out = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("<!-- ") {
        let (mark, after) = after.split_once(" -->").context("a mark does not end")?;
        let (folder, part) = mark.split_once(": ").with_context(|| format!("<!-- {mark} --> names no part"))?;
        let (_, after) = after.split_once(END).with_context(|| format!("<!-- {mark} --> has no {END}"))?;
        let text = text(folder, part).with_context(|| format!("<!-- {mark} -->"))?;
        out += &format!("{before}<!-- {mark} -->\n\n{}\n\n{END}", text.trim_end());
        rest = after;
    }
    Ok(out + rest)
}

fn text(folder: &str, part: &str) -> anyhow::Result<String> {
    if part == "scaling" {
        let record = read::<records::Record<Row>>(folder, "scaling.json")?;
        return Ok(scaling(&record.results).markdown());
    }
    let record = read::<Record<Kernel>>(folder, "kernels.json")?;
    Ok(match part {
        "summary" => record.sentences().iter().map(|sentence| wrapped(sentence, "- ", "  ")).collect(),
        "types" => record.table_of_types().markdown(),
        "forms" => record.table_of_forms().markdown(),
        "gated" => record.table_of_gated().context("no call has a gate")?.markdown(),
        "loops" => record.table_of_loops().context("no call has loops of its own")?.markdown(),
        "quantized" => record.table_of_quantized().context("no call quantizes")?.markdown(),
        op if record.results.iter().any(|kernel| kernel.op == op) => record.table_of_op(op).markdown(),
        _ => bail!("there is no part {part}"),
    })
}

fn read<R: DeserializeOwned>(folder: &str, name: &str) -> anyhow::Result<R> {
    let path = root().join("benches/record").join(folder).join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no such record", path.display()))
}

/// Strong scaling on the best tier: the time of one thread, the speedup of each other number of threads, and the copy
/// beside the largest number.
fn scaling(rows: &[Row]) -> Table {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.scaling == "strong").collect();
    let threads = distinct(rows.iter().map(|row| row.threads));
    let most = threads.iter().copied().max().unwrap_or(1);
    let mut head = vec!["strong scaling".to_owned()];
    head.extend(threads.iter().map(|&n| if n == 1 { "µs, 1".into() } else { n.to_string() }));
    head.extend([format!("copy, {most}"), format!("copies, {most}")]);
    let mut table = Table::new(head);
    let key = |row: &Row| (row.op.clone(), row.dtype.clone(), row.rows, row.cols);
    for case in rows.chunk_by(|a, b| key(a) == key(b)) {
        // The widest tier is the last one.
        let ours = |n| case.iter().rfind(|row| row.threads == n && row.contender != "copy");
        let copy = case.iter().find(|row| row.threads == most && row.contender == "copy");
        let Row { op, dtype, rows, cols, .. } = case[0];
        let two = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.2}"));
        let mut cells = vec![format!("{op} {dtype} {rows}x{cols}")];
        cells.extend(threads.iter().map(|&n| match ours(n) {
            Some(row) if n == 1 => three_digits(row.lower_quartile_ns / 1e3),
            row => two(row.map(|row| row.speedup)),
        }));
        cells.extend([two(copy.map(|row| row.speedup)), two(ours(most).map(|row| row.copies))]);
        table.push(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_records_make() {
        let page = fs::read_to_string(root().join(PAGE)).unwrap();
        let made = made(&page).unwrap();
        let differs = |(a, b): &(&str, &str)| a != b;
        let first = made.lines().zip(page.lines()).find(differs);
        assert!(made == page, "{PAGE} is not what `--bin docs` makes; the first line that differs: {first:?}");
        assert!(page.matches(END).count() > 8, "{PAGE} has lost its marks");
    }

    #[test]
    fn marks_are_checked() {
        for bad in ["<!-- x", "<!-- x -->", "<!-- x: y -->", "<!-- nowhere: types -->\n\n<!-- end -->"] {
            assert!(made(bad).is_err(), "{bad}");
        }
        assert_eq!(made("no marks\n").unwrap(), "no marks\n");
    }
}
