//! Every scheme of quantization on every tier of this machine, on rows of f32 and in jobs, against `reference.rs`.

use std::vec;
use std::vec::Vec;

use half::bf16;

use crate::element::{Companion, Kind};
use crate::every_loop::numbers;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::quantize::{Quantize, Quants};
use crate::ops::rms_norm::RmsNorm;
use crate::quants::{Ahead, Places, Rows, Wide};
use crate::reference;
use crate::rows::{Params, RawRows, RowIo, Vector};
use crate::scheme::{Format, Layout, Quotient, Range, Scheme, Scope, Ties};
use crate::stats::StatsMut;
use crate::{Center, Centered, Isa, Quantizable, Uncentered};

/// All presets, and every mixture of quotients and ties in every format and scope.
fn schemes() -> Vec<Scheme> {
    let mut schemes = vec![
        Scheme::TORCH_AO_I8,
        Scheme::TORCHAO_I8,
        Scheme { least: -127, ..Scheme::TORCHAO_I8 },
        Scheme::ONNX_U8,
        Scheme::Q8_0,
        Scheme::Q8_0_X86,
        Scheme::Q8_1,
        Scheme::Q8_1_X86,
        Scheme::Q8_K,
        Scheme::i8_given(0.03, -3),
        Scheme::i8_given(1e-30, 5),
        Scheme { least: -127, ..Scheme::i8_given(0.01, 100) },
        Scheme { least: -127, quotient: Quotient::Ratio, ties: Ties::Away, ..Scheme::i8_given(0.01, -128) },
        Scheme::u8_given(0.02, 130),
        Scheme::E4M3.given(0.01),
        Scheme::E5M2.given(1e-5),
    ];
    for base in [Scheme::I8, Scheme::U8, Scheme::E4M3, Scheme::E5M2] {
        for quotient in [Quotient::Divide, Quotient::Reciprocal, Quotient::Ratio] {
            for ties in [Ties::Even, Ties::Away] {
                for scope in [Scope::Row, Scope::Block(32), Scope::Block(96), Scope::Tensor] {
                    for least_scale in [0.0, 1e-3] {
                        let scheme = Scheme { quotient, ties, scope, least_scale, ..base };
                        if scheme.check(96).is_ok() {
                            schemes.push(scheme);
                        }
                    }
                }
            }
        }
    }
    schemes
}

/// Rows of `cols` elements: ordinary ones, ties, zeros, tiny and huge ones, and some that are not finite.
fn rows(cols: usize) -> Vec<Vec<f32>> {
    let ordinary = numbers::<f32>(cols, 3);
    let scaled = |by: f32| ordinary.iter().map(|&v| v * by).collect::<Vec<_>>();
    let with = |at: usize, v: f32| {
        let mut row = ordinary.clone();
        row[at % cols] = v;
        row
    };
    let ties = (0..cols).map(|i| (i % 255) as f32 - 127.5 + (i % 2) as f32 / 2.0);
    let mut ties: Vec<f32> = ties.collect();
    for block in ties.chunks_mut(32) {
        block[0] = 127.0;
    }
    vec![
        ordinary.clone(),
        ties,
        vec![0.0; cols],
        (0..cols).map(|i| if i % 2 == 0 { -0.0 } else { 0.0 }).collect(),
        scaled(1e-3),
        scaled(1e-20),
        scaled(1e-38),
        scaled(1e-44),
        scaled(1e20),
        scaled(1e38),
        with(0, 1e30),
        with(cols - 1, -1e30),
        with(cols / 2, f32::NAN),
        with(cols / 3, f32::INFINITY),
        with(cols - 1, f32::NEG_INFINITY),
        ordinary.iter().map(|v| v.abs()).collect(),
        ordinary.iter().map(|v| -v.abs()).collect(),
        (0..cols).map(|i| if i % 7 == 3 { -2.0 } else { 2.0 }).collect(),
    ]
}

/// What quantized rows consist of.
#[derive(Clone, Debug, PartialEq)]
struct Quantized {
    q: Vec<u8>,
    scale: Vec<f32>,
    zero_point: Vec<u8>,
}

impl Quantized {
    fn new(scheme: &Scheme, rows: usize, cols: usize) -> Self {
        Self {
            q: vec![0xa5; rows * scheme.row_bytes(cols)],
            scale: vec![-1.0; scheme.scales(rows, cols)],
            zero_point: vec![0xa5; scheme.zero_points(rows)],
        }
    }

