//! Descriptors, and the plans that are made of them.

use std::ffi::{c_char, c_void};
use std::mem::{MaybeUninit, offset_of, size_of};

use lanenorm_kernels::Tier;
use lanenorm_kernels::element::Kind as Companion;
use lanenorm_kernels::rows::Groups;

use super::{guard, lanenorm_backward_buffers, lanenorm_forward_buffers, lanenorm_status, refuse, tier_name};
use crate::plan::Plan;
use crate::{Divisor, Parallelism, Rounding, Store, Sums, default_isa, isa, shape};

/// The operations.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_op {
    /// y = (x - mean) / sqrt(var + eps) * (gamma + gamma_offset) + beta
    LayerNorm = 0,
    /// y = x / sqrt(mean(x^2) + eps) * (gamma + gamma_offset)
    RmsNorm = 1,
    /// y = x / sqrt(sum(x^2) + eps) * (gamma + gamma_offset). This operation and the next are forms of RMS
    /// normalization: all that is said of it holds for them. rstd is 1 / divisor.
    L2Norm = 2,
    /// y = x / max(sqrt(sum(x^2)), eps) * (gamma + gamma_offset), as `torch.nn.functional.normalize`. eps is 0, or lies
    /// between 1e-150 and 1e150.
    L2NormAtLeast = 3,
}

/// The types of elements.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_dtype {
    /// The type of x; for x itself, f32.
    Default = 0,
    /// float
    F32 = 1,
    /// double
    F64 = 2,
    /// IEEE 754 binary16, as `uint16_t`
    F16 = 3,
    /// bfloat16, as `uint16_t`
    Bf16 = 4,
}

/// How y (or dx) is stored. The choice changes no bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_store {
    /// Past the caches if the output is large and not in place, else ordinarily.
    Auto = 0,
    /// Ordinarily.
    Ordinary = 1,
    /// Past the caches, unless the output is in place.
    Streaming = 2,
}

/// What is rounded to 16 bits before y is, where a model's code does so. Without any of these nothing is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_rounding {
    /// Nothing (PyTorch's `layer_norm` and `rms_norm`).
    Once = 0,
    /// xhat, before it is multiplied by gamma; and the product, before beta is added, unless gamma is f32 (ONNX's
    /// operators, transformers' `LlamaRMSNorm`).
    Steps = 1,
    /// The sum of gamma and `gamma_offset` (transformers' `NemotronLayerNorm1P`).
    Gamma = 2,
}

/// Which sums of x and a residual of 16 bits are normalized. The sums that are written are always rounded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_sums {
    /// The rounded sums.
    Rounded = 0,
    /// The rounded sums, with the statistics of the sums in f32 (vLLM's `fused_add_rms_norm`).
    Statistics = 1,
    /// The sums in f32 (ONNX Runtime's `SkipLayerNormalization`).
    Unrounded = 2,
}

/// The instruction sets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_tier {
    /// The set that `lanenorm_isa_name` names.
    Default = 0,
    /// Portable code.
    Scalar = 1,
    /// aarch64
    Neon = 2,
    /// x86-64 with AVX2, FMA, BMI, F16C
    Avx2 = 3,
    /// x86-64 with AVX-512 F, BW, CD, DQ, VL
    Avx512 = 4,
}

