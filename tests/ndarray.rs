//! Views of arrays: rows of any layout that two strides can express have the bits of a copy in standard layout. What
//! cannot be expressed is refused with its axis and stride, before anything is written.

use lanenorm::kernels::Error as Refused;
use lanenorm::{Element, Error, LayerNorm, Misfit, Moments, Parallelism, RmsNorm, Rows, RowsMut, Scheme, bf16};
use ndarray::{
    Array, Array1, Array2, Array3, Array4, ArrayD, ArrayView, ArrayView1, ArrayView2, ArrayView3, ArrayViewMut, Axis,
    Dimension, IxDyn, ShapeBuilder, aview0, s,
};

const COLS: usize = 70;

fn plan() -> LayerNorm {
    LayerNorm::new(COLS, 1e-5).expect("a plan").with_parallelism(Parallelism::Serial)
}

/// Some numbers, no two of which are alike.
fn filled<D: Dimension, Sh: ShapeBuilder<Dim = D>>(shape: Sh) -> Array<f32, D> {
    let mut next = 0;
    Array::from_shape_simple_fn(shape, || {
        next += 1;
        (next as f32 * 0.37).sin() + next as f32 * 1e-3
    })
}

/// The yardstick: a copy of the rows in standard layout, as a slice.
fn expected<D: Dimension>(x: ArrayView<'_, f32, D>) -> Vec<f32> {
    let copy: Vec<f32> = x.iter().copied().collect();
    plan().forward_to_vec(&copy, None, None).expect("a valid call")
}

/// Normalizes into standard layout, into a like view, in place, and on three threads; what lies around the view in
/// `around`, of which `view` gives it, stays as it is.
#[track_caller]
fn check<D: Dimension, E: Dimension>(
    around: &Array<f32, E>,
    view: impl for<'a> Fn(ArrayViewMut<'a, f32, E>) -> ArrayViewMut<'a, f32, D>,
) {
    let mut held = around.clone();
    let want = {
        let x = view(held.view_mut());
        let want = expected(x.view());
        let mut y = Array::<f32, D>::zeros(x.raw_dim());
        plan().call(x.view()).to(y.view_mut()).expect("a valid call");
        assert_eq!(y.as_slice().expect("standard layout"), want);
        let mut y = vec![0.0; want.len()];
        plan().forward(&x, None, None, &mut y).expect("a valid call");
        assert_eq!(y, want);
        want
    };
    assert_eq!(held, around, "x has been written");
    for tasks in [1, 3] {
        let plan = plan().with_parallelism(Parallelism::tasks(tasks));
        let mut in_place = around.clone();
        plan.call_in_place(view(in_place.view_mut())).run().expect("a valid call");
        let mut apart = around.clone();
        plan.call(view(held.view_mut()).view()).to(view(apart.view_mut())).expect("a valid call");
        assert_eq!(in_place, apart);
        let mut want_around = around.clone();
        view(want_around.view_mut()).iter_mut().zip(&want).for_each(|(v, &want)| *v = want);
        assert_eq!(in_place, want_around, "{tasks} tasks");
    }
}

#[test]
fn one_axis_is_a_row() {
    check(&filled(COLS), |x| x);
    check(&filled((3, COLS + 5)), |x| x.slice_move(s![1, 2..COLS + 2]));
}

#[test]
fn two_axes() {
    check(&filled((5, COLS)), |x| x);
    check(&filled((1, COLS)), |x| x);
    check(&filled((6, COLS + 3)), |x| x.slice_move(s![..;2, 3..]));
    // Rows of one column of every token.
    check(&filled((4, 3, COLS)), |x| x.slice_move(s![.., 1, ..]));
}

#[test]
fn three_axes() {
    check(&filled((2, 3, COLS)), |x| x);
    check(&filled((4, 3, COLS)), |x| x.slice_move(s![.., ..2, ..]));
    check(&filled((4, 6, COLS + 1)), |x| x.slice_move(s![1..;2, ..;3, 1..]));
    check(&filled((3, 2, COLS)), |x| x.permuted_axes([1, 0, 2]));
    check(&filled((5, 3, COLS + 2)), |x| x.slice_move(s![..4, ..2, 1..COLS + 1]).permuted_axes([1, 0, 2]));
    check(&filled((1, 3, COLS)), |x| x);
    check(&filled((3, 1, COLS)), |x| x);
    check(&filled((3, 5, COLS)), |x| x.slice_move(s![.., 1..2, ..]));
}

