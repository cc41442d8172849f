//! gamma and beta.

use core::marker::PhantomData;

use half::{bf16, f16};

use super::Groups;
use crate::divisor::Divisor;
use crate::element::{Addend, Companion, Kind, Storage};
use crate::error::Error;
use crate::rounding::Rounding;
use crate::simd::Float;
use crate::stats::{Root, check_eps};

/// gamma or beta beside rows of type `T`, of any type that is a [`Companion`] of `T`.
#[derive(Clone, Copy, Debug)]
pub struct Vector<'a, T> {
    p: *const T,
    len: usize,
    kind: Kind,
    marker: PhantomData<&'a [T]>,
}

// SAFETY: Vector stands for a slice of elements, which is Send.
unsafe impl<T: Sync> Send for Vector<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Vector<'_, T> {}

impl<'a, T: Storage, G: Companion<T>> From<&'a [G]> for Vector<'a, T> {
    #[inline(always)]
    fn from(v: &'a [G]) -> Self {
        Self { p: v.as_ptr().cast(), len: v.len(), kind: G::KIND, marker: PhantomData }
    }
}

impl<'a, T: Storage> Vector<'a, T> {
    /// `len` elements of a kind given by a pointer, for callers without a slice.
    ///
    /// # Safety
    /// - There are `len` elements, aligned and valid for reads, and nothing writes them while this lives.
    /// - The kind is that of a [`Companion`] of `T`.
    #[inline(always)]
    pub unsafe fn from_raw(p: *const T, len: usize, kind: Kind) -> Self {
        Self { p, len, kind, marker: PhantomData }
    }

    /// The same vector beside rows of type `R`: the sums of rows of type `T` with others.
    #[inline(always)]
    pub fn beside<R: Storage>(self) -> Vector<'a, R>
    where
        T: Addend<R>,
    {
        let kind = match (<T as Companion<R>>::KIND, self.kind) {
            // `T` is `R`.
            (Kind::Own, kind) => kind,
            (kind, Kind::Own) => kind,
            // f32, beside 16 bits and now beside itself.
            _ => Kind::Own,
        };
        Vector { p: self.p.cast(), len: self.len, kind, marker: PhantomData }
    }

    /// The number of elements.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the elements are, of the type that [`kind`](Self::kind) says.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *const T {
        self.p
    }

    /// Whether the elements are f32 beside 16 bits.
    #[inline(always)]
    pub(crate) fn is_wide(&self) -> bool {
        T::ROUNDS && self.kind != Kind::Own
    }

    /// Whether the elements have 16 bits.
    #[inline(always)]
    pub(crate) fn rounds(&self) -> bool {
        self.kind.is_narrow() || T::ROUNDS && self.kind == Kind::Own
    }

    /// The type of the elements.
    #[inline(always)]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The name of the type of the elements.
    #[inline(always)]
    fn dtype(&self) -> &'static str {
        self.kind.dtype::<T>().name()
    }

    /// `len` elements from `start` on.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline(always)]
    pub fn part(self, start: usize, len: usize) -> Self {
        assert!(start <= self.len && len <= self.len - start, "elements {start} + {len} of {}", self.len);
        // SAFETY: checked above.
        let p = unsafe { self.kind.at(self.p, start) };
        Self { p, len, ..self }
    }

    /// Element `i`, in the float of the rows.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn get(self, i: usize) -> T::Float {
        assert!(i < self.len, "element {i} of {}", self.len);
        // SAFETY: checked above; the elements are of this kind.
        unsafe {
            let p = self.kind.at(self.p, i);
            match self.kind {
                Kind::Own => (*p).to_computed(),
                Kind::F16 if T::MIXES => T::Float::from_f32((*p.cast::<f16>()).to_computed()),
                Kind::Bf16 if T::MIXES => T::Float::from_f32((*p.cast::<bf16>()).to_computed()),
                _ => T::Float::from_f64(f64::from(*p.cast::<f32>())),
            }
        }
    }

    /// Writes the elements from `from` on, in the float of the rows.
    ///
    /// # Panics
    /// If there are fewer than `out` takes.
    #[inline(never)]
    pub(crate) fn copy_to(self, from: usize, out: &mut [T::Float]) {
        let v = self.part(from, out.len());
        if v.kind == Kind::Own {
            for (i, out) in out.iter_mut().enumerate() {
                // SAFETY: the part has as many elements, of this kind.
                *out = unsafe { (*v.p.add(i)).to_computed() };
            }
        } else {
            out.iter_mut().enumerate().for_each(|(i, out)| *out = v.get(i));
        }
    }

    /// Whether all elements are finite with the offset added, and the sum rounded to their type.
    #[cold]
    #[inline(never)]
    pub(crate) fn all_finite_rounded(self, offset: T::Float) -> bool {
        (0..self.len).all(|i| self.kind.rounded::<T>(self.get(i) + offset).into().is_finite())
    }

    /// Whether all elements are finite with the offset added.
    #[inline(never)]
    pub(crate) fn all_finite(self, offset: T::Float) -> bool {
        /// This loop has no early end, which would keep it from being vectorized.
        fn all<G: Storage>(v: &[G], offset: G::Float) -> bool {
            v.iter().fold(offset.into().is_finite(), |all, v| all & v.is_finite_with(offset))
        }
        // SAFETY: this stands for a slice of `len` elements, which are f32 if wide. Vectors of 16 bits beside f32 are
        // widened before this is asked.
        unsafe {
            debug_assert!(!self.kind.is_narrow());
            if self.is_wide() {
                let offset: f64 = offset.into();
                all(core::slice::from_raw_parts(self.p.cast::<f32>(), self.len), offset as f32)
            } else {
                all(core::slice::from_raw_parts(self.p, self.len), offset)
            }
        }
    }
}

