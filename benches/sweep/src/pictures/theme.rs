//! Colours for light and dark pages. Lines have the colours of Okabe and Ito, which the colour-blind tell apart, darker
//! or lighter where the page needs it.

use plotters::style::RGBColor;

use crate::pictures::chart::Color;

pub(crate) struct Theme {
    pub(crate) name: &'static str,
    pub(crate) page: RGBColor,
    pub(crate) text: RGBColor,
    /// The colour of text that is read second.
    pub(crate) muted: RGBColor,
    pub(crate) grid: RGBColor,
    lines: [RGBColor; Color::LINES],
}

impl Theme {
    pub(crate) fn color(&self, color: Color) -> RGBColor {
        match color {
            Color::Neutral => self.muted,
            Color::Line(i) => self.lines[i % Color::LINES],
        }
    }
}

pub(crate) const LIGHT: Theme = Theme {
    name: "light",
    page: RGBColor(255, 255, 255),
    text: RGBColor(31, 35, 40),
    muted: RGBColor(100, 108, 118),
    grid: RGBColor(222, 226, 230),
    lines: [
        RGBColor(0, 114, 178),
        RGBColor(213, 94, 0),
        RGBColor(0, 140, 102),
        RGBColor(180, 80, 140),
        RGBColor(214, 148, 0),
        RGBColor(70, 165, 220),
    ],
};

/// The page is GitHub's.
pub(crate) const DARK: Theme = Theme {
    name: "dark",
    page: RGBColor(13, 17, 23),
    text: RGBColor(230, 237, 243),
    muted: RGBColor(150, 158, 168),
    grid: RGBColor(42, 48, 56),
    lines: [
        RGBColor(86, 180, 233),
        RGBColor(255, 130, 60),
        RGBColor(40, 200, 150),
        RGBColor(226, 150, 196),
        RGBColor(240, 200, 60),
        RGBColor(150, 150, 255),
    ],
};
