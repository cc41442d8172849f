//! Schemes of quantization: how rows of y become elements of 8 bits and scales.
//!
//! There is no one int8. Libraries differ in the divisor of the scale, in ties, in whether they divide by the scale or
//! multiply by its reciprocal, in the least scale, and in the scale of zeros. So a [`Scheme`] is a value with these
//! parts, and its constants have the names of those whose bits they give. [`quantize`](crate::reference::quantize) is
//! the definition.

use crate::error::Error;
use crate::simd::in_default_environment;

/// The type of quantized elements, one byte each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Signed integers.
    I8,
    /// Unsigned integers, of which one, the zero point, stands for 0.
    U8,
    /// Numbers with 4 bits of exponent and 3 of mantissa, up to 448, without infinities: OCP FP8 E4M3, `float8_e4m3fn`.
    E4m3,
    /// Numbers with 5 bits of exponent and 2 of mantissa, up to 57344: OCP FP8 E5M2.
    E5m2,
}

impl Format {
    /// The name used in messages and in bench ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
        }
    }

    /// The greatest number that is not infinite.
    pub(crate) const fn max(self) -> f32 {
        match self {
            Self::I8 => 127.0,
            Self::U8 => 255.0,
            Self::E4m3 => 448.0,
            Self::E5m2 => 57344.0,
        }
    }

    /// Whether elements are integers.
    pub(crate) const fn is_integer(self) -> bool {
        matches!(self, Self::I8 | Self::U8)
    }
}

/// A type that holds quantized elements: i8 or u8. Which of them matters to nobody but the caller.
pub trait Byte: sealed::Sealed {}

impl Byte for i8 {}
impl Byte for u8 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for i8 {}
    impl Sealed for u8 {}
}

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scope {
    /// Those of a row: "per token".
    Row,
    /// So many consecutive elements of a row: a multiple of 32, at most 256.
    Block(usize),
    /// All of a call, "per tensor". This reads x twice: the scale is known once all rows have been normalized.
    Tensor,
    /// All, and the scale is given: it is "static".
    Given {
        /// What quantized elements are multiplied by: finite and greater than 0.
        scale: f32,
        /// The integer that stands for 0. It is 0 for all formats but [`U8`](Format::U8) and [`I8`](Format::I8).
        zero_point: i32,
    },
}

/// How an element is divided by its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotient {
    /// y / scale, rounded to f32.
    Divide,
    /// y * (1 / scale), both rounded to f32.
    Reciprocal,
    /// y * (divisor / amax), both rounded to f32. The greatest element of each row or block sets its scale, whatever
    /// the least scale is.
    Ratio,
}

/// Where an element goes that lies half-way between two integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// To the even one.
    Even,
    /// Away from zero.
    Away,
}

/// Where quantized elements and their scales lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In arrays of their own.
    Apart,
    /// GGUF `Q8_0`: blocks of 32 in 34 bytes, the scale in f16 and then the elements.
    Q8_0,
    /// GGUF `Q8_1`: blocks of 32 in 36 bytes, the scale in f16, the sum of the elements times the scale (in f32) in
    /// f16, and then the elements.
    Q8_1,
    /// GGUF `Q8_K`: blocks of 256 in 292 bytes, the scale in f32, the elements, and the sums of each 16 of them as i16.
    /// The element of greatest magnitude becomes -127, whatever its sign: the first of several.
    Q8K,
}

impl Layout {
    /// The elements and the bytes of a block. `None` for elements in an array.
    pub const fn block(self) -> Option<(usize, usize)> {
        match self {
            Self::Apart => None,
            Self::Q8_0 => Some((32, 34)),
            Self::Q8_1 => Some((32, 36)),
            Self::Q8K => Some((256, 292)),
        }
    }
}