/// A description of a normalization. Start from `LANENORM_DESC_INIT`, which sets `struct_size` and leaves all else
/// zero, and set op, dtype, cols, eps and whatever else differs from zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_desc {
    /// `sizeof(lanenorm_desc)`. See "Versions" at the top.
    pub struct_size: usize,
    /// A `lanenorm_op`.
    pub op: i32,
    /// The `lanenorm_dtype` of x, and of dy, ds and dx. Zero counts as f32.
    pub dtype: i32,
    /// The `lanenorm_dtype` of gamma and beta: the type of x, f32 beside 16 bits, or 16 bits beside f32.
    pub gamma_dtype: i32,
    /// The `lanenorm_dtype` of y: the type of x, f32 beside 16 bits, or 16 bits beside f32. Backward calls do not look
    /// at it: dy has the type of x.
    pub y_dtype: i32,
    /// A `lanenorm_store`.
    pub store: i32,
    /// A `lanenorm_tier`.
    pub tier: i32,
    /// The elements of a row. With zero, calls succeed and do nothing, as they do without rows.
    pub cols: usize,
    /// Added to the variance (or the mean of squares) before the root is taken: finite, and zero or more.
    pub eps: f64,
    /// The number of groups of gamma and beta, which have `groups * cols` elements, group after group. Row r takes
    /// group (r / group_repeat) % groups. The rows of a call must be a multiple of groups * group_repeat. Zero counts
    /// as one. See `last_group_repeat`.
    pub groups: usize,
    /// The number of successive rows that take the same group. Zero counts as one. See `last_group_repeat`.
    pub group_repeat: usize,
    /// Added to gamma, if there is one: 1 where gamma - 1 is kept (Gemma).
    pub gamma_offset: f32,
    /// The `lanenorm_dtype` of residual, bias and sum: the type of x, or f32 beside 16 bits. It must be set where an x
    /// of 16 bits is added to a residual stream of f32: zero takes the residual for 16 bits too. Backward calls refuse
    /// a plan whose sums have another type than x: the gradients of such sums take a plan with their type as `dtype`.
    pub sum_dtype: i32,
    /// Some `lanenorm_rounding`s, added up: what is rounded to 16 bits before the end.
    pub rounding: i32,
    /// A `lanenorm_sums`: which sums of x and a residual of 16 bits are normalized.
    pub sums: i32,
    /// The number of successive rows that take the last of several groups, if it differs from `group_repeat`: the heads
    /// of Q and of K, say, are two groups. The rows of a call must be a multiple of the rows of all groups. Zero counts
    /// as `group_repeat`; with one group it must be zero.
    pub last_group_repeat: usize,
}

/// A plan: some numbers, which `lanenorm_plan_init` makes of a descriptor, and which are only read from then on, by any
/// number of threads. It can be copied within the process, and there is nothing to free. Only the library that made a
/// plan takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_plan {
    /// Private.
    pub opaque: [MaybeUninit<u64>; 16],
}

/// The types that have kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F32,
    F64,
    F16,
    Bf16,
}

impl Dtype {
    /// The bytes of an element.
    #[inline(always)]
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F64 => size_of::<f64>(),
            Self::F16 | Self::Bf16 => size_of::<u16>(),
        }
    }

    /// What this type is beside rows of type `rows`.
    #[inline(always)]
    pub(super) fn beside(self, rows: Self) -> Companion {
        match self {
            _ if self == rows => Companion::Own,
            Self::F16 => Companion::F16,
            Self::Bf16 => Companion::Bf16,
            Self::F32 | Self::F64 => Companion::F32,
        }
    }

    fn rounds(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16)
    }

    /// The type that a number names for a buffer beside rows of this type, which may have 16 bits beside f32 if it
    /// `narrows`.
    pub(super) fn beside_it(self, what: &str, number: i32, narrows: bool) -> Result<Self, lanenorm_status> {
        match dtype(number, self) {
            Some(other) if other == self => Ok(other),
            Some(Self::F32) if self.rounds() => Ok(Self::F32),
            Some(other) if narrows && self == Self::F32 && other.rounds() => Ok(other),
            Some(other) => {
                let or = match self {
                    Self::F16 | Self::Bf16 => " or f32",
                    Self::F32 if narrows => ", f16 or bf16",
                    _ => "",
                };
                let (other, dtype) = (other.name(), self.name());
                let message = format_args!("{what} is {other} beside a dtype of {dtype}, expected {dtype}{or}");
                Err(refuse(lanenorm_status::Unsupported, message))
            }
            None => Err(unknown(what, number)),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// The operation and the types of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) centered: bool,
    /// The type of x.
    pub(super) dtype: Dtype,
    /// The type of gamma and beta.
    pub(super) gamma: Dtype,
    pub(super) y: Dtype,
    /// The type of residual, bias and sum.
    pub(super) sum: Dtype,
}

impl Kind {
    /// Everything of type `dtype`, with statistics in the type that goes with it.
    pub(super) const fn new(dtype: Dtype, centered: bool) -> Self {
        Self { centered, dtype, gamma: dtype, y: dtype, sum: dtype }
    }

    /// The bytes of an element of x.
    #[inline(always)]
    pub(super) fn size(self) -> usize {
        self.dtype.size()
    }

    /// The type of the rows that are normalized: x, or the sums of it.
    #[inline(always)]
    pub(super) fn rows(self, are_sums: bool) -> Dtype {
        if are_sums { self.sum } else { self.dtype }
    }

    /// The bytes of an element of the statistics, and of the gradients of gamma and beta.
    #[inline(always)]
    pub(super) fn float_size(self) -> usize {
        if self.dtype == Dtype::F64 { size_of::<f64>() } else { size_of::<f32>() }
    }
}

/// The contents of a `lanenorm_plan`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner {
    /// The first field, as `repr(C)` keeps the order.
    magic: u64,
    pub(super) plan: Plan,
    pub(super) kind: Kind,
}

