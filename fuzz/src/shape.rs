//! Inputs that both operations have in common.

use arbitrary::{Arbitrary, Result, Unstructured};
use lanenorm::{Parallelism, Store};

use crate::support::{ENVIRONMENTS, Environment, Operation, Random, TURNING_POINTS, Types, Value, special_row};

/// The operation, its shape and how the call is made.
#[derive(Clone, Debug)]
pub struct Shape {
    pub(crate) rms: bool,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) groups: (usize, usize),
    pub(crate) eps: f64,
    pub(crate) offset: f32,
    pub(crate) has: [bool; 3],
    pub(crate) gaps: [usize; 4],
    pub(crate) misalignment: [usize; 7],
    pub(crate) streaming: bool,
    pub(crate) in_place: bool,
    tasks: u8,
}

const OFFSETS: [f32; 4] = [0.0, 1.0, -1.0, 0.3];

const EPS: [f64; 6] = [1e-5, 0.0, 1e-12, 1e-300, 1.0, 1e30];

impl<'a> Arbitrary<'a> for Shape {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let cols = if u.ratio(1, 2)? { u.int_in_range(0..=100)? } else { *u.choose(&TURNING_POINTS)? };
        let most = (6000 / cols.max(1)).clamp(1, 40);
        let repeat = u.int_in_range(1..=3.min(most))?;
        let groups = if u.ratio(1, 3)? { u.int_in_range(1..=(most / repeat).min(4))? } else { 1 };
        let periods = u.int_in_range(0..=most / (groups * repeat))?;
        let repeat = if groups == 1 { 1 } else { repeat };
        Ok(Self {
            rms: u.arbitrary()?,
            rows: if cols == 0 { 0 } else { groups * repeat * periods },
            cols,
            groups: (groups, repeat),
            eps: *u.choose(&EPS)?,
            offset: *u.choose(&OFFSETS)?,
            has: u.arbitrary()?,
            gaps: [0; 4].map(|_| u.int_in_range(0..=9).unwrap_or(0)),
            misalignment: [0; 7].map(|_| u.int_in_range(0..=17).unwrap_or(0)),
            streaming: u.arbitrary()?,
            in_place: u.arbitrary()?,
            tasks: u.int_in_range(0..=5)?,
        })
    }
}

impl Shape {
    pub(crate) fn operation(&self) -> Operation {
        if self.rms { Operation::RmsNorm { offset: self.offset } } else { Operation::LayerNorm { offset: self.offset } }
    }

    pub(crate) fn parallelism(&self) -> Parallelism {
        match usize::from(self.tasks).try_into() {
            Ok(tasks) => Parallelism::Tasks(tasks),
            Err(_) => Parallelism::Serial,
        }
    }

    /// The floating-point environment of the calling thread: any of the environments that the tests know.
    pub(crate) fn environment(&self) -> Environment {
        ENVIRONMENTS[(self.rows + self.cols) % ENVIRONMENTS.len()]
    }

    pub(crate) fn store(&self) -> Store {
        if self.streaming { Store::Streaming } else { Store::Ordinary }
    }
}

/// Numbers: rows of some kind, made from a seed. Some elements are overwritten by any bits.
#[derive(Arbitrary, Clone, Debug)]
pub struct Numbers {
    seed: u64,
    kinds: Vec<u8>,
    bits: Vec<(u16, u64)>,
}

impl Numbers {
    /// Makes `rows` rows.
    pub(crate) fn fill<V: Value>(&self, rows: usize, cols: usize) -> Vec<V> {
        let mut random = Random::new(self.seed);
        let mut v = vec![V::default(); rows * cols];
        for (r, row) in v.chunks_exact_mut(cols.max(1)).enumerate() {
            let kind = self.kinds.get(r % self.kinds.len().max(1)).copied().unwrap_or(0);
            special_row(usize::from(kind) % crate::support::KINDS, &mut random, row);
        }
        let len = v.len();
        for &(at, bits) in self.bits.iter().take(len) {
            // f16 from the upper bits, as floats have their exponent there.
            v[usize::from(at) % len] = V::of_bits(bits >> (64 - 8 * size_of::<V>()));
        }
        v
    }
}

/// The types of a problem.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Dtypes {
    F32,
    F64,
    F16,
    Bf16,
    F16GammaF32,
    Bf16GammaF32,
    F16IntoF32,
    Bf16IntoF32,
    F16AllF32,
    Bf16AllF32,
    F32GammaF16,
    F32AllBf16,
}

/// Runs a generic function with the types.
macro_rules! with_types {
    ($dtypes:expr, $call:ident($($argument:expr),*)) => {{
        use $crate::shape::Dtypes;
        use lanenorm::{bf16, f16};
        match $dtypes {
            Dtypes::F32 => $call::<(f32, f32, f32)>($($argument),*),
            Dtypes::F64 => $call::<(f64, f64, f64)>($($argument),*),
            Dtypes::F16 => $call::<(f16, f16, f16)>($($argument),*),
            Dtypes::Bf16 => $call::<(bf16, bf16, bf16)>($($argument),*),
            Dtypes::F16GammaF32 => $call::<(f16, f32, f16)>($($argument),*),
            Dtypes::Bf16GammaF32 => $call::<(bf16, f32, bf16)>($($argument),*),
            Dtypes::F16IntoF32 => $call::<(f16, f16, f32)>($($argument),*),
            Dtypes::Bf16IntoF32 => $call::<(bf16, bf16, f32)>($($argument),*),
            Dtypes::F16AllF32 => $call::<(f16, f32, f32)>($($argument),*),
            Dtypes::Bf16AllF32 => $call::<(bf16, f32, f32)>($($argument),*),
            Dtypes::F32GammaF16 => $call::<(f32, f16, f32)>($($argument),*),
            Dtypes::F32AllBf16 => $call::<(f32, bf16, bf16)>($($argument),*),
        }
    }};
}
pub(crate) use with_types;

/// Whether the bounds of accuracy hold for a row of f32 or f64: it is finite, and its products do not overflow.
pub(crate) fn is_finite<K: Types>(v: &[K::X]) -> bool {
    v.iter().all(|v| v.wide().is_finite())
}