#[test]
fn more_axes_that_join() {
    check(&filled((2, 3, 2, COLS)), |x| x);
    check(&filled((2, 3, 4, COLS)), |x| x.slice_move(s![.., .., ..2, ..]));
    check(&filled((2, 3, 2, 2, COLS)), |x| x.slice_move(s![.., ..2, .., .., ..]));
    check(&filled((2, 3, 2, COLS)), |x| x.permuted_axes([2, 0, 1, 3]));
    check(&filled(IxDyn(&[2, 3, 4, 1, COLS])), |x| x);
}

#[test]
fn other_types_and_no_axes() -> Result<(), Error> {
    let x = filled((2, 3, COLS)).mapv(bf16::from_f32);
    let mut y = Array3::<f32>::zeros((3, 2, COLS));
    plan().call(x.view()).to(y.view_mut().permuted_axes([1, 0, 2]))?;
    let mut want = vec![0.0f32; y.len()];
    plan().call(x.as_slice().expect("standard layout")).to(&mut want)?;
    assert!(y.permuted_axes([1, 0, 2]).iter().eq(&want));

    let mut y = [7.0];
    RmsNorm::new(1, 0.0)?.forward(aview0(&-3.0), None, &mut y)?;
    assert_eq!(y, [-1.0]);
    Ok(())
}

#[test]
fn every_form_of_a_call() -> Result<(), Error> {
    let (plan, rms_norm) = (plan(), RmsNorm::new(COLS, 1e-6)?);
    let (x, residual) = (filled((2, 3, COLS)), filled((2, 5, COLS)));
    let residual = residual.slice(s![.., 1..4, ..]);
    let (flat, flat_residual) = (x.as_slice().expect("standard"), residual.iter().copied().collect::<Vec<_>>());
    let (mut want, mut want_s) = (vec![0.0; 6 * COLS], vec![0.0; 6 * COLS]);
    plan.call(flat).residual(&flat_residual).sum_to(&mut want_s).to(&mut want)?;
    let (mut y, mut s) = (Array3::zeros((3, 2, COLS)), Array3::zeros((2, 3, COLS)));
    let swapped = [1, 0, 2];
    plan.call(&x).residual(residual).sum_to(&mut s).to(y.view_mut().permuted_axes(swapped))?;
    assert!(y.view().permuted_axes(swapped).iter().eq(&want) && s.iter().eq(&want_s));

    let (mut moments, mut want_moments) = ([Moments::EMPTY; 6], [Moments::EMPTY; 6]);
    rms_norm.moments(residual, &mut moments)?;
    rms_norm.moments(&flat_residual, &mut want_moments)?;
    assert_eq!(moments, want_moments);
    assert_eq!(rms_norm.forward_to_vec(residual, None)?, rms_norm.forward_to_vec(&flat_residual, None)?);

    let mut want_dgamma = vec![0.0; COLS];
    rms_norm.backward(&flat_residual, flat).dgamma_to(&mut want_dgamma).to(&mut want)?;
    let mut dgamma = vec![0.0; COLS];
    rms_norm.backward(residual, &x).dgamma_to(&mut dgamma).to(y.view_mut().permuted_axes(swapped))?;
    assert!(y.view().permuted_axes(swapped).iter().eq(&want));
    assert_eq!(dgamma, want_dgamma);

    let (mut q, mut want_q) = (Array3::<i8>::zeros((3, 2, COLS)), vec![0; 6 * COLS]);
    let (mut scale, mut want_scale) = (Array1::zeros(6), [0.0; 6]);
    plan.call(&flat_residual).quantize(&Scheme::I8).scale_to(&mut want_scale).to(&mut want_q)?;
    plan.call(residual).quantize(&Scheme::I8).scale_to(&mut scale).to(q.view_mut().permuted_axes(swapped))?;
    assert!(q.view().permuted_axes(swapped).iter().eq(&want_q) && scale.iter().eq(&want_scale));
    Ok(())
}

