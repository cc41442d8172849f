//! Random inputs.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::number::Number;

/// Numbers of about a normal distribution, each the sum of four uniform ones. The same seed gives the same numbers on
/// any number of threads.
pub fn bells<T: Number>(seed: u64, len: usize, mean: f64, std: f64) -> Vec<T> {
    let scale = std / (1.0f64 / 12.0).sqrt();
    let mut values = vec![T::default(); len];
    values.par_chunks_mut(1 << 16).enumerate().for_each(|(i, values)| {
        let mut rng = SmallRng::seed_from_u64(seed << 32 | i as u64);
        let mut bell = || rng.random::<[u16; 4]>().into_iter().map(|v| f64::from(v) / 65536.0 - 0.5).sum::<f64>() / 2.0;
        values.fill_with(|| T::from_f64(bell() * scale + mean));
    });
    values
}
