//! Normalizing and quantizing in one call: of whole tensors, and of ranges of rows.

use std::mem::{MaybeUninit, offset_of, size_of};
use std::ptr::null_mut;
use std::slice;
use std::sync::{Mutex, PoisonError};

use lanenorm_kernels::half::{bf16, f16};
use lanenorm_kernels::ops::quantize::{Quantize, Quants};
use lanenorm_kernels::scheme::{Format, Layout, Quotient, Range, Scheme, Scope, Ties};
use lanenorm_kernels::{Center, Centered, Quantizable, Quantizes, Uncentered};

use super::check::{AllRows, Checked, check_places, shape, unsupported};
use super::forward::{Call, Part, Parts, Runs, Types, prepare_stats};
use super::places::{Places, Rows, Shape, Strided, vector};
use super::plan::{Dtype, HasSize, Inner, Kind, check, initialized, sized, unknown};
use super::{guard, lanenorm_forward_buffers, lanenorm_plan, lanenorm_rows_mut, lanenorm_status, misfit, refuse};
use crate::parallel;
use crate::quantize::Pass;

/// The types of quantized elements, of one byte each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_format {
    /// int8_t
    I8 = 0,
    /// uint8_t, of which one value, the zero point, stands for 0
    U8 = 1,
    /// OCP FP8 E4M3 (`float8_e4m3fn`): up to 448, without infinities
    E4m3 = 2,
    /// OCP FP8 E5M2: up to 57344
    E5m2 = 3,
}

/// Which elements share a scale.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_scope {
    /// Those of a row ("per token").
    Row = 0,
    /// `block` consecutive elements of a row.
    Block = 1,
    /// All of a call ("per tensor"). x is read twice.
    Tensor = 2,
    /// All, and `given_scale` is their ("static") scale.
    Given = 3,
}

/// Where quantized elements and their scales lie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_layout {
    /// In arrays of their own.
    Apart = 0,
    /// GGUF Q8_0: blocks of 32 in 34 bytes, the scale in f16 and then the elements.
    Q8_0 = 1,
    /// GGUF Q8_1: blocks of 32 in 36 bytes, the scale in f16, the sum of the elements times the scale in f16, and then
    /// the elements.
    Q8_1 = 2,
    /// GGUF Q8_K: blocks of 256 in 292 bytes, the scale in f32, the elements, and the sums of each 16 of them as
    /// int16_t.
    Q8_K = 3,
}

/// How an element is divided by its scale.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_quotient {
    /// y / scale, rounded to float.
    Divide = 0,
    /// y * (1 / scale), both rounded to float.
    Reciprocal = 1,
    /// y * (divisor / amax), both rounded to float.
    Ratio = 2,
}

/// Where an element goes that lies half-way between two integers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_ties {
    /// To the even one.
    Even = 0,
    /// Away from zero.
    Away = 1,
}

/// Schemes that have a name. Each gives the bits of what it is named after.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_preset {
    /// int8 by row: amax / 127, quotients correctly rounded, ties to even, -127 to 127.
    I8 = 0,
    /// torch.ao: quantize_per_token of each row.
    TorchAoI8 = 1,
    /// torchao: Int8Tensor with PerRow.
    TorchaoI8 = 2,
    /// vLLM on CPUs: dynamic_scaled_int8_quant.
    VllmI8 = 3,
    /// uint8 with a zero point by row, by the formula of ONNX.
    U8 = 4,
    /// ONNX DynamicQuantizeLinear: uint8 with a scale and a zero point for the tensor.
    OnnxU8 = 5,
    /// GGUF Q8_0, as the reference of ggml has it.
    Q8_0 = 6,
    /// GGUF Q8_0, as the SIMD code of ggml on x86-64 has it.
    Q8_0_X86 = 7,
    /// GGUF Q8_1, as the reference of ggml has it.
    Q8_1 = 8,
    /// GGUF Q8_1, as the SIMD code of ggml on x86-64 has it.
    Q8_1_X86 = 9,
    /// GGUF Q8_K, as ggml has it.
    Q8_K = 10,
    /// FP8 E4M3 by row: amax / 448.
    E4m3 = 11,
    /// FP8 E5M2 by row: amax / 57344.
    E5m2 = 12,
}

