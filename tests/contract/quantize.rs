//! Quantized calls have the bits of quantizing, by the definition, what a plain call writes in f32: on all tiers, for
//! any number of threads, for all that plain calls have.

use std::fmt::Debug;

use lanenorm::scheme::{Quotient, Scheme, Ties};
use lanenorm::{
    Center, Companion, Element, Error, LayerNorm, Norm, Parallelism, Quantizable, RmsNorm, Rounding, Rows, RowsMut,
    Sums, bf16, f16,
};

use crate::support::quantized::{Quantized, SCHEMES, quantized};
use crate::support::{ENVIRONMENTS, Random, quick, tiers};

/// Rows of several kinds: ordinary, with outliers, far from zero, of zeros.
fn rows<T: Element>(rows: usize, cols: usize, seed: u64) -> Vec<T> {
    let mut random = Random::new(seed);
    let mut x = Vec::with_capacity(rows * cols);
    for r in 0..rows {
        let (scale, offset) = [(1.0, 0.0), (1e-3, 5.0), (100.0, -3.0), (0.0, 0.0), (1.0, 0.5)][r % 5];
        x.extend((0..cols).map(|i| {
            let outlier = if i % 97 == 13 { 30.0 } else { 1.0 };
            let v = random.normal() * scale * outlier + offset;
            T::from_computed(lanenorm::kernels::simd::Float::from_f64(v))
        }));
    }
    x
}

/// Checks a call on all tiers: `call` makes y in f32, and `quantize` quantizes it, with y in the type of x.
fn check<T: Quantizable, M: Center>(plan: Norm<M>, rows_of_x: usize, seed: u64, wild: bool)
where
    f32: Companion<T>,
    Norm<M>: Debug,
{
    let cols = plan.cols();
    let mut x = rows::<T>(rows_of_x, cols, seed);
    let residual = rows::<T>(rows_of_x, cols, seed + 1);
    let mut gamma = rows::<T>(1, cols, seed + 2);
    if wild {
        x[cols / 2] = T::from_computed(f32::NAN);
        gamma[cols - 1] = T::from_computed(f32::INFINITY);
    }
    let (mut y, mut s, mut y_of_sum) = (vec![0.0f32; x.len()], residual.clone(), vec![0.0f32; x.len()]);
    plan.call(&x).gamma(&gamma).to(&mut y).expect("a call");
    plan.call(&x).gamma(&gamma).residual_in_place(&mut s).to(&mut y_of_sum).expect("a call");
    let mut own = vec![T::from_computed(0.0); x.len()];
    plan.call(&x).gamma(&gamma).to(&mut own).expect("a call");
    let wide = |v: &[T]| v.iter().map(|v| v.to_computed().to_bits()).collect::<Vec<u32>>();
    for scheme in SCHEMES {
        if scheme.check(cols).is_err() {
            continue;
        }
        let (expected, expected_of_sum) = (quantized(&scheme, &y, cols), quantized(&scheme, &y_of_sum, cols));
        for isa in tiers() {
            for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
                let plan = plan.with_isa(*isa).with_parallelism(parallelism);
                let what = format!("{plan:?}, {rows_of_x} rows, {scheme:?}");
                let row_bytes = scheme.row_bytes(cols);
                // A gap between rows, which stays as it is.
                let stride = row_bytes + 5;
                let mut q = vec![0x77; rows_of_x * stride];
                let mut scale = vec![0.0; scheme.scales(rows_of_x, cols)];
                let mut zero_point = vec![0; scheme.zero_points(rows_of_x)];
                let (mut rstd, mut y_out) = (vec![0.0; rows_of_x], vec![T::from_computed(0.0); x.len()]);
                plan.call(&x)
                    .gamma(&gamma)
                    .rstd_to(&mut rstd)
                    .quantize(&scheme)
                    .scale_to(&mut scale)
                    .zero_point_to(&mut zero_point)
                    .y_to(&mut y_out)
                    .to(RowsMut::strided(&mut q, rows_of_x, stride))
                    .unwrap_or_else(|error| panic!("{error}: {what}"));
                assert!(q.chunks(stride).all(|row| row[row_bytes..] == [0x77; 5]), "{what}");
                let q: Vec<u8> = q.chunks(stride).flat_map(|row| &row[..row_bytes]).copied().collect();
                let scale_bits = scale.iter().map(|v| v.to_bits()).collect();
                let got = Quantized { q, scale: scale_bits, zero_point: zero_point.clone() };
                assert_eq!(got, expected, "{what}");
                assert_eq!(wide(&y_out), wide(&own), "y, {what}");
                assert!(rstd.iter().all(|v| *v != 0.0), "{what}");

                let (mut q, mut sum) = (vec![0; rows_of_x * row_bytes], residual.clone());
                plan.call(&x)
                    .gamma(&gamma)
                    .residual_in_place(&mut sum)
                    .quantize(&scheme)
                    .scale_to(&mut scale)
                    .zero_point_to(&mut zero_point)
                    .to(&mut q)
                    .unwrap_or_else(|error| panic!("{error}: {what}"));
                let scale = scale.iter().map(|v| v.to_bits()).collect();
                assert_eq!(Quantized { q, scale, zero_point }, expected_of_sum, "of a sum, {what}");
                assert_eq!(wide(&sum), wide(&s), "the sum, {what}");
            }
        }
    }
}