#[test]
fn empty_arrays_are_fine() -> Result<(), Error> {
    let plan = plan();
    for shape in [[0, 3, COLS], [3, 0, COLS], [0, 0, COLS]] {
        let x = Array3::<f32>::zeros(shape);
        let mut y = x.clone();
        plan.call(x.view()).to(y.view_mut())?;
        plan.call_in_place(y.view_mut().permuted_axes([1, 0, 2])).run()?;
        plan.forward(x.slice(s![..;-1, .., ..]), None, None, &mut [])?;
        plan.backward(&x, &x).to(&mut y)?;
    }
    let none = RmsNorm::new(0, 0.0)?;
    let mut y = Array2::<f32>::zeros((3, 0));
    none.call_in_place(y.view_mut()).run()?;
    none.call_in_place(Array1::<f32>::zeros(0).view_mut()).run()?;
    Ok(())
}

/// That x and y of this layout are refused with this error, and that nothing has been written.
#[track_caller]
fn refused<'a, D: Dimension>(x: ArrayView<'a, f32, D>, error: impl Fn(&'static str) -> Error, words: &[&str]) {
    let mut y = vec![7.0; x.len()];
    let message = |result: Result<(), Error>, what| {
        assert_eq!(result, Err(error(what)));
        let message = error(what).to_string();
        assert!(words.iter().chain(&[what]).all(|word| message.contains(word)), "{message}");
    };
    message(plan().call(x.view()).to(&mut y), "x");
    assert!(y.iter().all(|&v| v == 7.0), "y has been written");
    message(plan().moments(x.view(), &mut [Moments::EMPTY; 6]), "x");
    message(RmsNorm::new(COLS, 0.0).and_then(|plan| plan.backward(x.view(), x.view()).to(&mut y)), "dy");
}

#[test]
fn layouts_that_cannot_be_expressed() {
    let column = |axis, stride| move |what| Error::ColumnStride { what, axis, stride };
    let x = filled((COLS, 3));
    refused(x.t(), column(1, 3), &["axis 1", "3", "expected 1"]);
    refused(filled(2 * COLS).slice(s![..;2]), column(0, 2), &["axis 0", "2"]);
    refused(filled((2, 3, COLS)).slice(s![.., .., ..;-1]), column(2, -1), &["axis 2", "-1"]);
    refused(filled((2, 3, COLS).f()).view(), column(2, 6), &["axis 2", "6"]);

    let negative = |axis, stride| move |what| Error::NegativeStride { what, axis, stride };
    let x = filled((2, 3, COLS));
    refused(x.slice(s![..;-1, .., ..]), negative(0, -210), &["axis 0", "-210"]);
    refused(x.slice(s![.., ..;-1, ..]), negative(1, -70), &["axis 1", "-70"]);

    let x = filled((2, 3, 4, COLS));
    let third = |axis, stride, expected| move |what| Error::ThirdStride { what, axis, stride, expected };
    refused(x.slice(s![.., ..2, ..3, ..]), third(0, 840, 560), &["axis 0", "840", "560"]);

    // What is broadcast overlaps.
    let row = filled(COLS);
    let broadcast = row.broadcast((3, COLS)).expect("a shape");
    refused(broadcast, |what| Error::Arguments(Refused::Overlap { what, cols: COLS, stride: 0 }), &["70", "0"]);
    let rows = filled((3, COLS));
    let broadcast = rows.broadcast((2, 3, COLS)).expect("a shape");
    let (shape, strides, misfit) = ([2, 3], [0, 70], Misfit::Overlap { cols: COLS });
    refused(broadcast, |what| Error::Runs { what, shape, strides, misfit }, &["0", "70"]);

    let columns = |cols| move |what| Error::Columns { what, cols, expected: COLS };
    refused(filled((2, 3, COLS + 1)).view(), columns(71), &["has 71 columns, expected 70"]);
    // Though they have as many elements as one row.
    refused(filled((2, COLS / 2)).view(), columns(35), &["has 35 columns, expected 70"]);
    refused(filled((3, 1)).view(), columns(1), &["has 1 column, expected 70"]);
}

/// The last axis must have the columns of the plan, whether there are rows or not.
#[test]
fn empty_arrays_with_other_columns_are_refused() {
    let columns = |cols| move |what| Error::Columns { what, cols, expected: COLS };
    refused(filled((0, 5)).view(), columns(5), &["has 5 columns, expected 70"]);
    refused(filled((3, 0)).view(), columns(0), &["has 0 columns, expected 70"]);
    refused(filled((0, 3, 0)).view(), columns(0), &["has 0 columns, expected 70"]);
    // One row of no columns.
    refused(filled(0).view(), columns(0), &["has 0 columns, expected 70"]);
    assert_eq!(plan().forward_to_vec(&filled((0, COLS)), None, None), Ok(vec![]));
    let none = RmsNorm::new(0, 0.0).expect("a plan");
    assert_eq!(none.forward_to_vec(&filled(0), None), Ok(vec![]));
    assert_eq!(none.forward_to_vec(&filled((0, 0)), None), Ok(vec![]));
    let refused = none.forward_to_vec(&filled((0, 5)), None);
    assert_eq!(refused, Err(Error::Columns { what: "x", cols: 5, expected: 0 }));
}