impl lanenorm_preset {
    const ALL: [(Self, Scheme); 13] = [
        (Self::I8, Scheme::I8),
        (Self::TorchAoI8, Scheme::TORCH_AO_I8),
        (Self::TorchaoI8, Scheme::TORCHAO_I8),
        (Self::VllmI8, Scheme::VLLM_I8),
        (Self::U8, Scheme::U8),
        (Self::OnnxU8, Scheme::ONNX_U8),
        (Self::Q8_0, Scheme::Q8_0),
        (Self::Q8_0_X86, Scheme::Q8_0_X86),
        (Self::Q8_1, Scheme::Q8_1),
        (Self::Q8_1_X86, Scheme::Q8_1_X86),
        (Self::Q8_K, Scheme::Q8_K),
        (Self::E4m3, Scheme::E4M3),
        (Self::E5m2, Scheme::E5M2),
    ];
}

/// How rows of y become elements of 8 bits and scales:
///
/// scale = max(max(amax, least_amax) / divisor, least_scale), where amax is the greatest |y| that shares the scale, and
/// q = y / scale, rounded and saturated. `LANENORM_FORMAT_U8` has the range of all y and 0 in the place of amax, and a
/// zero point: round(-min(y, 0) / scale), which is added to q.
///
/// Start from `LANENORM_SCHEME_INIT`, which is `LANENORM_PRESET_I8`, or from another preset by `lanenorm_scheme_init`;
/// and change fields for a scheme that has no name. For ONNX QuantizeLinear take `LANENORM_PRESET_I8` with a least of
/// -128, or `LANENORM_PRESET_U8`, and set scope to `LANENORM_SCOPE_GIVEN`, given_scale and given_zero_point.
///
/// A scale that is 0 has elements of 0. If some y that shares a scale is NaN or infinite, the scale is NaN and the
/// elements are 0. Where the scale is given, NaN becomes the zero point (or the NaN of the format), and infinities
/// saturate.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_scheme {
    /// `sizeof(lanenorm_scheme)`. See "Versions" at the top.
    pub struct_size: usize,
    /// A `lanenorm_format`.
    pub format: i32,
    /// A `lanenorm_scope`.
    pub scope: i32,
    /// A `lanenorm_layout`.
    pub layout: i32,
    /// A `lanenorm_quotient`.
    pub quotient: i32,
    /// A `lanenorm_ties`. FP8 always goes to the even one.
    pub ties: i32,
    /// The least integer: -127 or -128 for `LANENORM_FORMAT_I8`, else 0.
    pub least: i32,
    /// For `LANENORM_SCOPE_BLOCK`: the elements of a block, a multiple of 32, at most 256, that divides cols. Else it
    /// has no meaning.
    pub block: usize,
    /// What amax is divided by: finite and greater than 0.
    pub divisor: f32,
    /// The least amax: finite, and zero or more.
    pub least_amax: f32,
    /// The least scale: finite, and zero or more.
    pub least_scale: f32,
    /// The scale of elements that are all 0, if the least scale is 0: finite, and zero or more.
    pub zero_scale: f32,
    /// For `LANENORM_SCOPE_GIVEN`: the scale, finite and greater than 0. Else it has no meaning.
    pub given_scale: f32,
    /// For `LANENORM_SCOPE_GIVEN`: the integer that stands for 0. FP8 has 0. Else it has no meaning.
    pub given_zero_point: i32,
}

/// Where quantized rows go. Start from `LANENORM_QUANTIZED_INIT`, which sets `struct_size` and leaves all else zero and
/// absent. `lanenorm_plan_quantized_sizes` tells how large everything is. No buffer may overlap another one of the
/// call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_quantized {
    /// `sizeof(lanenorm_quantized)`. See "Versions" at the top.
    pub struct_size: usize,
    /// The quantized rows. Strides are in bytes.
    pub q: lanenorm_rows_mut,
    /// The scales, if the scheme has an array of them: one for each row, for each block of each row, or one for all.
    pub scale: *mut f32,
    /// The zero points, if the scheme has an array of them: one for each row, or one for all.
    pub zero_point: *mut u8,
    /// For `lanenorm_plan_quantize_rows` and `LANENORM_SCOPE_TENSOR` alone: the ranges that
    /// `lanenorm_plan_range_rows` has written for some rows each, for all rows together. They are `2 * range_count`
    /// floats.
    pub ranges: *const f32,
    /// The number of ranges.
    pub range_count: usize,
}

