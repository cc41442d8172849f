//! Calls with a second gamma and beta: each output has the bits of a plain call with its gamma and beta.

use lanenorm::kernels::element::Storage;
use lanenorm::{
    Center, Companion, Element, Error, LayerNorm, Norm, Parallelism, RmsNorm, Rounding, Rows, RowsMut, Store, bf16, f16,
};

use crate::support::{Random, Value, assert_same_bits, quick, special_row, tiers};

/// Rows of all kinds, NaNs, infinities and extreme ones among them.
fn rows<V: Value>(rows: usize, cols: usize, seed: u64) -> Vec<V> {
    let mut random = Random::new(seed);
    let mut x = vec![V::default(); rows * cols];
    for (r, row) in x.chunks_mut(cols).enumerate() {
        // Half of them are ordinary.
        let kind = if r % 2 == 0 { 0 } else { random.below(crate::support::KINDS) };
        special_row(kind, &mut random, row);
    }
    x
}

fn vector<V: Value>(len: usize, seed: u64) -> Vec<V> {
    let mut random = Random::new(seed);
    (0..len).map(|_| V::of(V::signed(&mut random) * 2.0)).collect()
}

/// Runs of which every second row belongs to the other: row `r` of `v` comes to where `strided_2d` finds it.
fn woven<V: Copy>(v: &[V], rows: usize, cols: usize) -> Vec<V> {
    let order = |at: usize| at % 2 * (rows / 2) + at / 2;
    (0..rows).flat_map(|at| v[order(at) * cols..][..cols].to_vec()).collect()
}

/// Rows with `gap` elements behind each.
fn gapped<V: Copy>(v: &[V], cols: usize, gap: usize, fill: V) -> Vec<V> {
    v.chunks(cols).flat_map(|row| [row.to_vec(), vec![fill; gap]].concat()).collect()
}

/// What a normalization has that the other has not.
trait Forms: Center {
    /// y and rstd of a plain call.
    fn plain<T: Element, G: Companion<T>, Y: Value + Companion<T>>(
        plan: &Norm<Self>,
        x: &[T],
        params: [&[G]; 2],
    ) -> (Vec<Y>, Vec<T::Float>)
    where
        Self: Sized;

    /// The outputs of a call in any form, from the rows of x into rows of y and of a second y.
    fn second<T: Element, G: Companion<T>, H: Companion<T>, Y: Companion<T>, Z: Companion<T>>(
        plan: &Norm<Self>,
        x: Rows<'_, T>,
        y: RowsMut<'_, Y>,
        second_y: RowsMut<'_, Z>,
        params: ([&[G]; 2], [&[H]; 2]),
        rstd: Option<&mut [T::Float]>,
    ) -> Result<(), Error>
    where
        Self: Sized;

    fn second_in_place<T: Element, G: Companion<T>, H: Companion<T>, Z: Companion<T>>(
        plan: &Norm<Self>,
        x: RowsMut<'_, T>,
        second_y: RowsMut<'_, Z>,
        params: ([&[G]; 2], [&[H]; 2]),
    ) -> Result<(), Error>
    where
        Self: Sized;

    fn second_to_vecs<T: Element, G: Companion<T>, H: Companion<T>, Y: Companion<T>, Z: Companion<T>>(
        plan: &Norm<Self>,
        x: &[T],
        params: ([&[G]; 2], [&[H]; 2]),
    ) -> Result<(Vec<Y>, Vec<Z>), Error>
    where
        Self: Sized;
}

macro_rules! forms {
    ($center:ty, $with:ident) => {
        impl Forms for $center {
            fn plain<T: Element, G: Companion<T>, Y: Value + Companion<T>>(
                plan: &Norm<Self>,
                x: &[T],
                params: [&[G]; 2],
            ) -> (Vec<Y>, Vec<T::Float>) {
                let rows = x.len() / plan.cols();
                let (mut y, mut rstd) = (vec![Y::default(); x.len()], vec![T::Float::default(); rows]);
                $with!(plan.call(x), params).rstd_to(&mut rstd).to(&mut y).expect("y");
                (y, rstd)
            }

            fn second<T: Element, G: Companion<T>, H: Companion<T>, Y: Companion<T>, Z: Companion<T>>(
                plan: &Norm<Self>,
                x: Rows<'_, T>,
                y: RowsMut<'_, Y>,
                second_y: RowsMut<'_, Z>,
                (first, second): ([&[G]; 2], [&[H]; 2]),
                rstd: Option<&mut [T::Float]>,
            ) -> Result<(), Error> {
                $with!($with!(plan.call(x), first).rstd_to(rstd).second(), second).to(y, second_y)
            }

            fn second_in_place<T: Element, G: Companion<T>, H: Companion<T>, Z: Companion<T>>(
                plan: &Norm<Self>,
                x: RowsMut<'_, T>,
                second_y: RowsMut<'_, Z>,
                (first, second): ([&[G]; 2], [&[H]; 2]),
            ) -> Result<(), Error> {
                $with!($with!(plan.call_in_place(x), first).second(), second).run(second_y)
            }

            fn second_to_vecs<T: Element, G: Companion<T>, H: Companion<T>, Y: Companion<T>, Z: Companion<T>>(
                plan: &Norm<Self>,
                x: &[T],
                (first, second): ([&[G]; 2], [&[H]; 2]),
            ) -> Result<(Vec<Y>, Vec<Z>), Error> {
                $with!($with!(plan.call(x), first).second(), second).to_vecs()
            }
        }
    };
}

