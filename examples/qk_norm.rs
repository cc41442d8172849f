//! RMS normalization of the heads of Q and K where a projection has left them, in one packed buffer beside V: in
//! place, without a copy, and checked against the reference in f64.
//!
//! ```sh
//! cargo run --release --example qk_norm
//! ```
//!
//! Models such as Qwen3 normalize each head of Q and K before attention, with one gamma for all heads of Q and one for
//! all heads of K:
//!
//! ```text
//! token 0: q0 q1 ... q31 k0 ... k7 v0 ... v7     each of 128 columns
//! token 1: ...
//! ```
//!
//! Two calls take all of it: the heads of Q are an array of shape `[tokens, 32, 128]` with gaps between its tokens, and
//! so are those of K. The example also goes token by token, which leaves each token in the cache for what comes next,
//! and suits an engine that spreads the tokens over threads of its own.

use std::time::{Duration, Instant};

use lanenorm::kernels::reference;
use lanenorm::{Error, Parallelism, RmsNorm, RowsMut};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const HEAD: usize = 128;
const Q_HEADS: usize = 32;
const KV_HEADS: usize = 8;
/// The elements of a token.
const PACKED: usize = (Q_HEADS + 2 * KV_HEADS) * HEAD;
/// The elements of a token before V.
const QK: usize = (Q_HEADS + KV_HEADS) * HEAD;
const EPS: f64 = 1e-6;

struct Gammas {
    q: Vec<f32>,
    k: Vec<f32>,
}

impl Gammas {
    fn of_head(&self, head: usize) -> &[f32] {
        if head < Q_HEADS { &self.q } else { &self.k }
    }
}

/// One call takes the heads of Q of all tokens, and one those of K.
fn by_call(plan: &RmsNorm, qkv: &mut [f32], gammas: &Gammas) -> Result<(), Error> {
    let tokens = qkv.len() / PACKED;
    let q = RowsMut::strided_2d(qkv, [tokens, Q_HEADS], [PACKED, HEAD]);
    plan.forward_in_place(q, Some(&gammas.q))?;
    let k = RowsMut::strided_2d(&mut qkv[Q_HEADS * HEAD..], [tokens, KV_HEADS], [PACKED, HEAD]);
    plan.forward_in_place(k, Some(&gammas.k))
}

/// Token by token: two calls take all heads.
fn by_token(plan: &RmsNorm, qkv: &mut [f32], gammas: &Gammas) -> Result<(), Error> {
    for token in qkv.chunks_exact_mut(PACKED) {
        let (q, k) = token[..QK].split_at_mut(Q_HEADS * HEAD);
        plan.forward_in_place(q, Some(&gammas.q))?;
        plan.forward_in_place(k, Some(&gammas.k))?;
    }
    Ok(())
}

/// The worst error of Q and K, in units of u |gamma| (1 + |xhat|) with u = 2^-24. Panics if V has changed.
fn worst_error(x: &[f32], y: &[f32], gammas: &Gammas) -> f64 {
    let (mut worst, mut xhat, mut expected) = (0.0_f64, [0.0; HEAD], [0.0; HEAD]);
    for (x, y) in x.chunks_exact(PACKED).zip(y.chunks_exact(PACKED)) {
        for (head, (x, y)) in x[..QK].chunks_exact(HEAD).zip(y[..QK].chunks_exact(HEAD)).enumerate() {
            let gamma = gammas.of_head(head);
            reference::rms_norm(x, None, 0.0, EPS, &mut xhat);
            reference::rms_norm(x, Some(gamma), 0.0, EPS, &mut expected);
            for i in 0..HEAD {
                let error = (f64::from(y[i]) - expected[i]).abs() / (f64::from(gamma[i]).abs() * (1.0 + xhat[i].abs()));
                assert!(!error.is_nan(), "y = {}, x = {}", y[i], x[i]);
                worst = worst.max(error);
            }
        }
        assert!(x[QK..].iter().zip(&y[QK..]).all(|(x, y)| x.to_bits() == y.to_bits()), "V has changed");
    }
    worst * f64::from(1 << 24)
}

type Form = fn(&RmsNorm, &mut [f32], &Gammas) -> Result<(), Error>;

fn main() -> Result<(), Error> {
    let plan = RmsNorm::new(HEAD, EPS)?.with_parallelism(Parallelism::Serial);
    let rng = &mut SmallRng::seed_from_u64(1);
    let mut uniform = |n: usize, mean: f32| -> Vec<f32> { (0..n).map(|_| mean + rng.random::<f32>() - 0.5).collect() };
    let gammas = Gammas { q: uniform(HEAD, 1.0), k: uniform(HEAD, 1.0) };

    println!("{Q_HEADS} heads of Q, {KV_HEADS} each of K and V, {HEAD} columns; one thread, {}\n", lanenorm::BUILD);
    println!("{:>6} {:9} {:>9} {:>9} {:>6}  {:3}", "tokens", "form", "µs/token", "GB/s", "error", "V");
    for tokens in [1, 32, 2048] {
        let qkv = uniform(tokens * PACKED, 0.0);
        let mut first = None;
        for (name, form) in [("two calls", by_call as Form), ("by token", by_token)] {
            let mut y = qkv.clone();
            form(&plan, &mut y, &gammas)?;
            let error = worst_error(&qkv, &y, &gammas);
            assert!(error <= 4.0, "error of {error:.1} units");
            let time = median(&qkv, |y| form(&plan, y, &gammas))?;
            let per_token = time.as_secs_f64() / tokens as f64;
            let bytes = 2 * QK * size_of::<f32>();
            let speed = bytes as f64 / per_token / 1e9;
            println!("{tokens:6} {name:9} {:9.3} {speed:9.1} {error:6.2}  equal", per_token * 1e6);
            let same = first.get_or_insert_with(|| y.clone()).iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "the forms differ in bits");
        }
    }
    println!(
        "\nGB/s read and written; error in units of u |gamma| (1 + |xhat|), u = 2^-24; V: its bits before and after."
    );
    Ok(())
}

/// The median time of many runs. Each run starts from a fresh copy of x.
fn median(x: &[f32], mut run: impl FnMut(&mut [f32]) -> Result<(), Error>) -> Result<Duration, Error> {
    let (mut y, mut times) = (x.to_vec(), Vec::new());
    let deadline = Instant::now() + Duration::from_millis(200);
    while Instant::now() < deadline {
        y.copy_from_slice(x);
        let start = Instant::now();
        run(&mut y)?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}