/// How large the outputs of a quantized call are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct lanenorm_quantized_sizes {
    /// The bytes of a row of q: cols, or the bytes of its blocks where these have scales beside their elements.
    pub row_bytes: usize,
    /// The elements of `scale`. With 0 there is no such array.
    pub scales: usize,
    /// The elements of `zero_point`. With 0 there is no such array.
    pub zero_points: usize,
}

// SAFETY: numbers.
unsafe impl HasSize for lanenorm_scheme {
    const LEAST: usize = Self::END;
    const END: usize = offset_of!(Self, given_zero_point) + size_of::<i32>();
}

// SAFETY: numbers, and pointers, which are then NULL.
unsafe impl HasSize for lanenorm_quantized {
    const LEAST: usize = offset_of!(Self, ranges);
    const END: usize = offset_of!(Self, range_count) + size_of::<usize>();
}

/// Sets all fields of a scheme but struct_size, which must be set before, to those of a `lanenorm_preset`.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_scheme_init(scheme: *mut lanenorm_scheme, preset: i32) -> lanenorm_status {
    guard(|| {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's duty.
        let &lanenorm_scheme { struct_size, .. } = unsafe { sized("scheme", scheme.cast_const(), &mut room) }?;
        let found = lanenorm_preset::ALL.iter().find(|&&(named, _)| named as i32 == preset);
        let (_, parts) = found.ok_or_else(|| unknown("preset", preset))?;
        // SAFETY: the caller's duty; it has this size.
        unsafe { scheme.write(lanenorm_scheme { struct_size, ..parts.into() }) };
        Ok(())
    })
}

/// Writes to `sizes` how large the outputs are for `rows` rows of the plan.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_quantized_sizes(
    plan: *const lanenorm_plan,
    scheme: *const lanenorm_scheme,
    rows: usize,
    sizes: *mut lanenorm_quantized_sizes,
) -> lanenorm_status {
    guard(|| {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's duty.
        let (inner, scheme) = unsafe { (initialized(plan)?, sized("scheme", scheme, &mut room)?) };
        check("sizes", sizes)?;
        let cols = inner.plan.cols;
        let scheme = scheme.parts(cols)?;
        let (row_bytes, scales) = (scheme.row_bytes(cols), scheme.scales(rows, cols));
        if row_bytes.max(scales.saturating_mul(size_of::<f32>())) > isize::MAX as usize {
            return Err(lanenorm_kernels::Error::Overflow { what: "q", rows, stride: cols }.into());
        }
        // SAFETY: the caller's duty.
        unsafe { sizes.write(lanenorm_quantized_sizes { row_bytes, scales, zero_points: scheme.zero_points(rows) }) };
        Ok(())
    })
}

/// Normalizes and quantizes all rows, on as many threads as `threads` says. The bits are those of quantizing y in
/// float, before it would be rounded to another type. y may be NULL: then it is not written, and a residual needs a
/// sum. Rows of double are refused. Without rows or columns, scales and zero points, where they are given, become those
/// of zeros.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_quantize(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    scheme: *const lanenorm_scheme,
    quantized: *const lanenorm_quantized,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    guard(|| unsafe { quantize(plan, buffers, scheme, quantized, Part::All { threads }) })
}

/// Normalizes and quantizes `row_count` rows from `first_row` on, on the calling thread, without allocating, as
/// `lanenorm_plan_forward_rows` does. `buffers` and `quantized` are for all rows.
///
/// With `LANENORM_SCOPE_TENSOR` the ranges of all rows must be known: `lanenorm_plan_range_rows` takes them first. It
/// takes the sums too, where there is a residual, and these are taken from where they lie then. The call that has the
/// first row writes the scale and the zero point.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_quantize_rows(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    scheme: *const lanenorm_scheme,
    quantized: *const lanenorm_quantized,
    first_row: usize,
    row_count: usize,
) -> lanenorm_status {
    let part = Part::Rows { first: first_row, count: row_count };
    // SAFETY: the caller's duty.
    guard(|| unsafe { quantize(plan, buffers, scheme, quantized, part) })
}

/// Writes to `range` the least and the greatest of 0 and the elements of y in `row_count` rows from `first_row` on; NaN
/// and NaN if an element is NaN or infinite. It is the first of the two calls that quantize these rows with
/// `LANENORM_SCOPE_TENSOR`: see `lanenorm_plan_quantize_rows`. `buffers` is for all rows. Sums and statistics are
/// written, and y is not, but for a residual without a sum: then y holds the sum meanwhile. Call it once for each row,
/// since a sum over x or residual would be taken twice.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_range_rows(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    first_row: usize,
    row_count: usize,
    range: *mut f32,
) -> lanenorm_status {
    let part = Part::Rows { first: first_row, count: row_count };
    // SAFETY: the caller's duty.
    guard(|| unsafe { range_of_rows(plan, buffers, part, range) })
}

