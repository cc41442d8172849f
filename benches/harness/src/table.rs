//! A table of strings, as aligned text or as Markdown.

use std::fmt::Write;

/// Text cells under their heads. Columns are aligned to the right, save the first.
#[derive(Debug)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(head: Vec<String>) -> Self {
        Self { head, rows: Vec::new() }
    }

    /// Adds a row, with one cell for each column.
    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.head.len());
        self.rows.push(row);
    }

    /// The table as aligned text, with two spaces between columns.
    pub fn text(&self) -> String {
        let width = |i: usize| self.lines().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..self.head.len()).map(width).collect();
        let mut out = String::new();
        for row in self.lines() {
            let mut line = format!("{:<1$}", row[0], widths[0]);
            for (cell, &width) in row.iter().zip(&widths).skip(1) {
                write!(line, "  {cell:>width$}").expect("strings can be written to");
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }

    /// The table as GitHub reads it.
    pub fn markdown(&self) -> String {
        let line = |row: &[String]| format!("| {} |\n", row.join(" | "));
        let rule = format!("|---|{}\n", "---:|".repeat(self.head.len() - 1));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&self.head) + &rule + &rows
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.head).chain(&self.rows)
    }
}

/// Three significant digits of a positive number, unless it is below 0.1.
pub fn three_digits(v: f64) -> String {
    let decimals = match v {
        ..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{v:.decimals$}")
}
