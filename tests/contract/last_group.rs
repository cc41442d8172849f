//! A last group that serves another number of rows than the others, as the heads of K do beside those of Q: rows have
//! the bits of calls for each group.

use lanenorm::kernels::Error as Refused;
use lanenorm::{Companion, Element, Error, LayerNorm, Parallelism, RmsNorm, Rows, RowsMut, bf16, f16};

use crate::support::{Random, quick, tiers};

fn bits<T: bytemuck::Pod>(v: &[T]) -> &[u8] {
    bytemuck::cast_slice(v)
}

/// Periods, groups, the repeat, that of the last group, and columns.
type Shape = (usize, usize, usize, usize, usize);

fn numbers<T>(len: usize, seed: u64, to: impl Fn(f64) -> T) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..len).map(|_| to(random.normal())).collect()
}

/// The rows of each group.
fn of_groups<T: Copy>(v: &[T], (_, groups, repeat, last, cols): Shape) -> Vec<Vec<T>> {
    let mut all = vec![Vec::new(); groups];
    for period in v.chunks_exact(((groups - 1) * repeat + last) * cols) {
        for (r, row) in period.chunks_exact(cols).enumerate() {
            all[(r / repeat).min(groups - 1)].extend_from_slice(row);
        }
    }
    all
}

fn check<T: Element + bytemuck::Pod + Companion<T>>(shape: Shape, to: impl Fn(f64) -> T)
where
    T::Float: bytemuck::Pod,
{
    let (periods, groups, repeat, last, cols) = shape;
    let rows = periods * ((groups - 1) * repeat + last);
    let [x, dy] = [1, 2].map(|seed| numbers(rows * cols, seed, &to));
    let [gamma, beta] = [3, 4].map(|seed| numbers(groups * cols, seed, &to));
    let zeros = || vec![T::Float::default(); groups * cols];
    // What lies between the rows of one period and those of the next.
    let gap = vec![to(7.0); 3];
    let with_gaps =
        |v: &[T]| v.chunks_exact(rows / periods * cols).flat_map(|v| [v, &gap]).flatten().copied().collect();
    for &isa in tiers() {
        for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
            let what = format!("{isa}, {parallelism:?}, {shape:?}, {}", std::any::type_name::<T>());
            let plain = LayerNorm::new(cols, 1e-5).expect("a plan").with_isa(isa).with_parallelism(parallelism);
            let plan = plain.with_groups(groups, repeat).and_then(|plan| plan.with_last_repeat(last)).expect("a plan");
            let y: Vec<T> = plan.call(&x).gamma(&gamma).beta(&beta).to_vec().expect("y");
            let mut in_place: Vec<T> = with_gaps(&x);
            let (inner, stride) = (rows / periods, rows / periods * cols + gap.len());
            let of_x = RowsMut::strided_2d(&mut in_place, [periods, inner], [stride, cols]);
            plan.call_in_place(of_x).gamma(&gamma).beta(&beta).run().expect("y");
            assert!(bits(&in_place) == bits(&with_gaps(&y)), "{what}");

            let (mut dgamma, mut dbeta, mut dx) = (zeros(), zeros(), vec![to(0.0); rows * cols]);
            let call = plan.backward(Rows::from(&dy), &x).gamma(&gamma).dgamma_to(&mut dgamma).dbeta_to(&mut dbeta);
            call.to(&mut dx).expect("dx");
            let [xs, dys, ys, dxs] = [&x, &dy, &y, &dx].map(|v| of_groups(v, shape));
            for g in 0..groups {
                let [gamma, beta] = [&gamma, &beta].map(|v| &v[g * cols..][..cols]);
                let expected: Vec<T> = plain.call(&xs[g]).gamma(gamma).beta(beta).to_vec().expect("y");
                assert!(bits(&ys[g]) == bits(&expected), "y, {what}");
                let mut grads = [(); 2].map(|()| vec![T::Float::default(); cols]);
                let [of_gamma, of_beta] = &mut grads;
                let call = plain.backward(&dys[g], &xs[g]).gamma(gamma).dgamma_to(of_gamma).dbeta_to(of_beta);
                let expected: Vec<T> = call.to_vec().expect("dx");
                assert!(bits(&dxs[g]) == bits(&expected), "dx, {what}");
                for (got, expected) in [&dgamma, &dbeta].into_iter().zip(&grads) {
                    let got = &got[g * cols..][..cols];
                    assert!(bits(got) == bits(expected), "sums, {what}");
                }
            }
        }
    }
}

#[test]
fn rows_have_the_vectors_of_their_group() {
    let shapes = [
        (1, 2, 32, 8, 128),
        (3, 2, 16, 2, 64),
        (5, 2, 1, 9, 8),
        (2, 3, 2, 5, 33),
        (40, 2, 5, 1, 100),
        (2, 1, 3, 4, 20),
        (1, 2, 1, 3, 5000),
    ];
    for shape in shapes.into_iter().filter(|s| !quick() || s.4 < 5000) {
        check::<f32>(shape, |v| v as f32);
        check::<f64>(shape, |v| v);
        check::<f16>(shape, f16::from_f64);
        check::<bf16>(shape, bf16::from_f64);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let plan = RmsNorm::new(4, 1e-5).and_then(|plan| plan.with_groups(2, 3)).expect("a plan");
    for last in [0, usize::MAX - 2] {
        let error = plan.with_last_repeat(last).expect_err("a last group was accepted");
        assert_eq!(error, Error::Arguments(Refused::LastGroup { groups: 2, repeat: 3, last }));
        assert!(error.to_string().contains(&format!("the last of {last}")), "{error}");
    }
    let plan = plan.with_last_repeat(2).expect("a plan");
    assert!(format!("{plan:?}").contains("groups: 2, repeat: 3, last_repeat: 2,"), "{plan:?}");
    let (x, gamma, mut y) = ([1.0f32; 24], [1.0f32; 8], [7.0f32; 24]);
    let error = plan.call(&x).gamma(&gamma).to(&mut y).expect_err("rows were accepted");
    assert_eq!(error, Error::Arguments(Refused::GroupPeriod { rows: 6, period: 5 }));
    let error = plan.backward(&x, &x).gamma(&gamma).to(&mut y).expect_err("rows were accepted");
    assert_eq!(error, Error::Arguments(Refused::GroupPeriod { rows: 6, period: 5 }));
    assert_eq!(y, [7.0; 24]);
    let error = plan.call(&x[..20]).gamma(&gamma[..4]).to(&mut y[..20]).expect_err("gamma was accepted");
    assert_eq!(error, Error::Arguments(Refused::Length { what: "gamma", len: 4, expected: 8 }));
}
