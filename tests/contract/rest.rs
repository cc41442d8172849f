//! Calls that copy the rest of each row: the columns have the bits of a plain call, and the rest those of x.

use lanenorm::{Companion, Element, Error, LayerNorm, Norm, Parallelism, RmsNorm, Rows, RowsMut, Store, bf16, f16};

use crate::support::{KINDS, Random, Value, assert_same_bits, quick, special_row, tiers};

fn check<T: Element + Value + Companion<T>, M: lanenorm::Center>(plan: Norm<M>, rows: usize, rest: usize) {
    let (cols, stride) = (plan.cols(), plan.cols() + rest);
    let groups = if rows.is_multiple_of(3) { 3 } else { 1 };
    let plan = plan.with_groups(groups, 1).expect("groups");
    let mut random = Random::new(1);
    // Longer than the rows take: what is behind them stays.
    let mut x = vec![T::of(3.0); rows * stride + 2];
    for (r, row) in x.chunks_exact_mut(stride.max(1)).enumerate().take(rows) {
        special_row(if r % 2 == 0 { 0 } else { random.below(KINDS) }, &mut random, row);
    }
    let gamma: Vec<T> = (0..groups * cols).map(|_| T::of(T::signed(&mut random) * 2.0)).collect();
    let mut expected = x.clone();
    let (serial, mut rstd) = (plan.with_parallelism(Parallelism::Serial), vec![T::Float::default(); rows]);
    let to = RowsMut::strided(&mut expected, rows, stride);
    serial.call(Rows::strided(&x, rows, stride)).gamma(&gamma).rstd_to(&mut rstd).to(to).expect("y");
    expected[rows * stride..].fill(T::SENTINEL);
    for &isa in tiers() {
        for (parallelism, store) in [(Parallelism::Serial, Store::Auto), (Parallelism::tasks(3), Store::Streaming)] {
            let plan = plan.with_isa(isa).with_parallelism(parallelism).with_store(store);
            let (mut y, mut rstd_too) = (vec![T::SENTINEL; x.len()], vec![T::Float::default(); rows]);
            let call = plan.call(Rows::strided(&x, rows, stride)).gamma(&gamma).rstd_to(&mut rstd_too);
            call.copy_rest().to(RowsMut::strided(&mut y, rows, stride)).expect("y");
            assert_same_bits(format_args!("{plan:?}, {rows} rows, rest {rest}"), stride, &expected, &y);
            let bits = |v: &[T::Float]| v.iter().map(|&v| v.into().to_bits()).collect::<Vec<u64>>();
            assert_eq!(bits(&rstd_too), bits(&rstd), "{plan:?}");
        }
    }
}

#[test]
fn the_rest_is_copied() {
    let sizes = [(1, 7), (6, 40), (33, 128), (5, 768), (150, 1000), (2, 70_000), (1, 100_000)];
    for (rows, cols) in sizes {
        if quick() && rows * cols > 200_000 {
            continue;
        }
        let layer_norm = LayerNorm::new(cols, 1e-5).expect("a plan");
        let rms_norm = RmsNorm::new(cols, 1e-6).expect("a plan").with_offset(1.0);
        for rest in [0, 1, 64, 1000] {
            check::<f32, _>(layer_norm, rows, rest);
            check::<f64, _>(rms_norm, rows, rest);
            check::<f16, _>(layer_norm, rows, rest);
            check::<bf16, _>(rms_norm, rows, rest);
        }
    }
    // Without columns all of a row is its rest.
    check::<f32, _>(LayerNorm::new(0, 1e-5).expect("a plan"), 4, 5);
}

#[test]
fn what_does_not_fit_is_refused() -> Result<(), Error> {
    let plan = RmsNorm::new(4, 1e-6)?;
    let x = [1.0f32; 20];
    let mut y = [7.0f32; 20];
    let mut says =
        |expected: &str, (x_len, x_stride): (usize, usize), (y_rows, y_len, y_stride): (usize, usize, usize)| {
            let call = plan.call(Rows::strided(&x[..x_len], 3, x_stride)).copy_rest();
            let error = call.to(RowsMut::strided(&mut y[..y_len], y_rows, y_stride)).expect_err("it does not fit");
            assert_eq!((error.to_string().as_str(), y), (expected, [7.0; 20]));
        };
    let strides = "the rest of each row is copied, but rows of x start 6 elements apart, and rows of y 5";
    says(strides, (18, 6), (3, 18, 5));
    says("x has 17 elements, but 3 rows of 6, 6 apart, take 18", (17, 6), (3, 18, 6));
    says("y has 16 elements, but 3 rows of 6, 6 apart, take 18", (18, 6), (3, 16, 6));
    says("x has 3 rows, but y has 2", (18, 6), (2, 18, 6));
    says("the rows of y overlap: they have 4 columns and start 3 elements apart", (18, 6), (3, 18, 3));
    let (shape, strides) = ([2, 2], [10, 4]);
    let error = plan.call(Rows::strided_2d(&x, shape, strides)).copy_rest().to(&mut y[..16]).expect_err("two strides");
    let expected = "the rest of each row is copied, but the rows of x are those of an array, or at two strides";
    assert_eq!((error.to_string().as_str(), y), (expected, [7.0; 20]));
    let error = plan.call(&x[..8]).gamma(&x[..3]).copy_rest().to(&mut y[..8]).expect_err("gamma");
    assert_eq!((error.to_string().as_str(), y), ("gamma has 3 elements, expected 4", [7.0; 20]));
    // Contiguous rows have no rest.
    plan.call(&x[..8]).copy_rest().to(RowsMut::strided(&mut y, 2, 4))?;
    plan.call(&x[..0]).copy_rest().to(&mut [0.0; 0])?;
    // No rows have any stride.
    plan.call(&x[..0]).copy_rest().to(RowsMut::strided(&mut y, 0, 12))
}
