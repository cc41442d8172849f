//! No rows, or no columns, however large the other number: every form of a call succeeds at once, allocates nothing and
//! overflows nowhere, also in builds that check for overflow.

use std::num::NonZeroUsize;

use lanenorm::kernels::Error as Refused;
use lanenorm::kernels::element::Storage;
use lanenorm::kernels::simd::Float;
use lanenorm::{Element, Error, LayerNorm, Moments, Parallelism, RmsNorm, Rows, RowsMut, Store};

use crate::support::forms::{GradIo, Io, ParamGrads, Stats, StatsMut, Sum};
use crate::support::{OPERATIONS, Operation, Plan, Types, Value};

const MAX: usize = usize::MAX;

/// The rows of a call that has no elements.
#[derive(Clone, Copy, Debug)]
enum Nothing {
    Slice,
    /// This number of rows, and their stride.
    Strided(usize, usize),
}

impl Nothing {
    fn rows<'a, T>(self) -> Rows<'a, T> {
        match self {
            Self::Slice => Rows::from(&[][..]),
            Self::Strided(rows, stride) => Rows::strided(&[], rows, stride),
        }
    }

    fn rows_mut<'a, T>(self) -> RowsMut<'a, T> {
        match self {
            Self::Slice => RowsMut::from(&mut [][..]),
            Self::Strided(rows, stride) => RowsMut::strided(&mut [], rows, stride),
        }
    }

    fn count(self) -> usize {
        match self {
            Self::Slice => 0,
            Self::Strided(rows, _) => rows,
        }
    }
}

/// A form of a call, by its name.
type Form = (&'static str, fn(&Plan, Nothing) -> Result<(), Error>);

/// The forms without an array for each row. They take any number of rows.
fn forms<T: Element>() -> [Form; 12] {
    [
        ("forward", |p, n| p.forward::<T>(n.rows(), None, None, n.rows_mut())),
        ("forward_in_place", |p, n| p.forward_in_place::<T>(n.rows_mut(), None, None)),
        ("sum_to", |p, n| {
            let sum = Sum::<T>::sum_to(n.rows(), n.rows(), n.rows_mut());
            p.call_sum(sum, None, None, n.rows_mut(), StatsMut::default())
        }),
        ("residual_in_place", |p, n| {
            let sum = Sum::<T>::residual_in_place(n.rows(), n.rows_mut());
            p.call_sum(sum, None, None, n.rows_mut(), StatsMut::default())
        }),
        ("call_mixed", |p, n| {
            p.call_mixed::<T, T, T>(Io::new(n.rows(), n.rows_mut()), None, None, StatsMut::default())
        }),
        ("residual", |p, n| {
            let io = Io::residual(n.rows(), n.rows(), None, n.rows_mut());
            p.call_mixed::<T, T, T>(io, None, None, StatsMut::default())
        }),
        ("in_place_with_residual", |p, n| {
            let io = Io::in_place_with_residual(n.rows_mut(), n.rows(), None);
            p.call_mixed::<T, T, T>(io, None, None, StatsMut::default())
        }),
        ("backward", |p, n| {
            let io = GradIo::<T>::new(n.rows(), n.rows(), n.rows_mut());
            p.backward(io, None, Stats::default(), ParamGrads::default())
        }),
        ("backward in place", |p, n| {
            let io = GradIo::<T>::in_place(n.rows_mut(), n.rows());
            p.backward(io, None, Stats::default(), ParamGrads::default())
        }),
        ("backward with ds", |p, n| {
            let io = GradIo::<T>::new(n.rows(), n.rows(), n.rows_mut()).with_ds(n.rows());
            p.backward_mixed::<T, T>(io, None, Stats::default(), ParamGrads::default())
        }),
        ("backward_with_scratch", |p, n| {
            let io = GradIo::<T>::new(n.rows(), n.rows(), n.rows_mut());
            p.backward_with_scratch::<T, T>(io, None, Stats::default(), ParamGrads::default(), &mut [])
        }),
        ("backward_scratch_len", |p, n| p.backward_scratch_len::<T>(n.count()).map(|len| assert_eq!(len, 0))),
    ]
}

/// The forms with at least one number for each row.
fn forms_with_statistics<T: Element>() -> [Form; 6] {
    fn none<F>() -> StatsMut<'static, F> {
        StatsMut { rstd: Some(&mut []), ..StatsMut::default() }
    }
    [
        ("call", |p, n| p.call::<T>(n.rows(), None, None, n.rows_mut(), none())),
        ("call_in_place", |p, n| p.call_in_place::<T>(n.rows_mut(), None, None, none())),
        ("moments", |p, n| p.moments::<T>(n.rows(), &mut [])),
        ("moments_at_scale", |p, n| p.moments_at_scale::<T>(n.rows(), T::Float::RESCALE[0], &mut [])),
        ("call_with_moments", |p, n| p.call_with_moments::<T>(n.rows(), &[], None, None, n.rows_mut())),
        ("backward with statistics", |p, n| {
            let io = GradIo::<T>::new(n.rows(), n.rows(), n.rows_mut());
            let (mean, rstd) = (matches!(p, Plan::LayerNorm(_)).then_some(&[][..]), Some(&[][..]));
            p.backward(io, None, Stats { mean, mean_lo: None, rstd }, ParamGrads::default())
        }),
    ]
}