/// How rows of y become elements of 8 bits and scales: an element less the zero point, times the scale, is y but for
/// rounding.
///
/// ```text
/// scale = max(max(amax, least_amax) / divisor, least_scale)     amax = the greatest |y| that shares the scale
/// q     = round(y / scale)                                      in the ways of `quotient` and `ties`, saturated
/// ```
///
/// [`Format::U8`] has the range of all y and 0 instead of amax, and a zero point:
///
/// ```text
/// scale      = max(max(max(y, 0) - min(y, 0), least_amax) / divisor, least_scale)
/// zero_point = round(-min(y, 0) / scale)
/// q          = round(y / scale) + zero_point
/// ```
///
/// y is in f32 here, not rounded to another type. A scale that is 0 (where amax is 0, or divided by the divisor
/// underflows) has elements of 0. If some y that shares a scale is NaN or infinite, the scale is NaN and the elements
/// are 0, since an integer cannot be NaN. Where the scale is given, NaN becomes the zero point (or the NaN of the
/// format), and an infinity saturates.
///
/// ```
/// use lanenorm_kernels::scheme::Scheme;
///
/// // Like torchao, but with integers that do not reach -128.
/// let mine = Scheme { least: -127, ..Scheme::TORCHAO_I8 };
/// assert_eq!(mine.divisor, 127.5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scheme {
    /// The type of elements.
    pub format: Format,
    /// Which elements share a scale.
    pub scope: Scope,
    /// Where elements and scales lie.
    pub layout: Layout,
    /// What amax is divided by: finite and greater than 0.
    pub divisor: f32,
    /// The least amax: finite and not less than 0.
    pub least_amax: f32,
    /// The least scale: finite and not less than 0.
    pub least_scale: f32,
    /// The scale of elements that are all 0, if the least scale is 0: finite and not less than 0.
    pub zero_scale: f32,
    /// How elements are divided by the scale.
    pub quotient: Quotient,
    /// Where ties go. Numbers of 8 bits always go to the even one.
    pub ties: Ties,
    /// The least integer: -127 or -128 for [`Format::I8`], else 0.
    pub least: i32,
}

/// Below this, and above [`MOST_QUICK_SCALE`], elements are quantized one by one. Between them, three operations divide
/// (see [`quants`](crate::quants)): nothing under- or overflows.
pub(crate) const LEAST_QUICK_SCALE: f32 = 1.0 / (1u64 << 60) as f32;
pub(crate) const MOST_QUICK_SCALE: f32 = (1u64 << 60) as f32;

impl Scheme {
    /// Signed integers with a scale for each row: amax / 127, quotients correctly rounded, ties to even. A row of zeros
    /// has a scale of 0.
    pub const I8: Self = Self {
        format: Format::I8,
        scope: Scope::Row,
        layout: Layout::Apart,
        divisor: 127.0,
        least_amax: 0.0,
        least_scale: 0.0,
        zero_scale: 0.0,
        quotient: Quotient::Divide,
        ties: Ties::Even,
        least: -127,
    };

    /// What `torch.ao` (`PyTorch`) does with each token of f32: `choose_qparams_per_token` and `quantize_per_token` of
    /// `torch.ops.quantized_decomposed`, to -128..127.
    pub const TORCH_AO_I8: Self = Self { least_amax: 1e-5, quotient: Quotient::Reciprocal, least: -128, ..Self::I8 };

    /// What torchao does with each row of f32: `Int8Tensor.from_hp` with `PerRow`. The greatest element becomes 127 or
    /// -128.
    pub const TORCHAO_I8: Self =
        Self { divisor: 127.5, least_scale: f32::EPSILON, quotient: Quotient::Reciprocal, least: -128, ..Self::I8 };

    /// What vLLM does with each token on CPUs: `dynamic_scaled_int8_quant`.
    pub const VLLM_I8: Self = Self { quotient: Quotient::Reciprocal, least: -128, ..Self::I8 };

    /// Unsigned integers with a scale and a zero point for each row, by the formula of [`ONNX_U8`](Self::ONNX_U8).
    pub const U8: Self = Self { format: Format::U8, divisor: 255.0, zero_scale: 1.0, least: 0, ..Self::I8 };

    /// ONNX `DynamicQuantizeLinear`: unsigned integers with one scale and one zero point. The scale of zeros is 1.
    pub const ONNX_U8: Self = Self { scope: Scope::Tensor, ..Self::U8 };

    /// OCP FP8 E4M3 with a scale for each row: amax / 448.
    pub const E4M3: Self = Self { format: Format::E4m3, divisor: 448.0, least: 0, ..Self::I8 };

    /// OCP FP8 E5M2 with a scale for each row: amax / 57344.
    pub const E5M2: Self = Self { format: Format::E5m2, divisor: 57344.0, least: 0, ..Self::I8 };

    /// GGUF `Q8_0` as the reference of ggml and gguf-py quantize it: ties away from zero, products with the reciprocal
    /// of the scale before it is rounded to f16.
    pub const Q8_0: Self = Self {
        scope: Scope::Block(32),
        layout: Layout::Q8_0,
        quotient: Quotient::Reciprocal,
        ties: Ties::Away,
        ..Self::I8
    };

    /// GGUF `Q8_0` as the SIMD code of ggml quantizes activations on x86-64: ties to even, products with 127 / amax.
    pub const Q8_0_X86: Self = Self { quotient: Quotient::Ratio, ties: Ties::Even, ..Self::Q8_0 };

    /// GGUF `Q8_1` as the reference of ggml quantizes it, by the rules of [`Q8_0`](Self::Q8_0).
    pub const Q8_1: Self = Self { layout: Layout::Q8_1, ..Self::Q8_0 };

