//! The threads of the library, which help callers that are on no thread of a rayon pool.
//!
//! A call lies on its caller's stack, and stands in a list while it runs. Helpers look through the list, join a call,
//! and leave it when nothing of it is left. One mutex guards the list and all that is known of helpers; parts of calls
//! are run without it.
//!
//! A caller wakes or starts at most two helpers, and each helper two more, so that no thread makes a dozen system calls
//! before it works.
//!
//! Waking a helper takes several microseconds of the caller, and as long again until the helper works. So a helper that
//! has been woken, or has just helped, looks for another call for [`wait`] before it sleeps. Short calls are worth the
//! help of a helper that looks, and not of one that sleeps: [`is_at_hand`] tells.
#![allow(unsafe_code)]

use std::any::Any;
use std::num::IntErrorKind;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, hint, mem, process, ptr};

use super::pin::stay_in_memory;

/// For how many microseconds a thread looks for something before it sleeps, if `LANENORM_SPIN_MICROS` says nothing, and
/// at most.
const WAIT: usize = 50;
const MOST_WAIT: usize = 10_000;

/// How often a thread looks for something before it looks at the clock.
const LOOKS: usize = 16;

/// After this many short calls in a row, a thread wakes a helper for those that follow.
const SHORT_CALLS: usize = 32;

/// How many helpers one thread wakes or starts for a call.
const BRANCHES: usize = 2;

/// The stack of a helper. A build without optimization takes more than 256 KiB.
const STACK: usize = 1 << 20;

/// How long a helper sleeps before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// What failed (starting a helper, seeing several processors, waking a helper for short calls that follow) is tried
/// again after at most this many calls.
const MOST_CALLS_BETWEEN: usize = 1024;

/// The most threads that do a call: its caller, and helpers.
pub(super) fn threads() -> usize {
    /// `RAYON_NUM_THREADS`; 0 before it has been read.
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    const NOT_GIVEN: usize = usize::MAX;
    /// The number of processors, once several have been seen; else 0.
    static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
    /// How often the number of processors was asked for and not known.
    static ALONE: AtomicUsize = AtomicUsize::new(0);

    // No locks here, which a child process might find locked.
    let mut given = GIVEN.load(Ordering::Relaxed);
    if given == 0 {
        let number = env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
        given = number.filter(|&number| number > 0).unwrap_or(NOT_GIVEN);
        GIVEN.store(given, Ordering::Relaxed);
    }
    if given != NOT_GIVEN {
        return given;
    }
    let mut processors = PROCESSORS.load(Ordering::Relaxed);
    if processors == 0 {
        // A thread that is pinned sees one processor, and another thread may see more.
        let asked = ALONE.fetch_add(1, Ordering::Relaxed);
        if !(asked.is_power_of_two() || asked.is_multiple_of(MOST_CALLS_BETWEEN)) {
            return 1;
        }
        processors = thread::available_parallelism().map_or(1, usize::from);
        if processors > 1 {
            PROCESSORS.store(processors, Ordering::Relaxed);
        }
    }
    processors
}

/// For how long a helper looks for another call before it sleeps, and a caller for the end of helpers that still work.
fn wait() -> Duration {
    /// One more than the microseconds; 0 before the variable has been read.
    static MICROS: AtomicUsize = AtomicUsize::new(0);

    // No locks here, which a child process might find locked.
    let mut known = MICROS.load(Ordering::Relaxed);
    if known == 0 {
        let given = env::var("LANENORM_SPIN_MICROS").ok().and_then(|text| match text.parse::<usize>() {
            Err(error) if *error.kind() == IntErrorKind::PosOverflow => Some(MOST_WAIT),
            given => given.ok(),
        });
        known = 1 + given.unwrap_or(WAIT).min(MOST_WAIT);
        MICROS.store(known, Ordering::Relaxed);
    }
    Duration::from_micros(known as u64 - 1)
}

/// Looks until `until` whether `found`. Returns whether it is.
fn look(until: Instant, found: impl Fn() -> bool) -> bool {
    loop {
        for _ in 0..LOOKS {
            if found() {
                return true;
            }
            hint::spin_loop();
        }
        if Instant::now() >= until {
            return found();
        }
    }
}

