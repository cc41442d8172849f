//! Numbers that are the same on every machine and in every year, and rows of every kind made of them.

use super::{Sizes, Value};

/// `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform on [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform on [-1, 1), a multiple of 2^-23: exact in f32 on every machine.
    pub(crate) fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 * (1.0 / (1u32 << 23) as f32) - 1.0
    }

    /// Standard normal, by Box and Muller.
    pub(crate) fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

/// The number of kinds of rows that [`special_row`] knows.
pub(crate) const KINDS: usize = 14;

/// Fills a row, which must not be empty, with data of one kind. The first two kinds are ordinary. Most of the other
/// kinds take the slow path, or are close to it.
pub(crate) fn special_row<V: Value>(kind: usize, random: &mut Random, row: &mut [V]) {
    let at = random.below(row.len());
    let Sizes { offset, step, outlier, noise: [huge, small, denormal, upper_end, lower_end] } = V::SIZES;
    let scale = match kind {
        3 => huge,
        4 => small,
        8 => denormal,
        12 => upper_end,
        13 => lower_end,
        _ => 1.0,
    };
    // The scale is rounded too, so that the products below are rounded once.
    let scale = V::of(scale).wide();
    let constant = V::of(V::signed(random));
    for (i, x) in row.iter_mut().enumerate() {
        let noise = V::signed(random) * scale;
        *x = match kind {
            1 => V::of(noise + offset),
            2 => constant,
            7 if i > at => V::of(noise + step),
            9 => V::of(V::MAX.wide().copysign(noise)),
            11 => V::of(-0.0),
            _ => V::of(noise),
        };
    }
    match kind {
        5 => row[at] = -V::QUIET_NAN,
        6 => row[at] = -V::INFINITY,
        10 => row[at] = V::of(outlier),
        _ => {}
    }
}
