//! Calls from threads outside of rayon pools, helped by threads of the library: they and the rest of the process do not
//! disturb one another.
//!
//! Much of the state is per process, so tests run this program anew. A child that hangs is ended, and has failed.

#[path = "support/this_program.rs"]
mod this_program;

use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(unix)]
use lanenorm::Isa;
use lanenorm::{LayerNorm, Parallelism};
use this_program::this_program;

/// How often something is tried: less often in emulators and in builds without optimization.
fn times(n: usize) -> usize {
    let quick = cfg!(debug_assertions) || std::env::var_os("LANENORM_TEST_QUICK").is_some_and(|v| v == "1");
    if quick { n / 10 } else { n }
}

/// The input of a call, and the right answer.
struct Input {
    x: Vec<f32>,
    y: Vec<u32>,
    cols: usize,
}

impl Input {
    fn new(rows: usize, cols: usize) -> Self {
        let x: Vec<f32> = (0..rows * cols).map(|i| (i * 37 % 101) as f32).collect();
        let input = Self { x, y: Vec::new(), cols };
        Self { y: input.normalized(Parallelism::Serial), ..input }
    }

    /// Large enough for all helpers to be called.
    fn large() -> Self {
        Self::new(512, 768)
    }

    /// The same, for threads that are ending.
    fn for_ever() -> &'static Self {
        static INPUT: OnceLock<Input> = OnceLock::new();
        INPUT.get_or_init(Self::large)
    }

    fn normalized(&self, parallelism: Parallelism) -> Vec<u32> {
        let plan = LayerNorm::new(self.cols, 1e-5).expect("a plan").with_parallelism(parallelism);
        let mut y = vec![0.0; self.x.len()];
        plan.forward(&self.x, None, None, &mut y).expect("a valid call");
        y.into_iter().map(f32::to_bits).collect()
    }

    fn check(&self, parallelism: Parallelism) {
        assert!(self.normalized(parallelism) == self.y, "{parallelism:?}");
    }

    /// Calls until there is a helper, where the system tells. No pause between two attempts to start one is longer, and
    /// one that has been started may have to wait for a processor.
    #[track_caller]
    fn check_until_helped(&self) {
        let calls = (1..=1024).find(|_| {
            self.check(Parallelism::Auto);
            helpers() != Some(0)
        });
        assert!(calls.is_some(), "nobody helps");
    }
}

/// How many helpers there are, where the system tells.
fn helpers() -> Option<usize> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    Some(tasks.filter_map(|task| name(task.ok()?)).filter(|name| name.starts_with("lanenorm-")).count())
}

