//! Where on the stack loops run.
//!
//! A loop may spill a register to the stack and load it again. The load takes its value from the store that is still in
//! the core, unless the value lies on two pages: then the load waits until all stores before it have left. Streaming
//! stores leave for memory, and a loop that waits for them in every step takes up to eight times as long. Whether a
//! loop waits depends on where its frame happens to be, which differs from process to process and from caller to
//! caller.

use crate::isa::Isa;
use core::hint::black_box;
use core::mem::MaybeUninit;

/// The bytes of a page of memory.
const PAGE: usize = 4096;

/// The most bytes of stack that forward loops of f32 and f64 take, with what they call and what calls them. The test
/// `codegen` reads the frames in the assembly. (The frames of 16-bit types, with packed gamma and beta, and of backward
/// passes are longer: only their first `FRAME` bytes are within a page.)
const FRAME: usize = 3264;

/// The bytes to go down at a time. A frame may begin at `PAGE - FRAME` addresses of a page. A step with the frames of
/// these functions is shorter than that, so that it cannot jump over all of them.
const STEP: usize = 512;

const _: () = assert!(STEP + 256 <= PAGE - FRAME);

/// Does a job where the frames of its loops are within a page. Only x86-64 needs this: only its registers are wider
/// than the alignment of the stack.
#[inline(never)]
pub(crate) fn within_a_page<J>(job: &mut J, isa: Isa, run: fn(&mut J, Isa)) {
    let here = MaybeUninit::<u8>::uninit();
    if cfg!(target_arch = "x86_64") && black_box(&here).as_ptr().addr() % PAGE < FRAME {
        further_down(job, isa, run);
    } else {
        run(job, isa);
    }
}

#[inline(never)]
fn further_down<J>(job: &mut J, isa: Isa, run: fn(&mut J, Isa)) {
    let room = [MaybeUninit::<u8>::uninit(); STEP];
    within_a_page(job, isa, run);
    // Without a use after the call, the compiler need not keep the room during the call.
    black_box(&room);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_within_a_page() {
        fn run(runs: &mut usize, _: Isa) {
            let here = MaybeUninit::<u8>::uninit();
            let end = black_box(&here).as_ptr().addr();
            if cfg!(target_arch = "x86_64") {
                assert_eq!((end - FRAME * 9 / 10) / PAGE, end / PAGE, "a frame at {end:#x}");
            }
            *runs += 1;
        }
        fn run_at_depth(depth: usize) {
            let mut runs = 0;
            within_a_page(&mut runs, Isa::SCALAR, run);
            assert_eq!(runs, 1);
            if depth > 0 {
                let room = [MaybeUninit::<u8>::uninit(); 100];
                run_at_depth(depth - 1);
                black_box(&room);
            }
        }
        run_at_depth(200);
    }
}
