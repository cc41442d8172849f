//! The moments of a row, and the tree along which the moments of its chunks are merged. No SIMD.

use core::mem::MaybeUninit;

use super::Root;
use crate::divisor::Divisor;
use crate::element::Storage;
use crate::error::Error;
use crate::simd::{Float, in_default_environment};

/// The number of elements that are summed in the type that rows are computed in. Longer sums are in f64.
///
/// Worst error of the normalized value on random steps in f32, 1000 seeds, in units of 2^-24: 4.0 with 512,
/// 12 with 1024, 27 with 1536, 41 with 2048.
pub const CHUNK: usize = 1024;

/// Count, mean and sum of squared deviations of some elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// The number of elements.
    pub count: f64,
    /// A number close to the mean of the elements.
    pub origin: f64,
    /// The mean less `origin`. The sum of the two, rounded to f64, would be too coarse for a row that is constant but
    /// for the last bits of a few elements.
    pub offset: f64,
    /// The sum of squared deviations from the mean.
    pub m2: f64,
    /// The factor by which the elements were multiplied first: 1 in fast sums, and another power of two on the slow
    /// path.
    pub scale: f64,
}

impl Moments {
    /// The moments of no elements.
    pub const EMPTY: Self = Self { count: 0.0, origin: 0.0, offset: 0.0, m2: 0.0, scale: 1.0 };

    /// The moments of elements that are not all finite; `count` is still to be set.
    pub(crate) const NAN: Self = Self { count: 0.0, origin: f64::NAN, offset: f64::NAN, m2: f64::NAN, scale: 1.0 };

    /// The mean of the elements, rounded to f64; 0 if there are none.
    pub fn mean(&self) -> f64 {
        #[inline(never)]
        fn mean(&Moments { origin, offset, scale, .. }: &Moments) -> f64 {
            (origin + offset) / scale
        }
        in_default_environment(|| mean(self))
    }

    /// The variance, M2 divided by the number of elements; without a mean, the mean of the squares. NaN if there are no
    /// elements.
    pub fn var(&self) -> f64 {
        #[inline(never)]
        fn var(&Moments { count, m2, scale, .. }: &Moments) -> f64 {
            m2 / count / scale / scale
        }
        in_default_environment(|| var(self))
    }

    /// The moments of the elements of `self` and `other`. The order matters in the last bits.
    ///
    /// Moments of no elements change nothing. If the two differ in scale, the result is NaN in all but the count, and
    /// belongs to no row ([`are_of`](Self::are_of)).
    pub fn merge(self, other: Self) -> Self {
        Self::merge_all([self, other])
    }

    /// The moments of the elements of all parts of a row, first to last, merged along the tree that the number of parts
    /// fixes.
    ///
    /// They are the moments of the whole row, bit by bit, if all parts but the last have one length, [`CHUNK`] times a
    /// power of two, and the last is not longer. Parts of no elements, and parts that differ in scale, are merged as
    /// [`merge`](Self::merge) does it.
    pub fn merge_all(parts: impl IntoIterator<Item = Self>) -> Self {
        in_default_environment(|| Self::merge_parts(parts))
    }

    #[inline(never)]
    pub(crate) fn merge_parts(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut stack = no_subtrees();
        let mut tree = Tree::new(&mut stack);
        let mut first = None;
        let mut of_one_scale = true;
        // Moments of no elements have no scale.
        for part in parts.into_iter().filter(|part| part.count != 0.0) {
            of_one_scale &= *first.get_or_insert(part.scale) == part.scale;
            tree.push(part);
        }
        match first {
            None => Self::EMPTY,
            Some(_) if of_one_scale => tree.total(),
            Some(_) => Self { count: tree.total().count, scale: f64::NAN, ..Self::NAN },
        }
    }

    /// Whether these can be the moments of a row of `T` that has at least `cols` elements. That is so if they count
    /// `cols` elements or more, if their scale is 1 or one that [`rescale`](Self::rescale) gives for `T`, if `m2` is
    /// not negative, and if the mean is finite wherever `m2` is.
    pub fn are_of<T: Storage>(&self, cols: usize) -> bool {
        in_default_environment(|| self.fit(cols, &T::Float::RESCALE))
    }

    /// Refuses moments, one for each row, of which some cannot be the moments of a row of `T` with `cols` elements.
    #[inline(never)]
    pub(crate) fn check_all<T: Storage>(all: &[Self], cols: usize) -> Result<(), Error> {
        match all.iter().position(|moments| !moments.are_of::<T>(cols)) {
            None => Ok(()),
            Some(row) => {
                let (Self { count, m2, scale, .. }, mean) = (all[row], all[row].mean());
                Err(Error::Moments { row, count, scale, mean, m2, cols, dtype: T::DTYPE.name() })
            }
        }
    }

    #[inline(never)]
    fn fit(&self, cols: usize, scales: &[f64; 3]) -> bool {
        let Self { count, origin, offset, m2, scale } = *self;
        let mean = origin + offset;
        let is_possible = (m2 >= 0.0 || m2.is_nan()) && (mean.is_finite() || !m2.is_finite());
        count >= cols as f64 && (scale == 1.0 || scales.contains(&scale)) && is_possible
    }

    /// `None` if a row of `T` with these moments is in the range where the fast sums can be trusted. Else the scale
    /// with which the moments of the row, or of each of its parts, are to be taken again, on the slow path: see
    /// [`RowMoments::at_scale`](crate::ops::moments::RowMoments::at_scale). (Also of a row with a NaN or an infinity,
    /// whose squares cannot be told from those that overflow.)
    ///
    /// # Errors
    /// If eps is negative, infinite or NaN.
    pub fn rescale<T: Storage>(&self, eps: f64) -> Result<Option<f64>, Error> {
        self.rescale_for::<T>(Divisor::RootMeanSquare, eps)
    }

