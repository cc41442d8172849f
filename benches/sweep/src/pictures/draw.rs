//! Pictures as SVG. The crate draws on whole pixels: pictures are drawn at twice the size at which they are shown.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::element::{DashedPathElement, PathElement};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::pictures::chart::{Axis, Line, Marker, Panel, Picture, Series, Style};
use crate::pictures::theme::Theme;

/// The width of a picture: twice the width of a README.
const WIDTH: u32 = 1660;
const MARGIN: i32 = 24;
const SMALL: f64 = 25.0;
const MEDIUM: f64 = 28.0;
const LARGE: f64 = 36.0;
/// The width of a letter, in heights of the font: more than most letters have.
const LETTER: f64 = 0.6;
/// The room above a panel, for its title.
const HEAD: i32 = 54;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The whole picture.
pub(crate) fn svg(picture: &Picture, theme: &Theme) -> anyhow::Result<String> {
    let (legend, sides) = (Legend::of(picture), Sides::of(picture));
    let top = 70 + 34 * picture.notes.len() as u32 + legend.height();
    let rows: Vec<&[Panel]> = picture.panels.chunks(picture.across).collect();
    let heights: Vec<u32> = rows.iter().map(|row| row.iter().map(|p| p.height).max().unwrap_or(0)).collect();
    let mut text = String::new();
    {
        let size = (WIDTH, top + heights.iter().sum::<u32>());
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&theme.page)?;
        let write = |text: &str, y: i32, font: FontDesc, color: RGBColor| {
            let style = font.color(&color).pos(Pos::new(HPos::Left, VPos::Top));
            root.draw(&Text::new(text.to_owned(), (MARGIN, y), style))
        };
        write(&picture.title, 16, font(LARGE).style(FontStyle::Bold), theme.text)?;
        for (i, note) in picture.notes.iter().enumerate() {
            write(note, 66 + 34 * i as i32, font(SMALL), theme.muted)?;
        }
        legend.draw(&root, top as i32 - legend.height() as i32, theme)?;
        let mut rest = root.split_vertically(top).1;
        for (row, height) in rows.into_iter().zip(heights) {
            let (area, below) = rest.split_vertically(height);
            for (panel, area) in row.iter().zip(area.split_evenly((1, picture.across))) {
                draw_panel(panel, &sides, &area, theme)?;
            }
            rest = below;
        }
        root.present()?;
    }
    Ok(text)
}

/// A font whose letters have this size as drawn: the crate divides sizes by 1.24.
fn font(size: f64) -> FontDesc<'static> {
    ("sans-serif", size * 1.24).into_font()
}

fn width(text: &str, size: f64) -> i32 {
    (text.chars().count() as f64 * size * LETTER) as i32
}

/// Every series once, in lines that fit.
struct Legend<'a> {
    lines: Vec<Vec<(i32, &'a Series)>>,
}

impl<'a> Legend<'a> {
    const LINE: i32 = 40;
    const SAMPLE: i32 = 46;

    fn of(picture: &'a Picture) -> Self {
        let mut lines: Vec<Vec<(i32, &Series)>> = vec![Vec::new()];
        let (mut x, mut seen) = (MARGIN, Vec::new());
        for series in picture.panels.iter().flat_map(|panel| &panel.series) {
            if seen.contains(&&series.name) {
                continue;
            }
            seen.push(&series.name);
            let width = Self::SAMPLE + 12 + width(&series.name, SMALL) + 36;
            if x + width > WIDTH as i32 {
                lines.push(Vec::new());
                x = MARGIN;
            }
            lines.last_mut().expect("a line").push((x, series));
            x += width;
        }
        Self { lines }
    }

    fn height(&self) -> u32 {
        Self::LINE as u32 * self.lines.len() as u32 + 10
    }

    fn draw(&self, area: &Area<'_>, top: i32, theme: &Theme) -> anyhow::Result<()> {
        for (i, line) in self.lines.iter().enumerate() {
            let y = top + Self::LINE * i as i32 + Self::LINE / 2;
            for &(x, series) in line {
                draw_line(area, vec![(x, y), (x + Self::SAMPLE, y)], series.style, theme)?;
                draw_marker(area, (x + Self::SAMPLE / 2, y), series.style, theme)?;
                let style = font(SMALL).color(&theme.text).pos(Pos::new(HPos::Left, VPos::Center));
                area.draw(&Text::new(series.name.clone(), (x + Self::SAMPLE + 12, y), style))?;
            }
        }
        Ok(())
    }
}

