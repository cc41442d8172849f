//! The norms of a decoder block in bf16 with a residual stream of f32, on threads of the caller's own: bf16 added to
//! the stream and normalized in one touch, heads of Q and K normalized where they lie, and the same bits for any number
//! of threads.
//!
//! ```sh
//! cargo run --release --example decoder_block
//! ```
//!
//! ```text
//! y      = rms_norm(hidden)                       hidden: tokens x 512 of f32; all else is bf16
//! qkv    = y * W_qkv                              q0 .. q7 k0 k1 v0 v1 in each token, 64 columns each
//! q, k   = rms_norm of each head, in place        one gamma for all heads of Q, one for all of K
//! out    = v * W_out                              (attention itself has no norm, and is left out)
//! hidden = hidden + out,  y = rms_norm(hidden)    one call
//! hidden = hidden + relu(y * W_up) * W_down
//! ```
//!
//! Tokens are cut into chunks, one for each thread, and plans are `Serial`: an engine that has threads keeps them.

use std::time::{Duration, Instant};

use lanenorm::{Error, Parallelism, RmsNorm, RowsMut, bf16};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const HIDDEN: usize = 512;
const HEAD: usize = 64;
const Q_HEADS: usize = 8;
const KV_HEADS: usize = 2;
/// The elements of Q, K and V of a token.
const PACKED: usize = (Q_HEADS + 2 * KV_HEADS) * HEAD;
const UP: usize = 1024;
const TOKENS: usize = 48;
const BLOCKS: usize = 4;
const EPS: f64 = 1e-6;

/// The parameters of a block, all of f32.
struct Block {
    gammas: [Vec<f32>; 2],
    gamma_q: Vec<f32>,
    gamma_k: Vec<f32>,
    qkv: Vec<f32>,
    out: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

impl Block {
    fn new(rng: &mut SmallRng) -> Self {
        let mut uniform = |n: usize, mean: f32, width: f32| -> Vec<f32> {
            (0..n).map(|_| mean + width * (rng.random::<f32>() - 0.5)).collect()
        };
        Self {
            gammas: [uniform(HIDDEN, 1.0, 0.5), uniform(HIDDEN, 1.0, 0.5)],
            gamma_q: uniform(HEAD, 1.0, 0.5),
            gamma_k: uniform(HEAD, 1.0, 0.5),
            qkv: uniform(HIDDEN * PACKED, 0.0, 0.1),
            out: uniform(KV_HEADS * HEAD * HIDDEN, 0.0, 0.1),
            up: uniform(HIDDEN * UP, 0.0, 0.1),
            down: uniform(UP * HIDDEN, 0.0, 0.1),
        }
    }
}

/// The rows of a times the columns of b. The columns of b lie one after the other.
fn product(a: &[bf16], cols: usize, b: &[f32]) -> Vec<bf16> {
    let rows = a.chunks_exact(cols).map(|row| row.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
    let dot = |row: &[f32], col: &[f32]| row.iter().zip(col).map(|(a, b)| a * b).sum();
    rows.flat_map(|row| b.chunks_exact(cols).map(move |col| bf16::from_f32(dot(&row, col))).collect::<Vec<_>>())
        .collect()
}

/// The plans, and the time that one thread has spent in them.
struct Norms {
    rows: RmsNorm,
    heads: RmsNorm,
    time: Duration,
}

impl Norms {
    fn new() -> Result<Self, Error> {
        let plan = |cols| Ok(RmsNorm::new(cols, EPS)?.with_parallelism(Parallelism::Serial));
        Ok(Self { rows: plan(HIDDEN)?, heads: plan(HEAD)?, time: Duration::ZERO })
    }

    /// Runs a block on some tokens.
    fn run(&mut self, block: &Block, hidden: &mut [f32]) -> Result<(), Error> {
        let [attention, mlp] = &block.gammas;
        let mut y = vec![bf16::ZERO; hidden.len()];
        let start = Instant::now();
        self.rows.call(&*hidden).gamma(attention).to(&mut y)?;
        self.time += start.elapsed();

        let mut qkv = product(&y, HIDDEN, &block.qkv);
        let tokens = qkv.len() / PACKED;
        let start = Instant::now();
        // One head of all tokens: rows of 64 columns that are a token apart.
        for head in 0..Q_HEADS + KV_HEADS {
            let gamma = if head < Q_HEADS { &block.gamma_q } else { &block.gamma_k };
            let rows = RowsMut::strided(&mut qkv[head * HEAD..], tokens, PACKED);
            self.heads.call_in_place(rows).gamma(gamma).run()?;
        }
        self.time += start.elapsed();

        let v: Vec<bf16> =
            qkv.chunks_exact(PACKED).flat_map(|token| &token[PACKED - KV_HEADS * HEAD..]).copied().collect();
        let out = product(&v, KV_HEADS * HEAD, &block.out);
        let start = Instant::now();
        self.rows.call(&out).residual_in_place(&mut *hidden).gamma(mlp).to(&mut y)?;
        self.time += start.elapsed();

        let mut up = product(&y, HIDDEN, &block.up);
        up.iter_mut().for_each(|v| *v = v.max(bf16::ZERO));
        for (h, d) in hidden.iter_mut().zip(product(&up, UP, &block.down)) {
            *h += d.to_f32();
        }
        Ok(())
    }
}

/// Runs all blocks on all tokens, on `threads` threads. Returns the longest time that one thread spent in norms.
fn run(blocks: &[Block], hidden: &mut [f32], threads: usize) -> Result<Duration, Error> {
    let chunk = TOKENS.div_ceil(threads) * HIDDEN;
    std::thread::scope(|scope| {
        let threads: Vec<_> = hidden
            .chunks_mut(chunk)
            .map(|hidden| {
                scope.spawn(move || {
                    let mut norms = Norms::new()?;
                    blocks.iter().try_for_each(|block| norms.run(block, hidden))?;
                    Ok(norms.time)
                })
            })
            .collect();
        let times = threads.into_iter().map(|thread| thread.join().expect("no thread panics"));
        times.collect::<Result<Vec<_>, _>>().map(|times| times.into_iter().max().unwrap_or_default())
    })
}

fn main() -> Result<(), Error> {
    let rng = &mut SmallRng::seed_from_u64(1);
    let blocks: Vec<Block> = (0..BLOCKS).map(|_| Block::new(rng)).collect();
    let start: Vec<f32> = (0..TOKENS * HIDDEN).map(|_| rng.random::<f32>() - 0.5).collect();
    println!("{BLOCKS} blocks, {TOKENS} tokens of {HIDDEN}, bf16 with a residual stream of f32; {}\n", lanenorm::BUILD);
    println!("threads  ms in all  ms, norms  hidden");
    let mut first: Option<Vec<u32>> = None;
    for threads in [1, 2, 3, 7] {
        let mut hidden = start.clone();
        let begin = Instant::now();
        let norms = run(&blocks, &mut hidden, threads)?;
        let (all, norms) = (begin.elapsed().as_secs_f64() * 1e3, norms.as_secs_f64() * 1e3);
        assert!(hidden.iter().all(|v| v.is_finite()), "the residual stream is not finite");
        let bits: Vec<u32> = hidden.iter().map(|v| v.to_bits()).collect();
        let same = *first.get_or_insert_with(|| bits.clone()) == bits;
        assert!(same, "{threads} threads give other bits");
        println!("{threads:7} {all:10.2} {norms:10.3}  same bits");
    }
    Ok(())
}