/// The value of an enumeration that a number stands for.
fn value<T: Copy, const N: usize>(what: &str, number: i32, values: [T; N]) -> Result<T, lanenorm_status> {
    usize::try_from(number).ok().and_then(|at| values.get(at)).copied().ok_or_else(|| unknown(what, number))
}

const FORMATS: [Format; 4] = [Format::I8, Format::U8, Format::E4m3, Format::E5m2];
const LAYOUTS: [Layout; 4] = [Layout::Apart, Layout::Q8_0, Layout::Q8_1, Layout::Q8K];
const QUOTIENTS: [Quotient; 3] = [Quotient::Divide, Quotient::Reciprocal, Quotient::Ratio];
const TIES: [Ties; 2] = [Ties::Even, Ties::Away];

impl lanenorm_scheme {
    /// The scheme, if it is one for rows of `cols` elements.
    fn parts(&self, cols: usize) -> Result<Scheme, lanenorm_status> {
        let given = Scope::Given { scale: self.given_scale, zero_point: self.given_zero_point };
        let scheme = Scheme {
            format: value("format", self.format, FORMATS)?,
            scope: value("scope", self.scope, [Scope::Row, Scope::Block(self.block), Scope::Tensor, given])?,
            layout: value("layout", self.layout, LAYOUTS)?,
            divisor: self.divisor,
            least_amax: self.least_amax,
            least_scale: self.least_scale,
            zero_scale: self.zero_scale,
            quotient: value("quotient", self.quotient, QUOTIENTS)?,
            ties: value("ties", self.ties, TIES)?,
            least: self.least,
        };
        scheme.check(cols)?;
        Ok(scheme)
    }
}

impl From<&Scheme> for lanenorm_scheme {
    fn from(scheme: &Scheme) -> Self {
        let (scope, block, (given_scale, given_zero_point)) = match scheme.scope {
            Scope::Row => (lanenorm_scope::Row, 0, (0.0, 0)),
            Scope::Block(block) => (lanenorm_scope::Block, block, (0.0, 0)),
            Scope::Tensor => (lanenorm_scope::Tensor, 0, (0.0, 0)),
            Scope::Given { scale, zero_point } => (lanenorm_scope::Given, 0, (scale, zero_point)),
        };
        Self {
            struct_size: size_of::<Self>(),
            format: scheme.format as i32,
            scope: scope as i32,
            layout: scheme.layout as i32,
            quotient: scheme.quotient as i32,
            ties: scheme.ties as i32,
            least: scheme.least,
            block,
            divisor: scheme.divisor,
            least_amax: scheme.least_amax,
            least_scale: scheme.least_scale,
            zero_scale: scheme.zero_scale,
            given_scale,
            given_zero_point,
        }
    }
}

/// Where the buffers of a call lie that may be without y: their places are added to `places`, which are those of
/// vectors that are read.
fn check_buffers(
    mut places: Places,
    inner: &Inner,
    buffers: &lanenorm_forward_buffers,
) -> Result<Option<(Checked, Shape, Places)>, lanenorm_status> {
    let &Inner { ref plan, kind, .. } = inner;
    if kind.dtype == Dtype::F64 {
        return Err(unsupported("rows of f64 are not quantized, expected f32, f16 or bf16"));
    }
    let has_residual = !buffers.residual.data.is_null();
    if has_residual && buffers.sum.data.is_null() && buffers.y.data.is_null() {
        return Err(unsupported("residual is given without sum, which may be residual, and without y"));
    }
    plan.rounding.check_quantized(has_residual, kind.sum != Dtype::F32)?;
    let shape = shape(plan, kind, buffers)?;
    if shape.is_empty() {
        return Ok(None);
    }
    let AllRows { x, residual, sum, y } = check_places(&mut places, plan, kind, buffers, &shape)?;
    let all = [Some(x), residual, sum, y];
    let even = all.iter().flatten().all(|rows| rows.are_even(&shape));
    let checked = Checked {
        x: x.rows,
        residual: residual.zip(sum.or(y)).map(|(residual, s)| (residual.rows, s.rows)),
        y: y.map_or(NO_ROWS, |y| y.rows),
        inner_rows: if even { shape.rows } else { shape.inner_rows },
        streaming: false,
    };
    Ok(Some((checked, shape, places)))
}