    /// GGUF `Q8_1` as the SIMD code of ggml quantizes it on x86-64, by the rules of [`Q8_0_X86`](Self::Q8_0_X86).
    pub const Q8_1_X86: Self = Self { layout: Layout::Q8_1, ..Self::Q8_0_X86 };

    /// GGUF `Q8_K` as ggml quantizes it: products with -127 / the element of greatest magnitude, ties to even.
    pub const Q8_K: Self =
        Self { scope: Scope::Block(256), layout: Layout::Q8K, quotient: Quotient::Ratio, ..Self::I8 };

    /// Signed integers with a scale for each block of `block` elements, by the rules of [`I8`](Self::I8).
    pub const fn i8_blocks(block: usize) -> Self {
        Self { scope: Scope::Block(block), ..Self::I8 }
    }

    /// Signed integers with a static scale, from -128 to 127: ONNX `QuantizeLinear`, and oneDNN with a scale of
    /// the destination.
    pub const fn i8_given(scale: f32, zero_point: i32) -> Self {
        Self { scope: Scope::Given { scale, zero_point }, least: -128, ..Self::I8 }
    }

    /// Unsigned integers with a static scale and zero point: ONNX `QuantizeLinear`.
    pub const fn u8_given(scale: f32, zero_point: i32) -> Self {
        Self { scope: Scope::Given { scale, zero_point }, ..Self::U8 }
    }

    /// The same scheme with a static scale, without a zero point. Its least integer stays as it is, -127 for
    /// [`I8`](Self::I8): [`i8_given`](Self::i8_given) and [`u8_given`](Self::u8_given) are those of ONNX.
    pub const fn given(self, scale: f32) -> Self {
        Self { scope: Scope::Given { scale, zero_point: 0 }, ..self }
    }

    /// Refuses parts that are out of range or do not go together, and rows of `cols` columns that blocks do not divide.
    ///
    /// # Errors
    /// In these cases.
    pub fn check(&self, cols: usize) -> Result<(), Error> {
        // Comparisons raise flags, and take subnormal numbers for 0 where the caller's environment does.
        in_default_environment(|| self.checked(cols))
    }

    /// Not inlined: see [`in_default_environment`].
    #[inline(never)]
    fn checked(&self, cols: usize) -> Result<(), Error> {
        let refuse = |what, given: f64, expected| Err(Error::Scheme { what, given, expected });
        let (positive, not_negative) = ("a finite number greater than 0", "a finite number not less than 0");
        let is_number = |v: f32| v.is_finite() && v >= 0.0;
        if !(self.divisor.is_finite() && self.divisor > 0.0) {
            return refuse("divisor", self.divisor.into(), positive);
        }
        for (what, v) in
            [("least amax", self.least_amax), ("least scale", self.least_scale), ("scale of zeros", self.zero_scale)]
        {
            if !is_number(v) {
                return refuse(what, v.into(), not_negative);
            }
        }
        match self.format {
            Format::I8 if self.least != -127 && self.least != -128 => {
                return refuse("least integer", self.least.into(), "-127 or -128");
            }
            Format::U8 | Format::E4m3 | Format::E5m2 if self.least != 0 => {
                return refuse("least integer", self.least.into(), "0 for this format");
            }
            _ => {}
        }
        match self.scope {
            Scope::Given { scale, zero_point } => {
                if !(scale.is_finite() && scale > 0.0) {
                    return refuse("scale", scale.into(), positive);
                }
                let (range, expected) = match self.format {
                    Format::I8 => (-128..=127, "an integer from -128 to 127"),
                    Format::U8 => (0..=255, "an integer from 0 to 255"),
                    Format::E4m3 | Format::E5m2 => (0..=0, "0 for this format"),
                };
                if !range.contains(&zero_point) {
                    return refuse("zero point", zero_point.into(), expected);
                }
            }
            Scope::Block(block) => {
                if block == 0 || block % 32 != 0 || block > 256 {
                    return refuse("block", block as f64, "a multiple of 32 from 32 to 256");
                }
                if self.format == Format::U8 {
                    return refuse("block", block as f64, "a scheme without a zero point");
                }
                if !cols.is_multiple_of(block) {
                    return Err(Error::Blocks { block, cols });
                }
            }
            Scope::Row | Scope::Tensor => {}
        }
        if self.format == Format::U8 && self.quotient == Quotient::Ratio {
            return refuse("quotient", f64::from(self.quotient as u8), "0 or 1 (no ratio) beside a zero point");
        }
        if let Some((block, _)) = self.layout.block() {
            if self.scope != Scope::Block(block) {
                let expected = if block == 32 { "a scope of blocks of 32" } else { "a scope of blocks of 256" };
                return refuse("layout", f64::from(self.layout as u8), expected);
            }
            if self.format != Format::I8 {
                return refuse("block", block as f64, "elements of i8 for this layout");
            }
            if self.layout == Layout::Q8K && *self != Self::Q8_K {
                return refuse("block", block as f64, "the other parts of Q8_K for this layout");
            }
        }
        Ok(())
    }

