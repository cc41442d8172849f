//! Calls that quantize, what they are compared with, and their definition. The rivals have two steps. The first writes
//! y, in the type of x: scalar loops, or a plain call. The second reads it again: scalar loops, or loops that compilers
//! vectorize, compiled for the default tier.

use std::any::Any;

use lanenorm::kernels::reference;
use lanenorm::kernels::simd::{Kernel, Lanes};
use lanenorm::scheme::{Layout, Scheme};
use lanenorm::{Norm, Quantizable, bf16, f16};
use lanenorm_harness::naive::{self, Quantize};
use lanenorm_harness::number::{Number, Value};

use super::case::Case;
use super::placement::{Call, Placement};
use super::plan::{self, Operation, VALID};
use super::sums::{SUMS, padded};
use super::variant::{BLOCK, Variant};

/// The bytes of a block of `Q8_0`.
const BLOCK_BYTES: usize = 34;

/// A call that quantizes.
type Fused<M, T> = fn(&Norm<M>, &Scheme, &mut Call<'_, T>);

/// The function of the type `T`, out of those of all types that are computed in f32.
pub(crate) fn of_type<F: Copy + 'static>(all: [&dyn Any; 3]) -> F {
    *all.into_iter().find_map(|f| f.downcast_ref()).expect("f64 is not computed in f32")
}

pub(crate) fn fused<M: Operation, T: Number>() -> Fused<M, T> {
    of_type([
        &(fused_of::<M, f32> as Fused<M, f32>),
        &(fused_of::<M, f16> as Fused<M, f16>),
        &(fused_of::<M, bf16> as Fused<M, bf16>),
    ])
}

fn fused_of<M: Operation, T: Number<Float = f32> + Quantizable>(plan: &Norm<M>, scheme: &Scheme, c: &mut Call<'_, T>) {
    let ([gamma, beta], (q, scale)) = (c.affine, room(scheme, plan.cols(), c.x.len(), c.q, c.scale));
    let call = M::beta(plan.call(c.x).gamma(gamma), beta);
    call.quantize(scheme).scale_to(scale).to(q).expect(VALID);
}

/// The parts of `q` and `scale` that `elements` elements take, in rows of `cols`, by `scheme`.
fn room<'a>(
    scheme: &Scheme,
    cols: usize,
    elements: usize,
    q: &'a mut [u8],
    scale: &'a mut [f32],
) -> (&'a mut [u8], &'a mut [f32]) {
    let rows = elements / cols;
    (&mut q[..rows * scheme.row_bytes(cols)], &mut scale[..scheme.scales(rows, cols)])
}

/// The scalar loops of the scheme of a variant.
pub(crate) fn naive<T: Number>(variant: Variant) -> Quantize<T> {
    match variant {
        Variant::I8 => of_type([
            &(naive::quantize_i8 as Quantize<f32>),
            &(naive::quantize_i8 as Quantize<f16>),
            &(naive::quantize_i8 as Quantize<bf16>),
        ]),
        _ => of_type([
            &(naive::quantize_q8_0 as Quantize<f32>),
            &(naive::quantize_q8_0 as Quantize<f16>),
            &(naive::quantize_q8_0 as Quantize<bf16>),
        ]),
    }
}

/// The loops that compilers vectorize.
pub(crate) fn vectorized<T: Number>(variant: Variant) -> Quantize<T> {
    match variant {
        Variant::I8TwoSteps => of_type([
            &(quantize_i8 as Quantize<f32>),
            &(quantize_i8 as Quantize<f16>),
            &(quantize_i8 as Quantize<bf16>),
        ]),
        _ => of_type([
            &(quantize_q8_0 as Quantize<f32>),
            &(quantize_q8_0 as Quantize<f16>),
            &(quantize_q8_0 as Quantize<bf16>),
        ]),
    }
}

/// Quantizes y.
pub(crate) fn second_step<T: Number>(quantize: Quantize<T>, scheme: &Scheme, cols: usize, c: &mut Call<'_, T>) {
    let (q, scale) = room(scheme, cols, c.y.len(), c.q, c.scale);
    quantize(c.y, cols, q, scale);
}

fn quantize_i8<T: Number<Float = f32>>(y: &[T], cols: usize, q: &mut [u8], scale: &mut [f32]) {
    lanenorm::default_isa().expect("checked at the start").run(I8 { y, cols, q, scale });
}

struct I8<'a, T> {
    y: &'a [T],
    cols: usize,
    q: &'a mut [u8],
    scale: &'a mut [f32],
}

impl<T: Number<Float = f32>> Kernel for I8<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let rows = self.y.chunks_exact(self.cols).zip(self.q.chunks_exact_mut(self.cols));
        for ((y, q), to) in rows.zip(self.scale) {
            let scale = amax(y) / 127.0;
            for (q, &y) in q.iter_mut().zip(y) {
                *q = integer(y.widen() / scale);
            }
            *to = scale;
        }
    }
}

fn quantize_q8_0<T: Number<Float = f32>>(y: &[T], _: usize, q: &mut [u8], _: &mut [f32]) {
    lanenorm::default_isa().expect("checked at the start").run(Q8_0 { y, q });
}

struct Q8_0<'a, T> {
    y: &'a [T],
    q: &'a mut [u8],
}

