//! Numbers that are the same on every machine and in every year, and rows of every kind made of them.

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

/// Fills a row, which must not be empty, with data of one kind. The first two are ordinary; of the others most take the
/// slow path or lie next to it.
pub(crate) fn special_row(kind: usize, random: &mut Random, row: &mut [f32]) {
    let at = random.below(row.len());
    let scale = match kind {
        3 => 1e30,
        4 => 1e-30,
        8 => 1e-40,
        12 => 1e18,
        13 => 3e-14,
        _ => 1.0,
    };
    let constant = random.signed();
    for (i, x) in row.iter_mut().enumerate() {
        let noise = random.signed() * scale;
        *x = match kind {
            1 => noise + 1e6,
            2 => constant,
            7 if i > at => noise + 1000.0,
            9 => f32::MAX.copysign(noise),
            11 => -0.0,
            _ => noise,
        };
    }
    match kind {
        5 => row[at] = -f32::NAN,
        6 => row[at] = f32::NEG_INFINITY,
        10 => row[at] = 1e8,
        _ => {}
    }
}