const NO_ROWS: Strided = Strided { data: null_mut(), stride: 0, outer_stride: 0 };

/// Checks all, then quantizes.
///
/// # Safety
/// - As of the functions that call it.
unsafe fn quantize(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    scheme: *const lanenorm_scheme,
    quantized: *const lanenorm_quantized,
    part: Part,
) -> Result<(), lanenorm_status> {
    let mut room = (MaybeUninit::uninit(), MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the caller's duty.
    let (inner, buffers, scheme, outputs) = unsafe {
        (
            initialized(plan)?,
            sized("buffers", buffers, &mut room.0)?,
            sized("scheme", scheme, &mut room.1)?,
            sized("quantized", quantized, &mut room.2)?,
        )
    };
    let &Inner { ref plan, kind, .. } = inner;
    let scheme = scheme.parts(plan.cols)?;
    let (first, count) = part.of(buffers.rows)?;
    let needs_ranges = scheme.scope == Scope::Tensor && matches!(part, Part::Rows { .. });
    if !needs_ranges && (!outputs.ranges.is_null() || outputs.range_count > 0) {
        return Err(unsupported("ranges are given, but only calls by rows with a scale for the tensor take them"));
    }
    let mut places = Places::default();
    if needs_ranges && count > 0 && plan.cols > 0 {
        if outputs.ranges.is_null() || outputs.range_count == 0 {
            let message = format_args!("{} ranges are given, expected those of all rows", outputs.range_count);
            return Err(refuse(lanenorm_status::NullPointer, message));
        }
        let len = outputs.range_count.checked_mul(2).ok_or_else(|| {
            let message = format_args!("ranges are too many: {} overflow the address space", outputs.range_count);
            refuse(lanenorm_status::Overflow, message)
        })?;
        places.read_vector("ranges", outputs.ranges.cast(), len, size_of::<f32>())?;
    }
    let Some((mut checked, rows, mut places)) = check_buffers(places, inner, buffers)? else {
        // SAFETY: the caller's duty.
        return unsafe { write_scales_of_zeros(&scheme, outputs, [buffers.rows, plan.cols], (first, count)) };
    };
    let q = check_outputs(&mut places, &scheme, outputs, &rows, buffers.inner_rows)?;
    if !q.are_even(&rows) {
        checked.inner_rows = rows.inner_rows;
    }
    let mut pass = Pass::Only;
    if needs_ranges && count > 0 {
        // SAFETY: the caller's duty.
        pass = Pass::Second(unsafe { merged(outputs) }?);
    }
    if count == 0 {
        return Ok(());
    }
    let call = Call { plan, types: Types::of(kind, checked.residual.is_some()), buffers, checked };
    let &lanenorm_quantized { scale, zero_point, .. } = outputs;
    let call = QuantizeCall { call, scheme, q: q.rows, scale, zero_point };
    let run = run_for(kind, call.call.checked.residual.is_some());
    let tasks = part.tasks(buffers.rows.saturating_mul(plan.cols));
    // SAFETY: the caller's duty, and all has been checked.
    unsafe { prepare_stats(kind, buffers, first, count) };
    if scheme.scope == Scope::Tensor && matches!(pass, Pass::Only) {
        let all = Mutex::new(Range::EMPTY);
        parallel::share(runs(&call, run, Pass::First(&all), first, count), &mut [], tasks);
        pass = Pass::Second(all.into_inner().unwrap_or_else(PoisonError::into_inner));
    }
    parallel::share(runs(&call, run, pass, first, count), &mut [], tasks);
    Ok(())
}

/// Writes the scales and the zero points of rows without elements, or of no rows, where they are given. Where all rows
/// share a scale, a range that begins with the first writes it.
///
/// # Safety
/// - As of the functions that quantize.
unsafe fn write_scales_of_zeros(
    scheme: &Scheme,
    outputs: &lanenorm_quantized,
    [rows, cols]: [usize; 2],
    (first, count): (usize, usize),
) -> Result<(), lanenorm_status> {
    let &lanenorm_quantized { scale, zero_point, .. } = outputs;
    vector("scale", scale.cast(), scheme.scales(rows, cols), size_of::<f32>())?;
    vector("zero_point", zero_point.cast(), scheme.zero_points(rows), 1)?;
    let (of_zeros, point_of_zeros) = scheme.scale_of(Range::EMPTY);
    let range = match scheme.scope {
        Scope::Row => first..first + count,
        Scope::Tensor if first == 0 => 0..1,
        _ => return Ok(()),
    };
    if scheme.scales(1, 1) > 0 && !scale.is_null() {
        // SAFETY: the caller's duty.
        range.clone().for_each(|r| unsafe { scale.add(r).write(of_zeros) });
    }
    if scheme.zero_points(1) > 0 && !zero_point.is_null() {
        // SAFETY: as above.
        range.for_each(|r| unsafe { zero_point.add(r).write(point_of_zeros as u8) });
    }
    Ok(())
}

/// Checks where quantized rows go, their scales and their zero points: that they are there if the scheme has them, and
/// apart from all else.
fn check_outputs(
    places: &mut Places,
    scheme: &Scheme,
    outputs: &lanenorm_quantized,
    shape: &Shape,
    inner_rows: usize,
) -> Result<Rows, lanenorm_status> {
    let &lanenorm_quantized { q, scale, zero_point, .. } = outputs;
    let (rows, cols) = (shape.rows, shape.cols);
    let (scales, zero_points) = (scheme.scales(rows, cols), scheme.zero_points(rows));
    for (what, is_null, expected) in
        [("scale", scale.is_null(), scales), ("zero_point", zero_point.is_null(), zero_points)]
    {
        if is_null && expected > 0 {
            let message = format_args!("{what} is NULL, expected {}", lanenorm_kernels::Count(expected, "element"));
            return Err(refuse(lanenorm_status::NullPointer, message));
        }
        if !is_null && expected == 0 {
            let message = format_args!("{what} is given, but the scheme has no array of them");
            return Err(refuse(lanenorm_status::Unsupported, message));
        }
    }
    let bytes = Shape::new(rows, inner_rows, scheme.row_bytes(cols))?;
    let q = Rows::checked("q", q.data, (q.row_stride, q.outer_stride), &bytes, 1)?;
    places.write_rows("q", &q, &bytes, 1, false)?;
    places.write_vector("scale", scale.cast(), scales, size_of::<f32>())?;
    places.write_vector("zero_point", zero_point.cast(), zero_points, 1)?;
    Ok(q)
}

/// The bits of the greatest number, and those that numbers below 0 have more.
const INFINITY: u32 = f32::INFINITY.to_bits();
const SIGN: u32 = (-0.0f32).to_bits();

/// The range of all rows.
///
/// # Safety
/// - There are as many ranges as is said.
unsafe fn merged(outputs: &lanenorm_quantized) -> Result<Range, lanenorm_status> {
    // SAFETY: the caller's duty; lengths and alignment have been checked.
    let ranges = unsafe { slice::from_raw_parts(outputs.ranges, 2 * outputs.range_count) };
    let mut all = Range::EMPTY;
    for (i, range) in ranges.chunks_exact(2).enumerate() {
        let (min, max) = (range[0], range[1]);
        // By their bits, since a comparison of numbers can raise a flag.
        if (1..=INFINITY).contains(&min.to_bits()) || (SIGN + 1..=SIGN + INFINITY).contains(&max.to_bits()) {
            let message = format_args!("range {i} is from {min} to {max}, expected one that has 0 in it");
            return Err(refuse(lanenorm_status::Scheme, message));
        }
        all = all.merge(Range { min, max });
    }
    Ok(all)
}

/// Checks all, then takes the range.
///
/// # Safety
/// - As of [`lanenorm_plan_range_rows`].
unsafe fn range_of_rows(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    part: Part,
    range: *mut f32,
) -> Result<(), lanenorm_status> {
    let mut room = MaybeUninit::uninit();
    // SAFETY: the caller's duty.
    let (inner, buffers) = unsafe { (initialized(plan)?, sized("buffers", buffers, &mut room)?) };
    let (first, count) = part.of(buffers.rows)?;
    check("range", range)?;
    let all = Mutex::new(Range::EMPTY);
    if let Some((checked, _, mut places)) = check_buffers(Places::default(), inner, buffers)? {
        places.write_vector("range", range.cast(), 2, size_of::<f32>())?;
        let &Inner { ref plan, kind, .. } = inner;
        let are_sums = checked.residual.is_some();
        let call = Call { plan, types: Types::of(kind, are_sums), buffers, checked };
        let (scheme, scale, zero_point) = (Scheme::ONNX_U8, null_mut(), null_mut());
        // Nothing is quantized, but a job has a place for it.
        let q = Strided { stride: plan.cols, ..NO_ROWS };
        let call = QuantizeCall { call, scheme, q, scale, zero_point };
        let run = run_for(kind, are_sums);
        // SAFETY: the caller's duty, and all has been checked.
        unsafe { prepare_stats(kind, buffers, first, count) };
        parallel::Work::run(runs(&call, run, Pass::First(&all), first, count), &mut []);
    }
    let Range { min, max } = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller's duty.
    unsafe { range.cast::<[f32; 2]>().write([min, max]) };
    Ok(())
}

/// A call that has been checked, from which parts are taken.
struct QuantizeCall<'a> {
    call: Call<'a>,
    scheme: Scheme,
    /// Strides are in bytes.
    q: Strided,
    scale: *mut f32,
    zero_point: *mut u8,
}