/// Tells a plan that this library has initialized from other memory, and from plans of other versions and builds, whose
/// fields may lie elsewhere.
const MAGIC: u64 = magic(crate::BUILD);

/// A hash (FNV-1a) of what describes a build.
const fn magic(build: &str) -> u64 {
    let (mut hash, mut i) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while i < build.len() {
        hash = (hash ^ build.as_bytes()[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

const _: () = assert!(size_of::<Inner>() <= size_of::<lanenorm_plan>());
const _: () = assert!(align_of::<Inner>() <= align_of::<lanenorm_plan>());

/// The function `$f::<T, M>` for rows of a type, which are centered or not. It is compiled eight times: it should do
/// only what needs the types.
macro_rules! for_types {
    ($dtype:expr, $centered:expr, $f:ident) => {{
        use lanenorm_kernels::half::{bf16, f16};
        use $crate::capi::plan::Dtype;
        match ($dtype, $centered) {
            (Dtype::F32, true) => $f::<f32, $crate::Centered>,
            (Dtype::F32, false) => $f::<f32, $crate::Uncentered>,
            (Dtype::F64, true) => $f::<f64, $crate::Centered>,
            (Dtype::F64, false) => $f::<f64, $crate::Uncentered>,
            (Dtype::F16, true) => $f::<f16, $crate::Centered>,
            (Dtype::F16, false) => $f::<f16, $crate::Uncentered>,
            (Dtype::Bf16, true) => $f::<bf16, $crate::Centered>,
            (Dtype::Bf16, false) => $f::<bf16, $crate::Uncentered>,
        }
    }};
}
pub(super) use for_types;

impl Inner {
    fn new(desc: &lanenorm_desc) -> Result<Self, lanenorm_status> {
        let (centered, divisor) = match desc.op {
            op if op == lanenorm_op::LayerNorm as i32 => (true, Divisor::RootMeanSquare),
            op if op == lanenorm_op::RmsNorm as i32 => (false, Divisor::RootMeanSquare),
            op if op == lanenorm_op::L2Norm as i32 => (false, Divisor::Norm),
            op if op == lanenorm_op::L2NormAtLeast as i32 => (false, Divisor::NormAtLeast),
            op => return Err(unknown("op", op)),
        };
        let dtype = dtype(desc.dtype, Dtype::F32).ok_or_else(|| unknown("dtype", desc.dtype))?;
        // What may lie beside rows of 16 bits may lie beside their sums of f32 too.
        let gamma = dtype.beside_it("gamma_dtype", desc.gamma_dtype, true)?;
        let y = dtype.beside_it("y_dtype", desc.y_dtype, true)?;
        let sum = dtype.beside_it("sum_dtype", desc.sum_dtype, false)?;
        let store = match desc.store {
            store if store == lanenorm_store::Auto as i32 => Store::Auto,
            store if store == lanenorm_store::Ordinary as i32 => Store::Ordinary,
            store if store == lanenorm_store::Streaming as i32 => Store::Streaming,
            store => return Err(unknown("store", store)),
        };
        shape::eps(desc.eps)?;
        divisor.check_eps(desc.eps)?;
        let isa = match desc.tier {
            tier if tier == lanenorm_tier::Default as i32 => default_isa(),
            tier if tier == lanenorm_tier::Scalar as i32 => isa(Tier::Scalar),
            tier if tier == lanenorm_tier::Neon as i32 => isa(Tier::Neon),
            tier if tier == lanenorm_tier::Avx2 as i32 => isa(Tier::Avx2),
            tier if tier == lanenorm_tier::Avx512 as i32 => isa(Tier::Avx512),
            tier => return Err(unknown("tier", tier)),
        };
        let known = lanenorm_rounding::Steps as i32 | lanenorm_rounding::Gamma as i32;
        let sums = match desc.sums {
            sums if sums == lanenorm_sums::Rounded as i32 => Sums::Rounded,
            sums if sums == lanenorm_sums::Statistics as i32 => Sums::Statistics,
            sums if sums == lanenorm_sums::Unrounded as i32 => Sums::Unrounded,
            sums => return Err(unknown("sums", sums)),
        };
        if desc.rounding & !known != 0 {
            let message =
                format_args!("rounding is {}, expected a sum of its enumeration, at most {known}", desc.rounding);
            return Err(refuse(lanenorm_status::Unsupported, message));
        }
        let rounds = |what: lanenorm_rounding| desc.rounding & what as i32 != 0;
        let rounding =
            Rounding { steps: rounds(lanenorm_rounding::Steps), gamma: rounds(lanenorm_rounding::Gamma), sums };
        let (parallelism, offset, groups) = (Parallelism::Serial, desc.gamma_offset, desc.groups.max(1));
        let (cols, eps, isa) = (desc.cols, desc.eps, isa?);
        let plan = Plan { cols, eps, offset, rounding, divisor, groups: Groups::ONE, isa, parallelism, store };
        let plan = if groups == 1 { plan } else { plan.with_groups(groups, desc.group_repeat.max(1))? };
        let plan = match desc.last_group_repeat {
            0 => plan,
            last if groups > 1 => plan.with_last_repeat(last)?,
            last => {
                let message = format_args!("last_group_repeat is {last}, but groups is {}", desc.groups);
                return Err(refuse(lanenorm_status::Unsupported, message));
            }
        };
        Ok(Self { magic: MAGIC, plan, kind: Kind { centered, dtype, gamma, y, sum } })
    }
}

#[cold]
pub(super) fn unknown(what: &str, number: i32) -> lanenorm_status {
    refuse(lanenorm_status::Unsupported, format_args!("{what} is {number}, which is not in its enumeration"))
}

fn dtype(number: i32, default: Dtype) -> Option<Dtype> {
    match number {
        number if number == lanenorm_dtype::Default as i32 => Some(default),
        number if number == lanenorm_dtype::F32 as i32 => Some(Dtype::F32),
        number if number == lanenorm_dtype::F64 as i32 => Some(Dtype::F64),
        number if number == lanenorm_dtype::F16 as i32 => Some(Dtype::F16),
        number if number == lanenorm_dtype::Bf16 as i32 => Some(Dtype::Bf16),
        _ => None,
    }
}

/// Makes a plan of a descriptor. The descriptor is not needed afterwards. After an error the plan is as it was.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_init(plan: *mut lanenorm_plan, desc: *const lanenorm_desc) -> lanenorm_status {
    guard(|| {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's duty.
        let desc = unsafe { sized("desc", desc, &mut room) }?;
        check("plan", plan)?;
        let inner = Inner::new(desc)?;
        // SAFETY: the caller's duty; the plan has room for it, and is aligned.
        unsafe { plan.cast::<Inner>().write(inner) };
        Ok(())
    })
}

/// The instruction set of a plan, by the names of `lanenorm_isa_name`; "unavailable" if the plan is not initialized.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_isa_name(plan: *const lanenorm_plan) -> *const c_char {
    // SAFETY: the caller's duty.
    unsafe { initialized(plan) }.map_or(c"unavailable", |inner| tier_name(inner.plan.isa.tier())).as_ptr()
}

/// A plan that has been initialized.
///
/// # Safety
/// - The pointer is NULL, or points to a plan.
#[inline(always)]
pub(super) unsafe fn initialized<'a>(plan: *const lanenorm_plan) -> Result<&'a Inner, lanenorm_status> {
    check("plan", plan)?;
    // SAFETY: the caller's duty. Any eight bytes are a number; where it is the magic number, the whole plan has been
    // written.
    unsafe {
        match plan.cast::<u64>().read() {
            MAGIC => Ok(&*plan.cast::<Inner>()),
            other => {
                let message = format_args!(
                    "the plan starts with {other:#x}, expected {MAGIC:#x}: is it initialized, and by this library?"
                );
                Err(refuse(lanenorm_status::Uninitialized, message))
            }
        }
    }
}

/// Checks that `p` is neither NULL nor misaligned.
#[inline(always)]
pub(super) fn check<T>(what: &str, p: *const T) -> Result<(), lanenorm_status> {
    if p.is_null() {
        return Err(refuse(lanenorm_status::NullPointer, format_args!("{what} is NULL")));
    }
    if !p.is_aligned() {
        let message = format_args!("{what} is at {:#x}, expected a multiple of {}", p.addr(), align_of::<T>());
        return Err(refuse(lanenorm_status::Misaligned, message));
    }
    Ok(())
}

/// A structure that says how large it is in its first field, a `size_t`. Fields beyond the end of a smaller one are
/// zero.
///
/// # Safety
/// - All bytes may be zero.
pub(super) unsafe trait HasSize {
    /// The bytes up to the end of the last field that is always needed.
    const LEAST: usize;
    /// The bytes up to the end of the last field. A field that is appended begins there, where structures of older
    /// headers end: there must be no padding, whose bytes nobody has set.
    const END: usize;
}

// SAFETY: numbers, and pointers, which are then NULL.
unsafe impl HasSize for lanenorm_desc {
    const LEAST: usize = offset_of!(Self, groups);
    const END: usize = offset_of!(Self, last_group_repeat) + size_of::<usize>();
}

// SAFETY: as above.
unsafe impl HasSize for lanenorm_forward_buffers {
    const LEAST: usize = offset_of!(Self, bias);
    const END: usize = offset_of!(Self, rstd) + size_of::<*mut c_void>();
}

// SAFETY: as above.
unsafe impl HasSize for lanenorm_backward_buffers {
    const LEAST: usize = offset_of!(Self, gamma);
    const END: usize = offset_of!(Self, dbeta) + size_of::<*mut c_void>();
}

/// The structure at `p`, or a copy of a smaller one, in `room`.
///
/// # Safety
/// - The pointer is NULL, or points to a structure that begins with its size, and has that size.
#[inline(always)]
pub(super) unsafe fn sized<'a, T: HasSize>(
    what: &str,
    p: *const T,
    room: &'a mut MaybeUninit<T>,
) -> Result<&'a T, lanenorm_status> {
    const { assert!(T::END == size_of::<T>(), "there are bytes behind the last field") };
    check(what, p)?;
    // SAFETY: the caller's duty. The first field can be read whatever the size is.
    let given = unsafe { p.cast::<usize>().read() };
    if given == size_of::<T>() {
        // SAFETY: the caller's duty; the structure has the size.
        return Ok(unsafe { &*p });
    }
    // SAFETY: the caller's duty; `copy_smaller` writes all bytes of the room, and zeros are a value of every field.
    unsafe {
        copy_smaller(what, p.cast(), given, room.as_mut_ptr().cast(), (T::LEAST, size_of::<T>()))?;
        Ok(room.assume_init_ref())
    }
}

