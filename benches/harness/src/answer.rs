//! Exact answers, and how far other answers are from them. The formulas are from the specification
//! ([`lanenorm_kernels::reference`]), in f64 with sums that lose nothing, so that they also serve to check f64.

use rayon::prelude::*;

use crate::number::Value;

/// One output: each exact element, and the scale of the error that it allows.
#[derive(Debug, Default)]
pub struct Part {
    exact: Vec<f64>,
    scale: Vec<f32>,
}

impl Part {
    fn zeros(len: usize) -> Self {
        Self { exact: vec![0.0; len], scale: vec![0.0; len] }
    }

    /// Appends another output.
    pub fn append(&mut self, mut other: Self) {
        self.exact.append(&mut other.exact);
        self.scale.append(&mut other.scale);
    }

    /// This output times `factors`, whose errors count for nothing.
    pub fn times(mut self, factors: &[f64]) -> Self {
        self.exact.iter_mut().zip(factors).for_each(|(exact, factor)| *exact *= factor);
        self.scale.iter_mut().zip(factors).for_each(|(scale, factor)| *scale *= factor.abs() as f32);
        self
    }

    /// This output through a function with this derivative. The scale is what an error of the argument becomes, and the
    /// result, for the errors of the function itself.
    pub fn through(mut self, function: fn(f64) -> f64, derivative: fn(f64) -> f64) -> Self {
        for (exact, scale) in self.exact.iter_mut().zip(&mut self.scale) {
            let y = function(*exact);
            *scale = *scale * derivative(*exact).abs() as f32 + y.abs() as f32;
            *exact = y;
        }
        self
    }

    /// The largest error, in units of `u` times the scale, beyond what the last rounding of a narrow type costs. NaN if
    /// an element is.
    pub fn error<V: Value>(&self, got: &[V], u: f64) -> f64 {
        let error = |((&got, exact), &scale): ((&V, &f64), &f32)| {
            ((got.to_f64() - exact).abs() - got.half_ulp()) / (u * f64::from(scale))
        };
        got.par_iter().zip(&self.exact).zip(&self.scale).map(error).reduce(|| 0.0, larger)
    }

    /// The largest error, in no unit. NaN if an element is.
    pub fn absolute_error<V: Value>(&self, got: &[V]) -> f64 {
        got.par_iter().zip(&self.exact).map(|(got, exact)| (got.to_f64() - exact).abs()).reduce(|| 0.0, larger)
    }
}

/// The larger one. NaN if either is.
pub fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// Each matrix of `rows` and `cols`, transposed.
pub fn transposed<T: Copy>(matrices: &[T], rows: usize, cols: usize) -> Vec<T> {
    let of_matrix =
        |matrix: &[T]| -> Vec<T> { (0..cols).flat_map(|col| matrix[col..].iter().step_by(cols)).copied().collect() };
    matrices.chunks_exact(rows * cols).flat_map(of_matrix).collect()
}

/// A sum with the error of each addition summed beside it, which is exact (Knuth's two-sum).
#[derive(Clone, Copy, Default)]
struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    fn add(&mut self, v: f64) {
        let next = self.sum + v;
        let added = next - self.sum;
        self.lost += (self.sum - (next - added)) + (v - added);
        self.sum = next;
    }

    fn of(values: impl Iterator<Item = f64>) -> f64 {
        let mut sum = Self::default();
        values.for_each(|v| sum.add(v));
        sum.value()
    }

    fn value(self) -> f64 {
        self.sum + self.lost
    }
}

/// The normalization whose answers are computed.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// LayerNorm if true, RMSNorm if false.
    pub centered: bool,
    /// The length of rows.
    pub cols: usize,
    /// The number that is added to the variance.
    pub eps: f64,
}

/// All gradients of a backward pass.
#[derive(Debug)]
pub struct Gradients {
    /// The gradient of x.
    pub dx: Part,
    /// The gradient of gamma.
    pub dgamma: Part,
    /// The gradient of beta, for LayerNorm.
    pub dbeta: Part,
}

/// The sums over rows for one column: of dgamma, of dbeta, and of the squares of the terms of both.
#[derive(Clone, Copy, Default)]
struct Column {
    sums: [Sum; 2],
    squares: [f64; 2],
}

