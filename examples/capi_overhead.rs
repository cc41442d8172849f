//! The time of a call through the C ABI beside the same call of a plan: layer normalization of 1 x 8 in f32.
//!
//! `cargo run --release --features capi --example capi_overhead`

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::time::Instant;

use lanenorm::capi::{
    lanenorm_desc, lanenorm_forward_buffers, lanenorm_layer_norm_f32, lanenorm_plan, lanenorm_plan_forward_rows,
    lanenorm_plan_init, lanenorm_rows, lanenorm_rows_mut, lanenorm_status,
};
use lanenorm::{LayerNorm, Parallelism};

const COLS: usize = 8;
const CALLS: u32 = 10_000;
const ROUNDS: usize = 501;

/// The nanoseconds of one call, over many.
fn time(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..CALLS).for_each(|_| call());
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let (x, gamma, beta, mut y) = ([1.0f32; COLS], [2.0f32; COLS], [0.5f32; COLS], [0.0f32; COLS]);
    let plan = LayerNorm::new(COLS, 1e-5).expect("a tier that is here").with_parallelism(Parallelism::Serial);
    let rows = lanenorm_rows { data: x.as_ptr().cast(), row_stride: 0, outer_stride: 0 };
    let none = lanenorm_rows_mut { data: null_mut(), row_stride: 0, outer_stride: 0 };
    let y_p = y.as_mut_ptr();
    let buffers = lanenorm_forward_buffers {
        struct_size: size_of::<lanenorm_forward_buffers>(),
        rows: 1,
        inner_rows: 0,
        x: rows,
        residual: lanenorm_rows { data: null(), ..rows },
        sum: none,
        y: lanenorm_rows_mut { data: y_p.cast(), ..none },
        bias: null(),
        gamma: gamma.as_ptr().cast(),
        beta: beta.as_ptr().cast(),
        mean: null_mut(),
        mean_lo: null_mut(),
        rstd: null_mut(),
    };
    let desc = lanenorm_desc {
        struct_size: size_of::<lanenorm_desc>(),
        op: 0,
        dtype: 0,
        gamma_dtype: 0,
        y_dtype: 0,
        store: 0,
        tier: 0,
        cols: COLS,
        eps: 1e-5,
        groups: 0,
        group_repeat: 0,
        gamma_offset: 0.0,
        sum_dtype: 0,
        rounding: 0,
        sums: 0,
        last_group_repeat: 0,
    };
    let mut c_plan = lanenorm_plan { opaque: [MaybeUninit::new(0); 16] };
    // SAFETY: the plan and the descriptor are valid.
    assert_eq!(unsafe { lanenorm_plan_init(&mut c_plan, &desc) }, lanenorm_status::Ok);

    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let mut y = [0.0f32; COLS];
        times[0].push(time(|| {
            let (gamma, beta) = (Some(black_box(&gamma[..])), Some(black_box(&beta[..])));
            black_box(plan).forward(black_box(&x), gamma, beta, black_box(&mut y)).expect("a valid call");
        }));
        times[1].push(time(|| {
            let (x, g, b, y) = black_box((x.as_ptr(), gamma.as_ptr(), beta.as_ptr(), y_p));
            // SAFETY: all buffers are valid.
            let status = unsafe { lanenorm_layer_norm_f32(x, 1, COLS, g, b, 1e-5, y, null_mut(), null_mut(), 1) };
            assert_eq!(status, lanenorm_status::Ok);
        }));
        times[2].push(time(|| {
            // SAFETY: all buffers are valid.
            let status = unsafe { lanenorm_plan_forward_rows(black_box(&c_plan), black_box(&buffers), 0, 1) };
            assert_eq!(status, lanenorm_status::Ok);
        }));
    }
    assert!(y.iter().all(|&v| v == 0.5), "a constant row gives beta");
    let [plan_ns, function, rows] = times.map(median);
    println!("layer_norm f32 1x{COLS} on {}, one thread, medians of {ROUNDS} rounds of {CALLS} calls", plan.isa());
    println!("LayerNorm::forward          {plan_ns:6.1} ns");
    println!("lanenorm_layer_norm_f32     {function:6.1} ns, {:+.1}", function - plan_ns);
    println!("lanenorm_plan_forward_rows  {rows:6.1} ns, {:+.1}", rows - plan_ns);
}