/// Copies `given` bytes, if they are `least` or more and whole words, and zeros up to `size` bytes.
///
/// # Safety
/// - `from` is valid for reads of `given` bytes, and `to` for writes of `size`.
#[cold]
#[inline(never)]
unsafe fn copy_smaller(
    what: &str,
    from: *const u8,
    given: usize,
    to: *mut u8,
    (least, size): (usize, usize),
) -> Result<(), lanenorm_status> {
    // A structure ends where a field does; half a pointer is none.
    const WORD: usize = size_of::<usize>();
    if !(least..=size).contains(&given) || !given.is_multiple_of(WORD) {
        let status = lanenorm_status::Size;
        return Err(if least == size {
            refuse(status, format_args!("struct_size of {what} is {given}, expected {size}"))
        } else {
            let expected = format_args!("expected {least} to {size}, a multiple of {WORD}");
            refuse(status, format_args!("struct_size of {what} is {given}, {expected}"))
        });
    }
    // SAFETY: the caller's duty, and `given <= size`.
    unsafe {
        to.write_bytes(0, size);
        to.copy_from_nonoverlapping(from, given);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ptr::{from_ref, null};

    use super::*;

    /// A structure of a header, and the structure of the next version, with one more field.
    #[repr(C)]
    struct Published {
        struct_size: usize,
        rows: usize,
        beta: *const f32,
    }

    #[repr(C)]
    struct Appended {
        struct_size: usize,
        rows: usize,
        beta: *const f32,
        gate: *const f32,
    }

    // SAFETY: numbers, and pointers, which are then NULL.
    unsafe impl HasSize for Appended {
        const LEAST: usize = offset_of!(Self, beta);
        const END: usize = offset_of!(Self, gate) + size_of::<*const f32>();
    }

    #[test]
    fn a_field_that_is_appended_is_zero_to_older_programs() {
        let seen = |p: *const Appended| {
            let mut room = MaybeUninit::uninit();
            // SAFETY: what is given has the size that it names.
            unsafe { sized("buffers", p, &mut room) }.map(|b| (b.rows, b.beta, b.gate))
        };
        let value = 1.0;
        let beta = from_ref(&value);
        let mut older = [0, 1].map(|_| Published { struct_size: size_of::<Published>(), rows: 3, beta });
        // The second is what happens to lie behind the first.
        older[1].struct_size = 0x5a5a;
        assert_eq!(seen(older.as_ptr().cast()), Ok((3, beta, null())));
        older[0].struct_size = offset_of!(Published, beta);
        assert_eq!(seen(older.as_ptr().cast()), Ok((3, null(), null())), "a still older one");
        older[0].struct_size = offset_of!(Published, rows);
        assert_eq!(seen(older.as_ptr().cast()), Err(lanenorm_status::Size));
        let newer = Appended { struct_size: size_of::<Appended>(), rows: 3, beta, gate: beta };
        assert_eq!(seen(&newer), Ok((3, beta, beta)));
    }

    #[test]
    fn builds_mark_their_plans_differently() {
        let build = crate::BUILD;
        assert!(build.contains("lanenorm ") && build.contains("rustc") && build.contains("profile"), "{build}");
        let others = [build.replace("lanenorm ", "lanenorm 1"), build.replace("rustc", "Rust"), format!("{build} ")];
        for other in &others {
            assert_ne!(magic(other), MAGIC, "{other}");
        }
        assert_eq!(magic("foobar"), 0x8594_4171_f739_67e8, "as the authors of FNV give it");
    }
}
