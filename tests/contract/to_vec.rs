//! Outputs that are new vectors: they have the bits of outputs that are given, for every type, tier and number of
//! threads, also where rows do not lie in one piece, and without rows or columns.

use lanenorm::kernels::Error as Refused;
use lanenorm::{Error, LayerNorm, Moments, Parallelism, RmsNorm, Rows};

use crate::support::{Problem, Types, assert_same_bits, tiers};

fn new_vectors_have_the_bits_of_outputs_that_are_given<K: Types>() {
    // Short rows, odd ones, one of several chunks, and enough of them for several threads.
    for (rows, cols) in [(1, 1), (9, 65), (2, 4100), (70, 1025)] {
        let problem = Problem::<K>::mixed(rows, cols, 5);
        let (x, residual) = (&problem.x, &Problem::<K>::mixed(rows, cols, 6).x);
        let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
        let (mut y, mut s, mut dx) = (vec![K::Y::default(); rows * cols], residual.clone(), residual.clone());
        for (&isa, tasks) in tiers().iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
            let what = format!("{rows}x{cols}, {isa}, {tasks} tasks");
            let parallelism = Parallelism::tasks(tasks);
            let plan = LayerNorm::new(cols, 1e-5).expect("a plan").with_isa(isa).with_parallelism(parallelism);
            let rms = RmsNorm::new(cols, 1e-5).expect("a plan").with_isa(isa).with_parallelism(parallelism);

            assert_eq!(plan.call(x).gamma(gamma).beta(beta).to(&mut y), Ok(()), "{what}");
            assert_same_bits(
                format_args!("{what}"),
                cols,
                &y,
                &plan.call(x).gamma(gamma).beta(beta).to_vec().expect("a valid call"),
            );
            assert_eq!(rms.call(x).gamma(gamma).to(&mut y), Ok(()), "{what}");
            assert_same_bits(
                format_args!("{what}, RMS"),
                cols,
                &y,
                &rms.call(x).gamma(gamma).to_vec().expect("a valid call"),
            );

            assert_eq!(
                plan.call(x).residual(residual).gamma(gamma).beta(beta).sum_to(&mut s).to(&mut y),
                Ok(()),
                "{what}"
            );
            let (new_s, new_y) =
                plan.call(x).residual(residual).gamma(gamma).beta(beta).to_vecs().expect("a valid call");
            assert_same_bits(format_args!("{what}, sum"), cols, &y, &new_y);
            assert_same_bits(format_args!("{what}, sum"), cols, &s, &new_s);
            assert_eq!(plan.call(x).residual(residual).gamma(gamma).beta(beta).to(&mut s), Ok(()), "{what}");
            assert_same_bits(
                format_args!("{what}, dropped sum"),
                cols,
                &s,
                &plan.call(x).residual(residual).gamma(gamma).beta(beta).to_vec().expect("a valid call"),
            );

            assert_eq!(plan.backward(residual, x).gamma(gamma).to(&mut dx), Ok(()), "{what}");
            let new = plan.backward(residual, x).gamma(gamma).to_vec().expect("a valid call");
            assert_same_bits(format_args!("{what}, backward"), cols, &dx, &new);
        }
    }
}

for_all_types!(new_vectors_have_the_bits_of_outputs_that_are_given);