    /// By `reference.rs`.
    fn of(scheme: &Scheme, y: &[f32], cols: usize) -> Self {
        let rows = y.len() / cols;
        let mut all = Self::new(scheme, rows, cols);
        let q = all.q.chunks_mut(scheme.row_bytes(cols));
        match (scheme.scope, scheme.layout.block()) {
            (_, Some((block, bytes))) => {
                let blocks = all.q.chunks_mut(bytes).zip(y.chunks(block));
                blocks.for_each(|(q, y)| reference::quantize_block(scheme, y, q));
            }
            (Scope::Tensor | Scope::Given { .. }, _) => {
                let (scale, zero_point) = reference::quantize(scheme, y, &mut all.q);
                all.scale.fill(scale);
                all.zero_point.fill(zero_point as u8);
            }
            (Scope::Block(block), _) => {
                for (i, (q, y)) in all.q.chunks_mut(block).zip(y.chunks(block)).enumerate() {
                    (all.scale[i], _) = reference::quantize(scheme, y, q);
                }
            }
            (Scope::Row, _) => {
                for (r, (q, y)) in q.zip(y.chunks(cols)).enumerate() {
                    let (scale, zero_point) = reference::quantize(scheme, y, q);
                    all.scale[r] = scale;
                    all.zero_point.get_mut(r).into_iter().for_each(|z| *z = zero_point as u8);
                }
            }
        }
        all
    }

    fn places(&mut self, scheme: &Scheme, cols: usize) -> Places {
        Places {
            q: self.q.as_mut_ptr(),
            q_stride: scheme.row_bytes(cols),
            scale: self.scale.as_mut_ptr(),
            zero_point: self.zero_point.as_mut_ptr(),
        }
    }

    fn quants(&mut self, scheme: &Scheme, cols: usize) -> Quants<'_> {
        Quants::new(&mut self.q, scheme.row_bytes(cols), &mut self.scale, &mut self.zero_point)
    }

    /// As bits, and no place of them untouched.
    fn assert_is(&self, expected: &Self, what: &dyn core::fmt::Debug) {
        assert_eq!(self.q, expected.q, "q, {what:?}");
        assert_eq!(self.zero_point, expected.zero_point, "zero points, {what:?}");
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&self.scale), bits(&expected.scale), "scales, {what:?}");
    }
}

#[test]
fn rows_of_f32_are_quantized_as_the_reference_does() {
    let (every, all_cols): (usize, &[usize]) =
        if cfg!(miri) { (9, &[33, 256]) } else { (1, &[1, 3, 31, 32, 33, 64, 96, 100, 127, 192, 256, 288, 1024]) };
    for scheme in schemes().into_iter().step_by(every) {
        for &cols in all_cols {
            if scheme.check(cols).is_err() {
                continue;
            }
            for (i, y) in rows(cols).iter().enumerate().step_by(every.div_ceil(2)) {
                let expected = Quantized::of(&scheme, y, cols);
                for isa in Isa::available() {
                    let mut all = Quantized::new(&scheme, 1, cols);
                    let places = all.places(&scheme, cols);
                    let wide = Wide { p: y.as_ptr(), stride: cols, rows: 1, cols };
                    let known = (scheme.scope == Scope::Tensor).then(|| reference::range(y));
                    if known.is_some() {
                        let (scale, zero_point) = scheme.scale_of(reference::range(y));
                        all.scale.fill(scale);
                        all.zero_point.fill(zero_point as u8);
                    }
                    isa.run(Rows { scheme: &scheme, y: wide, places, known, ahead: Ahead::NOTHING });
                    all.assert_is(&expected, &(isa, cols, i, scheme));
                }
            }
        }
    }
}

/// Products and two corrections give each quotient that matters: see `quants`.
#[test]
fn three_operations_divide() {
    let scheme = Scheme::I8;
    let mut y = Vec::new();
    for significand in (0..1u32 << 23).step_by(if cfg!(miri) { 1 << 20 } else { 8191 }) {
        let scale = f32::from_bits(0x3f80_0000 | significand);
        y.clear();
        for k in -254..=254i32 {
            let near = (k as f32 / 2.0 * scale).to_bits();
            y.extend((near.saturating_sub(3)..near.saturating_add(3)).map(f32::from_bits).filter(|v| v.is_finite()));
        }
        let scheme = Scheme { scope: Scope::Given { scale, zero_point: 0 }, ..scheme };
        let expected = Quantized::of(&scheme, &y, y.len());
        for isa in Isa::available() {
            let mut all = Quantized::new(&scheme, 1, y.len());
            let wide = Wide { p: y.as_ptr(), stride: 0, rows: 1, cols: y.len() };
            let places = all.places(&scheme, y.len());
            isa.run(Rows { scheme: &scheme, y: wide, places, known: None, ahead: Ahead::NOTHING });
            all.assert_is(&expected, &(isa, scale));
        }
    }
}

