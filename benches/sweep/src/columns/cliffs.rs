//! Neighbours in the number of columns between which the speed jumps.

use serde::{Deserialize, Serialize};

use crate::columns::report::Row;

/// The factor from which on a jump is listed.
pub(crate) const LIMIT: f64 = 1.3;

/// The printed definition.
pub(crate) const MEANING: &str = "\
Cliffs: pairs of neighbours in columns, of one tensor size and one tier, times in copies of the same tensor. Slower: the
time per element is more than 1.3 times that of fewer columns. Faster: it is less than 1/1.3 of that of fewer columns, and
of what a fixed cost per row would explain, that is, a longer row takes less time.";

/// A jump between neighbours.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cliff {
    pub(crate) size: String,
    pub(crate) contender: String,
    /// Columns.
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Times in copies.
    pub(crate) copies_from: f64,
    pub(crate) copies_to: f64,
}

/// All jumps, in the order of the rows. A copy has none, as times are divided by its time.
pub(crate) fn find(rows: &[Row]) -> Vec<Cliff> {
    let mut sorted: Vec<&Row> = rows.iter().filter(|row| row.contender != "copy").collect();
    let key = |row: &Row| (row.size_bytes, row.contender.clone(), row.cols);
    sorted.sort_by_key(|row| key(row));
    let pairs = sorted.windows(2).filter_map(|pair| {
        let &[a, b] = pair else { return None };
        let same = (a.size_bytes, &a.contender) == (b.size_bytes, &b.contender);
        (same && is_cliff(a, b)).then(|| Cliff {
            size: b.size.clone(),
            contender: b.contender.clone(),
            from: a.cols,
            to: b.cols,
            copies_from: a.copies,
            copies_to: b.copies,
        })
    });
    pairs.collect()
}

fn is_cliff(shorter: &Row, longer: &Row) -> bool {
    let of_row = |row: &Row| row.copies * row.cols as f64;
    longer.copies > LIMIT * shorter.copies || of_row(shorter) > LIMIT * of_row(longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(size: &str, contender: &str, cols: usize, copies: f64) -> Row {
        let bytes = if size == "L2" { 1 } else { 2 };
        Row { size: size.into(), size_bytes: bytes, contender: contender.into(), cols, copies, ..Row::default() }
    }

    #[test]
    fn finds_what_jumps_and_nothing_else() {
        let rows = [
            row("L2", "avx2", 1024, 1.5),
            row("L2", "avx2", 1025, 2.0),
            row("L2", "avx2", 1023, 2.0),
            row("L2", "copy", 1023, 1.0),
            row("L2", "copy", 1024, 9.0),
            row("L2", "avx512", 1026, 9.0),
            // Half the time for twice the columns: a cost per row.
            row("L3", "avx2", 8, 8.0),
            row("L3", "avx2", 16, 4.1),
            row("L3", "avx2", 17, 5.3),
        ];
        let found: Vec<_> = find(&rows).into_iter().map(|c| (c.size, c.contender, c.from, c.to)).collect();
        let cliff = |from, to| ("L2".to_owned(), "avx2".to_owned(), from, to);
        assert_eq!(found, [cliff(1023, 1024), cliff(1024, 1025)]);
    }

    #[test]
    fn the_meaning_has_the_limit() {
        assert_eq!(MEANING.matches(&LIMIT.to_string()).count(), 2);
    }
}
