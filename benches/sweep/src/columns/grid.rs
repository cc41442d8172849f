//! Which tensors are cut into rows of how many columns.

use crate::columns::caches;

/// A million columns is beyond every model; the tree that merges the chunks of a row is ten levels deep by then.
const MOST: usize = 1_000_000;
const FEWEST: usize = 8;

/// A size of x, and of y.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
    why: &'static str,
    /// How long a point takes beside those of other sizes.
    pub(crate) weight: f64,
}

pub(crate) const SIZES: [Size; 3] = [
    Size {
        name: "L2",
        bytes: 128 << 10,
        why: "x, y, gamma and beta have at most 512 KiB, and at least twice an L1",
        weight: 0.2,
    },
    Size { name: "L3", bytes: 4 << 20, why: "x and y have 8 MiB, more than an L2 and less than an L3", weight: 0.35 },
    Size { name: "memory", bytes: 128 << 20, why: "x and y have 256 MiB, more than most L3", weight: 1.0 },
];

impl Size {
    /// Of x, of rows that have so many elements.
    pub(crate) fn rows(&self, cols: usize, element: usize) -> usize {
        (self.bytes / (cols * element)).max(1)
    }

    /// The longest rows of which the tensor holds one.
    pub(crate) fn most_cols(&self, element: usize) -> usize {
        MOST.min(self.bytes / element)
    }

    pub(crate) fn mebibytes(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20)
    }
}

/// The powers of two, from which a run begins, so that a short one has seen the whole range.
pub(crate) fn powers(most: usize) -> Vec<usize> {
    powers_up_to(most).collect()
}

/// What lies between: the quarters of each octave, a column more and less than each second power of two, and the most.
pub(crate) fn between(most: usize) -> Vec<usize> {
    let quarters = powers_up_to(most).flat_map(|p| [p / 4 * 5, p / 2 * 3, p / 4 * 7]);
    let beside = powers_up_to(most).filter(|p| p.trailing_zeros() % 2 == 0).flat_map(|p| [p - 1, p + 1]);
    let mut cols: Vec<usize> =
        quarters.chain(beside).chain([most]).filter(|&cols| cols <= most && !cols.is_power_of_two()).collect();
    cols.sort_unstable();
    cols.dedup();
    cols
}

fn powers_up_to(most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(FEWEST), |p| Some(p * 2)).take_while(move |&p| p <= most)
}

/// The sizes with their reasons, for the head of the report.
pub(crate) fn explain() -> String {
    let lines = SIZES.map(|size| format!("{:<7} x of {} MiB: {}.", size.name, size.mebibytes(), size.why));
    format!("{}\nCaches of this processor: {}.", lines.join("\n"), caches::list().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_between_the_powers() {
        assert_eq!(powers(100), [8, 16, 32, 64]);
        assert_eq!(between(70), [10, 12, 14, 15, 17, 20, 24, 28, 40, 48, 56, 63, 65, 70]);
        assert!(between(MOST).ends_with(&[786_432, 917_504, 1_000_000]));
    }

    #[test]
    fn each_tensor_holds_whole_rows() {
        for size in SIZES {
            let most = size.most_cols(4);
            assert!((FEWEST..=MOST).contains(&most), "{most}");
            for cols in powers(most).into_iter().chain(between(most)) {
                let bytes = size.rows(cols, 4) * cols * 4;
                assert!(bytes <= size.bytes && bytes * 2 > size.bytes, "{cols} columns have {bytes} bytes");
            }
        }
    }
}