// SAFETY: threads share it to make jobs for rows of their own, which are Send.
unsafe impl Sync for QuantizeCall<'_> {}

impl QuantizeCall<'_> {
    /// The places of `count` rows from `first` on.
    ///
    /// # Safety
    /// - As [`run`].
    unsafe fn quants(&self, first: usize, count: usize) -> Quants<'_> {
        let &Self { ref call, ref scheme, q, scale, zero_point } = self;
        let cols = call.plan.cols;
        let (run, row) = call.checked.place(first);
        let at = run.wrapping_mul(q.outer_stride).wrapping_add(row.wrapping_mul(q.stride));
        let q_rows = q.data.cast::<u8>().wrapping_add(at);
        // SAFETY: the caller's duty.
        unsafe { Quants::from_raw(scheme, first, [count, cols], q_rows, q.stride, scale, zero_point) }
    }
}

/// [`run`] for some types.
type Run = unsafe fn(&QuantizeCall<'_>, Pass<'_>, usize, usize);

/// [`run`] for the type of the rows that are normalized.
fn run_for(kind: Kind, are_sums: bool) -> Run {
    match (kind.rows(are_sums), kind.centered) {
        (Dtype::F32, true) => run::<f32, Centered>,
        (Dtype::F32, false) => run::<f32, Uncentered>,
        (Dtype::F16, true) => run::<f16, Centered>,
        (Dtype::F16, false) => run::<f16, Uncentered>,
        (Dtype::Bf16, true) => run::<bf16, Centered>,
        (Dtype::Bf16, false) => run::<bf16, Uncentered>,
        (Dtype::F64, _) => misfit(),
    }
}