/// The names of the library do not hide the crate.
mod all_names {
    use lanenorm::*;
    use ndarray::array;

    #[test]
    fn all_names_can_be_imported_beside_the_crate() {
        let plan = RmsNorm::new(2, 0.0).expect("a plan");
        let x: ndarray::Array2<f32> = array![[3.0, -3.0], [2.0, 2.0]];
        assert_eq!(plan.forward_to_vec(&x, None), Ok(vec![1.0, -1.0, 1.0, 1.0]));
    }
}

#[test]
fn a_y_that_does_not_fit_is_refused() {
    let x = filled((2, 3, COLS));
    let mut y = Array3::from_elem((3, 2, 2 * COLS), 7.0);
    let result = plan().call(&x).to(y.slice_mut(s![.., .., ..;2]).permuted_axes([1, 0, 2]));
    assert_eq!(result, Err(Error::ColumnStride { what: "y", axis: 2, stride: 2 }));
    let result = plan().call(&x).to(y.slice_mut(s![..2, .., ..COLS]));
    assert_eq!(result, Err(Error::Rows { x: 6, y: 4 }));
    let gaps = filled((2, 4, COLS));
    let mut turned = Array4::from_elem((3, 1, 3, COLS), 7.0);
    let result = plan().call(gaps.slice(s![.., ..3, ..])).to(turned.slice_mut(s![.., .., ..2, ..]));
    let (shape, strides) = ([3, 2], [210, 70]);
    let misfit = Misfit::RunLen { expected: 3 };
    assert_eq!(result, Err(Error::Runs { what: "y", shape, strides, misfit }));
    assert!(y.iter().chain(&turned).all(|&v| v == 7.0), "y has been written");
}

/// Halves of the rows of one array are lent to two threads.
#[test]
fn views_go_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    let mut x = filled((4, 6, COLS));
    let mut want = x.clone();
    for half in [s![.., ..3, ..], s![.., 3.., ..]] {
        let rows = expected(want.slice(half));
        want.slice_mut(half).iter_mut().zip(rows).for_each(|(v, row)| *v = row);
    }
    let (a, b) = x.view_mut().split_at(Axis(1), 3);
    std::thread::scope(|threads| {
        for half in [RowsMut::from(a), RowsMut::from(b)] {
            is_send(&half);
            threads.spawn(|| plan().forward_in_place(half, None, None).expect("a valid call"));
        }
    });
    assert_eq!(x, want);
}

/// The conversions, as generic code uses them.
fn rows<'a, T: Element>(x: impl Into<Rows<'a, T>>) -> Rows<'a, T> {
    x.into()
}

#[test]
fn arrays_and_views_convert() {
    let x: ArrayD<f32> = filled(IxDyn(&[2, COLS]));
    let view = x.view();
    for rows in [rows(&x), rows(x.view()), rows(&view)] {
        assert_eq!(plan().forward_to_vec(rows, None, None).expect("a valid call"), expected(x.view()));
    }
    let slice = x.as_slice().expect("standard layout");
    rows(ArrayView1::from(slice));
    rows(ArrayView2::from_shape((2, COLS), slice).expect("a shape"));
    rows(ArrayView3::from_shape((1, 2, COLS), slice).expect("a shape"));
}

