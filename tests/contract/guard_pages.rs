//! Nothing outside the buffers is read or written: x, y, gamma, beta and the addends of a sum end exactly at an
//! unmapped page, then begin exactly after one. A touch beyond kills the process.

use std::marker::PhantomData;
use std::ptr;

use lanenorm::{Isa, Store};

use crate::support::forms::{Io, StatsMut, Sum};
use crate::support::{Output, Problem, Types, Value, assert_same_bits, quick, tiers};

/// Memory between two pages that cannot be touched.
pub(crate) struct Guarded<V> {
    base: *mut libc::c_void,
    page: usize,
    pages: usize,
    holds: PhantomData<V>,
}

impl<V: Value> Guarded<V> {
    /// Room for at least `len` elements.
    pub(crate) fn new(len: usize) -> Self {
        // SAFETY: sysconf has no duties.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page size");
        let pages = (len * size_of::<V>()).div_ceil(page);
        let (flags, size) = (libc::MAP_PRIVATE | libc::MAP_ANON, (pages + 2) * page);
        // SAFETY: a new mapping. Only its inner pages are made accessible.
        let base = unsafe {
            let base = libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED, "mmap");
            let inner = libc::mprotect(base.byte_add(page), pages * page, libc::PROT_READ | libc::PROT_WRITE);
            assert_eq!(inner, 0, "mprotect");
            base
        };
        Self { base, page, pages, holds: PhantomData }
    }

    /// `len` zeros that touch the page behind them, or else the page ahead.
    pub(crate) fn zeros(&mut self, len: usize, at_end: bool) -> &mut [V] {
        let bytes = len * size_of::<V>();
        assert!(bytes <= self.pages * self.page);
        let start = self.page + if at_end { self.pages * self.page - bytes } else { 0 };
        // SAFETY: within the accessible pages, aligned to an element, zeroed or written as V, borrowed from self.
        let slice = unsafe { std::slice::from_raw_parts_mut(self.base.byte_add(start).cast(), len) };
        slice.fill(V::default());
        slice
    }

    /// A copy of `values`, placed in the same way.
    pub(crate) fn holding(&mut self, values: &[V], at_end: bool) -> &mut [V] {
        let slice = self.zeros(values.len(), at_end);
        slice.copy_from_slice(values);
        slice
    }
}

impl<V> Drop for Guarded<V> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, to which no slice is left.
        unsafe { libc::munmap(self.base, (self.pages + 2) * self.page) };
    }
}

/// All buffers, mapped once.
struct Memory<K: Types> {
    x: Guarded<K::X>,
    s: Guarded<K::X>,
    residual: Guarded<K::X>,
    bias: Guarded<K::X>,
    y: Guarded<K::Y>,
    gamma: Guarded<K::G>,
    beta: Guarded<K::G>,
}

impl<K: Types> Memory<K> {
    fn new() -> Self {
        Self {
            x: Guarded::new(MOST),
            s: Guarded::new(MOST),
            residual: Guarded::new(MOST),
            bias: Guarded::new(MOST),
            y: Guarded::new(MOST),
            gamma: Guarded::new(MOST),
            beta: Guarded::new(MOST),
        }
    }

    fn check(&mut self, problem: &Problem<K>, expected: &Output<K>, isa: Isa, at_end: bool) {
        let Problem { cols, x: values, .. } = problem;
        let (cols, len) = (*cols, values.len());
        let gamma = problem.gamma.as_ref().map(|v| &*self.gamma.holding(v, at_end));
        let beta = problem.beta.as_ref().map(|v| &*self.beta.holding(v, at_end));
        let plan = problem.plan(isa);
        let here = |what: &str| format!("{isa}, {problem}, {what}, at end: {at_end}");
        for store in [Store::Ordinary, Store::Streaming] {
            let plan = plan.with_store(store);
            let (x, y) = (&*self.x.holding(values, at_end), self.y.zeros(len, at_end));
            plan.call_mixed(Io::new(x, &mut *y), gamma, beta, StatsMut::default()).expect("a valid call");
            assert_same_bits(format_args!("{}", here(&format!("{store:?}"))), cols, &expected.y, y);

            // Adding -0 changes no bits.
            let (y, s) = (self.y.zeros(len, at_end), self.s.zeros(len, at_end));
            let (residual, bias) = (self.residual.zeros(len, at_end), self.bias.zeros(cols, at_end));
            residual.fill(K::X::of(-0.0));
            bias.fill(K::X::of(-0.0));
            let sum = Sum::sum_to(x, &*residual, s).with_bias(bias);
            plan.call_mixed(Io::sum(sum, &mut *y), gamma, beta, StatsMut::default()).expect("a valid call");
            assert_same_bits(format_args!("{}", here(&format!("sum, {store:?}"))), cols, &expected.y, y);
        }
        let x = self.x.holding(values, at_end);
        if let Some(io) = K::in_place((&mut *x).into()) {
            plan.call_mixed(io, gamma, beta, StatsMut::default()).expect("a valid call");
            let y: Vec<K::Y> = x.iter().map(|x| K::Y::of_bits(x.bits())).collect();
            assert_same_bits(format_args!("{}", here("in place")), cols, &expected.y, &y);
        }
    }
}

fn columns() -> impl Iterator<Item = usize> {
    (1..=300).filter(|c| !quick() || *c < 70 || c % 13 == 0).chain(1023..=1026).chain(2047..=2050)
}

/// One row, a fused pair, a block with a row left over. Long rows have no blocks.
const ROWS: [usize; 3] = [1, 2, 9];

const MOST: usize = 9 * 2050;

fn buffers_between_unmapped_pages<K: Types>() {
    let mut memory = Memory::<K>::new();
    for cols in columns() {
        for rows in ROWS {
            let ordinary = Problem::<K>::ordinary(rows, cols, 1).in_every_form();
            let problems = ordinary.into_iter().chain(Problem::mixed(rows, cols, 2).of_every_operation());
            for (i, problem) in problems.enumerate() {
                if !K::takes(i + cols + rows) {
                    continue;
                }
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

for_all_types!(buffers_between_unmapped_pages);