/// Whether this process has been started to run `child`. If not, starts a process that runs it, and waits for that.
fn is_child(child: &str, environment: &[(&str, &str)]) -> bool {
    const ROLE: &str = "LANENORM_TEST_CHILD";
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    let mut command: Command = this_program();
    command.args(["--exact", child, "--nocapture", "--test-threads=1"]).env(ROLE, "1").stdin(Stdio::null());
    command.env("RAYON_NUM_THREADS", "4").envs(environment.iter().copied());
    let mut process = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let end = Instant::now() + Duration::from_secs(300);
    let status = loop {
        match process.try_wait().expect("a child of this process") {
            Some(status) => break Some(status),
            None if Instant::now() > end => break None,
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    let Some(status) = status else {
        process.kill().expect("a child that runs");
        process.wait().expect("a child of this process");
        panic!("{child} hangs");
    };
    assert!(status.success(), "{child}: {status}");
    false
}

#[test]
fn helpers_are_as_many_as_the_environment_says_and_the_global_pool_is_left_alone() {
    if is_child("helpers_are_as_many_as_the_environment_says_and_the_global_pool_is_left_alone", &[]) {
        let input = Input::large();
        assert!(matches!(helpers(), None | Some(0)), "serial calls need no help");
        let tasks = NonZeroUsize::new(64).expect("not zero");
        for parallelism in [Parallelism::Auto, Parallelism::OwnThreads, Parallelism::Tasks(tasks)] {
            for _ in 0..times(100) {
                input.check(parallelism);
            }
        }
        input.check_until_helped();
        assert!(matches!(helpers(), None | Some(1..=3)), "{:?} helpers", helpers());
        rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("a pool that has not been started");
    }
}

#[test]
fn one_thread_needs_no_help() {
    if is_child("one_thread_needs_no_help", &[("RAYON_NUM_THREADS", "1")]) {
        Input::large().check(Parallelism::Auto);
        assert!(matches!(helpers(), None | Some(0)));
    }
}

/// How many helpers there are after some short calls of `callers` threads that take turns, where the system tells.
fn helpers_after_short_calls(callers: usize) -> Option<usize> {
    let input = Input::new(128, 768);
    let turn = AtomicUsize::new(0);
    thread::scope(|scope| {
        for caller in 0..callers {
            let (input, turn) = (&input, &turn);
            scope.spawn(move || {
                for call in 0..100 {
                    while turn.load(Ordering::Acquire) != call * callers + caller {
                        thread::yield_now();
                    }
                    input.check(Parallelism::Auto);
                    turn.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
    });
    helpers()
}

/// The longest time for which a helper may look, so that one that is late still helps.
const LOOKS: (&str, &str) = ("LANENORM_SPIN_MICROS", "1000000");

#[test]
fn short_calls_in_a_row_are_helped() {
    if is_child("short_calls_in_a_row_are_helped", &[LOOKS]) {
        let input = Input::new(128, 768);
        let helped = (1..=1024).find(|_| {
            input.check(Parallelism::Auto);
            helpers() != Some(0)
        });
        assert!(helped.is_some(), "nobody helps");
        for _ in 0..times(1000) {
            input.check(Parallelism::Auto);
        }
        assert!(matches!(helpers(), None | Some(1)), "{:?} helpers", helpers());
    }
}

#[test]
fn threads_that_make_short_calls_at_once_need_no_help() {
    if is_child("threads_that_make_short_calls_at_once_need_no_help", &[LOOKS]) {
        assert!(matches!(helpers_after_short_calls(2), None | Some(0)), "{:?} helpers", helpers());
        Input::large().check_until_helped();
    }
}

#[test]
fn looking_can_be_turned_off() {
    if is_child("looking_can_be_turned_off", &[("LANENORM_SPIN_MICROS", "0")]) {
        assert!(matches!(helpers_after_short_calls(1), None | Some(0)), "{:?} helpers", helpers());
        let input = Input::large();
        input.check_until_helped();
        for _ in 0..times(100) {
            input.check(Parallelism::Auto);
        }
    }
}

/// No thread can be started with the stack that this variable asks for.
#[test]
fn a_pool_that_cannot_start_does_not_matter() {
    if is_child("a_pool_that_cannot_start_does_not_matter", &[("RUST_MIN_STACK", "4611686018427387904")]) {
        Input::large().check(Parallelism::Auto);
    }
}

#[test]
fn the_park_token_of_the_caller_survives() {
    if is_child("the_park_token_of_the_caller_survives", &[]) {
        let input = Input::large();
        let (begun, unparked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let caller = thread::current();
        thread::scope(|scope| {
            scope.spawn(|| {
                for call in 1..=times(500) {
                    while begun.load(Ordering::Acquire) < call {
                        thread::yield_now();
                    }
                    caller.unpark();
                    unparked.store(call, Ordering::Release);
                }
            });
            for call in 1..=times(500) {
                begun.store(call, Ordering::Release);
                input.check(Parallelism::Auto);
                while unparked.load(Ordering::Acquire) < call {
                    thread::yield_now();
                }
                // This waits for ever if the call has taken the token.
                thread::park();
            }
        });
    }
}

/// Makes calls while it holds a lock, and while another thread gives jobs that want the lock to `spawn`.
fn under_a_lock(spawn: &(impl Fn(Job) + Sync), call: &(impl Fn() + Sync), on_caller: impl FnOnce(&(dyn Fn() + Sync))) {
    static LOCK: Mutex<()> = Mutex::new(());
    static JOBS: AtomicUsize = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                if JOBS.fetch_add(1, Ordering::AcqRel) < 2 {
                    spawn(Box::new(|| {
                        drop(LOCK.lock().expect("no panic"));
                        JOBS.fetch_sub(1, Ordering::AcqRel);
                    }));
                } else {
                    JOBS.fetch_sub(1, Ordering::AcqRel);
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        on_caller(&|| {
            for _ in 0..times(300) {
                let guard = LOCK.lock().expect("no panic");
                call();
                drop(guard);
            }
        });
        done.store(true, Ordering::Release);
    });
}

type Job = Box<dyn FnOnce() + Send>;

#[test]
fn callers_outside_of_pools_may_hold_locks() {
    if is_child("callers_outside_of_pools_may_hold_locks", &[]) {
        let input = Input::new(2048, 768);
        under_a_lock(&|job| rayon::spawn(job), &|| input.check(Parallelism::Auto), |calls| calls());
    }
}

#[test]
fn callers_with_own_threads_may_hold_locks_inside_of_pools() {
    if is_child("callers_with_own_threads_may_hold_locks_inside_of_pools", &[]) {
        let input = Input::new(2048, 768);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a pool");
        let call = || input.check(Parallelism::OwnThreads);
        under_a_lock(&|job| pool.spawn(job), &call, |calls| pool.install(calls));
    }
}

#[test]
fn a_pool_that_is_busy_for_ever_does_not_matter() {
    static RELEASE: AtomicBool = AtomicBool::new(false);
    if is_child("a_pool_that_is_busy_for_ever_does_not_matter", &[]) {
        for _ in 0..4 {
            rayon::spawn(|| {
                while !RELEASE.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let input = Input::large();
        for _ in 0..times(100) {
            input.check(Parallelism::Auto);
        }
        // Help comes although the pool is busy.
        input.check_until_helped();
        RELEASE.store(true, Ordering::Release);
    }
}

#[test]
fn many_callers_at_once() {
    if is_child("many_callers_at_once", &[]) {
        let inputs = [Input::large(), Input::new(300, 1000), Input::new(3, 200_000)];
        thread::scope(|scope| {
            for caller in 0..64 {
                let inputs = &inputs;
                scope.spawn(move || {
                    for call in 0..times(60) / 6 {
                        inputs[(caller + call) % 3].check(Parallelism::Auto);
                    }
                });
            }
        });
    }
}

#[test]
fn as_many_tasks_as_anybody_can_ask_for() {
    for input in [Input::large(), Input::new(4, 70_000), Input::new(1, 70_000), Input::new(9, 1)] {
        for n in [2, 4096, usize::MAX / 4, usize::MAX] {
            let n = NonZeroUsize::new(n).expect("not zero");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
            for parallelism in [Parallelism::Tasks(n), Parallelism::AtMost(n)] {
                input.check(parallelism);
                pool.install(|| input.check(parallelism));
            }
        }
    }
}

/// A value that normalizes when its thread ends.
struct Dying(&'static Input);

impl Drop for Dying {
    fn drop(&mut self) {
        self.0.check(Parallelism::Auto);
        DIED.fetch_add(1, Ordering::AcqRel);
    }
}

static DIED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LOCAL: std::cell::OnceCell<Dying> = const { std::cell::OnceCell::new() };
}

#[test]
fn destructors_of_threads_may_call() {
    if is_child("destructors_of_threads_may_call", &[]) {
        let input = Input::for_ever();
        for _ in 0..10 {
            let thread = thread::spawn(move || LOCAL.with(|local| assert!(local.set(Dying(input)).is_ok())));
            thread.join().expect("no panic");
        }
        assert_eq!(DIED.load(Ordering::Acquire), 10);
    }
}

#[cfg(unix)]
#[allow(unsafe_code)]
mod unix {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::ffi::c_void;

    use super::*;

    static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();

    /// The first round asks for a second round. By then the standard library has given up its data of this thread.
    extern "C" fn destructor(value: *mut c_void) {
        let round = DIED.fetch_add(1, Ordering::AcqRel) % 2;
        if round == 0 {
            // SAFETY: the key is there.
            unsafe { libc::pthread_setspecific(*KEY.get().expect("a key"), value) };
        }
        // SAFETY: the value is the input below, which is there for ever.
        unsafe { &*value.cast::<Input>() }.check(Parallelism::Auto);
    }

    #[test]
    fn destructors_of_keys_may_call() {
        if is_child("unix::destructors_of_keys_may_call", &[]) {
            let input = Input::for_ever();
            let mut key = 0;
            // SAFETY: the destructor takes the type of value that is set below.
            assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(destructor)) }, 0);
            KEY.set(key).expect("one key");
            for _ in 0..10 {
                let thread = thread::spawn(move || {
                    let key = *KEY.get().expect("a key");
                    // SAFETY: the key is there, and so is the input.
                    assert_eq!(unsafe { libc::pthread_setspecific(key, std::ptr::from_ref(input).cast()) }, 0);
                });
                thread.join().expect("no panic");
            }
            assert_eq!(DIED.load(Ordering::Acquire), 20);
        }
    }

    /// A child process has a copy of the memory at some moment of a call, and none of the helpers.
    #[test]
    fn child_processes_may_call() {
        if is_child("unix::child_processes_may_call", &[]) {
            let input = Input::large();
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Acquire) {
                        input.check(Parallelism::Auto);
                    }
                });
                for _ in 0..times(200) {
                    // SAFETY: the child calls, allocates, and ends.
                    let child = unsafe { libc::fork() };
                    assert!(child >= 0);
                    if child == 0 {
                        let is_right = (0..20).all(|_| input.normalized(Parallelism::Auto) == input.y);
                        // SAFETY: always.
                        unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
                    }
                    let mut status = 0;
                    // SAFETY: the child is one of this process.
                    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                    assert_eq!(status, 0);
                }
                done.store(true, Ordering::Release);
            });
        }
    }

    /// An allocator. A thread can ask to be stopped at its next allocation until a child process is there.
    struct Stopping;

    thread_local! {
        static STOPS: Cell<bool> = const { Cell::new(false) };
    }

    static STOPPED: AtomicBool = AtomicBool::new(false);
    static FORKED: AtomicBool = AtomicBool::new(false);

    // SAFETY: the system's allocator does all the work.
    unsafe impl GlobalAlloc for Stopping {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if STOPS.take() {
                STOPPED.store(true, Ordering::Release);
                while !FORKED.load(Ordering::Acquire) {
                    thread::yield_now();
                }
            }
            // SAFETY: the caller's duty.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
            // SAFETY: the caller's duty.
            unsafe { System.dealloc(p, layout) };
        }
    }

    #[global_allocator]
    static ALLOCATOR: Stopping = Stopping;

    /// The first plan reads the environment. A child process may begin while another thread does.
    #[test]
    fn child_processes_may_make_plans_while_the_first_is_made() {
        if is_child("unix::child_processes_may_make_plans_while_the_first_is_made", &[("LANENORM_ISA", "scalar")]) {
            let is_scalar = || LayerNorm::new(8, 1e-5).is_ok_and(|plan| plan.isa() == Isa::SCALAR);
            let first = thread::spawn(move || {
                STOPS.set(true);
                is_scalar()
            });
            while !STOPPED.load(Ordering::Acquire) {
                thread::yield_now();
            }
            // SAFETY: the child makes a plan, and ends; after a minute in any case.
            let child = unsafe { libc::fork() };
            assert!(child >= 0);
            if child == 0 {
                // SAFETY: always.
                unsafe {
                    libc::alarm(60);
                    libc::_exit(if is_scalar() { 0 } else { 1 });
                }
            }
            FORKED.store(true, Ordering::Release);
            let mut status = 0;
            // SAFETY: the child is one of this process.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "of the child: 14 is the signal of one that hangs");
            assert!(first.join().expect("no panic"), "the plan of the parent");
        }
    }

    /// Makes the system refuse to start threads from here on, if that is possible: the user may have no more than one.
    /// Root may have any number, so a process of root becomes one of nobody.
    #[cfg(target_os = "linux")]
    fn no_more_threads() -> bool {
        const NOBODY: libc::uid_t = 65534;
        // SAFETY: a number goes in.
        let may_be_refused = unsafe { libc::getuid() != 0 || libc::setuid(NOBODY) == 0 };
        may_be_refused && limit_threads(|_| 1) && thread::Builder::new().spawn(|| ()).is_err()
    }

    /// Sets how many threads the user may have. `limit` gets the most that can be set. Returns whether that was
    /// possible.
    #[cfg(target_os = "linux")]
    fn limit_threads(most: impl Fn(libc::rlim_t) -> libc::rlim_t) -> bool {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limits are written to a place for them.
        let is_known = unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &mut limit) } == 0;
        limit.rlim_cur = most(limit.rlim_max);
        // SAFETY: the limits are read from there.
        is_known && unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &limit) } == 0
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn help_comes_when_threads_can_be_started_again() {
        if is_child("unix::help_comes_when_threads_can_be_started_again", &[]) {
            let input = Input::large();
            if !no_more_threads() {
                eprintln!("skipped: this system does not refuse to start a thread");
                return;
            }
            for _ in 0..20 {
                input.check(Parallelism::Auto);
            }
            assert!(matches!(helpers(), None | Some(0)), "nobody helps where no thread can be started");
            assert!(limit_threads(|most| most), "the limit that was there before");
            input.check_until_helped();
            for _ in 0..20 {
                input.check(Parallelism::Auto);
            }
            assert!(matches!(helpers(), None | Some(1..=3)), "{:?} helpers", helpers());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_first_call_from_a_pinned_thread_does_not_decide_for_ever() {
        // Without a number in the environment, processors are counted.
        let environment = [("RAYON_NUM_THREADS", "")];
        if is_child("unix::a_first_call_from_a_pinned_thread_does_not_decide_for_ever", &environment) {
            if thread::available_parallelism().map_or(1, usize::from) < 2 || helpers().is_none() {
                eprintln!("skipped: this machine has one processor, or does not tell of threads");
                return;
            }
            let input = Input::large();
            let pinned = thread::scope(|scope| {
                let pinned = scope.spawn(|| {
                    // SAFETY: a set of processors may be all zeros, and has the size that is given.
                    let is_pinned = unsafe {
                        let size = size_of::<libc::cpu_set_t>();
                        let (mut set, mut one) = (std::mem::zeroed(), std::mem::zeroed());
                        let is_known = libc::sched_getaffinity(0, size, &mut set) == 0;
                        let first = (0..libc::CPU_SETSIZE as usize).find(|&n| libc::CPU_ISSET(n, &set));
                        libc::CPU_SET(first.unwrap_or(0), &mut one);
                        is_known && libc::sched_setaffinity(0, size, &one) == 0
                    };
                    input.check(Parallelism::Auto);
                    is_pinned && thread::available_parallelism().is_ok_and(|n| n.get() == 1)
                });
                pinned.join().expect("no panic")
            });
            if !pinned {
                eprintln!("skipped: threads cannot be pinned here");
                return;
            }
            assert_eq!(helpers(), Some(0), "a thread on one processor needs no help");
            // A thread on several has some.
            input.check_until_helped();
        }
    }
}