fn check_both<T: Quantizable>(rows: usize, cols: usize, seed: u64, wild: bool)
where
    f32: Companion<T>,
{
    check::<T, _>(LayerNorm::new(cols, 1e-5).expect("a plan"), rows, seed, wild);
    let rms_norm = RmsNorm::new(cols, 1e-6).expect("a plan").with_offset(1.0);
    check::<T, _>(rms_norm, rows, seed, wild);
    check::<T, _>(rms_norm.with_rounding(Rounding::STEPS_AND_GAMMA), rows, seed, wild);
}

#[test]
fn quantized_calls_have_the_bits_of_their_parts() {
    let sizes: &[(usize, usize)] = &[(1, 1), (7, 33), (40, 64), (5, 768), (9, 1280), (2, 8448)];
    for (i, &(rows, cols)) in sizes.iter().enumerate().take(if quick() { 5 } else { 6 }) {
        check_both::<f32>(rows, cols, i as u64, i % 2 == 1);
        check_both::<bf16>(rows, cols, i as u64, i % 2 == 0);
        check_both::<f16>(rows, cols, i as u64, false);
    }
}

/// Pieces of long rows have pieces of gamma, whose sums with the offset are rounded elsewhere than in gamma itself.
#[test]
fn long_rows_round_gamma() {
    let (cols, rms_norm) = (8448, RmsNorm::new(8448, 1e-6).expect("a plan").with_offset(1.0));
    let gamma = rows::<bf16>(1, cols, 3);
    let before = gamma.clone();
    check::<bf16, _>(rms_norm.with_rounding(Rounding::GAMMA), 1, 7, false);
    check::<f16, _>(rms_norm.with_rounding(Rounding::STEPS_AND_GAMMA), 1, 7, false);
    let x = rows::<bf16>(2, cols, 5);
    let (mut q, mut scale) = (vec![0i8; x.len()], [0.0; 2]);
    let call = rms_norm.with_rounding(Rounding::GAMMA);
    call.call(&x).gamma(&gamma).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q).expect("8 bits");
    assert_eq!(gamma, before);
}

