//! Quantized calls: whole, and in ranges of rows.

use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use lanenorm::capi::*;
use lanenorm::scheme::{Quotient, Scheme, Scope, Ties};
use lanenorm::{bf16, f16};

use crate::buffer::{Buffer, Layout, NONE, NONE_MUT};
use crate::data::Random;
use crate::forward::{Case, FORWARD, Form, Over, ok};
use crate::plan::OPERATIONS;
use crate::quantized::{Quantized, SCHEMES, quantized};
use crate::tiers::tiers;
use crate::types::Types;
use crate::{DESC, Shared, init, last_error, quick, ranges, tier};

pub(crate) const QUANTIZED: lanenorm_quantized = lanenorm_quantized {
    struct_size: size_of::<lanenorm_quantized>(),
    q: NONE_MUT,
    scale: null_mut(),
    zero_point: null_mut(),
    ranges: null(),
    range_count: 0,
};

/// A preset, which this header's structure has room for.
pub(crate) fn preset(preset: lanenorm_preset) -> lanenorm_scheme {
    let mut scheme = MaybeUninit::<lanenorm_scheme>::zeroed();
    // SAFETY: numbers may be zero, and the structure has this size.
    unsafe {
        scheme.as_mut_ptr().cast::<usize>().write(size_of::<lanenorm_scheme>());
        ok(lanenorm_scheme_init(scheme.as_mut_ptr(), preset as i32));
        scheme.assume_init()
    }
}

/// The structure for a scheme.
fn structure(scheme: &Scheme) -> lanenorm_scheme {
    let (scope, block, given) = match scheme.scope {
        Scope::Row => (lanenorm_scope::Row, 0, (0.0, 0)),
        Scope::Block(block) => (lanenorm_scope::Block, block, (0.0, 0)),
        Scope::Tensor => (lanenorm_scope::Tensor, 0, (0.0, 0)),
        Scope::Given { scale, zero_point } => (lanenorm_scope::Given, 0, (scale, zero_point)),
    };
    lanenorm_scheme {
        struct_size: size_of::<lanenorm_scheme>(),
        format: scheme.format as i32,
        scope: scope as i32,
        layout: scheme.layout as i32,
        quotient: match scheme.quotient {
            Quotient::Divide => lanenorm_quotient::Divide,
            Quotient::Reciprocal => lanenorm_quotient::Reciprocal,
            Quotient::Ratio => lanenorm_quotient::Ratio,
        } as i32,
        ties: if scheme.ties == Ties::Even { lanenorm_ties::Even } else { lanenorm_ties::Away } as i32,
        least: scheme.least,
        block,
        divisor: scheme.divisor,
        least_amax: scheme.least_amax,
        least_scale: scheme.least_scale,
        zero_scale: scheme.zero_scale,
        given_scale: given.0,
        given_zero_point: given.1,
    }
}

#[test]
fn presets_are_those_of_rust() {
    use lanenorm_preset::*;
    let all = [
        (I8, Scheme::I8),
        (TorchAoI8, Scheme::TORCH_AO_I8),
        (TorchaoI8, Scheme::TORCHAO_I8),
        (VllmI8, Scheme::VLLM_I8),
        (U8, Scheme::U8),
        (OnnxU8, Scheme::ONNX_U8),
        (Q8_0, Scheme::Q8_0),
        (Q8_0_X86, Scheme::Q8_0_X86),
        (Q8_1, Scheme::Q8_1),
        (Q8_1_X86, Scheme::Q8_1_X86),
        (Q8_K, Scheme::Q8_K),
        (E4m3, Scheme::E4M3),
        (E5m2, Scheme::E5M2),
    ];
    for (i, (named, scheme)) in all.into_iter().enumerate() {
        assert_eq!(named as usize, i);
        assert_eq!(format!("{:?}", preset(named)), format!("{:?}", structure(&scheme)));
    }
    let mut scheme = preset(I8);
    for unknown in [-1, 13] {
        // SAFETY: it is there.
        assert_eq!(unsafe { lanenorm_scheme_init(&mut scheme, unknown) }, lanenorm_status::Unsupported);
        assert!(last_error().contains(&format!("preset is {unknown}")), "{}", last_error());
    }
}

/// The buffers of quantized rows, and what a call has left there.
struct Outputs {
    q: Buffer<u8>,
    scale: Vec<f32>,
    zero_point: Vec<u8>,
}

impl Outputs {
    /// For the rows of a case, in a layout of their own.
    fn new<K: Types>(case: &Case<K>, plan: &lanenorm_plan, scheme: &Scheme, layout: usize) -> Self {
        let mut sizes = MaybeUninit::uninit();
        // SAFETY: all are there, and sizes are written.
        let sizes = unsafe {
            ok(lanenorm_plan_quantized_sizes(plan, &structure(scheme), case.rows, sizes.as_mut_ptr()));
            sizes.assume_init()
        };
        let lanenorm_quantized_sizes { row_bytes, scales, zero_points } = sizes;
        let q = Buffer::blank(Layout::new(layout, case.rows, case.inner_rows, row_bytes));
        Self { q, scale: vec![7.0; scales], zero_point: vec![7; zero_points] }
    }

