//! Nothing outside the buffers is read or written: x, y, gamma and beta end exactly at an unmapped page, then begin
//! exactly after one. A touch beyond kills the process.

use std::ptr;

use lanenorm::{Isa, Store};

use crate::support::{Output, Problem, assert_same_bits, quick, tiers};

/// Memory between two pages that cannot be touched.
struct Guarded {
    base: *mut libc::c_void,
    page: usize,
    pages: usize,
}

impl Guarded {
    /// Room for at least `len` elements.
    fn new(len: usize) -> Self {
        // SAFETY: sysconf has no duties.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page size");
        let pages = (len * size_of::<f32>()).div_ceil(page);
        let (flags, size) = (libc::MAP_PRIVATE | libc::MAP_ANON, (pages + 2) * page);
        // SAFETY: a new mapping, of which only the inner pages are made accessible.
        let base = unsafe {
            let base = libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED, "mmap");
            let inner = libc::mprotect(base.byte_add(page), pages * page, libc::PROT_READ | libc::PROT_WRITE);
            assert_eq!(inner, 0, "mprotect");
            base
        };
        Self { base, page, pages }
    }

    /// `len` elements that touch the page behind them, or else the page ahead.
    fn slice(&mut self, len: usize, at_end: bool) -> &mut [f32] {
        let bytes = len * size_of::<f32>();
        assert!(bytes <= self.pages * self.page);
        let start = self.page + if at_end { self.pages * self.page - bytes } else { 0 };
        // SAFETY: within the accessible pages, aligned to 4 bytes, zeroed or written as f32, borrowed from self.
        unsafe { std::slice::from_raw_parts_mut(self.base.byte_add(start).cast(), len) }
    }

    /// The same, holding a copy.
    fn holding(&mut self, values: &[f32], at_end: bool) -> &mut [f32] {
        let slice = self.slice(values.len(), at_end);
        slice.copy_from_slice(values);
        slice
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, to which no slice is left.
        unsafe { libc::munmap(self.base, (self.pages + 2) * self.page) };
    }
}

/// The four buffers, mapped once.
struct Memory([Guarded; 4]);

impl Memory {
    fn check(&mut self, problem: &Problem, expected: &Output, isa: Isa, at_end: bool) {
        let cols = problem.cols;
        let [x, y, gamma, beta] = &mut self.0;
        let gamma = problem.gamma.as_ref().map(|v| &*gamma.holding(v, at_end));
        let beta = problem.beta.as_ref().map(|v| &*beta.holding(v, at_end));
        let plan = problem.plan(isa);
        for store in [Store::Ordinary, Store::Streaming] {
            let (x, y) = (&*x.holding(&problem.x, at_end), y.slice(problem.x.len(), at_end));
            y.fill(0.0);
            plan.with_store(store).forward(x, gamma, beta, &mut *y).expect("a valid call");
            assert_same_bits(format_args!("{isa}, {problem}, {store:?}, at end: {at_end}"), cols, &expected.y, y);
        }
        let x = x.holding(&problem.x, at_end);
        plan.forward_in_place(&mut *x, gamma, beta).expect("a valid call");
        assert_same_bits(format_args!("{isa}, {problem}, in place, at end: {at_end}"), cols, &expected.y, x);
    }
}

fn columns() -> impl Iterator<Item = usize> {
    (1..=300).filter(|c| !quick() || *c < 70 || c % 13 == 0).chain(1023..=1026).chain(2047..=2050)
}

/// One row, a fused pair, a block with a row left over; long rows need no blocks.
const ROWS: [usize; 3] = [1, 2, 9];

const MOST: usize = 9 * 2050;

#[test]
fn buffers_between_unmapped_pages() {
    let mut memory = Memory([MOST, MOST, MOST, MOST].map(Guarded::new));
    for cols in columns() {
        for rows in ROWS {
            let ordinary = Problem::ordinary(rows, cols, 1).in_every_form();
            for problem in ordinary.into_iter().chain(Problem::mixed(rows, cols, 2).of_every_operation()) {
                let expected = problem.expected();
                for &isa in tiers() {
                    for at_end in [true, false] {
                        memory.check(&problem, &expected, isa, at_end);
                    }
                }
            }
        }
    }
}