macro_rules! gamma_and_beta {
    ($call:expr, $params:expr) => {
        $call.gamma($params[0]).beta($params[1])
    };
}

macro_rules! gamma_alone {
    ($call:expr, $params:expr) => {
        $call.gamma($params[0])
    };
}

forms!(lanenorm::Centered, gamma_and_beta);
forms!(lanenorm::Uncentered, gamma_alone);

/// All forms of calls on `count` rows, whose first gamma, beta and y have the type of x, and whose second have others.
fn check<T, H, Z, M: Forms>(plan: Norm<M>, count: usize)
where
    T: Element + Value + Companion<T>,
    H: Value + Companion<T>,
    Z: Value + Companion<T>,
    <T as Storage>::Float: Value,
{
    let cols = plan.cols();
    let groups = if count.is_multiple_of(3) { 3 } else { 1 };
    let plan = plan.with_groups(groups, 1).expect("groups");
    let x = rows::<T>(count, cols, 1);
    let (first, second) = ([2, 3].map(|seed| vector::<T>(groups * cols, seed)), [4, 5]);
    let second = second.map(|seed| vector::<H>(groups * cols, seed));
    let params = ([&first[0][..], &first[1][..]], [&second[0][..], &second[1][..]]);
    let serial = plan.with_parallelism(Parallelism::Serial);
    let (y, rstd) = M::plain::<T, T, T>(&serial, &x, params.0);
    let (second_y, _) = M::plain::<T, H, Z>(&serial, &x, params.1);
    for &isa in tiers() {
        let forms = [(Parallelism::Serial, Store::Auto), (Parallelism::tasks(3), Store::Streaming)];
        for (parallelism, store) in forms {
            let plan = plan.with_isa(isa).with_parallelism(parallelism).with_store(store);
            let same = |form: &str, got: &[T], got_second: &[Z]| {
                assert_same_bits(format_args!("y, {form}, {plan:?}, {count}"), cols, &y, got);
                assert_same_bits(format_args!("second y, {form}, {plan:?}, {count}"), cols, &second_y, got_second);
            };
            let (mut a, mut b) = (x.clone(), vec![Z::SENTINEL; x.len()]);
            let mut rstd_too = vec![<T as Storage>::Float::default(); count];
            let stats = Some(&mut rstd_too[..]);
            M::second(&plan, (&x).into(), (&mut a).into(), (&mut b).into(), params, stats).expect("outputs");
            same("apart", &a, &b);
            assert_same_bits(format_args!("rstd, {plan:?}"), 1, &rstd, &rstd_too);

            // Without statistics a single row takes another way.
            let (mut a, mut b) = (x.clone(), vec![Z::SENTINEL; x.len()]);
            M::second_in_place(&plan, (&mut a).into(), (&mut b).into(), params).expect("outputs");
            same("in place", &a, &b);

            let (a, b) = M::second_to_vecs::<T, T, H, T, Z>(&plan, &x, params).expect("outputs");
            same("new vectors", &a, &b);

            let strided = gapped(&x, cols, 3, T::SENTINEL);
            let mut a = vec![T::SENTINEL; count * (cols + 1)];
            let mut b = vec![Z::SENTINEL; count * (cols + 5)];
            let to = (RowsMut::strided(&mut a, count, cols + 1), RowsMut::strided(&mut b, count, cols + 5));
            M::second(&plan, Rows::strided(&strided, count, cols + 3), to.0, to.1, params, None).expect("outputs");
            let expected = gapped(&y, cols, 1, T::SENTINEL);
            assert_same_bits(format_args!("y at a stride, {plan:?}"), cols + 1, &expected, &a);
            let expected = gapped(&second_y, cols, 5, Z::SENTINEL);
            assert_same_bits(format_args!("second y at a stride, {plan:?}"), cols + 5, &expected, &b);

            if count.is_multiple_of(2) && count > 2 {
                let (shape, strides) = ([2, count / 2], [cols, 2 * cols]);
                let (mut a, mut b) = (woven(&x, count, cols), vec![Z::SENTINEL; x.len()]);
                let x = RowsMut::strided_2d(&mut a, shape, strides);
                M::second_in_place(&plan, x, (&mut b).into(), params).expect("outputs");
                same("one in runs", &woven_back(&a, count, cols), &b);
                b.fill(Z::SENTINEL);
                let mut a = x_of(count, cols);
                let to = (RowsMut::strided_2d(&mut a, shape, strides), RowsMut::strided_2d(&mut b, shape, strides));
                M::second(&plan, Rows::from(&rows::<T>(count, cols, 1)), to.0, to.1, params, None).expect("outputs");
                same("outputs in runs", &woven_back(&a, count, cols), &woven_back(&b, count, cols));
            }
        }
    }
}

