//! The kernels crate, for engines with their own threads: the merged sums and dx have the bits of the plan, however a
//! job is split at its parts, on any threads and on any tiers. Bad lengths give `None`.

use std::sync::Mutex;

use lanenorm::kernels::ops::backward::{Backward, LEAF_ROWS, Parts, Stats};
use lanenorm::kernels::rows::{GradRows, Groups, Params, Vector};
use lanenorm::kernels::{Center, Centered, Compiled, Uncentered};
use lanenorm::{Element, Isa};

use crate::support::{Call, F32, GradProblem, Grads, Types, Value, quick, tiers};

/// The job of the problem. dx goes to a buffer.
fn job<'a, K: Types, M: Center>(
    problem: &'a GradProblem<K>,
    dx: &'a mut [K::X],
    stats: Stats<'a, K::F>,
    streaming: bool,
) -> Backward<'a, K::X, M> {
    let GradProblem { forward, dy, ds } = problem;
    let cols = forward.cols;
    let rows = GradRows::new((dy, cols), (&forward.x, cols), forward.rows, cols).and_then(|r| r.with_dx((dx, cols)));
    let rows = match ds {
        Some(ds) => rows.and_then(|rows| rows.with_ds((ds, cols))),
        None => rows,
    };
    let gamma = forward.gamma.as_deref().map(Vector::from);
    let (rows, offset) = (rows.expect("the rows fit"), K::F::of(forward.operation.offset().into()));
    let params = Params { gamma, offset, ..Params::default() };
    Backward::new(rows, stats, params, forward.eps, true, streaming).expect("the lengths fit")
}

