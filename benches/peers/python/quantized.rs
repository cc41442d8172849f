//! Quantized calls as a library for the benchmark in Python, since the C ABI has none.

use std::ffi::{c_int, c_void};
use std::slice::{from_raw_parts, from_raw_parts_mut};

use lanenorm::{Element, Error, LayerNorm, Parallelism, Quantizable, RmsNorm, Scheme, bf16};

/// A call: rows of f32 or bf16 become 8 bits. `scheme`: 0, int8 with a scale for each row; 1, uint8 with one scale and
/// one zero point; 2, int8 with the scale `given`; 3, `Q8_0` of GGUF as ggml writes it on x86-64. RMSNorm has no use for
/// beta. Returns 0, or 1 if
/// the call is refused.
///
/// # Safety
/// x has `rows` times `cols` elements of its type, and gamma and beta have `cols`. q has as many bytes as the scheme
/// writes. `scale` has an element for each row, and `zero_point` has one. Outputs overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_quantize(
    is_centered: bool,
    is_bf16: bool,
    scheme: c_int,
    x: *const c_void,
    rows: usize,
    cols: usize,
    gamma: *const c_void,
    beta: *const c_void,
    eps: f32,
    given: f32,
    q: *mut u8,
    scale: *mut f32,
    zero_point: *mut u8,
    threads: usize,
) -> c_int {
    let scheme = match scheme {
        0 => Scheme::I8,
        1 => Scheme::ONNX_U8,
        2 => Scheme::i8_given(given, 0),
        _ => Scheme::Q8_0_X86,
    };
    let parallelism = if threads == 1 { Parallelism::Serial } else { Parallelism::Auto };
    // SAFETY: the caller promises these lengths.
    let (q, scale, zero_point) = unsafe {
        (
            from_raw_parts_mut(q, rows * scheme.row_bytes(cols)),
            from_raw_parts_mut(scale, scheme.scales(rows, cols)),
            from_raw_parts_mut(zero_point, scheme.zero_points(rows)),
        )
    };
    let out = Out { q, scale, zero_point };
    let norm = Norm { is_centered, cols, eps, parallelism, scheme };
    // SAFETY: the caller promises these types and lengths.
    let done = unsafe {
        if is_bf16 {
            norm.run(elements::<bf16>(x, rows * cols), elements(gamma, cols), beta.cast(), out)
        } else {
            norm.run(elements::<f32>(x, rows * cols), elements(gamma, cols), beta.cast(), out)
        }
    };
    done.is_err().into()
}

/// # Safety
/// There are so many elements of that type.
unsafe fn elements<'a, T>(first: *const c_void, len: usize) -> &'a [T] {
    // SAFETY: as above.
    unsafe { from_raw_parts(first.cast(), len) }
}

struct Norm {
    is_centered: bool,
    cols: usize,
    eps: f32,
    parallelism: Parallelism,
    scheme: Scheme,
}

struct Out<'a> {
    q: &'a mut [u8],
    scale: &'a mut [f32],
    zero_point: &'a mut [u8],
}

impl Norm {
    /// # Safety
    /// If it is LayerNorm, beta has `cols` elements.
    unsafe fn run<T: Element<Float = f32> + Quantizable>(
        &self,
        x: &[T],
        gamma: &[T],
        beta: *const T,
        out: Out<'_>,
    ) -> Result<(), Error> {
        let (cols, eps, Out { q, scale, zero_point }) = (self.cols, self.eps.into(), out);
        if self.is_centered {
            // SAFETY: the caller promises this length.
            let beta = unsafe { from_raw_parts(beta, cols) };
            let plan = LayerNorm::new(cols, eps)?.with_parallelism(self.parallelism);
            let call = plan.call(x).gamma(gamma).beta(beta).quantize(&self.scheme);
            call.scale_to(scale).zero_point_to(zero_point).to(q)
        } else {
            let plan = RmsNorm::new(cols, eps)?.with_parallelism(self.parallelism);
            plan.call(x).gamma(gamma).quantize(&self.scheme).scale_to(scale).zero_point_to(zero_point).to(q)
        }
    }
}