fn x_of<V: Value>(rows: usize, cols: usize) -> Vec<V> {
    vec![V::SENTINEL; rows * cols]
}

fn woven_back<V: Copy>(v: &[V], rows: usize, cols: usize) -> Vec<V> {
    let place = |r: usize| r % (rows / 2) * 2 + r / (rows / 2);
    (0..rows).flat_map(|r| v[place(r) * cols..][..cols].to_vec()).collect()
}

#[test]
fn each_output_has_the_bits_of_a_plain_call() {
    // One row, short rows, rows of several tiles, rows that are a tile, and rows that are cut.
    let sizes = [(1, 7), (1, 768), (6, 40), (9, 128), (5, 768), (4, 5000), (150, 1000), (2, 70_000), (1, 100_000)];
    for (rows, cols) in sizes {
        if quick() && rows * cols > 200_000 {
            continue;
        }
        let layer_norm = LayerNorm::new(cols, 1e-5).expect("a plan");
        let rms_norm = RmsNorm::new(cols, 1e-6).expect("a plan").with_offset(1.0);
        check::<f32, f32, f32, _>(layer_norm, rows);
        check::<f32, bf16, f16, _>(rms_norm, rows);
        check::<f64, f64, f64, _>(layer_norm, rows);
        check::<bf16, f32, bf16, _>(layer_norm, rows);
        check::<bf16, bf16, f32, _>(rms_norm.with_rounding(Rounding::STEPS_AND_GAMMA), rows);
        check::<f16, f16, f16, _>(rms_norm, rows);
    }
}

#[test]
fn what_does_not_fit_is_refused() -> Result<(), Error> {
    let plan = LayerNorm::new(4, 1e-6)?;
    let (x, short) = ([1.0f32; 8], [1.0f32; 3]);
    let (mut y, mut second_y) = ([7.0f32; 12], [7.0f32; 12]);
    let mut says = |expected: &str, [gamma, second_gamma, beta]: [Option<&[f32]>; 3], len: [usize; 2]| {
        let call = plan.call(&x).gamma(gamma).second().gamma(second_gamma).beta(beta);
        let error = call.to(&mut y[..len[0]], &mut second_y[..len[1]]).expect_err("it does not fit");
        assert_eq!((error.to_string().as_str(), y, second_y), (expected, [7.0; 12], [7.0; 12]));
    };
    let (good, bad) = (Some(&x[..4]), Some(&short[..]));
    says("gamma has 3 elements, expected 4", [bad, good, good], [8, 8]);
    says("second gamma has 3 elements, expected 4", [good, bad, good], [8, 8]);
    says("second beta has 3 elements, expected 4", [good, None, bad], [8, 8]);
    says("x has 2 rows, but y has 3", [good; 3], [12, 8]);
    says("x has 2 rows, but second y has 3", [good; 3], [8, 12]);
    says("second y has 7 elements, which is not a whole number of rows of 4", [good; 3], [8, 7]);
    let error = plan.call(&x).second().gamma(&short).to_vecs::<f32, f32>().expect_err("it does not fit");
    assert_eq!(error.to_string(), "second gamma has 3 elements, expected 4");
    let mut h = x;
    let error = plan.call_in_place(&mut h).second().beta(&short).run(&mut second_y[..8]).expect_err("no fit");
    assert_eq!((error.to_string().as_str(), h), ("second beta has 3 elements, expected 4", x));
    // One row, whose first gamma does not fit.
    let error = plan.call(&x[..4]).gamma(&short).second().to(&mut y[..4], &mut second_y[..4]).expect_err("no fit");
    assert_eq!((error.to_string().as_str(), second_y), ("gamma has 3 elements, expected 4", [7.0; 12]));
    // Nothing to do.
    plan.call(&x[..0]).second().to(&mut y[..0], &mut second_y[..0])?;
    LayerNorm::new(0, 0.0)?.call(&x[..0]).second().to(&mut y[..0], &mut second_y[..0])
}