/// Quantizes rows by a scheme, without y, on each tier.
fn check_without_y(scheme: &Scheme, rows_of_x: usize, cols: usize) -> Result<(), Error> {
    let x = rows::<f32>(rows_of_x, cols, 5);
    let plan = LayerNorm::new(cols, 1e-5)?;
    let mut y = vec![0.0f32; x.len()];
    plan.call(&x).to(&mut y)?;
    let expected = quantized(scheme, &y, cols);
    for isa in tiers() {
        let (mut q, mut scale) = (vec![0; expected.q.len()], vec![0.0; expected.scale.len()]);
        plan.with_isa(*isa).call(&x).quantize(scheme).scale_to(&mut scale).to(&mut q)?;
        let scale = scale.iter().map(|v| v.to_bits()).collect();
        assert!(Quantized { q, scale, zero_point: vec![] } == expected, "{isa}, {cols}, {scheme:?}");
    }
    Ok(())
}

/// Rows of more than 8192 elements are quantized piece by piece, and pieces have whole blocks.
#[test]
fn long_rows_have_blocks_of_any_size() -> Result<(), Error> {
    for block in (32..=256).step_by(32) {
        // The least of which the last piece has some blocks, and one with a piece between two others.
        for blocks in [8192 / block + 2, 17000 / block] {
            check_without_y(&Scheme::i8_blocks(block), 2, blocks * block)?;
        }
    }
    Ok(())
}

