//! Throughput against columns: a panel for each size of the tensor, a line for each tier and for the copy.

use std::path::Path;

use crate::columns::report::Row;
use crate::pictures::chart::{Axis, Panel, Picture, Series, Style};
use crate::pictures::records::{self, Record, distinct};

pub(crate) fn picture(folder: &Path) -> anyhow::Result<Option<Picture>> {
    Ok(records::read(folder, "columns.json")?.as_ref().and_then(draw))
}

/// `None` if the record has no results.
fn draw(record: &Record<Row>) -> Option<Picture> {
    let rows = &record.results;
    let first = rows.first()?;
    let most_cols = rows.iter().map(|row| row.cols).max()?.max(first.cols + 1);
    let mut sizes = distinct(rows.iter().map(|row| row.size_bytes));
    sizes.sort_unstable();
    let panel = |&bytes: &usize| {
        let of_size: Vec<&Row> = rows.iter().filter(|row| row.size_bytes == bytes).collect();
        let most = of_size.iter().map(|row| row.gb_per_s).fold(0.0, f64::max);
        let name = of_size.first().map_or("", |row| &row.size);
        Panel {
            title: format!("tensor in {name}: x of {}", binary(bytes)),
            x: Axis::log("columns", 7.5, most_cols as f64 * 1.1, ticks(most_cols)),
            y: Axis::from_zero("GB/s", most),
            series: names(&of_size).into_iter().map(|name| series(name, &of_size)).collect(),
            height: 440,
        }
    };
    Some(Picture {
        title: format!("LayerNorm, {}, one thread: speed against columns", first.dtype),
        notes: vec![
            record.machine.line(),
            "Bytes read and written per time. Each tensor is cut into rows of so many columns; the copy is of the same tensor.".into(),
        ],
        across: 1,
        panels: sizes.iter().map(panel).collect(),
    })
}

/// The record has the copy first, and it is drawn last, below the tiers.
fn names<'a>(rows: &[&'a Row]) -> Vec<&'a str> {
    let mut names = distinct(rows.iter().map(|row| &*row.contender));
    names.reverse();
    names
}

fn series(name: &str, rows: &[&Row]) -> Series {
    let of_name = rows.iter().filter(|row| row.contender == name);
    let mut points: Vec<_> = of_name.map(|row| (row.cols as f64, row.gb_per_s)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name: name.into(), style: Style::of_tier(name), points }
}

/// The powers of four, whose neighbours have been measured, and the ends.
fn ticks(most: usize) -> Vec<(f64, String)> {
    let inner = (2..).map(|i| 1 << (2 * i)).take_while(|&cols: &usize| cols * 2 <= most);
    let all = std::iter::once(8).chain(inner).chain([most]);
    all.map(|cols| (cols as f64, cols.to_string())).collect()
}

fn binary(bytes: usize) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::draw::svg;
    use crate::pictures::theme::DARK;

    #[test]
    fn a_small_record_is_drawn() {
        let json = r#"{
            "machine": {"cpu": "a processor", "logical_cores": 2, "date": "2026-11-26T10:00:00Z", "more": 1},
            "results": [
                {"size": "L2", "size_bytes": 131072, "op": "layer_norm", "dtype": "f32", "rows": 4096, "cols": 8,
                 "contender": "copy", "lower_quartile_ns": 1, "median_ns": 1, "copies": 1, "blocks": 9, "gb_per_s": 80},
                {"size": "L2", "size_bytes": 131072, "op": "layer_norm", "dtype": "f32", "rows": 32, "cols": 1024,
                 "contender": "avx2", "lower_quartile_ns": 1, "median_ns": 1, "copies": 2, "blocks": 9, "gb_per_s": 40}
            ]}"#;
        let picture = draw(&serde_json::from_str(json).unwrap()).unwrap();
        let text = svg(&picture, &DARK).unwrap();
        assert_eq!(text, svg(&picture, &DARK).unwrap());
        for label in [
            "LayerNorm, f32, one thread: speed against columns",
            "tensor in L2: x of 128 KiB",
            "avx2",
            "copy",
            "1024",
            "a processor, 2 logical cores, 2026-11-26",
            "80",
        ] {
            assert!(text.contains(&format!("\n{label}\n</text>")), "{label} in\n{text}");
        }
    }

    #[test]
    fn ticks_have_the_ends() {
        let labels: Vec<_> = ticks(1_000_000).into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels.join(" "), "8 16 64 256 1024 4096 16384 65536 262144 1000000");
    }
}