impl Norm {
    /// xhat of a row, and rstd.
    fn normalize<T: Value>(self, x: &[T]) -> (Vec<f64>, f64) {
        let (mut x, n): (Vec<f64>, _) = (x.iter().map(|x| x.to_f64()).collect(), x.len() as f64);
        if self.centered {
            let mean = Sum::of(x.iter().copied()) / n;
            x.iter_mut().for_each(|x| *x -= mean);
        }
        let rstd = 1.0 / (Sum::of(x.iter().map(|x| x * x)) / n + self.eps).sqrt();
        x.iter_mut().for_each(|x| *x *= rstd);
        (x, rstd)
    }

    /// y, whose scale is |gamma| (1 + |xhat|) + |beta|. `affine` gives gamma and beta of a row; absent ones count as 1
    /// and 0.
    pub fn forward<'a, T: Value>(self, x: &[T], affine: impl Fn(usize) -> [Option<&'a [f64]>; 2] + Sync) -> Part {
        let mut y = Part::zeros(x.len());
        let outputs = y.exact.par_chunks_mut(self.cols).zip(y.scale.par_chunks_mut(self.cols));
        outputs.zip(x.par_chunks(self.cols)).enumerate().for_each(|(row, ((exact, scale), x))| {
            let [gamma, beta] = affine(row);
            for (i, xhat) in self.normalize(x).0.into_iter().enumerate() {
                let (gamma, beta) = (gamma.map_or(1.0, |gamma| gamma[i]), beta.map_or(0.0, |beta| beta[i]));
                exact[i] = xhat * gamma + beta;
                scale[i] = (gamma.abs() * (1.0 + xhat.abs()) + beta.abs()) as f32;
            }
        });
        y
    }

    /// All gradients. The scale of dx is what its terms would be if the two means did not cancel. The scale of dgamma
    /// and dbeta is the root of the sum of squares of what the rows add, with 1 + |xhat| for xhat: the root of the
    /// number of rows times the size of one term.
    pub fn backward<T: Value>(self, dy: &[T], x: &[T], gamma: Option<&[f64]>) -> Gradients {
        let (cols, mut dx) = (self.cols, Part::zeros(x.len()));
        // Whole rows, of about as many elements as are worth a task.
        let task = cols * 65536usize.div_ceil(cols);
        let outputs = dx.exact.par_chunks_mut(task).zip(dx.scale.par_chunks_mut(task));
        let tasks: Vec<Vec<Column>> = outputs
            .zip(dy.par_chunks(task).zip(x.par_chunks(task)))
            .map(|((exact, scale), (dy, x))| {
                let mut columns = vec![Column::default(); cols];
                let outputs = exact.chunks_mut(cols).zip(scale.chunks_mut(cols));
                for ((exact, scale), (dy, x)) in outputs.zip(dy.chunks(cols).zip(x.chunks(cols))) {
                    self.backward_row(dy, x, gamma, exact, scale, &mut columns);
                }
                columns
            })
            .collect();
        let [mut dgamma, mut dbeta] = [(); 2].map(|()| Part::zeros(cols));
        for i in 0..cols {
            for (k, part) in [&mut dgamma, &mut dbeta].into_iter().enumerate() {
                part.exact[i] = Sum::of(tasks.iter().map(|columns| columns[i].sums[k].value()));
                part.scale[i] = tasks.iter().map(|columns| columns[i].squares[k]).sum::<f64>().sqrt() as f32;
            }
        }
        Gradients { dx, dgamma, dbeta }
    }

    fn backward_row<T: Value>(
        self,
        dy: &[T],
        x: &[T],
        gamma: Option<&[f64]>,
        dx: &mut [f64],
        scale: &mut [f32],
        columns: &mut [Column],
    ) {
        let (xhat, rstd) = self.normalize(x);
        let g: Vec<f64> = dy.iter().enumerate().map(|(i, dy)| dy.to_f64() * gamma.map_or(1.0, |g| g[i])).collect();
        let mean = |sum: f64| sum / x.len() as f64;
        let pairs = || g.iter().zip(&xhat).map(|(g, xhat)| g * xhat);
        let (mut c1, mut size1) = (0.0, 0.0);
        if self.centered {
            (c1, size1) = (mean(Sum::of(g.iter().copied())), mean(g.iter().map(|g| g.abs()).sum()));
        }
        let (c2, size2) = (mean(Sum::of(pairs())), mean(pairs().map(f64::abs).sum()));
        for i in 0..x.len() {
            dx[i] = rstd * (g[i] - c1 - xhat[i] * c2);
            scale[i] = (rstd * (g[i].abs() + size1 + xhat[i].abs() * size2)) as f32;
            let (dy, column) = (dy[i].to_f64(), &mut columns[i]);
            column.sums[0].add(dy * xhat[i]);
            column.sums[1].add(dy);
            column.squares[0] += (dy * (1.0 + xhat[i].abs())).powi(2);
            column.squares[1] += dy * dy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::bells;
    use lanenorm_kernels::reference;

    const NORMS: [Norm; 2] =
        [Norm { centered: true, cols: 37, eps: 1e-5 }, Norm { centered: false, cols: 37, eps: 1e-5 }];

    /// x, dy, gamma and beta, each from a seed of its own.
    fn inputs(norm: Norm) -> [Vec<f32>; 4] {
        let rows = 5 * norm.cols;
        [
            bells(1, rows, 100.0, 2.0),
            bells(2, rows, 0.0, 1.0),
            bells(3, norm.cols, 1.0, 0.5),
            bells(4, norm.cols, 0.0, 1.0),
        ]
    }

    fn wide(v: &[f32]) -> Vec<f64> {
        v.iter().map(|&v| v.into()).collect()
    }

    fn assert_near(part: &Part, expected: &[f64], what: &str) {
        let error = part.error(expected, f64::EPSILON);
        assert!(error <= 4096.0, "{what}: {error} units between two ways to compute in f64");
    }

    #[test]
    fn forward_is_that_of_the_specification() {
        for norm in NORMS {
            let [x, _, gamma, beta] = inputs(norm);
            let (wide_gamma, wide_beta) = (wide(&gamma), wide(&beta));
            let y = norm.forward(&x, |_| [Some(&wide_gamma[..]), norm.centered.then_some(&wide_beta[..])]);
            let mut expected = vec![0.0; x.len()];
            for (x, y) in x.chunks(norm.cols).zip(expected.chunks_mut(norm.cols)) {
                if norm.centered {
                    reference::layer_norm(x, Some(&gamma), Some(&beta), norm.eps, y);
                } else {
                    reference::rms_norm(x, Some(&gamma), 0.0, norm.eps, y);
                }
            }
            assert_near(&y, &expected, "y");
            let through: Vec<f64> = expected.iter().map(|&y| reference::silu(y)).collect();
            let silu = norm.forward(&x, |_| [Some(&wide_gamma[..]), norm.centered.then_some(&wide_beta[..])]);
            assert_near(&silu.through(reference::silu, reference::silu_derivative), &through, "silu(y)");
            expected[3] = f64::NAN;
            assert!(y.error(&expected, f64::EPSILON).is_nan() && y.absolute_error(&expected).is_nan());
            expected[3] = 1e3;
            assert!(y.error(&expected, f64::EPSILON) > 1e9 && y.absolute_error(&expected) > 900.0);
        }
    }

    #[test]
    fn backward_is_that_of_the_specification() {
        for norm in NORMS {
            let [x, dy, gamma, _] = inputs(norm);
            let Gradients { dx, dgamma, dbeta } = norm.backward(&dy, &x, Some(&wide(&gamma)));
            let (mut expected, mut sums) = (vec![0.0; x.len()], [(); 2].map(|()| vec![0.0; norm.cols]));
            let rows = dy.chunks(norm.cols).zip(x.chunks(norm.cols));
            for ((dy, x), dx) in rows.zip(expected.chunks_mut(norm.cols)) {
                let ([of_gamma, of_beta], gamma) = (&mut sums, Some(&gamma[..]));
                if norm.centered {
                    reference::layer_norm_backward(dy, x, gamma, norm.eps, dx, of_gamma, of_beta);
                } else {
                    reference::rms_norm_backward(dy, x, gamma, norm.eps, dx, of_gamma);
                }
            }
            assert_near(&dx, &expected, "dx");
            assert_near(&dgamma, &sums[0], "dgamma");
            if norm.centered {
                assert_near(&dbeta, &sums[1], "dbeta");
            }
        }
    }
}