impl<T: Number<Float = f32>> Kernel for Q8_0<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let (y, q) = (self.y.as_chunks::<BLOCK>().0, self.q.as_chunks_mut::<BLOCK_BYTES>().0);
        for (y, block) in y.iter().zip(q) {
            let y: [f32; BLOCK] = padded(y, 0.0);
            let mut most = [0.0f32; SUMS];
            for i in 0..SUMS {
                most[i] = greater(y[i].abs(), y[SUMS + i].abs());
            }
            let scale = fold(most) / 127.0;
            let inverse = 1.0 / scale;
            let (head, q) = block.split_at_mut(2);
            head.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            for (q, y) in q.iter_mut().zip(y) {
                *q = integer((y * inverse).round());
            }
        }
    }
}

/// `v`, of a magnitude of at most 127, rounded to an integer, ties to even. Beyond 2^23 floats have no fractions. This
/// is vectorized, where `as i8` is not.
#[inline(always)]
fn integer(v: f32) -> u8 {
    (v + 12_582_912.0).to_bits() as u8
}

/// The greatest magnitude, in the manner of [`sums`](super::sums).
#[inline(always)]
fn amax<T: Number<Float = f32>>(y: &[T]) -> f32 {
    let (blocks, tail) = y.as_chunks::<{ 4 * SUMS }>();
    let mut most = [0.0; SUMS];
    for block in blocks {
        for i in 0..SUMS {
            let [a, b, c, d] =
                [block[i], block[SUMS + i], block[2 * SUMS + i], block[3 * SUMS + i]].map(|y| y.widen().abs());
            most[i] = greater(most[i], greater(greater(a, b), greater(c, d)));
        }
    }
    greater(fold(most), tail.iter().fold(0.0, |most, y| greater(most, y.widen().abs())))
}

#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn fold(most: [f32; SUMS]) -> f32 {
    let mut most = most;
    let mut half = SUMS / 2;
    while half > 0 {
        for i in 0..half {
            most[i] = greater(most[i], most[half + i]);
        }
        half /= 2;
    }
    most[0]
}

/// The quantized rows of all tensors of a case, one after the other.
#[derive(PartialEq)]
pub(crate) struct Quantized {
    q: Vec<u8>,
    scale: Vec<f32>,
}

impl Quantized {
    /// What a contender has left.
    pub(crate) fn of<T: Number>(case: &Case, scheme: &Scheme, placement: &mut Placement<T>) -> Self {
        let mut all = Self { q: Vec::new(), scale: Vec::new() };
        for call in placement.calls() {
            let (q, scale) = room(scheme, case.cols, call.x.len(), call.q, call.scale);
            all.q.extend(&*q);
            all.scale.extend(&*scale);
        }
        all
    }

    /// Each integer, and each scale.
    fn parts(&self, scheme: &Scheme) -> (Vec<i8>, Vec<f32>) {
        if scheme.layout == Layout::Apart {
            return (self.q.iter().map(|&q| q as i8).collect(), self.scale.clone());
        }
        let blocks = self.q.as_chunks::<BLOCK_BYTES>().0;
        let q = blocks.iter().flat_map(|block| &block[2..]).map(|&q| q as i8).collect();
        (q, blocks.iter().map(|&[a, b, ..]| f16::from_le_bytes([a, b]).to_f32()).collect())
    }
}

/// y in f32, and what the definition makes of it.
pub(crate) fn definition<T: Number>(
    case: &Case,
    scheme: &Scheme,
    placement: &mut Placement<T>,
) -> (Vec<f32>, Quantized) {
    let y = if case.is_centered() {
        in_f32::<lanenorm::Centered, T>(case, placement)
    } else {
        in_f32::<lanenorm::Uncentered, T>(case, placement)
    };
    let rows = y.len() / case.cols;
    let mut all = Quantized { q: vec![0; rows * scheme.row_bytes(case.cols)], scale: Vec::new() };
    if let Some((elements, bytes)) = scheme.layout.block() {
        let blocks = all.q.chunks_exact_mut(bytes).zip(y.chunks_exact(elements));
        blocks.for_each(|(q, y)| reference::quantize_block(scheme, y, q));
    } else {
        let rows = all.q.chunks_exact_mut(case.cols).zip(y.chunks_exact(case.cols));
        all.scale.extend(rows.map(|(q, y)| reference::quantize(scheme, y, q).0));
    }
    (y, all)
}

/// y of all tensors, in f32 beside types of 16 bits too.
fn in_f32<M: Operation, T: Number>(case: &Case, placement: &mut Placement<T>) -> Vec<f32> {
    let isa = lanenorm::default_isa().expect("checked at the start");
    let plan = plan::plan::<M>(case, isa, false, Variant::Default);
    let mut all = Vec::new();
    for Call { x, affine: [gamma, beta], .. } in placement.calls() {
        let mut y = vec![T::Mixed::default(); x.len()];
        M::beta(plan.call(x).gamma(gamma), beta).to(&mut y).expect(VALID);
        all.extend(y.into_iter().map(|y| y.to_f64() as f32));
    }
    all
}

/// Says what is wrong with quantized rows, if anything is. Where y has been rounded otherwise, integers differ by one
/// at most.
pub(crate) fn check(scheme: &Scheme, expected: &Quantized, got: &Quantized, exact: bool) -> Result<(), String> {
    if exact {
        return (expected == got).then_some(()).ok_or_else(|| "other bits than those of the definition".into());
    }
    let ((expected_q, expected_scale), (q, scale)) = (expected.parts(scheme), got.parts(scheme));
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() / 128.0;
    let all = expected_q.len() == q.len()
        && expected_q.iter().zip(&q).all(|(&a, &b)| a.abs_diff(b) <= 1)
        && expected_scale.len() == scale.len()
        && expected_scale.iter().zip(&scale).all(near);
    all.then_some(()).ok_or_else(|| "numbers that are far from those of the definition".into())
}
