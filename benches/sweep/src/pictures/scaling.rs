//! Speedup against threads: a panel for each shape of LayerNorm in f32, with the speedup of the copy and the ideal.

use std::path::Path;

use crate::pictures::chart::{Axis, Color, Line, Panel, Picture, Series, Style};
use crate::pictures::records::{self, Record, distinct};
use crate::scaling::Row;

pub(crate) fn picture(folder: &Path) -> anyhow::Result<Option<Picture>> {
    Ok(records::read(folder, "scaling.json")?.as_ref().and_then(draw))
}

/// `None` if the record has no LayerNorm in f32.
fn draw(record: &Record<Row>) -> Option<Picture> {
    let rows: Vec<&Row> = record.results.iter().filter(|r| (&*r.op, &*r.dtype) == ("layer_norm", "f32")).collect();
    let most = rows.iter().map(|r| r.threads).max()?;
    let top = rows.iter().map(|r| r.speedup).fold(most as f64, f64::max);
    let bottom = rows.iter().map(|r| r.speedup).fold(1.0, f64::min);
    let cases = distinct(rows.iter().filter(|r| r.threads == 1).map(|r| (&*r.scaling, r.rows, r.cols)));
    let panel = |&(kind, alone, cols): &(&str, usize, usize)| {
        let is_weak = kind == "weak";
        let of_case = |r: &&&Row| {
            (&*r.scaling, r.cols) == (kind, cols) && r.rows == if is_weak { alone * r.threads } else { alone }
        };
        let of_case: Vec<&Row> = rows.iter().filter(of_case).copied().collect();
        // The record has the copy first, and it is drawn last, below the tiers.
        let names = distinct(of_case.iter().map(|r| &*r.contender)).into_iter().rev();
        Panel {
            title: format!("{kind}, {alone}x{cols}{}", if is_weak { " per thread" } else { "" }),
            x: Axis::log("threads", 0.9, most as f64 * 1.1, doublings(most as f64)),
            y: Axis::log("speedup", bottom * 0.9, top * 1.1, doublings(top)),
            series: names.map(|name| series(name, &of_case)).chain([ideal(most as f64)]).collect(),
            height: 480,
        }
    };
    Some(Picture {
        title: "LayerNorm, f32: how many times faster than one thread".into(),
        notes: vec![
            record.machine.line(),
            "Strong scaling: one shape for any number of threads. Weak: rows in proportion to them.".into(),
        ],
        across: 3,
        panels: cases.iter().map(panel).collect(),
    })
}

fn ideal(most: f64) -> Series {
    let style = Style { color: Color::Neutral, line: Line::Dashed, marker: None };
    Series { name: "ideal".into(), style, points: vec![(1.0, 1.0), (most, most)] }
}

fn series(name: &str, rows: &[&Row]) -> Series {
    let of_name = rows.iter().filter(|r| r.contender == name);
    let mut points: Vec<_> = of_name.map(|r| (r.threads as f64, r.speedup)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name: name.into(), style: Style::of_tier(name), points }
}

fn doublings(most: f64) -> impl Iterator<Item = (f64, String)> {
    (0..).map(|i| f64::from(1u32 << i)).take_while(move |&n| n <= most * 1.1).map(|n| (n, n.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::draw::svg;
    use crate::pictures::theme::LIGHT;

    #[test]
    fn each_shape_has_a_panel() {
        let row = |scaling: &str, rows: usize, threads: usize, contender: &str| {
            format!(
                r#"{{"scaling": "{scaling}", "op": "layer_norm", "dtype": "f32", "rows": {rows}, "cols": 64, "caller": "inside",
                    "threads": {threads}, "contender": "{contender}", "lower_quartile_ns": 1.0, "median_ns": 1.0,
                    "copies": 1.0, "blocks": 1, "gb_per_s": 1.0, "speedup": {threads}.0}}"#
            )
        };
        let rows = [
            row("strong", 8, 1, "copy"),
            row("strong", 8, 1, "neon"),
            row("strong", 8, 2, "neon"),
            row("weak", 8, 1, "neon"),
            row("weak", 16, 2, "neon"),
        ];
        let machine = r#"{"cpu": "a processor", "logical_cores": 2, "date": "2026-11-26T10:00:00Z"}"#;
        let json = format!(r#"{{"machine": {machine}, "results": [{}]}}"#, rows.join(","));
        let picture = draw(&serde_json::from_str(&json).unwrap()).unwrap();
        let titles: Vec<_> = picture.panels.iter().map(|panel| panel.title.as_str()).collect();
        assert_eq!(titles, ["strong, 8x64", "weak, 8x64 per thread"]);
        let of_weak = picture.panels[1].series.iter().find(|series| series.name == "neon").unwrap();
        assert_eq!(of_weak.points, [(1.0, 1.0), (2.0, 2.0)]);
        let text = svg(&picture, &LIGHT).unwrap();
        assert!(["ideal", "copy", "neon"].iter().all(|name| text.contains(&format!("\n{name}\n</text>"))), "{text}");
    }
}
