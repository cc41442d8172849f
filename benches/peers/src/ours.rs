//! The copy and lanenorm.

use lanenorm::gate::Function;
use lanenorm::{GroupNorm, LayerNorm, Parallelism, RmsNorm};
use lanenorm_harness::copy::copy_threads;

use crate::case::{Case, EPS, Op};
use crate::contender::{About, Buffers, Contender, Mode, Note, has_in_place};
use crate::images::Images;
use crate::number::Number;
use crate::versions::version;

pub(crate) const COPY: &str = "copy";
pub(crate) const PLAIN: &str = "lanenorm";
pub(crate) const IN_PLACE: &str = "lanenorm in place";

/// The message of errors that cannot come: shapes are valid and buffers fit.
const VALID: &str = "the cases are valid";

fn parallelism(mode: Mode) -> Parallelism {
    if mode == Mode::One { Parallelism::Serial } else { Parallelism::Auto }
}

fn plans(case: Case, mode: Mode) -> (LayerNorm, RmsNorm) {
    let parallelism = parallelism(mode);
    let (cols, eps) = (case.shape.cols, f64::from(EPS));
    (
        LayerNorm::new(cols, eps).expect(VALID).with_parallelism(parallelism),
        RmsNorm::new(cols, eps).expect(VALID).with_parallelism(parallelism),
    )
}

pub(crate) fn scratch_len<T: Number>(case: Case) -> usize {
    let (layer_norm, rms_norm) = plans(case, Mode::Inside);
    match case.op {
        Op::LayerNormBackward => layer_norm.backward_scratch_len::<T>(case.shape.rows).expect(VALID),
        Op::RmsNormBackward => rms_norm.backward_scratch_len::<T>(case.shape.rows).expect(VALID),
        _ => 0,
    }
}

pub(crate) fn all<T: Number>(case: Case, mode: Mode) -> Vec<Contender<T>> {
    let about = |name| About { name, version: version("lanenorm"), threads: true, note: Note::Plain };
    let tasks = mode.threads();
    let copy = Contender::new(About { version: "", ..about(COPY) }, move |b: &mut Buffers<T>| {
        copy_threads(b.x.get(), b.y.get_mut(), tasks);
    });
    let (layer_norm, rms_norm) = plans(case, mode);
    let plain = about(PLAIN);
    let ours = match case.op {
        Op::LayerNorm => Contender::new(plain, {
            let plan = layer_norm;
            move |b| plan.forward(b.x.get(), Some(b.gamma.get()), Some(b.beta.get()), b.y.get_mut()).expect(VALID)
        }),
        Op::RmsNorm => Contender::new(plain, {
            let plan = rms_norm;
            move |b| plan.forward(b.x.get(), Some(b.gamma.get()), b.y.get_mut()).expect(VALID)
        }),
        Op::AddLayerNorm => Contender::new(plain, move |b| {
            let call = layer_norm.call(b.x.get()).residual(b.residual.get()).sum_to(b.s.get_mut());
            call.gamma(b.gamma.get()).beta(b.beta.get()).to(b.y.get_mut()).expect(VALID);
        }),
        Op::AddRmsNorm => Contender::new(plain, move |b| {
            let call = rms_norm.call(b.x.get()).residual(b.residual.get()).sum_to(b.s.get_mut());
            call.gamma(b.gamma.get()).to(b.y.get_mut()).expect(VALID);
        }),
        Op::LayerNormBackward => Contender::new(plain, move |b| {
            let call = layer_norm.backward(b.dy.get(), b.x.get()).gamma(b.gamma.get()).scratch(&mut b.scratch);
            call.dgamma_to(b.dgamma.get_mut()).dbeta_to(b.dbeta.get_mut()).to(b.y.get_mut()).expect(VALID);
        }),
        Op::RmsNormBackward => Contender::new(plain, move |b| {
            let call = rms_norm.backward(b.dy.get(), b.x.get()).gamma(b.gamma.get()).scratch(&mut b.scratch);
            call.dgamma_to(b.dgamma.get_mut()).to(b.y.get_mut()).expect(VALID);
        }),
        Op::GroupNorm | Op::GroupNormSilu | Op::LayerNormChannels => {
            of_images(case.op, case.shape.images.expect("a shape of images"), mode, layer_norm, plain)
        }
    };
    let mut all = vec![copy, ours];
    if has_in_place(case.op) {
        all.push(in_place(case, mode, about(IN_PLACE)));
    }
    all
}

fn of_images<T: Number>(op: Op, shape: Images, mode: Mode, layer_norm: LayerNorm, about: About) -> Contender<T> {
    let Images { channels, pixels, groups } = shape;
    let Some(groups) = groups else {
        return Contender::new(about, move |b| {
            let call = layer_norm.call(b.x.get()).gamma(b.gamma.get()).beta(b.beta.get());
            call.channels_first(pixels).to(b.y.get_mut()).expect(VALID);
        });
    };
    let plan = GroupNorm::new(channels, groups, f64::from(EPS)).expect(VALID).with_parallelism(parallelism(mode));
    Contender::new(about, move |b| {
        let call = plan.call(b.x.get(), pixels).gamma(b.gamma.get()).beta(b.beta.get());
        let call = if op.has_silu() { call.activation(Function::Silu) } else { call };
        call.to(b.y.get_mut()).expect(VALID);
    })
}

fn in_place<T: Number>(case: Case, mode: Mode, about: About) -> Contender<T> {
    let about = About { note: if case.op.adds() { Note::NoSum } else { Note::InPlace }, ..about };
    let (layer_norm, rms_norm) = plans(case, mode);
    if case.op.is_centered() {
        Contender::new(about, move |b| {
            let call = layer_norm.call_in_place(b.y.get_mut()).gamma(b.gamma.get()).beta(b.beta.get());
            if case.op.adds() { call.residual(b.residual.get()).run() } else { call.run() }.expect(VALID);
        })
    } else {
        Contender::new(about, move |b| {
            let call = rms_norm.call_in_place(b.y.get_mut()).gamma(b.gamma.get());
            if case.op.adds() { call.residual(b.residual.get()).run() } else { call.run() }.expect(VALID);
        })
    }
}