    /// The number of elements of a row of `cols` that share a scale.
    pub(crate) const fn block(&self, cols: usize) -> usize {
        match self.scope {
            Scope::Block(block) => block,
            _ => cols,
        }
    }

    /// The bytes that a row of `cols` elements takes. It saturates.
    pub const fn row_bytes(&self, cols: usize) -> usize {
        match self.layout.block() {
            Some((block, bytes)) => blocks(cols, block).saturating_mul(bytes),
            None => cols,
        }
    }

    /// The scales of `rows` rows of `cols` elements that go to an array of their own. It saturates.
    pub const fn scales(&self, rows: usize, cols: usize) -> usize {
        match (self.layout, self.scope) {
            (Layout::Apart, Scope::Row) => rows,
            (Layout::Apart, Scope::Block(block)) => blocks(cols, block).saturating_mul(rows),
            (Layout::Apart, Scope::Tensor) => 1,
            _ => 0,
        }
    }

    /// The zero points of `rows` rows that go to an array of their own.
    pub const fn zero_points(&self, rows: usize) -> usize {
        match (self.format, self.scope) {
            (Format::U8, Scope::Row) => rows,
            (Format::U8, Scope::Tensor) => 1,
            _ => 0,
        }
    }

    /// The scale and the zero point of elements in `range`.
    pub fn scale_of(&self, range: Range) -> (f32, i32) {
        in_default_environment(|| self.scale_apart(range))
    }

    /// Not inlined: see [`in_default_environment`].
    #[inline(never)]
    fn scale_apart(&self, range: Range) -> (f32, i32) {
        self.scale_for(range)
    }

    /// The same as [`scale_of`](Self::scale_of), in the default environment.
    pub(crate) fn scale_for(&self, range: Range) -> (f32, i32) {
        if let Scope::Given { scale, zero_point } = self.scope {
            return (scale, zero_point);
        }
        if !range.is_finite() {
            return (f32::NAN, 0);
        }
        let length = if self.format == Format::U8 { range.max - range.min } else { range.amax() };
        let scale = (length.max(self.least_amax) / self.divisor).max(self.least_scale);
        if scale == 0.0 {
            return (if length == 0.0 { self.zero_scale } else { 0.0 }, 0);
        }
        if self.format != Format::U8 {
            return (scale, 0);
        }
        // Kept in range before it is an integer. Not negative, so that halves can be told by their fraction.
        let least = (-range.min / scale).min(255.0);
        (scale, nearest_even(least))
    }
}

/// The whole blocks of a row.
const fn blocks(cols: usize, block: usize) -> usize {
    match cols.checked_div(block) {
        Some(blocks) => blocks,
        None => 0,
    }
}

/// `v`, which is not negative and less than 2^22, rounded to an integer, to nearest even.
fn nearest_even(v: f32) -> i32 {
    const SHIFT: f32 = (1 << 23) as f32;
    ((v + SHIFT) - SHIFT) as i32
}

/// The least and the greatest of some elements and 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The least, at most 0. NaN if an element is NaN or infinite.
    pub min: f32,
    /// The greatest, at least 0. NaN if an element is NaN or infinite.
    pub max: f32,
}

impl Range {
    /// Of no elements.
    pub const EMPTY: Self = Self { min: 0.0, max: 0.0 };

    /// Of elements of which some are NaN or infinite.
    pub const NAN: Self = Self { min: f32::NAN, max: f32::NAN };

    /// Of all elements that one or the other is of, in any order.
    pub fn merge(self, other: Self) -> Self {
        // Comparisons raise flags, and take subnormal numbers for 0 where the caller's environment does.
        in_default_environment(|| self.merge_apart(other))
    }

    /// Not inlined: see [`in_default_environment`].
    #[inline(never)]
    fn merge_apart(self, other: Self) -> Self {
        self.join(other)
    }

    /// The same as [`merge`](Self::merge), in the default environment.
    pub(crate) fn join(self, other: Self) -> Self {
        if self.is_finite() && other.is_finite() {
            Self { min: self.min.min(other.min), max: self.max.max(other.max) }
        } else {
            Self::NAN
        }
    }

    /// This range, or NaN if `v` is NaN or infinite.
    pub(crate) fn or_nan(self, v: f32) -> Self {
        if v.is_finite() { self } else { Self::NAN }
    }

    /// The greatest magnitude.
    pub(crate) fn amax(self) -> f32 {
        self.max.max(-self.min)
    }

    pub(crate) fn is_finite(self) -> bool {
        self.max.is_finite() && self.min.is_finite()
    }
}