/// The buffers of a call.
struct Call<T> {
    x: Vec<T>,
    residual: Vec<T>,
    gamma: Vec<T>,
}

/// What becomes of y.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    Not,
    Own,
    Wide,
    InPlace,
}

trait Jobs: Center {
    fn y<T: Quantizable>(rows: RowIo<'_, T>, params: Params<'_, T>);
}

impl Jobs for Centered {
    fn y<T: Quantizable>(rows: RowIo<'_, T>, params: Params<'_, T>) {
        LayerNorm::new(rows, params, 1e-5, false, StatsMut::default()).expect("a job").run_on(Isa::SCALAR);
    }
}

impl Jobs for Uncentered {
    fn y<T: Quantizable>(rows: RowIo<'_, T>, params: Params<'_, T>) {
        RmsNorm::new(rows, params, 1e-5, false, None).expect("a job").run_on(Isa::SCALAR);
    }
}

fn check_job<T: Quantizable + crate::Quantizes<M>, M: Jobs>(
    scheme: &Scheme,
    rows: usize,
    cols: usize,
    sum: bool,
    kept: Kept,
) where
    f32: Companion<T>,
{
    let wide = |v: &[T]| v.iter().map(|v| v.to_computed()).collect::<Vec<f32>>();
    let mut call =
        Call { x: numbers::<T>(rows * cols, 2), residual: numbers::<T>(rows * cols, 1), gamma: numbers::<T>(cols, 4) };
    call.residual.reverse();
    if rows > 3 {
        call.x[2 * cols + cols / 2] = T::from_computed(f32::NAN);
    }
    let Call { x, residual, gamma, .. } = &call;
    let params = || Params { gamma: Some(Vector::from(&gamma[..])), ..Params::default() };

    // y in f32, of a plain call.
    let (mut s, mut y) = (vec![T::from_computed(0.0); rows * cols], vec![0.0f32; rows * cols]);
    let io = if sum {
        RowIo::sum((x, cols), (residual, cols), (&mut s, cols), (&mut y, cols), rows, cols)
    } else {
        RowIo::new(x, cols, &mut y, cols, rows, cols)
    };
    M::y(io.expect("rows"), params());
    let expected = Quantized::of(scheme, &y, cols);

    for isa in Isa::available() {
        let what = (isa, core::any::type_name::<(T, M)>(), rows, cols, sum, kept, scheme);
        let mut all = Quantized::new(scheme, rows, cols);
        let (mut sums, mut own, mut in_place) =
            (vec![T::from_computed(0.0); rows * cols], vec![T::from_computed(0.0); rows * cols], x.clone());
        let mut wide_y = vec![0.0f32; rows * cols];
        let mut rstd = vec![0.0; rows];
        let raw = |v: &[T], kind| RawRows { p: v.as_ptr().cast_mut(), stride: cols, kind };
        let y_rows = match kept {
            Kept::Not => RawRows::NONE,
            Kept::Own => raw(&own, Kind::Own),
            Kept::Wide => RawRows { p: wide_y.as_mut_ptr().cast(), stride: cols, kind: <f32 as Companion<T>>::KIND },
            Kept::InPlace => raw(&in_place, Kind::Own),
        };
        let y_rows = match kept {
            Kept::Own => RawRows { p: own.as_mut_ptr(), ..y_rows },
            Kept::InPlace => RawRows { p: in_place.as_mut_ptr(), ..y_rows },
            _ => y_rows,
        };
        let x_rows = if kept == Kept::InPlace { y_rows } else { raw(x, Kind::Own) };
        let s = RawRows { p: sums.as_mut_ptr(), stride: cols, kind: Kind::Own };
        let of_sum = sum.then_some((raw(residual, Kind::Own), s));
        // SAFETY: all are buffers of these rows, apart from one another but for x and y in place.
        let io = unsafe { RowIo::from_raw(x_rows, of_sum, y_rows, rows, cols) };
        let stats = StatsMut { rstd: Some(&mut rstd), ..StatsMut::default() };
        let quants = all.quants(scheme, cols);
        let mut job = Quantize::<T, M>::new(io, params(), 1e-5, stats, scheme, quants).expect("a job");
        if scheme.scope == Scope::Tensor && kept == Kept::Not {
            job.run_on(isa);
        } else if scheme.scope == Scope::Tensor {
            let (mut a, mut b) = job.reborrow().split_at(rows / 2);
            let range = a.range_on(isa).merge(b.range_on(isa));
            let (mut a, mut b) = job.summed().split_at(rows / 2);
            b.run_with(isa, range);
            a.run_with(isa, range);
        } else {
            let (mut a, mut b) = job.split_at(rows / 2);
            a.run_on(isa);
            b.run_on(isa);
        }
        all.assert_is(&expected, &what);
        assert!(rstd.iter().all(|&rstd| rstd != 0.0), "{what:?}");
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let rounded: Vec<T> =
            y.iter().map(|&v| if v.is_nan() { <T as Companion<T>>::NAN } else { T::from_computed(v) }).collect();
        match kept {
            Kept::Not => {}
            Kept::Own => assert_eq!(bits(&wide(&own)), bits(&wide(&rounded)), "{what:?}"),
            Kept::InPlace => assert_eq!(bits(&wide(&in_place)), bits(&wide(&rounded)), "{what:?}"),
            Kept::Wide => assert_eq!(bits(&wide_y), bits(&y), "{what:?}"),
        }
        if sum {
            assert_eq!(bits(&wide(&sums)), bits(&wide(&s_of(x, residual))), "{what:?}");
        }
    }
}

