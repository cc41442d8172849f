//! Numbers that are not finite become canonical NaNs where they reach, and nowhere else. A NaN or an infinity
//!
//! - in x makes its row of dx NaN, and all of dgamma, but nothing of dbeta;
//! - in dy makes its row of dx NaN, and its column of dgamma and dbeta not finite;
//! - in gamma makes all of dx NaN, but nothing of dgamma and dbeta;
//! - in ds makes its element of dx not finite.
//!
//! The other rows of dx and the other columns of dgamma and dbeta keep their bits.

use crate::support::{GradCall, GradProblem, Grads, Statistics, Types, Value, assert_same_bits, quick, tiers};

const SHAPES: [(usize, usize); 8] = [(1, 40), (3, 5), (4, 1), (9, 70), (17, 193), (40, 33), (5, 300), (4, 1100)];

fn values<V: Value>() -> [V; 5] {
    [V::QUIET_NAN, -V::QUIET_NAN, V::SIGNALING_NAN, V::INFINITY, -V::INFINITY]
}

/// Where a number that is not finite is put.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    col: usize,
    cols: usize,
}

/// Calls `check` for each shape, operation and place, with the problem with and without the number, and both results on
/// all tiers.
fn for_sick_problems<K: Types>(
    make_sick: impl Fn(&mut GradProblem<K>, Place, usize),
    check: impl Fn(&str, Place, &Grads<K>, &Grads<K>, &GradProblem<K>),
) {
    let mut number = 0;
    for (rows, cols) in SHAPES.into_iter().filter(|(_, cols)| !quick() || *cols < 200) {
        for problem in GradProblem::<K>::ordinary(rows, cols, 1).of_every_operation() {
            let healthy = problem.expected();
            for row in [0, rows / 2, rows - 1] {
                for col in [0, 1, 7, 31, 32, 63, 64, 68, cols / 2, cols - 1] {
                    number += 1;
                    if !K::takes(number) {
                        continue;
                    }
                    let (place, mut sick) = (Place { row, col: col % cols, cols }, problem.clone());
                    make_sick(&mut sick, place, number % 5);
                    let expected = sick.expected();
                    for &isa in tiers() {
                        for statistics in [Statistics::Taken, Statistics::Kept] {
                            let call = GradCall { statistics, in_place: number % 2 == 0, ..GradCall::plain(isa) };
                            let got = sick.run(&call);
                            let what = format!("{sick}, {call:?}: column {} of row {row}", place.col);
                            got.assert_same(&expected, cols, format_args!("{what}"));
                            check(&what, place, &healthy, &got, &sick);
                        }
                    }
                }
            }
        }
    }
}

fn all_canonical<V: Value>(v: &[V]) -> bool {
    v.iter().all(|v| v.bits() == V::QUIET_NAN.bits())
}

fn canonical_if_nan<V: Value>(v: &[V]) -> bool {
    v.iter().all(|v| !v.is_nan() || v.bits() == V::QUIET_NAN.bits())
}

/// One row of dx is NaN, and the others have their bits.
fn assert_row_is_nan<K: Types>(what: &str, Place { row, cols, .. }: Place, healthy: &Grads<K>, got: &Grads<K>) {
    for (r, (healthy, dx)) in healthy.dx().chunks_exact(cols).zip(got.dx().chunks_exact(cols)).enumerate() {
        if r == row {
            assert!(all_canonical(dx), "{what}: {dx:?}");
        } else {
            assert_same_bits(format_args!("{what}: row {r}"), cols, healthy, dx);
        }
    }
}

fn in_x<K: Types>() {
    for_sick_problems::<K>(
        |sick, Place { row, col, cols }, value| sick.forward.x[row * cols + col] = values()[value],
        |what, place, healthy, got, _| {
            assert_row_is_nan(what, place, healthy, got);
            assert!(all_canonical(got.dgamma()), "{what}: {:?}", got.dgamma());
            if let Some(dbeta) = &got.dbeta {
                assert_same_bits(format_args!("{what}: dbeta"), place.cols, healthy.dbeta(), dbeta);
            }
        },
    );
}

