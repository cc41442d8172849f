//! The rows: ordinary ones, and rows that are hard when no process sees all of a row.

use std::ops::Range;

use lanenorm::{Element, bf16};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::SHARD;

/// An element whose bits can be compared and that an f64 can be rounded to.
pub(crate) trait Bits: Element + Default {
    fn rounded(v: f64) -> Self;
    fn bits(self) -> u64;
}

impl Bits for f64 {
    fn rounded(v: f64) -> Self {
        v
    }

    fn bits(self) -> u64 {
        self.to_bits()
    }
}

impl Bits for f32 {
    fn rounded(v: f64) -> Self {
        v as f32
    }

    fn bits(self) -> u64 {
        self.to_bits().into()
    }
}

impl Bits for bf16 {
    fn rounded(v: f64) -> Self {
        Self::from_f64(v)
    }

    fn bits(self) -> u64 {
        self.to_bits().into()
    }
}

/// A kind of row: its name, and the element of a column, from a random number of mean 0 and deviation 1.
type Row = (&'static str, fn(col: usize, bell: f64) -> f64);

pub(crate) const ROWS: [Row; 9] = [
    ("ordinary", |_, bell| bell),
    ("far from zero", |_, bell| 1e4 + bell),
    ("constant", |_, _| 1234.567),
    ("constant on each rank, another number on each", |col, _| (col / SHARD) as f64),
    ("squares beyond f32", |_, bell| 1e30 * bell),
    ("squares beyond f32 on rank 0 alone", |col, bell| if col < SHARD { 1e30 * bell } else { bell }),
    ("squares below f32", |_, bell| 1e-30 * bell),
    ("squares beyond f64, infinite in the other types", |_, bell| 1e200 * bell),
    ("a NaN on rank 0", |col, bell| if col == 5 { f64::NAN } else { bell }),
];

/// Rows, row-major, with gamma and beta.
pub(crate) struct Tensor<T> {
    cols: usize,
    pub(crate) x: Vec<T>,
    pub(crate) gamma: Vec<T>,
    pub(crate) beta: Vec<T>,
}

impl<T: Bits> Tensor<T> {
    /// [`ROWS`] of `cols` columns, the same on every rank.
    pub(crate) fn random(cols: usize) -> Self {
        let rng = &mut SmallRng::seed_from_u64(cols as u64);
        // The sum of twelve uniform numbers has a deviation of 1.
        let mut bell = || rng.random::<[u16; 12]>().into_iter().map(|v| f64::from(v) / 65536.0 - 0.5).sum::<f64>();
        let mut x = Vec::new();
        for (_, element) in ROWS {
            x.extend((0..cols).map(|col| T::rounded(element(col, bell()))));
        }
        let gamma = (0..cols).map(|_| T::rounded(1.0 + 0.25 * bell())).collect();
        let beta = (0..cols).map(|_| T::rounded(0.25 * bell())).collect();
        Self { cols, x, gamma, beta }
    }

    /// Some columns of the rows, and of gamma and beta.
    pub(crate) fn columns(&self, columns: Range<usize>) -> Self {
        Self {
            cols: columns.len(),
            x: self::columns(&self.x, self.cols, columns.clone()),
            gamma: self.gamma[columns.clone()].to_vec(),
            beta: self.beta[columns].to_vec(),
        }
    }
}

/// Some columns of rows of `cols` elements.
pub(crate) fn columns<T: Copy>(x: &[T], cols: usize, columns: Range<usize>) -> Vec<T> {
    x.chunks_exact(cols).flat_map(|row| &row[columns.clone()]).copied().collect()
}