fn s_of<T: Quantizable>(x: &[T], residual: &[T]) -> Vec<T> {
    x.iter()
        .zip(residual)
        .map(|(x, r)| {
            let sum = x.to_computed() + r.to_computed();
            if sum.is_nan() { <T as Companion<T>>::NAN } else { T::from_computed(sum) }
        })
        .collect()
}

#[test]
fn jobs_quantize_what_plain_jobs_write() {
    let schemes = [
        Scheme::I8,
        Scheme::U8,
        Scheme::ONNX_U8,
        Scheme::Q8_0_X86,
        Scheme::Q8_K,
        Scheme::i8_blocks(64),
        Scheme::i8_given(0.02, 3),
        Scheme::E4M3,
    ];
    let sizes: &[(usize, usize)] = if cfg!(miri) {
        &[(2, 256)]
    } else {
        &[(1, 256), (5, 64), (9, 96), (40, 512), (3, 4096), (5, 8448), (4, 16640)]
    };
    for scheme in schemes.iter().step_by(if cfg!(miri) { 3 } else { 1 }) {
        for &(rows, cols) in sizes {
            for (sum, kept) in [
                (false, Kept::Not),
                (false, Kept::Own),
                (false, Kept::Wide),
                (false, Kept::InPlace),
                (true, Kept::Not),
                (true, Kept::Own),
            ] {
                if scheme.check(cols).is_err() {
                    continue;
                }
                check_job::<f32, Centered>(scheme, rows, cols, sum, kept);
                check_job::<f32, Uncentered>(scheme, rows, cols, sum, kept);
                check_job::<bf16, Centered>(scheme, rows, cols, sum, kept);
                check_job::<half::f16, Uncentered>(scheme, rows, cols, sum, kept);
            }
        }
    }
}

/// Threads that have a part each would race.
#[test]
fn a_scale_of_all_rows_is_written_by_the_first_part_alone() {
    let (x, mut q, mut scale, mut zero_point) = (numbers::<f32>(256, 2), [0u8; 256], [7.0], [7]);
    let mut run = |second: bool| {
        let io = RowIo::without_y(&x, 64, 4, 64).expect("rows");
        let quants = Quants::new(&mut q, 64, &mut scale, &mut zero_point);
        let scheme = &Scheme::ONNX_U8;
        let job = Quantize::<f32, Uncentered>::new(io, Params::default(), 1e-5, StatsMut::default(), scheme, quants);
        let (mut a, mut b) = job.expect("a job").split_at(2);
        let job = if second { &mut b } else { &mut a };
        job.run_with(Isa::SCALAR, Range { min: -1.0, max: 1.0 });
        (scale[0], zero_point[0])
    };
    assert_eq!(run(true), (7.0, 7));
    assert_eq!(run(false), (2.0 / 255.0, 127));
    assert!(q.chunks(128).all(|part| part.iter().any(|&q| q != 0)), "both parts have been quantized");
}

#[test]
fn ranges_merge() {
    let (a, b) = (Range { min: -1.0, max: 0.0 }, Range { min: 0.0, max: 3.0 });
    assert_eq!(a.merge(b), Range { min: -1.0, max: 3.0 });
    assert!(a.merge(Range::NAN).min.is_nan() && Range::NAN.merge(a).max.is_nan());
    assert_eq!(Scheme::ONNX_U8.scale_of(Range::EMPTY), (1.0, 0));
    assert_eq!(Scheme::U8.scale_of(Range { min: -1.0, max: 1.0 }), (2.0 / 255.0, 127));
    assert_eq!(Layout::Q8K.block(), Some((256, 292)));
    assert_eq!(Format::E4m3.name(), "e4m3");
}