/// The plan in every way that it may be run.
fn plans(operation: Operation, cols: usize, groups: (usize, usize)) -> Vec<Plan> {
    let plan = Plan::new(operation, cols, 1e-5).and_then(|plan| plan.with_groups(groups.0, groups.1));
    let plan = plan.expect("a valid plan");
    let some = NonZeroUsize::new(5).expect("not zero");
    let ways = [
        Parallelism::Serial,
        Parallelism::Auto,
        Parallelism::Tasks(some),
        Parallelism::AtMost(some),
        Parallelism::Tasks(NonZeroUsize::MAX),
        Parallelism::AtMost(NonZeroUsize::MAX),
    ];
    ways.iter()
        .flat_map(|&way| [Store::Auto, Store::Ordinary, Store::Streaming].map(|store| (way, store)))
        .map(|(way, store)| plan.with_parallelism(way).with_store(store))
        .collect()
}

const GROUPS: [(usize, usize); 6] = [(1, 1), (2, 1), (MAX / 4, 1), (MAX, 1), (1, MAX), (1 << 20, 1 << 20)];

fn no_rows_of_any_length<K: Types>() {
    for operation in OPERATIONS {
        for cols in [MAX, MAX / 2 + 1, MAX / 8 + 1, 1 << 40, 3, 0] {
            for groups in GROUPS {
                for plan in plans(operation, cols, groups) {
                    for (name, form) in forms::<K::X>().into_iter().chain(forms_with_statistics::<K::X>()) {
                        for nothing in [Nothing::Slice, Nothing::Strided(0, 0), Nothing::Strided(0, MAX)] {
                            let what = format_args!("{name}, {operation:?}, {cols} columns, {groups:?}, {nothing:?}");
                            assert_eq!(form(&plan, nothing), Ok(()), "{what}");
                        }
                    }
                }
            }
        }
    }
}

fn any_number_of_rows_of_no_length<K: Types>() {
    for operation in OPERATIONS {
        for groups in GROUPS {
            let period = groups.0 * groups.1;
            for plan in plans(operation, 0, groups) {
                for (name, form) in forms::<K::X>() {
                    for rows in [period, MAX / period * period] {
                        for stride in [0, 1, MAX] {
                            let what = format_args!("{name}, {operation:?}, {rows} rows of nothing, {groups:?}");
                            assert_eq!(form(&plan, Nothing::Strided(rows, stride)), Ok(()), "{what}");
                        }
                    }
                }
            }
        }
    }
}

fn functions_take_no_rows_of_any_length<K: Types>() {
    for cols in [MAX, MAX / 2 + 1, 1 << 40, 0] {
        assert_eq!(lanenorm::layer_norm::<K::X>(&[], cols, None, None, 1e-5, &mut []), Ok(()));
        assert_eq!(lanenorm::layer_norm_in_place::<K::X>(&mut [], cols, None, None, 1e-5), Ok(()));
        assert_eq!(lanenorm::rms_norm::<K::X>(&[], cols, None, 1e-5, &mut []), Ok(()));
        assert_eq!(lanenorm::rms_norm_in_place::<K::X>(&mut [], cols, None, 1e-5), Ok(()));
    }
}