/// Does a pass over `count` rows from `first` on, which are evenly apart, on the calling thread.
///
/// # Safety
/// - The types belong to the call.
/// - There are these rows, in one run or evenly apart in all buffers.
/// - Nothing else touches them meanwhile.
#[inline(never)]
unsafe fn run<T: Quantizable + Quantizes<M>, M: Center>(
    this: &QuantizeCall<'_>,
    pass: Pass<'_>,
    first: usize,
    count: usize,
) {
    // SAFETY: the caller's duty.
    let (parts, quants) = unsafe { (this.call.parts::<T>(first, count), this.quants(first, count)) };
    let job = parts.and_then(|Parts { rows, params, stats, bias }| {
        let rows = if this.call.buffers.y.data.is_null() { rows.and_no_y() } else { rows };
        let job = Quantize::<T, M>::new(rows, params, this.call.plan.eps, stats, &this.scheme, quants)?;
        match bias {
            None => Ok(job),
            Some(bias) => job.with_bias(bias),
        }
    });
    let Ok(job) = job else { misfit() };
    let mut job = if matches!(pass, Pass::Second(_)) { job.summed() } else { job };
    pass.run(&mut job, this.call.plan.isa);
}

/// A pass over some rows. Whoever shares this knows that the duties of [`run`] are met.
fn runs<'a>(
    call: &'a QuantizeCall<'a>,
    run: Run,
    pass: Pass<'a>,
    first: usize,
    count: usize,
) -> Runs<'a, impl Fn(usize, usize) + Copy + Send> {
    // SAFETY: these rows are in one run, and the work has them.
    let run = move |first, count| unsafe { run(call, pass, first, count) };
    Runs { call: &call.call, run, first, count }
}
