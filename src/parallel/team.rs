//! How a thread of no pool gets the help of one.
#![allow(unsafe_code)]

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::{hint, mem};

/// Nobody has come yet.
const OPEN: u8 = 0;
/// The caller has left; nobody comes any more.
const CLOSED: u8 = 1;
/// Helpers are at work.
const TAKEN: u8 = 2;
/// So they are, and the caller has gone to sleep.
const AWAITED: u8 = 3;
/// The helpers have left.
const DONE: u8 = 4;

/// How often the caller looks whether the helpers have left before it goes to sleep: for some ten microseconds, which is what
/// going to sleep and waking take.
const LOOKS: usize = 400;

/// What the caller and its helpers know of one another. Whoever comes late finds it closed, when the caller may be long gone.
struct Call {
    state: AtomicU8,
    /// There as long as the state is not [`CLOSED`] or [`DONE`], and run by whoever has set it to [`TAKEN`].
    help: *mut (dyn FnMut() + Send),
    caller: Thread,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: one thread alone runs `help`, which may be sent to it, and all else is made for several.
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

/// Runs `work` on the calling thread, which is one of no pool, and `help` on one of the current pool if that comes while `work` runs.
/// Returns when both have returned, or when `work` has and `help` has not begun.
///
/// `rayon::join` would put the calling thread to sleep and wake two others, which takes some tens of microseconds.
pub(super) fn call(work: &mut dyn FnMut(), help: &mut (dyn FnMut() + Send)) {
    // SAFETY: the lifetime alone changes. `leave` sees to it that nobody uses it any more, and is called before this returns.
    let help = unsafe { mem::transmute::<*mut (dyn FnMut() + Send), *mut (dyn FnMut() + Send)>(help) };
    let (state, caller, panic) = (AtomicU8::new(OPEN), thread::current(), Mutex::new(None));
    let call = Arc::new(Call { state, help, caller, panic });
    let offer = Arc::clone(&call);
    rayon::spawn(move || offer.help());
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    for result in [call.leave(), result] {
        if let Err(panic) = result {
            panic::resume_unwind(panic);
        }
    }
}

impl Call {
    fn help(&self) {
        if self.state.compare_exchange(OPEN, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        // SAFETY: the state is TAKEN or AWAITED until this has returned, and was set by this thread.
        let help = unsafe { &mut *self.help };
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(help)) {
            *self.panic() = Some(panic);
        }
        if self.state.swap(DONE, Ordering::AcqRel) == AWAITED {
            self.caller.unpark();
        }
    }

    /// Ends the call: nobody uses `help` any more when this returns.
    fn leave(&self) -> thread::Result<()> {
        if self.state.compare_exchange(OPEN, CLOSED, Ordering::Relaxed, Ordering::Acquire).is_ok() {
            return Ok(());
        }
        let is_done = || self.state.load(Ordering::Acquire) == DONE;
        let mut looks = 0;
        while !is_done() && looks < LOOKS {
            hint::spin_loop();
            looks += 1;
        }
        if self.state.compare_exchange(TAKEN, AWAITED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            while !is_done() {
                thread::park();
            }
        }
        self.panic().take().map_or(Ok(()), Err)
    }

    fn panic(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::time::Duration;

    use super::*;

    fn wait_for(flag: &AtomicBool) {
        while !flag.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }

    fn message(panic: Box<dyn Any + Send>) -> &'static str {
        panic.downcast_ref().copied().unwrap_or("another panic")
    }

    #[test]
    fn both_have_returned_when_a_call_returns() {
        for work_is_slow in [false, true] {
            let (helping, helped) = (AtomicBool::new(false), AtomicBool::new(false));
            let mut work = || {
                wait_for(&helping);
                if work_is_slow {
                    wait_for(&helped);
                }
            };
            let mut help = || {
                helping.store(true, Ordering::Release);
                // Longer than the caller stays awake.
                thread::sleep(Duration::from_millis(20));
                helped.store(true, Ordering::Release);
            };
            call(&mut work, &mut help);
            assert!(helped.load(Ordering::Acquire));
        }
    }

    #[test]
    fn nobody_waits_for_help_that_has_not_begun() {
        let release = Arc::new(AtomicBool::new(false));
        let busy = Arc::new(AtomicUsize::new(0));
        for _ in 0..rayon::current_num_threads() {
            let (release, busy) = (Arc::clone(&release), Arc::clone(&busy));
            rayon::spawn(move || {
                busy.fetch_add(1, Ordering::AcqRel);
                wait_for(&release);
            });
        }
        while busy.load(Ordering::Acquire) < rayon::current_num_threads() {
            thread::yield_now();
        }
        let (mut worked, helped) = (false, AtomicBool::new(false));
        call(&mut || worked = true, &mut || helped.store(true, Ordering::Release));
        assert!(worked && !helped.load(Ordering::Acquire));
        // The offer is taken up when its caller is gone.
        release.store(true, Ordering::Release);
    }

    #[test]
    fn panics_reach_the_caller_when_nobody_uses_its_memory_any_more() {
        let (helping, helped) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut work = || {
            wait_for(&helping);
            panic!("of the work");
        };
        let mut help = || {
            helping.store(true, Ordering::Release);
            thread::sleep(Duration::from_millis(20));
            helped.store(true, Ordering::Release);
        };
        let panic = panic::catch_unwind(AssertUnwindSafe(|| call(&mut work, &mut help))).expect_err("a panic");
        assert_eq!(message(panic), "of the work");
        assert!(helped.load(Ordering::Acquire));

        let helping = AtomicBool::new(false);
        let mut help = || {
            helping.store(true, Ordering::Release);
            panic!("of the help");
        };
        let panic = panic::catch_unwind(AssertUnwindSafe(|| call(&mut || wait_for(&helping), &mut help)));
        assert_eq!(message(panic.expect_err("a panic")), "of the help");
    }
}