    fn buffers(&mut self) -> lanenorm_quantized {
        fn some<T>(array: &mut [T]) -> *mut T {
            if array.is_empty() { null_mut() } else { array.as_mut_ptr() }
        }
        lanenorm_quantized {
            q: self.q.output(),
            scale: some(&mut self.scale),
            zero_point: some(&mut self.zero_point),
            ..QUANTIZED
        }
    }

    #[track_caller]
    fn assert_is(self, expected: &Quantized, what: &str) {
        self.q.assert_gaps(what);
        let scale = self.scale.iter().map(|v| v.to_bits()).collect();
        let got = Quantized { q: self.q.values(), scale, zero_point: self.zero_point };
        assert!(got == *expected, "{what}");
    }
}

/// With y in f32, in the type of x if that is f32, and without; with sums in all places.
fn forms(y_may_replace: bool) -> Vec<Form> {
    use Over::{Nothing, Nowhere, Residual, X};
    let mut forms = vec![
        Form { sum: None, bias: false, y: Nowhere },
        Form { sum: None, bias: false, y: Nothing },
        Form { sum: Some(Some(Nothing)), bias: true, y: Nowhere },
        Form { sum: Some(Some(Residual)), bias: false, y: Nowhere },
        Form { sum: Some(Some(X)), bias: false, y: Nothing },
    ];
    if y_may_replace {
        forms.extend([
            Form { sum: None, bias: false, y: X },
            Form { sum: Some(None), bias: true, y: Nothing },
            Form { sum: Some(None), bias: false, y: Residual },
        ]);
    }
    forms
}

/// Rows, rows of a run, columns and groups.
type Shape = (usize, usize, usize, (usize, usize));

const SHAPES: [Shape; 6] = [
    (1, 1, 64, (1, 1)),
    (24, 8, 32, (8, 1)),
    (21, 1, 5, (3, 7)),
    (20, 5, 256, (2, 5)),
    (6, 3, 2112, (1, 1)),
    (3, 3, 8704, (1, 1)),
];

/// Calls `check` for all cases: the plan, the scheme, what is expected, and a number that differs for each.
fn for_cases<K: Types<Y = f32>>(check: impl Fn(&Case<K>, Form, &lanenorm_plan, &Scheme, usize)) {
    let isas = tiers();
    let mut number = 0;
    for &(rows, inner_rows, cols, groups) in &SHAPES[..if quick() { 5 } else { 6 }] {
        for operation in OPERATIONS {
            let case = Case::<K>::new(operation, (rows, inner_rows), cols, groups);
            for scheme in SCHEMES.iter().filter(|scheme| scheme.check(cols).is_ok()) {
                for form in forms(K::IN_PLACE) {
                    number += 1;
                    if quick() && number % 3 > 0 {
                        continue;
                    }
                    let tier = if number % 4 == 0 { 0 } else { tier(isas[number % isas.len()]) };
                    let plan = init(&lanenorm_desc { tier, ..case.desc() });
                    check(&case, form, &plan, scheme, number);
                }
            }
        }
    }
}

fn whole_calls_have_the_bits_of_their_parts<K: Types<Y = f32>>() {
    for_cases::<K>(|case, form, plan, scheme, number| {
        let want = case.expected(form);
        let mut outputs = Outputs::new(case, plan, scheme, number);
        let to = outputs.buffers();
        case.assert_gives(&want, form, number * 7, |buffers| {
            // SAFETY: all buffers are valid.
            ok(unsafe { lanenorm_plan_quantize(plan, buffers, &structure(scheme), &to, number % 5) });
        });
        outputs.assert_is(&quantized(scheme, &want.y, case.cols), &format!("{} {scheme:?} {form:?}", K::NAME));
    });
}

