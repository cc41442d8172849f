//! The benchmark of every operation: LayerNorm and RMSNorm, forward and backward, in f32, f64, f16 and bf16, also to 8
//! bits, with a gate, and with other roundings; L2 norms, images with channels first, and `GroupNorm`.
//!
//! ```sh
//! cargo bench                                   # the default tier against a copy and the baselines, as tables
//! LANENORM_BENCH=full cargo bench               # the same on all inputs, for all tiers with all options
//! cargo bench -- 'rms_norm/bf16/avx2/512x768'   # criterion, for what the filter lets through
//! cargo bench -- 512x768 --save-baseline main   # and any other option of criterion
//! cargo bench -- --test                         # every contender once on every case, thinned, answers checked
//! ```
//!
//! `LANENORM_BENCH_JSON=path` says where the results of the first two are written (else into the target directory), and
//! `LANENORM_BENCH_MARKDOWN=path` asks for their tables as Markdown. Paths count from the root of the repository.
//!
//! The first two do not use criterion's runner, which measures one contender after the other: on a machine that others
//! use, the load changes more between two contenders than their times differ. See `harness/src/measure.rs`.

mod support;

fn main() {
    let best = lanenorm::default_isa().unwrap_or_else(|error| panic!("{error}"));
    // The only argument that cargo adds by itself.
    if std::env::args().skip(1).eq(["--bench"]) {
        support::interleaved::run(best);
    } else {
        support::with_criterion::run();
    }
}