/// Without rows, the gradients of gamma and beta are sums of nothing.
fn sums_over_no_rows_are_zero<K: Types>() {
    let dirty = || vec![K::F::SENTINEL; 12];
    let (mut dgamma, mut dbeta) = (dirty(), dirty());
    let plan = LayerNorm::new(4, 1e-5).and_then(|plan| plan.with_groups(3, 2)).expect("a valid plan");
    let none: &[K::X] = &[];
    assert_eq!(plan.backward(none, none).dgamma_to(&mut dgamma).dbeta_to(&mut dbeta).run(), Ok(()));
    assert!(dgamma.iter().chain(&dbeta).all(|v| v.bits() == 0));
    let mut dgamma = dirty();
    let plan = RmsNorm::new(4, 1e-5).and_then(|plan| plan.with_groups(3, 2)).expect("a valid plan");
    assert_eq!(plan.backward(none, none).dgamma_to(&mut dgamma).run(), Ok(()));
    assert!(dgamma.iter().all(|v| v.bits() == 0));
    let nothing = plan.backward(none, none).run();
    assert_eq!(nothing, Err(Error::Arguments(Refused::NoGradient)));
}

for_every_type!(
    no_rows_of_any_length,
    any_number_of_rows_of_no_length,
    functions_take_no_rows_of_any_length,
    sums_over_no_rows_are_zero,
);

/// Buffers that would have to have more elements than `usize` can count.
#[test]
fn vectors_of_too_many_groups_are_refused() {
    let plan = LayerNorm::new(MAX / 2, 1e-5).and_then(|plan| plan.with_groups(4, 1)).expect("a valid plan");
    let none: &[f32] = &[];
    let overflow = |what| Err(Error::Arguments(Refused::Overflow { what, rows: 4, stride: MAX / 2 }));
    let (mut dgamma, mut dbeta) = ([7.0; 3], [7.0; 3]);
    assert_eq!(plan.backward_in_place(&mut [], none).dgamma_to(&mut dgamma).run(), overflow("dgamma"));
    assert_eq!(plan.backward_in_place(&mut [], none).dbeta_to(&mut dbeta).run(), overflow("dbeta"));
    assert_eq!(plan.backward_in_place(&mut [], none).gamma(&[1.0; 4]).run(), overflow("gamma"));
    assert_eq!(plan.forward::<f32>(&[], None, Some(&[1.0; 4]), &mut []), overflow("gamma"));
    let plan = LayerNorm::new(MAX, 1e-5).expect("a valid plan");
    let length = Error::Arguments(Refused::Length { what: "dgamma", len: 3, expected: MAX });
    assert_eq!(plan.backward_in_place(&mut [], none).dgamma_to(&mut dgamma).run(), Err(length));
    assert_eq!((dgamma, dbeta), ([7.0; 3], [7.0; 3]));
}

/// Scales of other types, and numbers that are no scale of any type.
fn scales_that_are_not_of_the_type_are_refused<K: Types>() {
    let x = vec![K::X::of(1.0); 12];
    let of_other_type = if K::F::RESCALE[0] == 0.5 { 0.25 } else { 0.5 };
    let refused = [0.0, -0.0, -0.5, 3.0, 1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324, of_other_type];
    for operation in OPERATIONS {
        let plan = Plan::new(operation, 4, 1e-5).expect("a valid eps");
        for scale in refused {
            let mut moments = [Moments { count: 7.0, ..Moments::EMPTY }; 3];
            let error = plan.moments_at_scale(&x, scale, &mut moments).expect_err("a bad scale was accepted");
            let Error::Arguments(Refused::Scale { scale: named, dtype }) = error else { panic!("{error:?}") };
            assert!(named.to_bits() == scale.to_bits() && dtype == K::X::DTYPE.name());
            let message = error.to_string();
            assert!(message.contains(&format!("scale is {scale},")) && message.contains(dtype), "{message}");
            assert!(moments.iter().all(|m| m.count == 7.0), "moments have been written");
        }
        for scale in K::F::RESCALE {
            let mut moments = [Moments::EMPTY; 3];
            assert_eq!(plan.moments_at_scale(&x, scale, &mut moments), Ok(()));
            assert!(moments.iter().all(|m| m.count == 4.0 && m.scale == scale));
            let mut y = vec![K::X::SENTINEL; 12];
            assert_eq!(plan.call_with_moments(&x, &moments, None, None, &mut y), Ok(()));
        }
    }
}

for_every_type!(scales_that_are_not_of_the_type_are_refused);
