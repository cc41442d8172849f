//! A fused sum gives the bits of adding first and normalizing then, on all tiers, wherever the sum goes.

use std::num::NonZeroUsize;

use lanenorm::{Error, Isa, LayerNorm, Parallelism, RmsNorm, Rows, RowsMut, StatsMut, Store, Sum};

use crate::support::{Problem, SENTINEL, TURNING_POINTS, assert_same_bits, quick, tiers};

/// x, residual and bias, their sum, and what the two normalizations make of it.
struct Case {
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    residual: Vec<f32>,
    bias: Option<Vec<f32>>,
    gamma: Option<Vec<f32>>,
    beta: Option<Vec<f32>>,
    s: Vec<f32>,
    layer_norm: Vec<f32>,
    mean: Vec<f32>,
    rms_norm: Vec<f32>,
    rstd: Vec<f32>,
}

const EPS: f64 = 1e-6;

impl Case {
    fn new(rows: usize, cols: usize, seed: u64) -> Self {
        let Problem { x, gamma, beta, .. } = Problem::mixed(rows, cols, seed);
        let Problem { x: residual, gamma: bias, .. } = Problem::mixed(rows, cols, seed + 1);
        let bias = bias.filter(|_| seed.is_multiple_of(2));
        let (gamma, beta) = (gamma.filter(|_| !seed.is_multiple_of(3)), beta.filter(|_| !seed.is_multiple_of(5)));
        let mut s: Vec<f32> = x.iter().zip(&residual).map(|(x, residual)| x + residual).collect();
        if let Some(bias) = &bias {
            s.chunks_exact_mut(cols).flat_map(|row| row.iter_mut().zip(bias)).for_each(|(s, bias)| *s += bias);
        }
        s.iter_mut().filter(|s| s.is_nan()).for_each(|s| *s = f32::NAN);
        let (mut layer_norm, mut rms_norm) = (vec![0.0; s.len()], vec![0.0; s.len()]);
        let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
        let plan = LayerNorm::new(cols, EPS).unwrap().with_isa(Isa::SCALAR).with_parallelism(Parallelism::Serial);
        let stats = StatsMut { mean: Some(&mut mean), ..StatsMut::default() };
        plan.forward_with_stats(&s, gamma.as_deref(), beta.as_deref(), &mut layer_norm, stats).unwrap();
        let plan = RmsNorm::new(cols, EPS).unwrap().with_isa(Isa::SCALAR).with_parallelism(Parallelism::Serial);
        plan.forward_with_rstd(&s, gamma.as_deref(), &mut rms_norm, &mut rstd).unwrap();
        Self { rows, cols, x, residual, bias, gamma, beta, s, layer_norm, mean, rms_norm, rstd }
    }

    /// Rows `gap` elements apart from each other, with sentinels between them.
    fn spaced(&self, values: &[f32], gap: usize) -> Vec<f32> {
        let rows = values.chunks_exact(self.cols);
        rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(SENTINEL, gap))).collect()
    }

    fn with_bias<'a>(&'a self, sum: Sum<'a>) -> Sum<'a> {
        match &self.bias {
            Some(bias) => sum.with_bias(bias),
            None => sum,
        }
    }

    fn check(&self, isa: Isa, parallelism: Parallelism, store: Store, [x_gap, residual_gap, s_gap, y_gap]: [usize; 4]) {
        let (rows, cols) = (self.rows, self.cols);
        let what = format!("{isa}, {rows} x {cols}, {parallelism:?}, {store:?}");
        let x = self.spaced(&self.x, x_gap);
        let residual = self.spaced(&self.residual, residual_gap);
        let blank = vec![SENTINEL; rows * cols];
        let (gamma, beta) = (self.gamma.as_deref(), self.beta.as_deref());
        let layer_norm = LayerNorm::new(cols, EPS).unwrap().with_isa(isa);
        let layer_norm = layer_norm.with_parallelism(parallelism).with_store(store);
        let rms_norm = RmsNorm::new(cols, EPS).unwrap().with_isa(isa).with_parallelism(parallelism).with_store(store);
        for in_place in [false, true] {
            for rms in [false, true] {
                let mut residual = residual.clone();
                let mut s = self.spaced(&blank, s_gap);
                let mut y = self.spaced(&blank, y_gap);
                let mut statistic = vec![SENTINEL; rows];
                let x = Rows::strided(&x, rows, cols + x_gap);
                let residual_stride = cols + residual_gap;
                let sum = self.with_bias(if in_place {
                    Sum::in_place(x, RowsMut::strided(&mut residual, rows, residual_stride))
                } else {
                    let residual = Rows::strided(&residual, rows, residual_stride);
                    Sum::new(x, residual, RowsMut::strided(&mut s, rows, cols + s_gap))
                });
                let y_rows = RowsMut::strided(&mut y, rows, cols + y_gap);
                if rms {
                    rms_norm.forward_sum_with_rstd(sum, gamma, y_rows, &mut statistic).unwrap();
                } else {
                    let stats = StatsMut { mean: Some(&mut statistic), ..StatsMut::default() };
                    layer_norm.forward_sum_with_stats(sum, gamma, beta, y_rows, stats).unwrap();
                }
                let (expected_y, expected_statistic) =
                    if rms { (&self.rms_norm, &self.rstd) } else { (&self.layer_norm, &self.mean) };
                let what = format!("{what}, in place {in_place}, rms {rms}");
                let (got, gap) = if in_place { (&residual, residual_gap) } else { (&s, s_gap) };
                assert_same_bits(format_args!("{what}: s"), cols + gap, &self.spaced(&self.s, gap), got);
                assert_same_bits(format_args!("{what}: y"), cols + y_gap, &self.spaced(expected_y, y_gap), &y);
                assert_same_bits(format_args!("{what}: statistic"), 1, expected_statistic, &statistic);
            }
        }
    }
}

