//! The time of each peer divided by the time of a copy: a panel for each record, a row for each shape.

use std::path::Path;

use crate::pictures::chart::{Axis, Marker, Panel, Picture, Series, Style, decades, plain};
use crate::pictures::records::{self, Peer, Record, distinct};

const OURS: &str = "lanenorm";
const OURS_IN_PLACE: &str = "lanenorm in place";
const COPY: &str = "copy";

pub(crate) fn picture(folder: &Path) -> anyhow::Result<Option<Picture>> {
    let rust = records::read(folder, "peers.json")?;
    let python = records::read(folder, "python.json")?;
    Ok(draw(rust, python))
}

fn draw(rust: Option<Record<Peer>>, python: Option<Record<Peer>>) -> Option<Picture> {
    // Python's peers come first: they have the styles of the picture of errors.
    let mut records: Vec<(&str, Record<Peer>)> = python
        .map(|record| ("called from Python: of small shapes the call is most", record))
        .into_iter()
        .chain(rust.map(|record| ("called from Rust", record)))
        .collect();
    for (_, record) in &mut records {
        record.results.retain(|r| (&*r.op, &*r.dtype, r.threads) == ("layer_norm", "f32", 1));
        record.results.sort_by_key(|r| (r.rows * r.cols, r.cols));
    }
    records.retain(|(_, record)| !record.results.is_empty());
    let all = || records.iter().flat_map(|(_, record)| &record.results);
    let mut names = distinct(all().map(|r| r.contender.as_str()));
    names.sort_by_key(|&name| (name == COPY, name != OURS));
    let low = all().map(|r| r.copies).fold(1.0, f64::min) * 0.9;
    let high = all().map(|r| r.copies).fold(1.0, f64::max) * 1.1;
    let panels = records.iter().map(|(title, record)| panel(title, &record.results, &names, low, high)).collect();
    let machines = distinct(records.iter().map(|(_, record)| record.machine.line())).join("; ");
    let notes = vec![machines, "Time over that of a copy of the tensor; further left is faster.".into()];
    let title = "LayerNorm, f32, one thread, beside others: time in copies".into();
    (!records.is_empty()).then_some(Picture { title, notes, across: 1, panels })
}

fn panel(title: &str, results: &[Peer], names: &[&str], low: f64, high: f64) -> Panel {
    let shape = |r: &Peer| format!("{}x{}", r.rows, r.cols);
    let shapes = distinct(results.iter().map(shape));
    let row = |r: &Peer| shapes.iter().position(|s| *s == shape(r)).map(|i| Axis::row(i, shapes.len()));
    let of_name = |(i, &name): (usize, &&str)| {
        let points = results.iter().filter(|r| r.contender == name).filter_map(|r| Some((r.copies, row(r)?)));
        Series { name: name.into(), style: style(name, i), points: points.collect() }
    };
    let copy =
        Series { name: COPY.into(), style: Style::of_tier(COPY), points: vec![(1.0, 0.0), (1.0, shapes.len() as f64)] };
    let peers = names.iter().enumerate().filter(|&(_, &name)| name != COPY).map(of_name);
    Panel {
        title: title.into(),
        x: Axis::log("copies", low, high, copies(low, high)),
        y: Axis::rows(&shapes),
        series: peers.chain([copy]).filter(|s| !s.points.is_empty()).collect(),
        height: 150 + 40 * shapes.len() as u32,
    }
}

fn style(name: &str, i: usize) -> Style {
    let in_place = || Style { marker: Some(Marker::Diamond), ..Style::marked(0) };
    if name == OURS_IN_PLACE { in_place() } else { Style::marked(i) }
}

fn copies(low: f64, high: f64) -> Vec<(f64, String)> {
    let of_decade = |(at, _)| [1.0, 2.0, 5.0].map(|m| (at * m, plain(at * m)));
    decades(low / 10.0, high, plain).into_iter().flat_map(of_decade).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::draw::svg;
    use crate::pictures::theme::LIGHT;

    fn record(results: &str) -> Option<Record<Peer>> {
        let machine = r#"{"cpu": "a processor", "logical_cores": 2, "date": "2026-11-26T10:00:00Z"}"#;
        serde_json::from_str(&format!(r#"{{"machine": {machine}, "results": [{results}]}}"#)).unwrap()
    }

    fn result(contender: &str, threads: usize, copies: f64) -> String {
        format!(
            r#"{{"op": "layer_norm", "dtype": "f32", "rows": 8, "cols": 768, "threads": {threads},
                "contender": "{contender}", "copies": {copies}}}"#
        )
    }

    #[test]
    fn peers_of_one_thread_are_drawn_ours_on_top() {
        let results = [result("copy", 1, 1.0), result("b", 1, 3.0), result(OURS, 1, 2.0), result("c", 2, 1.5)];
        let picture = draw(record(&results.join(",")), None).unwrap();
        let names: Vec<_> = picture.panels[0].series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, [OURS, "b", COPY]);
        let text = svg(&picture, &LIGHT).unwrap();
        assert!(text.contains("8x768") && text.contains("a processor, 2 logical cores, 2026-11-26"), "{text}");
        assert!(!text.contains("called from Python"), "a panel without a record");
    }

    #[test]
    fn nothing_is_drawn_of_no_results() {
        assert!(draw(record(&result(OURS, 2, 1.0)), None).is_none());
    }

    #[test]
    fn ticks_are_one_two_five() {
        let labels: Vec<_> = copies(0.9, 22.0).into_iter().filter(|&(at, _)| at <= 22.0).map(|(_, l)| l).collect();
        assert!(labels.ends_with(&["1", "2", "5", "10", "20"].map(String::from)), "{labels:?}");
    }
}