#[test]
fn vectors_may_be_arrays_of_one_axis() {
    const ROWS: usize = 3;
    let (x, dy, residual) = (filled((ROWS, COLS)), filled((ROWS, COLS)) * 0.5, filled((ROWS, COLS)) + 1.0);
    // Every second element of these is the vector.
    let (wide, narrow) = (filled(2 * COLS), filled(2 * ROWS));
    let [gamma, beta, bias] = [1.0, 2.0, 3.0].map(|v| wide.slice(s![..;2]).to_owned() + v);
    let plan = plan();

    let mut stats = [(); 3].map(|()| Array1::from_elem(ROWS, 7.0_f32));
    let [mean, mean_lo, rstd] = &mut stats;
    let call = plan.call(&x).residual(&residual).bias(bias.view()).gamma(&gamma).beta(Some(&beta));
    let y: Vec<f32> = call.mean_to(mean).mean_lo_to(mean_lo.view_mut()).rstd_to(rstd).to_vec().expect("a valid call");
    let [gamma_slice, beta_slice, bias_slice] = [&gamma, &beta, &bias].map(|v| v.as_slice().expect("contiguous"));
    let mut want = [[7.0_f32; ROWS]; 3];
    let [mean, mean_lo, rstd] = &mut want;
    let call = plan.call(&x).residual(&residual).bias(bias_slice).gamma(gamma_slice).beta(beta_slice);
    let want_y: Vec<f32> = call.mean_to(mean).mean_lo_to(mean_lo).rstd_to(rstd).to_vec().expect("a valid call");
    assert_eq!(y, want_y);
    assert_eq!(stats.each_ref().map(|v| v.to_vec()), want.each_ref().map(|v| v.to_vec()));

    // In this order each is the first that does not fit.
    let strided = |what| Err(Error::VectorStride { what, stride: 2 });
    let (wide, narrow) = (wide.slice(s![..;2]), narrow.slice(s![..;2]));
    let mut room = Array1::from_elem(2 * COLS, 7.0_f32);
    let mut y = Array2::from_elem((ROWS, COLS), 7.0_f32);
    let mut refused = Vec::new();
    let names = ["gamma", "beta", "bias", "mean", "mean_lo", "rstd"];
    for first in 0..names.len() {
        let (mut mean, mut mean_lo, mut rstd) = (room.clone(), room.clone(), room.clone());
        let mut call = plan.call(&x).residual(&residual).gamma(None::<&[f32]>).beta(None::<&[f32]>);
        if first == 0 {
            call = call.gamma(wide);
        }
        if first <= 1 {
            call = call.beta(wide);
        }
        if first <= 2 {
            call = call.bias(wide);
        }
        if first <= 3 {
            call = call.mean_to(mean.slice_mut(s![..2 * ROWS;2]));
        }
        if first <= 4 {
            call = call.mean_lo_to(mean_lo.slice_mut(s![..2 * ROWS;2]));
        }
        refused.push(call.rstd_to(rstd.slice_mut(s![..2 * ROWS;2])).to(&mut y));
        assert_eq!([mean, mean_lo, rstd], [(); 3].map(|()| room.clone()));
    }
    assert_eq!(refused, names.map(strided));

    let mut dx = y.clone();
    assert_eq!(plan.backward(&dy, &x).gamma(wide).to(&mut dx), strided("gamma"));
    assert_eq!(plan.backward(&dy, &x).mean(narrow).rstd(narrow).to(&mut dx), strided("mean"));
    assert_eq!(plan.backward(&dy, &x).mean_lo(narrow).to(&mut dx), strided("mean_lo"));
    assert_eq!(plan.backward(&dy, &x).rstd(narrow).to_vec().map(drop), strided("rstd"));
    assert_eq!(plan.backward(&dy, &x).dgamma_to(room.slice_mut(s![..;2])).run(), strided("dgamma"));
    assert_eq!(plan.backward(&dy, &x).dbeta_to(room.slice_mut(s![..;2])).to(&mut dx), strided("dbeta"));
    assert_eq!(plan.backward(&dy, &x).scratch(room.slice_mut(s![..;2])).to(&mut dx), strided("scratch"));
    let mut over = dy.clone();
    assert_eq!(plan.backward_in_place(&mut over, &x).gamma(wide).run(), strided("gamma"));
    assert_eq!((over, dx), (dy.clone(), y.clone()));
    assert!(y.iter().chain(&room).all(|&v| v == 7.0), "something has been written");

    let (mut dgamma, mut dbeta) = (Array1::zeros(COLS), Array1::zeros(COLS));
    let call = plan.backward(&dy, &x).gamma(&gamma).dgamma_to(&mut dgamma).dbeta_to(&mut dbeta);
    let dx = call.to_vec().expect("a valid call");
    assert_eq!(dx, plan.backward(&dy, &x).gamma(gamma_slice).to_vec().expect("a valid call"));
    assert!(dgamma.iter().chain(&dbeta).all(|&v| v != 0.0));
}