fn ranges_of_rows_have_the_bits_of_the_whole<K: Types<Y = f32>>() {
    for_cases::<K>(|case, form, plan, scheme, number| {
        let want = case.expected(form);
        let mut outputs = Outputs::new(case, plan, scheme, number);
        let parts = ranges(&mut Random::new(number as u64), case.rows);
        let mut bounds = vec![[7.0f32; 2]; parts.len()];
        let mut to = outputs.buffers();
        let threads = 1 + number % 3;
        case.assert_gives(&want, form, number * 3, |buffers| {
            let buffers = Shared(buffers as *const lanenorm_forward_buffers);
            let for_each_part = |run: &(dyn Fn(usize, (usize, usize)) + Sync)| {
                std::thread::scope(|scope| {
                    for thread in 0..threads {
                        let parts = &parts;
                        scope.spawn(move || {
                            parts.iter().enumerate().skip(thread).step_by(threads).for_each(|(i, &part)| run(i, part));
                        });
                    }
                });
            };
            if scheme.scope == Scope::Tensor {
                let p = Shared(bounds.as_mut_ptr());
                for_each_part(&|i, (first, count)| {
                    // SAFETY: all buffers are valid, and no two parts have a row or a range in common.
                    ok(unsafe { lanenorm_plan_range_rows(plan, buffers.get(), first, count, p.get().add(i).cast()) });
                });
                (to.ranges, to.range_count) = (bounds.as_ptr().cast(), bounds.len());
            }
            let to = Shared(&raw const to);
            for_each_part(&|_, (first, count)| {
                let scheme = structure(scheme);
                // SAFETY: all buffers are valid, and no two parts have a row in common.
                ok(unsafe { lanenorm_plan_quantize_rows(plan, buffers.get(), &scheme, to.get(), first, count) });
            });
        });
        outputs.assert_is(&quantized(scheme, &want.y, case.cols), &format!("{} {scheme:?} {form:?}", K::NAME));
    });
}

#[test]
fn rows_of_f32_have_the_bits_of_their_parts() {
    type K = (f32, f32, f32);
    whole_calls_have_the_bits_of_their_parts::<K>();
    ranges_of_rows_have_the_bits_of_the_whole::<K>();
}

#[test]
fn rows_of_bf16_have_the_bits_of_their_parts() {
    type K = (bf16, f32, f32);
    whole_calls_have_the_bits_of_their_parts::<K>();
    ranges_of_rows_have_the_bits_of_the_whole::<K>();
}

#[test]
fn rows_of_f16_have_the_bits_of_their_parts() {
    type K = (f16, f16, f32);
    whole_calls_have_the_bits_of_their_parts::<K>();
    ranges_of_rows_have_the_bits_of_the_whole::<K>();
}

/// A sum of f32 that is normalized, of an x of 16 bits; and y in 16 bits.
#[test]
fn sums_of_f32_and_y_of_16_bits_are_quantized() {
    let (rows, cols) = (5, 96);
    let x: Vec<bf16> = (0..rows * cols).map(|i| bf16::from_f32(((i * 37) % 101) as f32 - 50.0)).collect();
    let residual: Vec<f32> = (0..rows * cols).map(|i| ((i * 53) % 97) as f32 * 0.25).collect();
    let f32_and_bf16 = [lanenorm_dtype::F32, lanenorm_dtype::Bf16].map(|dtype| dtype as i32);
    let plans = f32_and_bf16.map(|y_dtype| {
        let (dtype, sum_dtype) = (lanenorm_dtype::Bf16 as i32, lanenorm_dtype::F32 as i32);
        init(&lanenorm_desc { dtype, y_dtype, sum_dtype, cols, eps: 1e-5, ..DESC })
    });
    let run = |plan: &lanenorm_plan, y: *mut std::ffi::c_void, to: Option<&lanenorm_quantized>| {
        let mut sum = residual.clone();
        let p: *mut f32 = sum.as_mut_ptr();
        let buffers = lanenorm_forward_buffers {
            rows,
            x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
            residual: lanenorm_rows { data: p.cast(), ..NONE },
            sum: lanenorm_rows_mut { data: p.cast(), ..NONE_MUT },
            y: lanenorm_rows_mut { data: y, ..NONE_MUT },
            ..FORWARD
        };
        // SAFETY: all buffers are valid.
        ok(unsafe {
            match to {
                None => lanenorm_plan_forward(plan, &buffers, 1),
                Some(to) => lanenorm_plan_quantize(plan, &buffers, &structure(&Scheme::I8), to, 1),
            }
        });
        sum
    };
    let mut y = vec![0.0f32; rows * cols];
    let sum = run(&plans[0], y.as_mut_ptr().cast(), None);
    let expected = quantized(&Scheme::I8, &y, cols);
    let (mut q, mut scale, mut narrow) = (vec![0u8; rows * cols], vec![0.0f32; rows], vec![0u16; rows * cols]);
    for y_is_wanted in [true, false] {
        let q_rows = lanenorm_rows_mut { data: q.as_mut_ptr().cast(), ..NONE_MUT };
        let to = lanenorm_quantized { q: q_rows, scale: scale.as_mut_ptr(), ..QUANTIZED };
        let to_y = if y_is_wanted { narrow.as_mut_ptr().cast() } else { null_mut() };
        assert_eq!(run(&plans[1], to_y, Some(&to)), sum);
        let scale = scale.iter().map(|v| v.to_bits()).collect();
        assert_eq!(Quantized { q: q.clone(), scale, zero_point: vec![] }, expected);
        assert!(narrow.iter().zip(&y).all(|(&bits, &y)| bits == bf16::from_f32(y).to_bits()));
    }
}