/// Whether a short call is to be helped: this thread has made the last short calls too, and a helper is awake and free,
/// or is to be woken for calls that follow.
///
/// Where several threads make short calls, each does its own alone.
pub(super) fn is_at_hand() -> bool {
    /// The thread that has made the last short call.
    static CALLER: AtomicUsize = AtomicUsize::new(0);
    /// The number of its calls in a row without a helper, and the number at which it wakes one. What threads overwrite
    /// for one another is of no consequence.
    static ALONE: AtomicUsize = AtomicUsize::new(0);
    static ENOUGH: AtomicUsize = AtomicUsize::new(SHORT_CALLS);

    thread_local! {
        static HERE: u8 = const { 0 };
    }

    if threads() < 2 || wait().is_zero() {
        return false;
    }
    let restart = |enough| {
        ALONE.store(0, Ordering::Relaxed);
        ENOUGH.store(enough, Ordering::Relaxed);
    };
    let caller = HERE.with(|here| ptr::from_ref(here).addr());
    if CALLER.load(Ordering::Relaxed) != caller {
        CALLER.store(caller, Ordering::Relaxed);
        restart(SHORT_CALLS);
        return false;
    }
    // It may be the team of a parent process. Then a call that wants help makes a new one.
    // SAFETY: it is null or points to a team, and teams are never freed.
    let team = unsafe { TEAM.load(Ordering::Acquire).as_ref() };
    if team.is_some_and(|team| team.looking.load(Ordering::Relaxed) > 0) {
        restart(SHORT_CALLS);
        return true;
    }
    let (alone, enough) = (ALONE.load(Ordering::Relaxed) + 1, ENOUGH.load(Ordering::Relaxed));
    if alone < enough {
        ALONE.store(alone, Ordering::Relaxed);
        return false;
    }
    restart((2 * enough).min(MOST_CALLS_BETWEEN));
    true
}

/// Runs `work` on the calling thread, and `help` on the helpers that come while `work` runs, at most `helpers` of them.
/// Returns when `work` and every `help` that has begun have returned. No `help` begins after another has returned.
pub(super) fn call(helpers: usize, work: &mut dyn FnMut(), help: &(dyn Fn() + Sync)) {
    Team::of_this_process().call(helpers, work, help);
}

/// A call, as its caller and its helpers see it.
struct Call<'a> {
    help: &'a (dyn Fn() + Sync),
    // The fields below are written under the mutex of the team.
    /// How many more helpers may come.
    wanted: AtomicUsize,
    helping: AtomicUsize,
    /// Whether the caller sleeps.
    waiting: AtomicBool,
    left: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A call in the list.
