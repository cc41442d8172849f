//! The whole grid as benchmarks of criterion, for its statistics, baselines, filters and test mode. Ids are
//! op/dtype/isa/shape, as in `rms_norm/f32/avx2/512x768`, with the options of variants behind.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use lanenorm_harness::number::Number;
use lanenorm_harness::typed;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::case::{self, Case};
use super::check::Answers;
use super::grid;
use super::placement::Placement;

/// Runs what the command line asks for.
pub(crate) fn run() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(200)).sample_size(20);
    let mut criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
    let is_test = std::env::args().any(|argument| argument == "--test");
    for case in case::all() {
        let case = if is_test { case.thinned() } else { case };
        typed!(case.dtype, bench(&mut criterion, &case, is_test));
    }
    criterion.final_summary();
}

fn bench<T: Number>(criterion: &mut Criterion, case: &Case, is_test: bool) {
    let rng = &mut SmallRng::seed_from_u64(0);
    // The first benchmark that passes the filter makes these. One placement serves all first calls, since page faults
    // would take most of a test.
    let (mut tensors, mut answers, mut first_placement) = (None, None, None);
    let mut group = criterion.benchmark_group(format!("{}/{}", case.op_name(), case.dtype.name()));
    // The bytes that are read and written.
    let bytes = if case.op.is_backward() { 3 } else { 2 } * case.bytes();
    group.throughput(Throughput::Bytes(bytes as u64)).sampling_mode(SamplingMode::Flat);
    let contenders = grid::many(case);
    for &contender in &contenders {
        let parameter = match contender.options() {
            options if options.is_empty() => case.name.clone(),
            options => format!("{}/{options}", case.name),
        };
        let mut first = true;
        group.bench_function(BenchmarkId::new(contender.name(), parameter), |bencher| {
            let tensors = tensors.get_or_insert_with(|| case.tensors::<T>());
            if first {
                // The first call tests or warms up.
                first = false;
                let placement = first_placement.get_or_insert_with(|| Placement::new(case, tensors, &contenders, rng));
                answers.get_or_insert_with(|| Answers::new(case)).check(contender, placement);
                bencher.iter_custom(|repeats| {
                    // The check has run the contender once.
                    if is_test { Duration::ZERO } else { contender.time(case, placement, Duration::ZERO, repeats) }
                });
            } else {
                // Criterion comes here once for each sample, so that samples differ in the places of their buffers.
                let mut placement = Placement::new(case, tensors, &[contender], rng);
                bencher.iter_custom(|repeats| contender.time(case, &mut placement, Duration::ZERO, repeats));
            }
        });
    }
    group.finish();
}