/// The room for labels beside the panels of a picture. All panels have the same, so that their axes are below each
/// other.
struct Sides {
    left: i32,
    right: i32,
}

impl Sides {
    fn of(picture: &Picture) -> Self {
        let ticks = picture.panels.iter().flat_map(|panel| &panel.y.ticks);
        let widest = ticks.map(|(_, label)| width(label, SMALL)).max().unwrap_or(0);
        let has_title = picture.panels.iter().any(|panel| !panel.y.title.is_empty());
        // Half of the last label is beyond the axis.
        let last = picture.panels.iter().filter_map(|panel| panel.x.ticks.last());
        let half = last.map(|(_, label)| width(label, SMALL) / 2).max().unwrap_or(0);
        Self { left: widest + if has_title { 66 } else { 30 }, right: half.max(MARGIN) + 8 }
    }
}

fn draw_panel(panel: &Panel, sides: &Sides, area: &Area<'_>, theme: &Theme) -> anyhow::Result<()> {
    let title = font(MEDIUM).color(&theme.text).pos(Pos::new(HPos::Left, VPos::Top));
    area.draw(&Text::new(panel.title.clone(), (MARGIN, 6), title))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(if panel.title.is_empty() { 12 } else { HEAD })
        .margin_left(MARGIN / 2)
        .margin_right(sides.right)
        .margin_bottom(14)
        .x_label_area_size(78)
        .y_label_area_size(sides.left)
        .build_cartesian_2d(&panel.x, &panel.y)?;
    let label = font(SMALL).color(&theme.text);
    chart
        .configure_mesh()
        .bold_line_style(theme.grid.stroke_width(2))
        .light_line_style(TRANSPARENT)
        .axis_style(theme.muted.stroke_width(2))
        .label_style(label.clone())
        .axis_desc_style(label)
        .x_desc(panel.x.title.as_str())
        .y_desc(panel.y.title.as_str())
        .draw()?;
    for series in panel.series.iter().rev() {
        draw_line(chart.plotting_area(), series.points.clone(), series.style, theme)?;
        for &point in &series.points {
            draw_marker(chart.plotting_area(), point, series.style, theme)?;
        }
    }
    Ok(())
}

impl Ranged for &Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let [low, high, at] = [self.low, self.high, *value].map(|v| self.position(v));
        limit.0 + (f64::from(limit.1 - limit.0) * (at - low) / (high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.iter().map(|&(at, _)| at).collect() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for &Axis {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|(at, _)| at == value);
        tick.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

fn draw_line<'a, C>(
    area: &DrawingArea<SVGBackend<'a>, C>,
    points: Vec<C::From>,
    style: Style,
    theme: &Theme,
) -> anyhow::Result<()>
where
    C: CoordTranslate,
    C::From: Clone,
{
    let color = theme.color(style.color);
    match style.line {
        Line::None => {}
        Line::Solid => area.draw(&PathElement::new(points, color.stroke_width(4)))?,
        Line::Dashed => area.draw(&DashedPathElement::new(points, 10, 9, color.stroke_width(3)))?,
    }
    Ok(())
}

fn draw_marker<'a, C>(
    area: &DrawingArea<SVGBackend<'a>, C>,
    at: C::From,
    style: Style,
    theme: &Theme,
) -> anyhow::Result<()>
where
    C: CoordTranslate,
    C::From: Clone,
{
    let Some(marker) = style.marker else { return Ok(()) };
    let fill = theme.color(style.color).filled();
    let at = || EmptyElement::at(at.clone());
    match marker {
        Marker::Circle => area.draw(&(at() + Circle::new((0, 0), 10, fill)))?,
        Marker::Triangle => area.draw(&(at() + Polygon::new(vec![(0, -12), (11, 8), (-11, 8)], fill)))?,
        Marker::Square => area.draw(&(at() + Rectangle::new([(-9, -9), (9, 9)], fill)))?,
        Marker::Diamond => area.draw(&(at() + Polygon::new(vec![(0, -13), (13, 0), (0, 13), (-13, 0)], fill)))?,
    }
    Ok(())
}