#[derive(Clone, Copy)]
struct Listed(*const Call<'static>);

// SAFETY: all that is in a call is Sync.
unsafe impl Send for Listed {}

/// The team of this process, or of one of which it is a copy. Null before the first large call.
static TEAM: AtomicPtr<Team> = AtomicPtr::new(ptr::null_mut());

struct Team {
    /// The process that has these helpers: a child of it has none of them.
    process: u32,
    /// How long a helper sleeps before it ends.
    idle: Duration,
    /// How long a thread looks before it sleeps.
    wait: Duration,
    calls: Calls,
    /// The number of helpers that are awake and help nobody. It is written under the mutex.
    looking: AtomicUsize,
    state: Mutex<State>,
    wake: Condvar,
}

/// A number that grows with each call. It has cache lines of its own, since helpers look at it.
#[repr(align(128))]
struct Calls(AtomicUsize);

#[derive(Default)]
struct State {
    calls: Vec<Listed>,
    /// The most helpers that any call has wanted.
    most: usize,
    /// The number of helpers, with those about to start.
    helpers: usize,
    starting: usize,
    /// The number of helpers that sleep and have not been told to wake.
    asleep: usize,
    /// The number of helpers that have been told to wake and have not noticed yet.
    woken: usize,
    /// For this many calls no helper is started.
    pause: usize,
    /// The last pause after a failure.
    last_pause: usize,
}

impl Team {
    fn new(process: u32, idle: Duration, wait: Duration) -> Self {
        let (calls, looking) = (Calls(AtomicUsize::new(0)), AtomicUsize::new(0));
        Self { process, idle, wait, calls, looking, state: Mutex::default(), wake: Condvar::new() }
    }

    fn of_this_process() -> &'static Self {
        // Elsewhere no process is a copy of another, and some targets know no processes.
        let process = if cfg!(unix) { process::id() } else { 0 };
        let known = TEAM.load(Ordering::Acquire);
        // SAFETY: it is null or points to a team, and teams are never freed.
        if let Some(team) = unsafe { known.as_ref() }.filter(|team| team.process == process) {
            return team;
        }
        // The first call of a process. The team of a parent process is not touched: its mutex may be locked for ever.
        let new = Box::into_raw(Box::new(Self::new(process, IDLE, wait())));
        match TEAM.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it is never freed.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: nobody else has seen `new`; the other is a team of this process.
                unsafe {
                    drop(Box::from_raw(new));
                    &*other
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&'static self, helpers: usize, work: &mut dyn FnMut(), help: &(dyn Fn() + Sync)) {
        let call = Call {
            help,
            wanted: AtomicUsize::new(helpers),
            helping: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            left: Condvar::new(),
            panic: Mutex::new(None),
        };
        self.enter(&call, helpers);
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        self.leave(&call);
        let panic = call.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = panic.or(result.err()) {
            panic::resume_unwind(panic);
        }
    }

    /// Enters a call into the list. The caller of this must take the call from the list again.
    fn enter(&'static self, call: &Call<'_>, helpers: usize) {
        let mut state = self.lock();
        // Without memory for the list, the caller works alone.
        if helpers > 0 && state.calls.try_reserve(1).is_ok() {
            state.calls.push(Listed(ptr::from_ref(call).cast()));
            state.most = state.most.max(helpers);
            state.pause = state.pause.saturating_sub(1);
            self.summon(state, helpers);
        }
    }

    /// Wakes or starts helpers for a call that wants `helpers` of them, less those that come anyway; at most
    /// [`BRANCHES`].
    fn summon(&'static self, mut state: MutexGuard<'_, State>, helpers: usize) {
        let looking = self.looking.load(Ordering::Relaxed);
        let coming = looking + state.starting + state.woken;
        let missing = helpers.saturating_sub(coming).min(BRANCHES);
        let wakes = missing.min(state.asleep);
        let can_start = if state.pause == 0 { state.most.saturating_sub(state.helpers) } else { 0 };
        let starts = (missing - wakes).min(can_start);
        state.asleep -= wakes;
        state.woken += wakes;
        state.starting += starts;
        state.helpers += starts;
        let first = state.helpers - starts;
        drop(state);
        // Those who look come for the mutex, which is free now.
        if helpers > 0 && looking > 0 {
            self.calls.0.fetch_add(1, Ordering::Release);
        }
        for _ in 0..wakes {
            self.wake.notify_one();
        }
        if starts > 0 {
            stay_in_memory();
        }
        for number in first..first + starts {
            let builder = thread::Builder::new().name(format!("lanenorm-{number}")).stack_size(STACK);
            let is_started = builder.spawn(|| self.serve()).is_ok();
            let mut state = self.lock();
            if is_started {
                state.last_pause = 0;
            } else {
                state.starting -= 1;
                state.helpers -= 1;
                state.last_pause = (2 * state.last_pause).clamp(1, MOST_CALLS_BETWEEN);
                state.pause = state.last_pause;
            }
        }
    }

    /// Takes the call from the list. Nobody uses it any more when this returns.
    fn leave(&self, call: &Call<'_>) {
        let is_left = || call.helping.load(Ordering::Acquire) == 0;
        let mut state = self.lock();
        state.calls.retain(|&Listed(listed)| !ptr::eq(listed.cast(), call));
        if is_left() {
            return;
        }
        drop(state);
        if !self.wait.is_zero() && look(Instant::now() + self.wait, is_left) {
            return;
        }
        let mut state = self.lock();
        while !is_left() {
            call.waiting.store(true, Ordering::Relaxed);
            state = call.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The life of a helper.
    fn serve(&'static self) {
        let mut state = self.lock();
        state.starting -= 1;
        self.looking.fetch_add(1, Ordering::Relaxed);
        let looks = || (None, self.wait.is_zero());
        let (mut until, mut is_tired) = looks();
        loop {
            if let Some(Listed(call)) = state.join() {
                self.looking.fetch_sub(1, Ordering::Relaxed);
                // SAFETY: this thread is counted as helping, and the caller waits until it no longer is.
                let (help, wanted) = unsafe { ((*call).help, (*call).wanted.load(Ordering::Relaxed)) };
                self.summon(state, wanted);
                let result = panic::catch_unwind(AssertUnwindSafe(help));
                state = self.lock();
                // The next call of the caller finds it looking.
                self.looking.fetch_add(1, Ordering::Relaxed);
                // SAFETY: as above, up to the last line, which ends it.
                unsafe {
                    (*call).wanted.store(0, Ordering::Relaxed);
                    if let Err(panic) = result {
                        keep(&(*call).panic, panic);
                    }
                    let helping = &(*call).helping;
                    // The caller can wake and go when it gets the mutex, or when it sees that nobody helps.
                    if helping.load(Ordering::Relaxed) == 1 && (*call).waiting.load(Ordering::Relaxed) {
                        (*call).left.notify_one();
                    }
                    helping.fetch_sub(1, Ordering::Release);
                }
                (until, is_tired) = looks();
            } else if !is_tired {
                let calls = self.calls.0.load(Ordering::Relaxed);
                drop(state);
                let until = *until.get_or_insert_with(|| Instant::now() + self.wait);
                is_tired = !look(until, || self.calls.0.load(Ordering::Acquire) != calls);
                state = self.lock();
            } else {
                self.looking.fetch_sub(1, Ordering::Relaxed);
                state.asleep += 1;
                let waited = self.wake.wait_timeout_while(state, self.idle, |state| state.woken == 0);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if state.woken == 0 {
                    state.asleep -= 1;
                    state.helpers -= 1;
                    return;
                }
                state.woken -= 1;
                self.looking.fetch_add(1, Ordering::Relaxed);
                (until, is_tired) = looks();
            }
        }
    }
}

impl State {
    /// Makes a helper join the call that has the fewest helpers.
    fn join(&mut self) -> Option<Listed> {
        // SAFETY: calls in the list are there.
        let call = |&Listed(call): &Listed| unsafe { &*call };
        let wanting = self.calls.iter().filter(|listed| call(listed).wanted.load(Ordering::Relaxed) > 0);
        let listed = *wanting.min_by_key(|listed| call(listed).helping.load(Ordering::Relaxed))?;
        call(&listed).wanted.fetch_sub(1, Ordering::Relaxed);
        call(&listed).helping.fetch_add(1, Ordering::Relaxed);
        Some(listed)
    }
}

/// Keeps the first panic.
fn keep(first: &Mutex<Option<Box<dyn Any + Send>>>, panic: Box<dyn Any + Send>) {
    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
    if first.is_none() {
        *first = Some(panic);
    } else if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // Dropping it might panic as well.
        mem::forget(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread::ThreadId;

    use super::*;

    fn team(idle: Duration) -> &'static Team {
        team_that_waits(idle, Duration::from_micros(50))
    }

    fn team_that_waits(idle: Duration, wait: Duration) -> &'static Team {
        // Teams are never freed. This list tells a leak checker that they are still reachable.
        static TEAMS: Mutex<Vec<&'static Team>> = Mutex::new(Vec::new());
        let team: &'static Team = Box::leak(Box::new(Team::new(0, idle, wait)));
        TEAMS.lock().expect("no panic").push(team);
        team
    }

    fn wait_for(condition: impl Fn() -> bool) {
        while !condition() {
            thread::yield_now();
        }
    }

    fn message(panic: Box<dyn Any + Send>) -> &'static str {
        panic.downcast_ref().copied().unwrap_or("another panic")
    }

    /// Makes a call in which all `helpers` that it wants work at once, and returns their threads.
    fn helped(team: &'static Team, helpers: usize) -> Vec<ThreadId> {
        let (here, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        let all_here = || here.lock().expect("no panic").len() == helpers;
        let mut work = || {
            wait_for(all_here);
            done.store(true, Ordering::Release);
        };
        let help = || {
            here.lock().expect("no panic").push(thread::current().id());
            wait_for(|| done.load(Ordering::Acquire));
        };
        team.call(helpers, &mut work, &help);
        here.into_inner().expect("no panic")
    }

    #[test]
    fn all_that_have_begun_have_returned_when_a_call_returns() {
        let teams = [team(IDLE), team_that_waits(IDLE, Duration::ZERO)];
        for (team, work_is_slow) in teams.into_iter().flat_map(|team| [(team, false), (team, true)]) {
            let (helping, helped) = (AtomicBool::new(false), AtomicBool::new(false));
            let mut work = || {
                wait_for(|| helping.load(Ordering::Acquire));
                if work_is_slow {
                    wait_for(|| helped.load(Ordering::Acquire));
                }
            };
            let help = || {
                helping.store(true, Ordering::Release);
                // Longer than the caller looks before it sleeps.
                thread::sleep(Duration::from_millis(20));
                helped.store(true, Ordering::Release);
            };
            team.call(1, &mut work, &help);
            assert!(helped.load(Ordering::Acquire));
        }
    }

    #[test]
    fn as_many_helpers_come_as_a_call_wants() {
        let team = team(IDLE);
        for helpers in [1, 2, 7, 3, 7] {
            let mut threads = helped(team, helpers);
            threads.sort_by_key(|id| format!("{id:?}"));
            threads.dedup();
            assert_eq!(threads.len(), helpers);
            assert!(team.lock().helpers <= 7);
        }
        // Helpers that sleep are woken.
        wait_for(|| team.lock().asleep == 7);
        assert_eq!(helped(team, 7).len(), 7);
        assert_eq!(team.lock().helpers, 7);
    }

    #[test]
    fn helpers_that_may_not_look_sleep_and_are_woken() {
        let team = team_that_waits(IDLE, Duration::ZERO);
        for _ in 0..10 {
            assert_eq!(helped(team, 2).len(), 2);
            wait_for(|| team.lock().asleep == 2);
            assert_eq!(team.looking.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_helper_that_looks_comes() {
        let team = team_that_waits(IDLE, Duration::from_secs(10));
        let first = helped(team, 1);
        for _ in 0..10 {
            assert_eq!(team.looking.load(Ordering::Relaxed), 1, "from the end of the help on");
            assert_eq!(helped(team, 1), first);
        }
    }

    #[test]
    fn a_helper_that_has_ended_is_replaced() {
        let team = team(Duration::from_millis(1));
        for _ in 0..3 {
            let threads = helped(team, 2);
            wait_for(|| team.lock().helpers == 0);
            assert!(helped(team, 2).iter().all(|id| !threads.contains(id)));
        }
        let state = team.lock();
        let looking = team.looking.load(Ordering::Relaxed);
        assert!(state.calls.is_empty() && looking <= 2 && state.starting == 0 && state.woken == 0);
    }

    #[test]
    fn nobody_waits_for_help_that_has_not_begun() {
        let team = team(IDLE);
        let (busy, release) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let help = || {
                    busy.store(true, Ordering::Release);
                    wait_for(|| release.load(Ordering::Acquire));
                };
                team.call(1, &mut || wait_for(|| release.load(Ordering::Acquire)), &help);
            });
            wait_for(|| busy.load(Ordering::Acquire));
            let helped = AtomicBool::new(false);
            for _ in 0..1000 {
                let mut worked = false;
                team.call(1, &mut || worked = true, &|| helped.store(true, Ordering::Release));
                assert!(worked);
            }
            let state = team.lock();
            let (helpers, calls, room) = (state.helpers, state.calls.len(), state.calls.capacity());
            drop(state);
            release.store(true, Ordering::Release);
            assert!(!helped.load(Ordering::Acquire));
            assert_eq!((helpers, calls), (1, 1), "the call that runs is all that is left");
            assert!(room < 10, "calls do not pile up: {room}");
        });
    }

    #[test]
    fn helpers_join_the_call_that_has_fewest() {
        let call = |wanted| Call {
            help: &|| (),
            wanted: AtomicUsize::new(wanted),
            helping: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            left: Condvar::new(),
            panic: Mutex::new(None),
        };
        let calls = [call(7), call(1), call(7)];
        let mut state = State::default();
        state.calls.extend(calls.iter().map(|call| Listed(ptr::from_ref(call).cast())));
        let helping = || calls.each_ref().map(|call| call.helping.load(Ordering::Relaxed));
        for expected in [[1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1], [2, 1, 2], [3, 1, 2]] {
            assert!(state.join().is_some());
            assert_eq!(helping(), expected);
        }
        for _ in 0..9 {
            assert!(state.join().is_some());
        }
        assert!(state.join().is_none());
        assert_eq!(helping(), [7, 1, 7]);
    }

    #[test]
    fn panics_reach_the_caller_when_nobody_uses_its_memory_any_more() {
        let team = team(IDLE);
        let (helping, helped_) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut work = || {
            wait_for(|| helping.load(Ordering::Acquire));
            panic!("of the work");
        };
        let help = || {
            helping.store(true, Ordering::Release);
            thread::sleep(Duration::from_millis(20));
            helped_.store(true, Ordering::Release);
        };
        let panic = panic::catch_unwind(AssertUnwindSafe(|| team.call(1, &mut work, &help))).expect_err("a panic");
        assert_eq!(message(panic), "of the work");
        assert!(helped_.load(Ordering::Acquire));

        let before = helped(team, 3);
        let here = AtomicUsize::new(0);
        let help = || {
            here.fetch_add(1, Ordering::AcqRel);
            wait_for(|| here.load(Ordering::Acquire) == 3);
            panic!("of the help");
        };
        let mut work = || wait_for(|| here.load(Ordering::Acquire) == 3);
        let panic = panic::catch_unwind(AssertUnwindSafe(|| team.call(3, &mut work, &help)));
        assert_eq!(message(panic.expect_err("a panic")), "of the help");
        assert!(helped(team, 3).iter().all(|id| before.contains(id)), "helpers survive");
    }
}
