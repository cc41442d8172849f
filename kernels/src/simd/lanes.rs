//! The operations of a tier, and the kernels that are written with them.

use half::{bf16, f16};
use pulp::Simd;

/// The rows that [`Lanes::fold_rows`] folds at once.
pub const FOLD_ROWS: usize = 8;

/// The columns that [`Lanes::load_quad`] transposes at once.
pub const QUAD: usize = 4;

/// The largest number of registers that the virtual lanes take on any tier. Arrays of registers have this length, and a
/// tier uses the first [`regs`]. (Rust cannot yet size an array by an associated constant.)
pub(crate) const MAX_REGS: usize = 8;

/// A computation that is written once for all tiers. See [`Isa::run`](crate::Isa::run).
pub trait Kernel {
    /// What the computation returns.
    type Output;
    /// Whether it is compiled for the portable tier.
    const PORTABLE: bool = true;
    /// Runs with the operations of one tier. Implementations are `#[inline(always)]`, and so is every
    /// generic function that they call.
    ///
    /// [`Isa::run`](crate::Isa::run) calls it with a token that proves every feature of the tier. A token that pulp
    /// alone has made proves fewer: [`Lanes::outline`] and [`F16Lanes`] say which duties that leaves.
    fn run<S: Lanes>(self, simd: S) -> Self::Output;
}

/// [`Lanes::outline`] for the kernels of this crate.
#[inline(always)]
pub(crate) fn outline<S: Lanes, K: Kernel>(simd: S, kernel: K) -> K::Output {
    // SAFETY: the kernels of this crate are reached through `Isa::run` alone, so the processor has the tier of the
    // token.
    unsafe { simd.outline(kernel) }
}

/// A kernel paired with a token, in the form that pulp's `vectorize` calls.
#[derive(Debug)]
#[allow(dead_code, reason = "the portable tier, the only one of some targets, has no use for it")]
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

/// How a tier reads and writes elements of type `T`. f16 and bf16 are widened to f32 when they are loaded, and rounded
/// to nearest even when they are stored.
///
/// `N` below is the number of elements that [`Regs`](Self::Regs) hold, and `RUN` is 8, or 4 for f64. f16 has a duty
/// more: the processor has what [`Lanes::outline`] asks for, since pulp's token of AVX2 is no proof of F16C.
pub trait Access<T>: Simd {
    /// What elements are loaded into: a register, or for bf16 two registers. Of bf16 the first register has the even
    /// elements and the second has the odd ones: a word holds two elements, and to mask or shift one of them out leaves
    /// the other widened, which is half the work of widening in order.
    type Regs: Copy;

    /// One register of them.
    type Reg: Copy;

    /// `N` elements from `p`, which need not be aligned.
    ///
    /// # Safety
    /// - `p` is valid for reads of `N` elements.
    unsafe fn load(self, p: *const T) -> Self::Regs;

    /// `n` elements from `p`, and `fill` in the lanes above.
    ///
    /// # Safety
    /// - `n <= N`.
    /// - `p` is valid for reads of `n` elements. Nothing beyond them is touched.
    unsafe fn load_tail(self, p: *const T, n: usize, fill: Self::Reg) -> Self::Regs;

    /// Registers `j` of runs of `RUN` elements, the first at `p` and each `stride` elements after the one before:
    /// element `l` is element `i % RUN` of run `i / RUN` where `i = j * N + l`.
    ///
    /// # Safety
    /// - `p` is valid for reads of all elements of the runs that the registers take.
    unsafe fn load_runs(self, p: *const T, stride: usize, j: usize) -> Self::Regs;

    /// Stores `N` elements to `p`, which need not be aligned. A bf16 may be NaN only if the low half of its f32 is
    /// zero.
    ///
    /// # Safety
    /// - `p` is valid for writes of `N` elements.
    unsafe fn store(self, p: *mut T, v: Self::Regs);

    /// Stores the first `n` elements to `p`, as [`store`](Self::store) does.
    ///
    /// # Safety
    /// - `n <= N`.
    /// - `p` is valid for writes of `n` elements. Nothing beyond them is touched.
    unsafe fn store_tail(self, p: *mut T, n: usize, v: Self::Regs);

    /// Stores `N` elements past the caches where the tier can, else like [`store`](Self::store). A thread that streams
    /// must call [`Lanes::fence`] before it hands the memory to another.
    ///
    /// # Safety
    /// - `p` is valid for writes of `N` elements.
    /// - `p` is aligned to the size of `N` elements.
    unsafe fn stream(self, p: *mut T, v: Self::Regs);
}