/// Splits a job into pieces of `parts` parts.
fn pieces<T: Element, M: Center>(mut job: Backward<'_, T, M>, parts: usize) -> Vec<Backward<'_, T, M>> {
    let mut pieces = Vec::new();
    while job.parts() > parts {
        let (piece, rest) = job.split_at_part(parts);
        assert_eq!(piece.parts(), parts);
        pieces.push(piece);
        job = rest;
    }
    pieces.push(job);
    pieces
}

/// Takes pieces of a few parts from a queue, the last piece first, on several threads and on all tiers in turn.
fn assert_parts_can_be_split<K: Types, M: Center>(problem: &GradProblem<K>)
where
    K::X: Compiled<M>,
{
    let forward = &problem.forward;
    let (rows, cols) = (forward.rows, forward.cols);
    let (expected, kept) = (problem.expected(), forward.run(&Call::plain(Isa::SCALAR)));
    let parts = Parts::new(rows, cols);
    let partial = parts.partial_len::<K::X>(M::CENTERED).expect("a length");
    let work = parts.work_len::<K::X>(M::CENTERED).expect("a length");
    for (t, &isa) in tiers().iter().enumerate() {
        for (i, per_piece) in [1, 2, 3, 64].into_iter().enumerate() {
            let count = tiers().len();
            let other = tiers()[(t + [1, count - 1][i % 2]) % count];
            let mut partials = vec![K::F::QUIET_NAN; partial * parts.count()];
            let mut dx = vec![K::X::SENTINEL; rows * cols];
            let mean = M::CENTERED.then_some(&kept.mean[..]);
            let stats = Stats { mean, mean_lo: M::CENTERED.then_some(&kept.mean_lo), rstd: Some(&kept.rstd) };
            let stats = if i % 2 == 0 { Stats::default() } else { stats };
            let job = job::<K, M>(problem, &mut dx, stats, i % 2 == 0);
            assert_eq!(job.parts(), parts.count());
            let pieces = pieces(job, per_piece);
            let of_each = [isa, other].into_iter().cycle().zip(partials.chunks_mut(partial * per_piece));
            let queue: Vec<_> = pieces.into_iter().zip(of_each).collect();
            let queue = Mutex::new(queue);
            let take_all = || {
                let mut work = vec![K::F::QUIET_NAN; work + i];
                loop {
                    let next = queue.lock().expect("no panic").pop();
                    let Some((mut piece, (isa, partials))) = next else { break };
                    piece.run_on(isa, partials, &mut work);
                }
            };
            std::thread::scope(|scope| (0..[1, 3][i % 2]).for_each(|_| drop(scope.spawn(take_all))));
            drop(queue);

            let sums = || vec![K::F::SENTINEL; cols];
            let (mut dgamma, mut dbeta) = (sums(), M::CENTERED.then(sums));
            parts.merge::<K::X, M>(other, &partials, Some(&mut dgamma), dbeta.as_deref_mut());
            let got = Grads::<K> { dx: Some(dx), dgamma: Some(dgamma), dbeta };
            got.assert_same(&expected, cols, format_args!("{isa}, {other}, {problem}, {per_piece} parts at once"));
        }
    }
}

fn jobs_split_at_parts_give_the_bits_of_the_plan<K: Types>() {
    let shapes = [(1, 1), (64, 70), (65, 64), (130, 193), (500, 33), (2049, 9), (2500, 5), (4500, 1)];
    for (i, (rows, cols)) in shapes.into_iter().enumerate().filter(|(i, _)| !quick() || *i < 5) {
        for (j, problem) in [GradProblem::<K>::ordinary(rows, cols, 1), GradProblem::mixed(rows, cols, 2).with_ds()]
            .into_iter()
            .enumerate()
        {
            if K::takes(i + j) {
                assert_parts_can_be_split::<K, Centered>(&problem);
                assert_parts_can_be_split::<K, Uncentered>(&problem.rms_norm(1.0));
            }
        }
    }
}

for_all_gradients!(jobs_split_at_parts_give_the_bits_of_the_plan);

/// Parts depend on the rows alone, and all parts but the last have at least a whole leaf.
#[test]
fn parts_cover_all_rows() {
    for rows in (0..5000).chain([8192, 100_000, 1 << 24, (1 << 40) + 1]) {
        let parts = Parts::new(rows, 3);
        let count = parts.count();
        assert!(count <= 32 && (count > 0) == (rows > 0), "{rows} rows: {count} parts");
        assert_eq!((parts.first_row(0), parts.first_row(count)), (0, rows));
        for part in 0..count {
            let (from, to) = (parts.first_row(part), parts.first_row(part + 1));
            assert!(from < to && to <= rows, "{rows} rows: part {part} has {from}..{to}");
            assert!(to == rows || to - from >= LEAF_ROWS, "{rows} rows: part {part} has {from}..{to}");
        }
        assert_eq!(parts, Parts::new(rows, 3));
        assert_eq!(count, Parts::new(rows, 1000).count());
    }
    assert_eq!(Parts::new(5, usize::MAX).partial_len::<f32>(true), None);
    assert_eq!(Parts::new(5, usize::MAX / 2).work_len::<f32>(true), None);
}

#[test]
fn bad_lengths_are_refused() {
    let (x, dy, mut dx) = ([1.0f32; 12], [1.0f32; 12], [0.0f32; 12]);
    let rows = || GradRows::new((&dy, 4), (&x, 4), 3, 4);
    assert!(rows().is_ok() && GradRows::new((&dy, 4), (&x, 4), 4, 4).is_err());
    assert!(GradRows::new((&dy, 3), (&x, 4), 3, 4).is_err() && GradRows::new((&dy, 4), (&x, 5), 3, 4).is_err());
    assert!(GradRows::in_place((&mut dx, 4), (&x, 4), 3, 4).is_ok_and(|rows| rows.is_in_place()));
    assert!(GradRows::in_place((&mut dx[..11], 4), (&x, 4), 3, 4).is_err());
    assert!(rows().and_then(|rows| rows.with_dx((&mut dx, 4))).is_ok_and(|rows| rows.has_dx()));
    assert!(rows().and_then(|rows| rows.with_dx((&mut dx, 3))).is_err());
    assert!(rows().and_then(|rows| rows.with_dx((&mut dx[..8], 4))).is_err());
    let mut over = dy;
    let in_place = GradRows::in_place((&mut over, 4), (&x, 4), 3, 4);
    assert!(in_place.and_then(|rows| rows.with_dx((&mut dx, 4))).is_err(), "dx in two places");
    assert!(rows().and_then(|rows| rows.with_ds((&x, 4))).is_ok());
    assert!(rows().and_then(|rows| rows.with_ds((&x, 5))).is_err());
    let group =
        |index, groups, repeat| rows().and_then(|rows| rows.with_group(index, Groups::new(groups, repeat)?)).is_ok();
    assert!(group(0, 1, 1) && group(2, 3, 1) && group(0, 1, 3));
    assert!(!group(3, 3, 1) && !group(0, 2, 1) && !group(0, 3, 2) && !group(0, 0, 1) && !group(0, 1, 0));
    assert!(!group(0, usize::MAX, 2));

    let (three, four) = ([1.0f32; 3], [1.0f32; 4]);
    let centered = |stats, gamma: Option<&[f32]>| {
        let (rows, gamma) = (rows().expect("rows"), gamma.map(Vector::from));
        let params = Params { gamma, ..Params::default() };
        Backward::<f32, Centered>::new(rows, stats, params, 1e-5, true, false).is_ok()
    };
    let stats = |mean, mean_lo, rstd| Stats { mean, mean_lo, rstd };
    assert!(centered(Stats::default(), None) && centered(Stats::default(), Some(&four)));
    assert!(!centered(Stats::default(), Some(&three)) && !centered(Stats::default(), Some(&x)));
    assert!(centered(stats(Some(&three), Some(&three), Some(&three)), None));
    assert!(centered(stats(Some(&three), None, Some(&three)), None));
    assert!(!centered(stats(Some(&three), None, None), None) && !centered(stats(None, None, Some(&three)), None));
    assert!(!centered(stats(Some(&four), None, Some(&three)), None));
    assert!(!centered(stats(Some(&three), Some(&four), Some(&three)), None));
    assert!(!centered(stats(Some(&three), None, Some(&four)), None));
    let rms = |rstd| {
        let stats = Stats { rstd, ..Stats::default() };
        Backward::<f32, Uncentered>::new(rows().expect("rows"), stats, Params::default(), 1e-5, true, false).is_ok()
    };
    assert!(rms(None) && rms(Some(&three)) && !rms(Some(&four)));
}

fn panics(f: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err()
}

/// Memory of a wrong length makes it panic, before anything is written.
#[test]
fn memory_of_a_wrong_length_panics() {
    let problem = GradProblem::<F32>::ordinary(100, 5, 3);
    let parts = Parts::new(100, 5);
    let partials = parts.partial_len::<f32>(true).expect("a length") * parts.count();
    let work = parts.work_len::<f32>(true).expect("a length");
    for (partials, work, fits) in
        [(partials, work, true), (partials, work + 9, true), (partials - 1, work, false), (partials, work - 1, false)]
    {
        let mut dx = [7.0; 500];
        let mut job = job::<_, Centered>(&problem, &mut dx, Stats::default(), false);
        let run = || job.run_on(Isa::best(), &mut vec![0.0; partials], &mut vec![0.0; work]);
        assert_eq!(panics(run), !fits);
        assert!(fits || dx == [7.0; 500], "dx was written");
    }
    let merged = |partials, dgamma| {
        let partials = vec![0.0; partials];
        panics(|| parts.merge::<f32, Centered>(Isa::best(), &partials, Some(&mut vec![0.0; dgamma]), None))
    };
    assert!(!merged(partials, 5) && merged(partials - 1, 5) && merged(partials, 4) && merged(partials, 6));
}
