//! The contents of a picture, before it is drawn.

/// Panels with one legend.
pub(crate) struct Picture {
    pub(crate) title: String,
    /// Says where the numbers are from, and how to read them.
    pub(crate) notes: Vec<String>,
    /// The number of panels beside each other.
    pub(crate) across: usize,
    pub(crate) panels: Vec<Panel>,
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// The lines. The first is on top.
    pub(crate) series: Vec<Series>,
    /// The height of the whole panel.
    pub(crate) height: u32,
}

/// An entry of the legend, and the style of its lines.
#[derive(Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) style: Style,
    pub(crate) points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy)]
pub(crate) struct Style {
    pub(crate) color: Color,
    pub(crate) line: Line,
    pub(crate) marker: Option<Marker>,
}

#[derive(Clone, Copy)]
pub(crate) enum Color {
    Neutral,
    Line(usize),
}

impl Color {
    pub(crate) const LINES: usize = 6;
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    None,
    Solid,
    Dashed,
}

#[derive(Clone, Copy)]
pub(crate) enum Marker {
    Circle,
    Triangle,
    Square,
    Diamond,
}

const MARKERS: [Marker; 4] = [Marker::Circle, Marker::Triangle, Marker::Square, Marker::Diamond];

impl Style {
    /// The style of a tier, or of the copy: the same in all pictures.
    pub(crate) fn of_tier(name: &str) -> Self {
        let color = match name {
            "avx512" => Color::Line(0),
            "avx2" => Color::Line(1),
            "neon" => Color::Line(2),
            "scalar" => Color::Line(3),
            _ => Color::Neutral,
        };
        Self { color, line: Line::Solid, marker: None }
    }

    /// The first has a colour of its own. The next twenty differ from each other in colour or marker, neighbours in
    /// both.
    pub(crate) fn marked(i: usize) -> Self {
        let color = if i == 0 { 0 } else { 1 + (i - 1) % (Color::LINES - 1) };
        Self { color: Color::Line(color), line: Line::None, marker: Some(MARKERS[i % MARKERS.len()]) }
    }

    pub(crate) fn with_line(self) -> Self {
        Self { line: Line::Solid, ..self }
    }
}

/// An axis from `low` to `high`, with labelled ticks.
pub(crate) struct Axis {
    pub(crate) title: String,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) ticks: Vec<(f64, String)>,
    is_log: bool,
}

impl Axis {
    /// A logarithmic axis: equal ratios are equally long.
    pub(crate) fn log(title: &str, low: f64, high: f64, ticks: impl IntoIterator<Item = (f64, String)>) -> Self {
        let ticks = ticks.into_iter().filter(|(at, _)| (low..=high).contains(at)).collect();
        Self { title: title.into(), low, high, ticks, is_log: true }
    }

    /// An axis from zero to at least `most`, with round ticks.
    pub(crate) fn from_zero(title: &str, most: f64) -> Self {
        let power = 10f64.powf(most.max(1e-9).log10().floor());
        let steps = [0.2, 0.5, 1.0, 2.0].map(|step| step * power);
        let step = steps.into_iter().find(|step| most / step <= 5.0).unwrap_or(power * 2.0);
        let count = (most / step).ceil().max(1.0);
        let ticks = (0..=count as usize).map(|i| i as f64 * step).map(|at| (at, plain(at)));
        Self { title: title.into(), low: 0.0, high: count * step, ticks: ticks.collect(), is_log: false }
    }

    /// An axis with a row for each name, from the top; [`Axis::row`] says where.
    pub(crate) fn rows(names: &[String]) -> Self {
        let ticks = names.iter().enumerate().map(|(i, name)| (Self::row(i, names.len()), name.clone()));
        Self { title: String::new(), low: 0.0, high: names.len() as f64, ticks: ticks.collect(), is_log: false }
    }

    pub(crate) fn row(i: usize, of: usize) -> f64 {
        (of - i) as f64 - 0.5
    }

    /// The place of a value, as it is drawn.
    pub(crate) fn position(&self, value: f64) -> f64 {
        if self.is_log { value.log10() } else { value }
    }
}

/// The value with at most three decimals, and no zeros at the end.
pub(crate) fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The powers of ten in a range.
pub(crate) fn decades(low: f64, high: f64, label: fn(f64) -> String) -> Vec<(f64, String)> {
    let exponents = low.log10().ceil() as i32..=high.log10().floor() as i32;
    exponents.map(|e| 10f64.powi(e)).map(|at| (at, label(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_from_zero_are_round_and_few() {
        for (most, expected) in [(114.0, "0 50 100 150"), (21.0, "0 5 10 15 20 25"), (0.9, "0 0.2 0.4 0.6 0.8 1")] {
            let axis = Axis::from_zero("", most);
            let labels: Vec<_> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
            assert_eq!(labels.join(" "), expected);
            assert!(axis.high >= most);
        }
    }

    #[test]
    fn logarithmic_axes_keep_ratios() {
        let axis = Axis::log("", 8.0, 1e6, decades(8.0, 1e6, plain));
        let distance = |a, b| axis.position(b) - axis.position(a);
        assert!((distance(10.0, 20.0) - distance(1000.0, 2000.0)).abs() < 1e-12);
        assert_eq!(axis.ticks[0], (10.0, "10".into()));
        assert_eq!(axis.ticks.len(), 6);
    }

    #[test]
    fn marked_styles_differ() {
        let look = |i| match Style::marked(i) {
            Style { color: Color::Line(color), marker: Some(marker), .. } => (color % Color::LINES, marker as usize),
            _ => panic!("style {i} has no colour or no marker"),
        };
        let looks: std::collections::BTreeSet<_> = (0..=20).map(look).collect();
        assert_eq!(looks.len(), 21);
    }
}
