//! What a tier provides: pulp's [`Simd`] plus the few operations that the kernels need and pulp lacks.
//!
//! **Virtual lanes.** The kernels see a register file of [`LANES`] f32 lanes on every tier: two AVX-512
//! registers, four AVX2 registers, eight NEON or scalar ones. Element `i` of a chunk belongs to lane `i mod 32` whatever the
//! hardware width, so sums have one order and the tiers agree in bits.
//!
//! Raw pointers and intrinsics live in this module and its children alone.

mod input;
mod scalar;
mod view;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use pulp::Simd;

pub(crate) use input::Input;
pub use view::RowIo;
pub(crate) use view::{Source, Target};

/// The number of virtual f32 lanes on every tier.
pub const LANES: usize = 32;

/// The rows that [`Lanes::fold_rows`] folds at once.
pub const FOLD_ROWS: usize = 8;

/// The elements of a run that [`Lanes::load_runs`] reads.
pub const RUN: usize = 8;

/// The largest number of registers that [`LANES`] takes on any tier: the length of register arrays, of which
/// a tier uses the first [`regs`]. (Rust cannot yet size an array by an associated constant.)
pub(crate) const MAX_REGS: usize = LANES / 4;

/// Stands in for an absent vector of as many elements as one step of the loops takes, which is read again for each step: adding
/// -0 changes no bits.
pub(crate) static NEGATIVE_ZEROS: [f32; 2 * LANES] = [-0.0; 2 * LANES];

/// The number of registers that [`LANES`] takes on this tier.
#[inline(always)]
pub(crate) const fn regs<S: Simd>() -> usize {
    const { LANES / S::F32_LANES }
}

/// A computation that is written once for all tiers. See [`Isa::run`](crate::Isa::run).
pub trait Kernel {
    /// What the computation returns.
    type Output;
    /// Runs with the operations of one tier. Implementations are `#[inline(always)]`, and so is every
    /// generic function that they call.
    fn run<S: Lanes>(self, simd: S) -> Self::Output;
}

/// A kernel paired with a token, in the form that pulp's `vectorize` calls.
#[derive(Debug)]
pub(crate) struct Entry<S, K> {
    pub(crate) simd: S,
    pub(crate) kernel: K,
}

impl<S: Lanes, K: Kernel> pulp::NullaryFnOnce for Entry<S, K> {
    type Output = K::Output;

    #[inline(always)]
    fn call(self) -> K::Output {
        self.kernel.run(self.simd)
    }
}

/// The operations of a tier, beside those of pulp.
///
/// `N` below is `Self::F32_LANES`. All arithmetic is IEEE 754 binary32 with rounding to nearest even, so an
/// implementation has no freedom in its results (NaN payloads aside).
pub trait Lanes: Simd {
    /// `N` elements from `p`, which need not be aligned.
    ///
    /// # Safety
    /// - `p` is valid for reads of `N` elements.
    unsafe fn load(self, p: *const f32) -> Self::f32s;

    /// `n` elements from `p`, and `fill` in the lanes above.
    ///
    /// # Safety
    /// - `n <= N`.
    /// - `p` is valid for reads of `n` elements. Nothing beyond them is touched.
    unsafe fn load_tail(self, p: *const f32, n: usize, fill: Self::f32s) -> Self::f32s;

    /// Register `j` of runs of [`RUN`] elements, the first at `p` and each `stride` elements after the one before: lane
    /// `l` is element `i % RUN` of run `i / RUN` where `i = j * N + l`.
    ///
    /// # Safety
    /// - `p` is valid for reads of all elements of the runs that the register takes.
    unsafe fn load_runs(self, p: *const f32, stride: usize, j: usize) -> Self::f32s;

    /// Stores `N` elements to `p`, which need not be aligned.
    ///
    /// # Safety
    /// - `p` is valid for writes of `N` elements.
    unsafe fn store(self, p: *mut f32, v: Self::f32s);

    /// Stores the first `n` elements to `p`.
    ///
    /// # Safety
    /// - `n <= N`.
    /// - `p` is valid for writes of `n` elements. Nothing beyond them is touched.
    unsafe fn store_tail(self, p: *mut f32, n: usize, v: Self::f32s);

    /// Stores `N` elements past the caches where the tier can, else like [`store`](Self::store). A thread
    /// that streams must call [`fence`](Self::fence) before it hands the memory to another.
    ///
    /// # Safety
    /// - `p` is valid for writes of `N` elements.
    /// - `p` is aligned to the size of `Self::f32s`.
    unsafe fn stream(self, p: *mut f32, v: Self::f32s);

    /// Orders streaming stores before all later stores.
    fn fence(self);

    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::f32s, b: Self::f32s, c: Self::f32s) -> Self::f32s;

    /// The sum of all lanes by halves: lanes `N/2..N` are added onto lanes `0..N/2`, and so on.
    fn fold(self, v: Self::f32s) -> f32;

    /// The [`fold`](Self::fold) of eight registers.
    fn fold_rows(self, v: &[Self::f32s; FOLD_ROWS]) -> [f32; FOLD_ROWS];

    /// Each element as f64, exactly.
    fn widen(self, v: &[f32; FOLD_ROWS]) -> [f64; FOLD_ROWS];

    /// Each element rounded to f32.
    fn narrow(self, v: &[f64; FOLD_ROWS]) -> [f32; FOLD_ROWS];
}

/// Whether a lane is NaN.
#[inline(always)]
pub(crate) fn any_nan<S: Simd>(simd: S, v: S::f32s) -> bool {
    simd.first_true_m32s(simd.not_m32s(simd.equal_f32s(v, v))) < S::F32_LANES
}

/// The square root of one f64, by the tier's instruction.
#[inline(always)]
pub(crate) fn sqrt_f64<S: Simd>(simd: S, v: f64) -> f64 {
    bytemuck::cast_slice::<S::f64s, f64>(&[simd.sqrt_f64s(simd.splat_f64s(v))])[0]
}
