//! The sizes of tensors, and the numbers of columns into which they are cut.

use crate::columns::caches;

/// A million columns is beyond every model; the tree that merges the chunks of a row is ten levels deep by then.
const MOST: usize = 1_000_000;
const FEWEST: usize = 8;

/// A size of x, and of y.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
    /// Whether x has one row, of at most `bytes`, however few its columns.
    one_row: bool,
    why: &'static str,
    /// How long a point takes beside a point of other sizes.
    pub(crate) weight: f64,
}

pub(crate) const SIZES: [Size; 4] = [
    Size { name: "one row", bytes: 64 << 10, one_row: true, why: "a call for each row, as in decoding", weight: 0.2 },
    Size {
        name: "L2",
        bytes: 128 << 10,
        one_row: false,
        why: "x, y, gamma and beta have at most 512 KiB, and at least twice an L1",
        weight: 0.2,
    },
    Size {
        name: "L3",
        bytes: 4 << 20,
        one_row: false,
        why: "x and y have 8 MiB, more than an L2 and less than an L3",
        weight: 0.35,
    },
    Size {
        name: "memory",
        bytes: 128 << 20,
        one_row: false,
        why: "x and y have 256 MiB, more than most L3",
        weight: 1.0,
    },
];

impl Size {
    /// The number of rows of x, if a row has `cols` elements.
    pub(crate) fn rows(&self, cols: usize, element: usize) -> usize {
        if self.one_row { 1 } else { (self.bytes / (cols * element)).max(1) }
    }

    /// The length of the longest row that the tensor holds.
    pub(crate) fn most_cols(&self, element: usize) -> usize {
        MOST.min(self.bytes / element)
    }

    /// The bytes of x, for a reader.
    pub(crate) fn extent(&self) -> String {
        let kibibytes = self.bytes >> 10;
        match kibibytes >> 10 {
            0 if self.one_row => format!("at most {kibibytes} KiB"),
            0 => format!("{kibibytes} KiB"),
            mebibytes => format!("{mebibytes} MiB"),
        }
    }
}

/// Numbers of columns in order, so that a machine whose speed drifts makes no teeth: the powers of two and, unless
/// `coarse`, the quarters of each octave, a column more and less than each second power of two, and `most`.
pub(crate) fn points(most: usize, coarse: bool) -> Vec<usize> {
    let mut points: Vec<usize> = powers_up_to(most).collect();
    if !coarse {
        points.extend(powers_up_to(most).flat_map(|p| [p / 4 * 5, p / 2 * 3, p / 4 * 7]));
        points.extend(powers_up_to(most).filter(|p| p.trailing_zeros() % 2 == 0).flat_map(|p| [p - 1, p + 1]));
        points.push(most);
    }
    points.retain(|&cols| cols <= most);
    points.sort_unstable();
    points.dedup();
    points
}

fn powers_up_to(most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(FEWEST), |p| Some(p * 2)).take_while(move |&p| p <= most)
}

/// The sizes with their reasons, for the head of the report.
pub(crate) fn explain() -> String {
    let lines = SIZES.map(|size| format!("{:<7} x of {}: {}.", size.name, size.extent(), size.why));
    format!("{}\nCaches of this processor: {}.", lines.join("\n"), caches::list().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_in_order_and_end_at_the_most() {
        assert_eq!(points(100, true), [8, 16, 32, 64]);
        let fine = [8, 10, 12, 14, 15, 16, 17, 20, 24, 28, 32, 40, 48, 56, 63, 64, 65, 70];
        assert_eq!(points(70, false), fine);
        assert!(points(MOST, false).ends_with(&[786_432, 917_504, 1_000_000]));
    }

    #[test]
    fn each_tensor_holds_whole_rows() {
        for size in SIZES {
            for cols in points(size.most_cols(4), false) {
                let bytes = size.rows(cols, 4) * cols * 4;
                let fills = bytes * 2 > size.bytes || size.one_row;
                assert!(bytes <= size.bytes && fills, "{cols} columns have {bytes} bytes");
            }
        }
    }
}
