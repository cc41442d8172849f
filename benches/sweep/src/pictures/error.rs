//! The largest error against the offset of the rows, for each peer.

use std::path::Path;

use crate::pictures::chart::{Axis, Panel, Picture, Series, Style, decades};
use crate::pictures::records::{self, Accuracy, Peer, Record, distinct};

/// Where an offset of zero stands on a logarithmic axis: one decade before the smallest other offset.
const ZERO: f64 = 10.0;

pub(crate) fn picture(folder: &Path) -> anyhow::Result<Option<Picture>> {
    Ok(records::read(folder, "python.json")?.as_ref().and_then(draw))
}

/// `None` if the record has no errors at offsets.
fn draw(record: &Record<Peer>) -> Option<Picture> {
    let place = |offset: f64| offset.max(ZERO);
    let point = |a: &Accuracy| Some((place(a.offset?), a.max_abs_error.filter(|&error| error > 0.0)?));
    let names = distinct(record.accuracy.iter().filter(|a| a.offset.is_some()).map(|a| a.contender.as_str()));
    let of_name = |(i, &name): (usize, &&str)| Series {
        name: name.into(),
        style: Style::marked(i).with_line(),
        points: record.accuracy.iter().filter(|a| a.contender == name).filter_map(point).collect(),
    };
    let series: Vec<Series> = names.iter().enumerate().map(of_name).collect();
    let points = || series.iter().flat_map(|s| s.points.iter().copied());
    let high = points().map(|(offset, _)| offset).fold(ZERO, f64::max);
    let (best, worst) = points().fold((1.0, 1e-6), |(best, worst), (_, error)| (error.min(best), error.max(worst)));
    points().next()?;
    let (bottom, top) = (0.9 * 10f64.powf(best.log10().floor()), worst * 1.7);
    let zero = std::iter::once((ZERO, "0".into()));
    let offsets = zero.chain(decades(ZERO * 10.0, high, |at| format!("{at:e}")));
    let panel = Panel {
        title: String::new(),
        x: Axis::log("offset (mean of the rows)", ZERO * 0.8, high * 1.25, offsets),
        y: Axis::log("largest error", bottom, top, decades(bottom, top, |at| format!("{at:e}"))),
        series,
        height: 720,
    };
    Some(Picture {
        title: "LayerNorm, f32: largest error against the offset of the rows".into(),
        notes: vec![
            record.machine.line(),
            "Rows from N(offset, 1), gamma 1, beta 0, against float64. Outputs are of order 1: an error of 1 leaves no digit."
                .into(),
        ],
        across: 1,
        panels: vec![panel],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_or_has_no_offset_is_left_out() {
        let json = r#"{
            "machine": {"cpu": "a processor", "logical_cores": 2, "date": "2026-11-26T10:00:00Z"}, "results": [],
            "accuracy": [
                {"case": "mean 0", "offset": 0.0, "contender": "lanenorm", "finite": true, "max_abs_error": 4e-7},
                {"case": "mean 1e3", "offset": 1000.0, "contender": "lanenorm", "finite": true, "max_abs_error": 3e-7},
                {"case": "mean 0", "offset": 0.0, "contender": "b", "finite": true, "max_abs_error": 5e-7},
                {"case": "mean 1e3", "offset": 1000.0, "contender": "b", "finite": false, "max_abs_error": null},
                {"case": "std 1e30", "offset": null, "contender": "c", "finite": true, "max_abs_error": 1.0}
            ]}"#;
        let picture = draw(&serde_json::from_str(json).unwrap()).unwrap();
        let points: Vec<_> = picture.panels[0].series.iter().map(|s| (s.name.as_str(), s.points.len())).collect();
        assert_eq!(points, [("lanenorm", 2), ("b", 1)]);
        let offsets: Vec<_> = picture.panels[0].x.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(offsets, ["0", "1e2", "1e3"]);
    }
}