/// gamma and beta, each optional.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a, T: Storage> {
    /// The gammas of all groups, one after the other. An absent gamma counts as 1.
    pub gamma: Option<Vector<'a, T>>,
    /// The betas of all groups, one after the other, of the type of gamma. An absent beta counts as 0. RMS
    /// normalization has no beta.
    pub beta: Option<Vector<'a, T>>,
    /// Which rows have which gamma and beta.
    pub groups: Groups,
    /// A number that is added to gamma, in the type that rows are computed in: 1 for a model that keeps gamma - 1.
    /// Without a gamma it has no effect.
    pub offset: T::Float,
    /// Where the operation rounds before its end.
    pub rounding: Rounding,
    /// What rows without a mean are divided by.
    pub divisor: Divisor,
}

impl<T: Storage> Default for Params<'_, T> {
    fn default() -> Self {
        let offset = T::Float::default();
        let (rounding, divisor) = (Rounding::ONCE, Divisor::RootMeanSquare);
        Self { gamma: None, beta: None, groups: Groups::ONE, offset, rounding, divisor }
    }
}

impl<'a, T: Storage> Params<'a, T> {
    /// Refuses what does not fit rows.
    #[inline(always)]
    pub(crate) fn fit(&self, rows: usize, cols: usize) -> Result<(), Error> {
        let groups = self.groups.groups();
        let fits = |what, v: Option<Vector<'_, T>>| match (v, cols.checked_mul(groups)) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Error::Overflow { what, rows: groups, stride: cols }),
            (Some(v), Some(len)) => Error::length(what, v.len(), len),
        };
        self.groups.divide(rows)?;
        fits("gamma", self.gamma)?;
        fits("beta", self.beta)?;
        match (self.gamma, self.beta) {
            (Some(gamma), Some(beta)) if gamma.kind() != beta.kind() => {
                Err(Error::Types { gamma: gamma.dtype(), beta: beta.dtype() })
            }
            _ => Ok(()),
        }
    }

    /// What the root is taken of, for rows that have a mean if `centered`.
    ///
    /// # Errors
    /// If rows cannot have such an eps.
    #[inline(always)]
    pub(crate) fn root(&self, centered: bool, eps: f64) -> Result<Root, Error> {
        check_eps(eps)?;
        if centered {
            return Ok(Root::of_mean(eps));
        }
        self.divisor.check_eps(eps)?;
        Ok(Root::new(self.divisor, eps))
    }

    /// These with an offset of -0 where the offset is zero or has no effect: adding -0 changes no bits, but adding +0
    /// changes a -0.
    #[inline(always)]
    pub(crate) fn with_harmless_offset(self) -> Self {
        let harmless = self.gamma.is_none() || self.offset.is_zero();
        if harmless { Self { offset: -T::Float::default(), ..self } } else { self }
    }

    /// gamma and beta of row `r` alone.
    #[inline(always)]
    pub(crate) fn of_row(&self, r: usize, cols: usize) -> Self {
        if self.groups.are_one() { *self } else { self.of_group(self.groups.of_row(r), cols) }
    }

    /// gamma and beta of one group.
    #[inline(never)]
    fn of_group(&self, group: usize, cols: usize) -> Self {
        let start = group * cols;
        let part = |v: Option<Vector<'a, T>>| v.map(|v| v.part(start, cols));
        Self { gamma: part(self.gamma), beta: part(self.beta), groups: Groups::ONE, ..*self }
    }

    /// The factor of column `i`: gamma plus offset.
    pub(crate) fn gamma(&self, i: usize) -> T::Float {
        self.gamma.map_or(T::Float::from_f64(1.0), |g| {
            let sum = g.get(i) + self.offset;
            if self.rounds_gamma() { g.kind().rounded::<T>(sum) } else { sum }
        })
    }

    /// Whether the sum of gamma and offset is rounded to a gamma of 16 bits, and may change by that.
    #[inline(always)]
    pub(crate) fn rounds_gamma(&self) -> bool {
        self.rounding.gamma && !self.offset.is_zero() && self.gamma.is_some_and(|gamma| gamma.rounds())
    }

    pub(crate) fn beta(&self, i: usize) -> T::Float {
        self.beta.map_or(-T::Float::default(), |b| b.get(i))
    }

    /// Whether gamma and beta have 16 bits beside rows of f32.
    #[inline(always)]
    pub(crate) fn are_narrow(&self) -> bool {
        T::MIXES && self.gamma.or(self.beta).is_some_and(|v| v.kind().is_narrow())
    }

    pub(crate) fn are_finite(&self) -> bool {
        let is_finite = |gamma: Vector<'_, T>| {
            if self.rounds_gamma() { gamma.all_finite_rounded(self.offset) } else { gamma.all_finite(self.offset) }
        };
        self.gamma.is_none_or(is_finite) && self.beta.is_none_or(|b| b.all_finite(-T::Float::default()))
    }
}