fn in_dy<K: Types>() {
    for_sick_problems::<K>(
        |sick, Place { row, col, cols }, value| sick.dy[row * cols + col] = values()[value],
        |what, place, healthy, got, sick| {
            assert_row_is_nan(what, place, healthy, got);
            let Place { row, col, cols } = place;
            let (mut want, sum) = (healthy.dgamma().to_vec(), got.dgamma()[col]);
            want[col] = sum;
            assert!(canonical_if_nan(&[sum]) && !sum.wide().is_finite(), "{what}: {sum:e}");
            assert_same_bits(format_args!("{what}: dgamma"), cols, &want, got.dgamma());
            if let Some(dbeta) = &got.dbeta {
                let (mut want, dy) = (healthy.dbeta().to_vec(), sick.dy[row * cols + col].wide());
                want[col] = if dy.is_nan() { K::F::QUIET_NAN } else { K::F::of(dy) };
                assert_same_bits(format_args!("{what}: dbeta"), cols, &want, dbeta);
            }
        },
    );
}

fn in_gamma<K: Types>() {
    for_sick_problems::<K>(
        |sick, Place { col, .. }, value| sick.forward.gamma.as_mut().expect("gamma")[col] = values()[value],
        |what, Place { cols, .. }, healthy, got, _| {
            assert!(all_canonical(got.dx()), "{what}: {:?}", got.dx());
            assert_same_bits(format_args!("{what}: dgamma"), cols, healthy.dgamma(), got.dgamma());
            if let Some(dbeta) = &got.dbeta {
                assert_same_bits(format_args!("{what}: dbeta"), cols, healthy.dbeta(), dbeta);
            }
        },
    );
}

fn in_ds<K: Types>() {
    for_sick_problems::<K>(
        |sick, Place { row, col, cols }, value| {
            let mut ds = vec![K::X::of(-0.0); sick.dy.len()];
            ds[row * cols + col] = values()[value];
            sick.ds = Some(ds);
        },
        |what, Place { row, col, cols }, healthy, got, sick| {
            let (mut want, at) = (healthy.dx().to_vec(), row * cols + col);
            let ds = sick.ds.as_ref().expect("ds")[at];
            want[at] = if ds.is_nan() { K::X::QUIET_NAN } else { ds };
            assert_same_bits(format_args!("{what}: dx"), cols, &want, got.dx());
            assert_same_bits(format_args!("{what}: dgamma"), cols, healthy.dgamma(), got.dgamma());
        },
    );
}

/// Opposite infinities meet in dx and ds, and in the sums over the rows.
fn infinities_that_cancel_are_canonical_nan<K: Types>() {
    for (rows, cols) in SHAPES.into_iter().filter(|(rows, _)| *rows > 2) {
        for mut problem in GradProblem::<K>::ordinary(rows, cols, 2).of_every_operation() {
            let (infinity, last) = (K::X::INFINITY, rows * cols - 1);
            (problem.dy[cols - 1], problem.dy[last]) = (infinity, -infinity);
            // dx overflows in the row between.
            problem.forward.gamma.as_mut().expect("gamma").fill(K::G::of(1.0));
            problem.dy[cols] = K::X::MAX;
            let problem = problem.with_ds();
            let expected = problem.expected();
            for &isa in tiers() {
                let got = problem.run(&GradCall::plain(isa));
                got.assert_same(&expected, cols, format_args!("{isa}, {problem}"));
                assert!(canonical_if_nan(got.dx()) && canonical_if_nan(got.dgamma()), "{isa}, {problem}");
                let dbeta = got.dbeta.as_ref().map(|dbeta| dbeta[cols - 1]);
                assert!(dbeta.is_none_or(|v| all_canonical(&[v])), "{isa}, {problem}: {dbeta:?}");
            }
        }
    }
}

for_all_gradients!(in_x, in_dy, in_gamma, in_ds, infinities_that_cancel_are_canonical_nan);