/// The operations of a tier that pulp lacks. This trait has those on f32, and its supertraits those on other types.
///
/// `N` below is `Self::F32_LANES`. All arithmetic is IEEE 754 with rounding to nearest even, so an implementation has
/// no freedom in its results (NaN payloads aside).
pub trait Lanes:
    Access<f32, Regs = <Self as Simd>::f32s, Reg = <Self as Simd>::f32s>
    + Access<f64, Regs = <Self as Simd>::f64s, Reg = <Self as Simd>::f64s>
    + Access<f16, Regs = <Self as Simd>::f32s, Reg = <Self as Simd>::f32s>
    + Access<bf16, Regs = [<Self as Simd>::f32s; 2], Reg = <Self as Simd>::f32s>
    + F64Lanes
    + F16Lanes
    + Bf16Lanes
    + ByteLanes
{
    /// Whether this is a SIMD tier, where common cases are worth loops of their own. On the portable tier, which few
    /// processors use, little code is worth more.
    const SPECIALIZES: bool = true;

    /// Whether there are 16 registers only, not 32.
    const FEW_REGISTERS: bool = false;

    /// Runs a kernel in a function of its own that is compiled for this tier. This is for code that several kernels
    /// share.
    ///
    /// # Safety
    /// - The processor has every feature that [`Tier`](crate::Tier) names for this tier. That holds if the token comes
    ///   from [`Isa::run`](crate::Isa::run).
    unsafe fn outline<K: Kernel>(self, kernel: K) -> K::Output;

    /// Orders streaming stores before all later stores.
    fn fence(self);

    /// Prefetches the cache line of `p` into the first-level cache. `p` need not be valid for anything.
    fn prefetch(self, p: *const u8);

    /// Prefetches the cache line of `p` into the second-level cache. `p` need not be valid for anything.
    fn prefetch_to_l2(self, p: *const u8);

    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::f32s, b: Self::f32s, c: Self::f32s) -> Self::f32s;

    /// The sum of all lanes by halves: lanes `N/2..N` are added onto lanes `0..N/2`, and so on.
    fn fold(self, v: Self::f32s) -> f32;

    /// The [`fold`](Self::fold) of eight registers.
    fn fold_rows(self, v: &[Self::f32s; FOLD_ROWS]) -> [f32; FOLD_ROWS];

    /// Four columns of `N` rows, the first at `p` and each `stride` elements after the one before: lane `r` of register
    /// `j` is column `j` of row `r`.
    ///
    /// # Safety
    /// - `p` is valid for reads of [`QUAD`] elements of each row.
    unsafe fn load_quad(self, p: *const f32, stride: usize) -> [Self::f32s; QUAD];

    /// Writes what [`load_quad`](Self::load_quad) reads, row after row.
    ///
    /// # Safety
    /// - `p` is valid for writes of [`QUAD`] elements of each row.
    unsafe fn store_quad(self, p: *mut f32, stride: usize, v: [Self::f32s; QUAD]);

    /// Each element as f64, exactly.
    fn widen(self, v: &[f32; FOLD_ROWS]) -> [f64; FOLD_ROWS];

    /// Each element rounded to f32.
    fn narrow(self, v: &[f64; FOLD_ROWS]) -> [f32; FOLD_ROWS];
}

/// Arithmetic on f64.
pub trait F64Lanes: Simd {
    /// See [`Lanes::fma`].
    fn fma_f64(self, a: Self::f64s, b: Self::f64s, c: Self::f64s) -> Self::f64s;
    /// See [`Lanes::fold`].
    fn fold_f64(self, v: Self::f64s) -> f64;
}

/// Rounding to f16.
pub trait F16Lanes: Simd {
    /// Each element rounded to f16, to nearest even.
    ///
    /// # Safety
    /// - The processor has what [`Lanes::outline`] asks for: pulp's token of AVX2 is no proof of F16C.
    ///
    /// ```compile_fail,E0133
    /// # use lanenorm_kernels::simd::F16Lanes;
    /// fn round<S: F16Lanes>(simd: S, v: S::f32s) -> S::f32s {
    ///     simd.round_f16(v) // a token that anybody can make would be enough
    /// }
    /// ```
    unsafe fn round_f16(self, v: Self::f32s) -> Self::f32s;
}

/// Rounding to bf16, and the order of its elements.
pub trait Bf16Lanes: Simd {
    /// Each element rounded to bf16, to nearest even.
    fn round_bf16(self, v: Self::f32s) -> Self::f32s;
    /// The even and the odd ones of the `2 * F32_LANES` elements of `v`, which are in order.
    fn split(self, v: [Self::f32s; 2]) -> [Self::f32s; 2];
    /// The inverse of [`split`](Self::split).
    fn join(self, v: [Self::f32s; 2]) -> [Self::f32s; 2];
}

/// Integers of 8 bits. Integers of 32 bits are kept as the `u32s` of pulp, in two's complement.
pub trait ByteLanes: Simd {
    /// Each element rounded to an integer, to nearest even. Elements are numbers of less than 2^22.
    fn nearest(self, v: Self::f32s) -> Self::u32s;

    /// Each element rounded to an integer, toward zero. Elements are numbers of less than 2^22.
    fn truncate(self, v: Self::f32s) -> Self::u32s;

    /// The greatest element, of unsigned integers.
    fn fold_max(self, v: Self::u32s) -> u32;

    /// The greatest element of each of the first `F32_LANES` registers, of unsigned integers.
    fn fold_max_rows(self, v: &[Self::u32s; 16]) -> Self::u32s;

    /// Saturates each element, a signed integer, to an i8, turns over the bits of it that are set in `flip`, and stores
    /// the `4 * F32_LANES` bytes to `p`.
    ///
    /// # Safety
    /// - `p` is valid for writes of as many bytes.
    unsafe fn store_bytes(self, p: *mut u8, v: [Self::u32s; 4], flip: u8);

    /// The same, but the first half of the bytes goes to the first place and the second half to the second.
    ///
    /// # Safety
    /// - Both are valid for writes of `2 * F32_LANES` bytes.
    unsafe fn store_halves(self, p: [*mut u8; 2], v: [Self::u32s; 4], flip: u8);
}

/// `n`, hidden from the compiler. A loop over that number of rows is not unrolled: unrolling would make much code and
/// save little.
#[inline(always)]
pub(crate) fn rolled(n: usize) -> usize {
    core::hint::black_box(n)
}

/// The square root of one f64, by the tier's instruction.
#[inline(always)]
pub(crate) fn sqrt_f64<S: Simd>(simd: S, v: f64) -> f64 {
    bytemuck::cast_slice::<S::f64s, f64>(&[simd.sqrt_f64s(simd.splat_f64s(v))])[0]
}