#[test]
fn fused_sums_have_the_bits_of_unfused_ones() {
    let mut seed = 0;
    for cols in TURNING_POINTS.into_iter().chain([333, 5000, 17_000]) {
        for rows in [1, 2, 9, 17] {
            if quick() && rows > 9 {
                continue;
            }
            seed += 1;
            let case = Case::new(rows, cols, seed);
            for &isa in tiers() {
                case.check(isa, Parallelism::Serial, Store::Auto, [0; 4]);
                case.check(isa, Parallelism::Serial, Store::Streaming, [3, 0, 1, 2]);
            }
        }
    }
}

#[test]
fn sums_do_not_depend_on_threads() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    for (rows, cols) in [(301, 64), (37, 768), (2, 70_000)] {
        let case = Case::new(rows, cols, 30);
        for &isa in tiers() {
            let tasks = Parallelism::Tasks(NonZeroUsize::new(5).expect("not zero"));
            pool.install(|| case.check(isa, tasks, Store::Auto, [0, 1, 0, 3]));
        }
    }
}

#[test]
fn sums_that_do_not_fit_are_refused() {
    let plan = LayerNorm::new(4, EPS).unwrap();
    let (x, short) = ([1.0; 8], [1.0; 4]);
    let (mut s, mut y) = ([SENTINEL; 8], [SENTINEL; 8]);
    let refused = plan.forward_sum(Sum::new(&x, &short, &mut s), None, None, &mut y);
    assert_eq!(refused, Err(Error::SumRows { what: "residual", x: 2, rows: 1 }));
    assert_eq!(refused.unwrap_err().to_string(), "x has 2 rows, but residual has 1");
    let refused = plan.forward_sum(Sum::new(&short, &short, &mut s), None, None, &mut y);
    assert_eq!(refused, Err(Error::SumRows { what: "y", x: 1, rows: 2 }));
    let refused = plan.forward_sum(Sum::new(&x, &x, &mut s[..4]), None, None, &mut y);
    assert_eq!(refused, Err(Error::SumRows { what: "s", x: 2, rows: 1 }));
    let refused = plan.forward_sum(Sum::new(&x, &x, &mut s).with_bias(&x[..3]), None, None, &mut y);
    assert_eq!(refused, Err(Error::Length { what: "bias", len: 3, expected: 4 }));
    let refused = plan.forward_sum(Sum::in_place(&x, RowsMut::strided(&mut s, 2, 3)), None, None, &mut y);
    assert_eq!(refused, Err(Error::Overlap { what: "residual", cols: 4, stride: 3 }));
    let refused = plan.forward_sum(Sum::in_place(&x, &mut s), Some(&short[..3]), None, &mut y);
    assert_eq!(refused, Err(Error::Length { what: "gamma", len: 3, expected: 4 }));
    assert_same_bits(format_args!("s"), 4, &[SENTINEL; 8], &s);
    assert_same_bits(format_args!("y"), 4, &[SENTINEL; 8], &y);
}