    /// [`rescale`](Self::rescale) where rows are divided by something else.
    ///
    /// # Errors
    /// As [`rescale`](Self::rescale).
    pub fn rescale_for<T: Storage>(&self, divisor: Divisor, eps: f64) -> Result<Option<f64>, Error> {
        check_eps(eps)?;
        Ok(in_default_environment(|| self.slow_scale::<T>(&Root::new(divisor, eps))))
    }

    /// [`rescale`](Self::rescale) for an eps that has been checked.
    #[inline(never)]
    pub(crate) fn slow_scale<T: Storage>(&self, root: &Root) -> Option<f64> {
        let v = root.at_least(root.above(self.m2, self.count));
        let trusted = T::Float::TRUSTED.contains(&v);
        (!trusted).then(|| scale_for::<T::Float>(v, self.origin + self.offset))
    }
}

/// Count, origin, offset, m2 and scale, to be sent to another process.
impl From<Moments> for [f64; 5] {
    fn from(Moments { count, origin, offset, m2, scale }: Moments) -> Self {
        [count, origin, offset, m2, scale]
    }
}

impl From<[f64; 5]> for Moments {
    fn from([count, origin, offset, m2, scale]: [f64; 5]) -> Self {
        Self { count, origin, offset, m2, scale }
    }
}

/// Refuses an eps that is not finite, or negative.
#[inline(always)]
pub(crate) fn check_eps(eps: f64) -> Result<(), Error> {
    // By bits: a comparison raises flags. Where subnormal numbers count as zeros, it also takes negative ones for 0.
    let bits = eps.to_bits();
    if bits < f64::INFINITY.to_bits() || bits == (-0.0_f64).to_bits() { Ok(()) } else { Err(Error::Eps(eps)) }
}

/// Whether [`Moments::rescale`] gives this scale for rows of `T`.
pub fn is_slow_scale<T: Storage>(scale: f64) -> bool {
    /// Not inlined: see [`in_default_environment`].
    #[inline(never)]
    fn is_one_of(scales: &[f64; 3], scale: f64) -> bool {
        scales.contains(&scale)
    }
    in_default_environment(|| is_one_of(&T::Float::RESCALE, scale))
}

/// The scale at which the slow path takes the moments of a row whose v is not trusted.
pub(crate) fn scale_for<F: Float>(v: f64, mean: f64) -> f64 {
    let [down, up, constant] = F::RESCALE;
    let too_small = v < *F::TRUSTED.start();
    if !too_small {
        down
    } else if mean.abs() > 1.0 {
        // The squares would not be small if the elements differed, and zeros do not underflow.
        constant
    } else {
        up
    }
}

/// The deepest tree: 2^47 bytes of f32, as many as today's processors can address.
const DEPTH: usize = 36;

/// A value that is merged along a [`Tree`]. The order matters in the last bits.
pub(crate) trait Mergeable: Copy {
    fn merge(self, other: Self) -> Self;
}

impl Mergeable for Moments {
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let delta = (other.origin - self.origin) + (other.offset - self.offset);
        let share = other.count / count;
        Self {
            count,
            origin: self.origin,
            offset: self.offset + delta * share,
            m2: self.m2 + other.m2 + delta * delta * (self.count * share),
            scale: self.scale,
        }
    }
}

/// Two sums.
impl Mergeable for (f64, f64) {
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        (self.0 + other.0, self.1 + other.1)
    }
}

/// Room for one subtree of each depth. It is not a part of the [`Tree`], so that it need not be initialized.
pub(crate) type Subtrees<M = Moments> = [MaybeUninit<M>; DEPTH];

#[inline(always)]
pub(crate) fn no_subtrees<M: Copy>() -> Subtrees<M> {
    [MaybeUninit::uninit(); _]
}

/// Merges the moments (or other sums) of successive chunks along the tree, in one pass and without recursion: the
/// stack holds one finished subtree for each bit set in the number of chunks so far, as in a binary counter.
#[derive(Debug)]
pub(crate) struct Tree<'s, M = Moments> {
    /// Elements below `depth` have been written.
    stack: &'s mut [MaybeUninit<M>],
    depth: usize,
    chunks: usize,
}

impl<'s, M: Mergeable> Tree<'s, M> {
    #[inline(always)]
    pub(crate) fn new(stack: &'s mut [MaybeUninit<M>]) -> Self {
        Self { stack, depth: 0, chunks: 0 }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, mut chunk: M) {
        let mut full = self.chunks;
        while full & 1 == 1 {
            chunk = self.pop().merge(chunk);
            full >>= 1;
        }
        self.stack[self.depth] = MaybeUninit::new(chunk);
        self.depth += 1;
        self.chunks += 1;
    }

    /// The moments of all chunks. At least one chunk has been pushed.
    #[inline(always)]
    pub(crate) fn total(mut self) -> M {
        let mut total = self.pop();
        while self.depth > 0 {
            total = self.pop().merge(total);
        }
        total
    }

    #[inline(always)]
    fn pop(&mut self) -> M {
        self.depth -= 1;
        // SAFETY: it was below the depth.
        unsafe { self.stack[self.depth].assume_init() }
    }
}

/// Where a long row may be cut so that the two parts are subtrees: a multiple of [`CHUNK`], or `None` when the
/// row is one chunk.
pub fn split_point(cols: usize) -> Option<usize> {
    let chunks = cols.div_ceil(CHUNK);
    (chunks > 1).then(|| CHUNK << (chunks - 1).ilog2())
}