#[test]
fn new_vectors_are_contiguous_and_may_be_empty() -> Result<(), Error> {
    let plan = LayerNorm::new(2, 0.0)?;
    let x = [1.0f32, 3.0, 0.0, 5.0, 3.0, 0.0, 8.0, 4.0];
    let y: Vec<f32> = plan.call(Rows::strided(&x, 3, 3)).to_vec()?;
    assert_eq!(y, [-1.0, 1.0, 1.0, -1.0, 1.0, -1.0]);
    let y: Vec<f32> = plan.call(Rows::strided_2d(&x, [2, 1], [6, 2])).to_vec()?;
    assert_eq!(y, [-1.0, 1.0, 1.0, -1.0]);
    assert_eq!(plan.call(&[0.0f32; 0]).to_vec::<f32>()?, [] as [f32; 0]);
    assert_eq!(plan.backward(&[0.0f32; 0], &[]).to_vec()?, [] as [f32; 0]);
    let none = LayerNorm::new(0, 0.0)?;
    assert_eq!(none.call(Rows::strided(&x, 4, 2)).to_vec::<f32>()?, [] as [f32; 0]);
    assert_eq!(none.call(Rows::strided(&x, usize::MAX, 2)).to_vec::<f32>()?, [] as [f32; 0]);
    assert_eq!(
        none.call(Rows::strided(&x, 4, 2)).residual(Rows::strided(&x, 4, 2)).to_vecs::<f32>()?,
        (vec![], vec![])
    );
    Ok(())
}

#[test]
fn a_refused_call_gives_no_vector() {
    let plan = LayerNorm::new(2, 0.0).expect("a plan");
    let ragged = Error::Ragged { what: "x", len: 3, cols: 2 };
    assert_eq!(plan.call(&[0.0f32; 3]).to_vec::<f32>(), Err(ragged));
    let gamma = Error::Arguments(Refused::Length { what: "gamma", len: 3, expected: 2 });
    assert_eq!(plan.call(&[0.0f32; 4]).gamma(&[1.0; 3]).to_vec::<f32>(), Err(gamma));
    let rows = Error::SumRows { what: "residual", x: 2, rows: 1 };
    assert_eq!(plan.call(&[0.0f32; 4]).residual(&[1.0; 2]).to_vecs::<f32>(), Err(rows));
}

/// A new vector is refused for the reason for which an output that is given is: also where x has another fault.
#[test]
fn the_first_fault_is_the_one_of_outputs_that_are_given() {
    let plan = LayerNorm::new(2, 0.0).expect("a plan");
    let (ragged, two, short) = ([0.0f32; 3], [0.0f32; 4], [0.0f32; 2]);
    let strided = || Rows::strided(&two, 3, 1);
    let mut y = [7.0f32; 4];

    let call = || plan.call(&ragged).residual(&two).bias(&ragged);
    let refused = call().to(&mut y).expect_err("the bias");
    assert_eq!(refused, Error::Arguments(Refused::Length { what: "bias", len: 3, expected: 2 }));
    assert_eq!(call().to_vec::<f32>(), Err(refused.clone()));
    assert_eq!(call().to_vecs::<f32>(), Err(refused));

    let refused = plan.backward(&ragged, strided()).to(&mut y).expect_err("dy");
    assert_eq!(refused, Error::Ragged { what: "dy", len: 3, cols: 2 });
    assert_eq!(plan.backward(&ragged, strided()).to_vec(), Err(refused));
    let refused = plan.backward(&two, strided()).to(&mut y).expect_err("x");
    assert_eq!(refused, Error::Arguments(Refused::Overlap { what: "x", cols: 2, stride: 1 }));
    assert_eq!(plan.backward(&two, strided()).to_vec(), Err(refused));
    let refused = plan.backward(&two, &short).to(&mut y).expect_err("x");
    assert_eq!(refused, Error::GradRows { what: "x", dy: 2, rows: 1 });
    assert_eq!(plan.backward(&two, &short).to_vec(), Err(refused));

    let refused = plan.call(strided()).gamma(&ragged).to(&mut y).expect_err("x");
    assert_eq!(refused, Error::Arguments(Refused::Overlap { what: "x", cols: 2, stride: 1 }));
    assert_eq!(plan.call(strided()).gamma(&ragged).to_vec::<f32>(), Err(refused));
    let moments = [Moments { count: 1.0, ..Moments::EMPTY }; 2];
    let refused = plan.call(&two).moments(&moments).to(&mut y).expect_err("moments");
    assert!(matches!(refused, Error::Arguments(Refused::Moments { row: 0, .. })), "{refused}");
    assert_eq!(plan.call(&two).moments(&moments).to_vec::<f32>(), Err(refused));
    assert_eq!(y, [7.0; 4]);
}