/// The greatest elements are far beyond the integers, up to where no integer of 32 bits holds a quotient.
#[test]
fn elements_saturate_whatever_the_divisor_is() -> Result<(), Error> {
    for divisor in [127.5, 1024.0, 1025.0, 1e6, 1e10, 1e15] {
        for (quotient, ties) in [
            (Quotient::Divide, Ties::Even),
            (Quotient::Divide, Ties::Away),
            (Quotient::Reciprocal, Ties::Even),
            (Quotient::Ratio, Ties::Away),
        ] {
            for least in [-127, -128] {
                for scheme in [Scheme::I8, Scheme::i8_blocks(64)] {
                    check_without_y(&Scheme { divisor, quotient, ties, least, ..scheme }, 3, 192)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn groups_and_mixed_types_are_quantized() -> Result<(), Error> {
    let (rows_of_x, cols) = (12, 64);
    let x = rows::<f32>(rows_of_x, cols, 3);
    let gamma = rows::<bf16>(3, cols, 4);
    let plan = RmsNorm::new(cols, 1e-6)?.with_groups(3, 2)?;
    let mut y = vec![0.0f32; x.len()];
    plan.call(&x).gamma(&gamma).to(&mut y)?;
    for scheme in SCHEMES.into_iter().filter(|scheme| scheme.check(cols).is_ok()) {
        let expected = quantized(&scheme, &y, cols);
        for isa in tiers() {
            let mut q = vec![0; expected.q.len()];
            let (mut scale, mut zero_point) = (vec![0.0; expected.scale.len()], vec![0; expected.zero_point.len()]);
            let mut narrow = vec![bf16::ZERO; x.len()];
            plan.with_isa(*isa)
                .call(&x)
                .gamma(&gamma)
                .quantize(&scheme)
                .scale_to(&mut scale)
                .zero_point_to(&mut zero_point)
                .y_to(&mut narrow)
                .to(&mut q)?;
            let scale = scale.iter().map(|v| v.to_bits()).collect();
            assert_eq!(Quantized { q, scale, zero_point }, expected, "{scheme:?}");
            assert!(narrow.iter().zip(&y).all(|(&narrow, &y)| narrow == bf16::from_f32(y)), "{scheme:?}");
        }
    }
    Ok(())
}

/// A row with a NaN has a scale of NaN and elements of 0, and other rows have theirs.
#[test]
fn rows_that_are_not_finite_have_a_scale_of_nan() -> Result<(), Error> {
    let plan = LayerNorm::new(64, 1e-5)?;
    let mut x = rows::<f32>(3, 64, 9);
    let (mut q, mut scale) = (vec![1i8; 192], vec![0.0; 3]);
    plan.call(&x).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q)?;
    let before = (q.clone(), scale.clone());
    x[70] = f32::INFINITY;
    plan.call(&x).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q)?;
    assert!(scale[1].is_nan() && q[64..128] == [0; 64]);
    assert_eq!((&q[..64], &q[128..]), (&before.0[..64], &before.0[128..]));
    assert_eq!([scale[0], scale[2]], [before.1[0], before.1[2]]);
    Ok(())
}

/// Rows of a buffer at two strides.
struct Spread<T> {
    data: Vec<T>,
    strides: [usize; 2],
    cols: usize,
}

const RUNS: [usize; 2] = [3, 4];

impl<T: Copy + PartialEq + Debug> Spread<T> {
    /// Runs behind one another, or rows of one run between those of others, with gaps that hold `gap`.
    fn new(rows: &[T], cols: usize, woven: bool, gap: T) -> Self {
        let strides = if woven { [cols + 3, RUNS[0] * (cols + 3) + 2] } else { [RUNS[1] * (cols + 1) + 5, cols + 1] };
        let len = (RUNS[0] - 1) * strides[0] + (RUNS[1] - 1) * strides[1] + cols;
        let mut spread = Self { data: vec![gap; len], strides, cols };
        for (r, row) in rows.chunks(cols).enumerate() {
            let at = spread.start(r);
            spread.data[at..at + cols].copy_from_slice(row);
        }
        spread
    }

    fn start(&self, r: usize) -> usize {
        r / RUNS[1] * self.strides[0] + r % RUNS[1] * self.strides[1]
    }

    fn rows(&self) -> Rows<'_, T> {
        Rows::strided_2d(&self.data, RUNS, self.strides)
    }

    fn rows_mut(&mut self) -> RowsMut<'_, T> {
        RowsMut::strided_2d(&mut self.data, RUNS, self.strides)
    }

    /// The rows, one after the other. Between them there are gaps still.
    fn into_rows(mut self, gap: T) -> Vec<T> {
        let mut rows = vec![];
        for r in 0..RUNS[0] * RUNS[1] {
            let at = self.start(r);
            rows.extend_from_slice(&self.data[at..at + self.cols]);
            self.data[at..at + self.cols].fill(gap);
        }
        assert!(self.data.iter().all(|&v| v == gap), "a gap was written");
        rows
    }
}

#[test]
fn rows_at_two_strides_are_quantized() -> Result<(), Error> {
    const ROWS: usize = RUNS[0] * RUNS[1];
    let wide = |v: &[bf16]| v.iter().map(|v| v.to_bits()).collect::<Vec<u16>>();
    for (i, cols) in [33, 96, 512].into_iter().enumerate() {
        let (x, residual) = (rows::<bf16>(ROWS, cols, 3), rows::<bf16>(ROWS, cols, 4));
        let gamma = rows::<f32>(6, cols, 5);
        let plan = LayerNorm::new(cols, 1e-5)?.with_groups(6, 2)?;
        let (mut y, mut s, mut y_of_sum) = (vec![0.0f32; x.len()], residual.clone(), vec![0.0f32; x.len()]);
        plan.call(&x).gamma(&gamma).to(&mut y)?;
        plan.call(&x).gamma(&gamma).residual_in_place(&mut s).to(&mut y_of_sum)?;
        for (j, scheme) in SCHEMES.into_iter().filter(|scheme| scheme.check(cols).is_ok()).enumerate() {
            let (expected, expected_of_sum) = (quantized(&scheme, &y, cols), quantized(&scheme, &y_of_sum, cols));
            for (k, isa) in tiers().iter().enumerate() {
                let woven = (i + j + k) % 2 == 1;
                for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
                    let plan = plan.with_isa(*isa).with_parallelism(parallelism);
                    let what = format!("{plan:?}, {scheme:?}, woven: {woven}");
                    let blank = || Spread::new(&[], scheme.row_bytes(cols), !woven, 0x77u8);
                    let mut scale = vec![0.0; expected.scale.len()];
                    let mut zero_point = vec![0; expected.zero_point.len()];
                    let got = |q: Spread<u8>, scale: &[f32], zero_point: &[u8]| Quantized {
                        q: q.into_rows(0x77),
                        scale: scale.iter().map(|v| v.to_bits()).collect(),
                        zero_point: zero_point.to_vec(),
                    };

                    // With y, and statistics.
                    let (spread, gap) = (Spread::new(&x, cols, woven, bf16::MAX), f32::MAX);
                    let (mut q, mut y_out) = (blank(), Spread::new(&[], cols, !woven, gap));
                    let mut rstd = vec![0.0; ROWS];
                    let call = plan.call(spread.rows()).gamma(&gamma).rstd_to(&mut rstd).quantize(&scheme);
                    let call = call.scale_to(&mut scale).zero_point_to(&mut zero_point);
                    call.y_to(y_out.rows_mut()).to(q.rows_mut()).unwrap_or_else(|error| panic!("{error}: {what}"));
                    assert_eq!(got(q, &scale, &zero_point), expected, "{what}");
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                    assert_eq!(bits(&y_out.into_rows(gap)), bits(&y), "y, {what}");
                    assert!(rstd.iter().all(|&v| v != 0.0), "{what}");

                    // Of a sum, without y.
                    let (mut q, mut sum) = (blank(), Spread::new(&residual, cols, woven, bf16::MAX));
                    let call = plan.call(&x).gamma(&gamma).residual_in_place(sum.rows_mut()).quantize(&scheme);
                    let call = call.scale_to(&mut scale).zero_point_to(&mut zero_point);
                    call.to(q.rows_mut()).unwrap_or_else(|error| panic!("{error}: {what}"));
                    assert_eq!(got(q, &scale, &zero_point), expected_of_sum, "of a sum, {what}");
                    assert_eq!(wide(&sum.into_rows(bf16::MAX)), wide(&s), "the sum, {what}");

                    // q alone has two strides, and the sum goes elsewhere.
                    let (mut q, mut sum) = (blank(), vec![bf16::ZERO; x.len()]);
                    let call = plan.call(&x).gamma(&gamma).residual(&residual).sum_to(&mut sum).quantize(&scheme);
                    let call = call.scale_to(&mut scale).zero_point_to(&mut zero_point);
                    call.to(q.rows_mut()).unwrap_or_else(|error| panic!("{error}: {what}"));
                    assert_eq!(got(q, &scale, &zero_point), expected_of_sum, "of a sum that is kept, {what}");
                    assert_eq!(wide(&sum), wide(&s), "the sum that is kept, {what}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn rows_at_two_strides_that_do_not_fit_are_refused() -> Result<(), Error> {
    let plan = RmsNorm::new(32, 1e-5)?;
    let x = rows::<f32>(12, 32, 1);
    let expect = |scheme: &Scheme, shape: [usize; 2], strides, scales: usize, message: &str| {
        let (mut q, mut scale) = (vec![9u8; 1000], vec![9.0; scales]);
        let call = plan.call(&x).quantize(scheme).scale_to(&mut scale);
        let refused = call.to(RowsMut::strided_2d(&mut q, shape, strides)).expect_err("something does not fit");
        assert_eq!(refused.to_string(), message);
        assert!(q.iter().all(|&v| v == 9) && scale.iter().all(|&v| v == 9.0));
    };
    expect(&Scheme::I8, [3, 4], [140, 35], 11, "scale has 11 elements, expected 12");
    expect(&Scheme::I8, [3, 3], [140, 35], 12, "x has 12 rows, but q has 9");
    // Blocks of 32 have 34 bytes.
    let mut q = vec![9u8; 1000];
    let refused = plan.call(&x).quantize(&Scheme::Q8_0).to(RowsMut::strided_2d(&mut q, [3, 4], [140, 33]));
    assert!(matches!(refused, Err(Error::Runs { what: "q", .. })), "{refused:?}");
    assert!(q.iter().all(|&v| v == 9));
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() -> Result<(), Error> {
    let plan = RmsNorm::new(48, 1e-5)?;
    let x = rows::<f32>(2, 48, 1);
    let expect = |scheme: &Scheme, q_len: usize, scales: usize, zero_points: usize, message: &str| {
        let (mut q, mut scale, mut zero_point) = (vec![9u8; q_len], vec![9.0; scales], vec![9; zero_points]);
        let call = plan.call(&x).quantize(scheme).scale_to(&mut scale).zero_point_to(&mut zero_point);
        assert_eq!(call.to(&mut q).expect_err("something does not fit").to_string(), message);
        assert!(q.iter().chain(&zero_point).all(|&v| v == 9) && scale.iter().all(|&v| v == 9.0));
    };
    expect(&Scheme::Q8_0, 96, 0, 0, "x has 48 columns, which is not a multiple of the 32 elements of a block");
    expect(&Scheme::I8, 96, 3, 0, "scale has 3 elements, expected 2");
    expect(&Scheme::I8, 96, 2, 1, "zero_point has 1 element, but the scheme has no array of them");
    expect(&Scheme::U8, 96, 2, 0, "zero_point has 0 elements, expected 2");
    expect(&Scheme::I8, 144, 2, 0, "x has 2 rows, but q has 3");
    expect(&Scheme::I8, 95, 2, 0, "q has 95 elements, which is not a whole number of rows of 48");
    for scale in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        let message = format!("the scale of the scheme is {scale}, expected a finite number greater than 0");
        expect(&Scheme::i8_given(scale, 0), 96, 0, 0, &message);
    }
    let message = "the zero point of the scheme is 128, expected an integer from -128 to 127";
    expect(&Scheme::i8_given(1.0, 128), 96, 0, 0, message);
    let message = "the block of the scheme is 48, expected a multiple of 32 from 32 to 256";
    expect(&Scheme::i8_blocks(48), 96, 2, 0, message);
    let refused = plan.call(&x).quantize(&Scheme::I8).to(&mut [0u8; 96]);
    assert_eq!(refused, Err(Error::NotGiven { what: "scale", expected: 2 }));
    assert!(refused.is_err_and(|error| error.to_string() == "scale is not given, expected 2 elements: see `scale_to`"));
    Ok(())
}

#[test]
fn elements_that_are_none_have_the_scale_of_zeros() -> Result<(), Error> {
    let (mut nothing, x) = ([0u8; 0], [0.0f32; 0]);
    RmsNorm::new(48, 1e-5)?.call(&x).quantize(&Scheme::I8).to(&mut nothing)?;
    RmsNorm::new(0, 1e-5)?.call(&x).quantize(&Scheme::I8).to(&mut nothing)?;
    for (cols, parallelism) in
        [(48, Parallelism::Serial), (48, Parallelism::tasks(3)), (0, Parallelism::Serial), (0, Parallelism::tasks(3))]
    {
        let (mut scale, mut zero_point) = ([7.0], [7]);
        let plan = LayerNorm::new(cols, 1e-5)?.with_parallelism(parallelism);
        let call = plan.call(&x).quantize(&Scheme::ONNX_U8);
        call.scale_to(&mut scale).zero_point_to(&mut zero_point).to(&mut nothing)?;
        assert_eq!((scale, zero_point), ([1.0], [0]));
    }
    for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
        let plan = LayerNorm::new(0, 1e-5)?.with_parallelism(parallelism);
        let (mut scale, mut zero_point) = ([7.0; 3], [7; 3]);
        let call = plan.call(Rows::strided(&x, 3, 0)).quantize(&Scheme::U8);
        call.scale_to(&mut scale).zero_point_to(&mut zero_point).to(RowsMut::strided(&mut nothing, 3, 0))?;
        assert_eq!((scale, zero_point), ([1.0; 3], [0; 3]));
    }
    Ok(())
}

/// Subnormal numbers in y and in schemes, and numbers that are refused: comparisons of these raise flags.
#[test]
fn the_environment_of_the_caller_is_kept() -> Result<(), Error> {
    let (rows_of_x, cols, tiny) = (6, 64, f32::from_bits(9));
    let x = rows::<f32>(rows_of_x, cols, 2);
    let gamma = vec![1e-40f32; cols];
    let signaling = f32::from_bits(0x7f80_0001);
    let odd = [
        Scheme { divisor: tiny, ..Scheme::I8 },
        Scheme { least_amax: tiny, ..Scheme::ONNX_U8 },
        Scheme { least_scale: tiny, zero_scale: tiny, ..Scheme::U8 },
        Scheme::i8_given(tiny, 1),
        Scheme { divisor: signaling, ..Scheme::I8 },
        Scheme { least_amax: signaling, ..Scheme::I8 },
        Scheme { divisor: tiny, ..Scheme::Q8_K },
        Scheme::E4M3.given(signaling),
        Scheme::E4M3.given(-tiny),
    ];
    for scheme in SCHEMES.into_iter().chain(odd) {
        for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
            for isa in tiers() {
                let plan = LayerNorm::new(cols, 1e-5)?.with_isa(*isa).with_parallelism(parallelism);
                let call = || {
                    let mut q = vec![0u8; rows_of_x * scheme.row_bytes(cols)];
                    let mut scale = vec![0.0; scheme.scales(rows_of_x, cols)];
                    let mut zero_point = vec![0; scheme.zero_points(rows_of_x)];
                    let call = plan.call(&x).gamma(&gamma).quantize(&scheme);
                    let result = call.scale_to(&mut scale).zero_point_to(&mut zero_point).to(&mut q);
                    let scale: Vec<u32> = scale.iter().map(|v| v.to_bits()).collect();
                    (result.is_ok(), q, scale, zero_point)
                };
                let expected = call();
                let of_nothing = || {
                    let mut scale = vec![0.0; scheme.scales(0, cols)];
                    let mut zero_point = vec![0; scheme.zero_points(0)];
                    let call = plan.call(&x[..0]).quantize(&scheme).scale_to(&mut scale).zero_point_to(&mut zero_point);
                    let result = call.to(&mut [0u8; 0]);
                    (result.is_ok(), scale.iter().map(|v| v.to_bits()).collect::<Vec<u32>>())
                };
                let expected_of_nothing = of_nothing();
                for environment in ENVIRONMENTS {
                    let what = || format!("{environment:?}, {scheme:?}, {plan:?}");
                    assert_eq!(environment.within(call), expected, "{}", what());
                    assert_eq!(environment.within(of_nothing), expected_of_nothing, "{}", what());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn sums_are_quantized_as_they_are_rounded() -> Result<(), Error> {
    let (x, mut q, mut scale) = ([bf16::ONE; 8], [0u8; 8], [7.0; 2]);
    for (sums, name) in [(Sums::Statistics, "Statistics"), (Sums::Unrounded, "Unrounded")] {
        let plan = RmsNorm::new(4, 1e-6)?.with_rounding(Rounding { sums, ..Rounding::ONCE });
        let mut s = x;
        let call = plan.call(&x).residual_in_place(&mut s).quantize(&Scheme::I8).scale_to(&mut scale);
        let error = call.to(&mut q).expect_err("these sums are not rounded").to_string();
        let expected = format!("the sums that are normalized are {name}, but those that are quantized must be Rounded");
        assert_eq!(error, expected);
        assert_eq!((s, q, scale), (x, [0; 8], [7.0; 2]));
        // Rows that are no sums have none that could be rounded, and neither have sums of f32.
        plan.call(&x).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q)?;
        let (h, mut s) = ([1.0f32; 8], [0.0f32; 8]);
        plan.call(&h).residual(&h).sum_to(&mut s).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q)?;
        scale = [7.0; 2];
        q = [0; 8];
    }
    Ok(())
}
