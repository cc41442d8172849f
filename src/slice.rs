use crate::Error;

/// A vector that a call reads, or none.
///
/// A slice, a vector or an array converts into this, with the feature `ndarray` an array of one axis, and an [`Option`]
/// of one of these.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a, T>(pub(crate) MaybeSlice<&'a [T]>);

/// A vector that a call writes, or none.
///
/// A mutable slice, vector or array converts into this, with the feature `ndarray` an array of one axis, and an
/// [`Option`] of one of these.
#[derive(Debug)]
pub struct SliceMut<'a, T>(pub(crate) MaybeSlice<&'a mut [T]>);

/// A slice, none, or something that cannot be one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MaybeSlice<V> {
    Absent,
    Slice(V),
    /// The elements of an array have this stride.
    #[cfg(feature = "ndarray")]
    Strided(isize),
}

/// What is wrong with the vectors that a call has been given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Misgiven(Option<(&'static str, isize)>);

impl Misgiven {
    /// The slice of a vector that is called `what`. Keeps what is wrong with it.
    #[cfg_attr(not(feature = "ndarray"), expect(unused_variables, reason = "only an array can be no slice"))]
    #[inline(always)]
    pub(crate) fn slice<V>(&mut self, what: &'static str, vector: MaybeSlice<V>) -> Option<V> {
        match vector {
            MaybeSlice::Slice(slice) => Some(slice),
            MaybeSlice::Absent => None,
            #[cfg(feature = "ndarray")]
            MaybeSlice::Strided(stride) => {
                self.0 = self.0.or(Some((what, stride)));
                None
            }
        }
    }

    /// Refuses a call that has been given a vector that is no slice.
    #[inline(always)]
    pub(crate) fn refuse(self) -> Result<(), Error> {
        match self.0 {
            None => Ok(()),
            Some((what, stride)) => Err(Error::VectorStride { what, stride }),
        }
    }
}

impl<'a, T> From<&'a [T]> for Slice<'a, T> {
    #[inline(always)]
    fn from(data: &'a [T]) -> Self {
        Self(MaybeSlice::Slice(data))
    }
}

impl<'a, T> From<&'a Vec<T>> for Slice<'a, T> {
    #[inline(always)]
    fn from(data: &'a Vec<T>) -> Self {
        Self(MaybeSlice::Slice(data))
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Slice<'a, T> {
    #[inline(always)]
    fn from(data: &'a [T; N]) -> Self {
        Self(MaybeSlice::Slice(data))
    }
}

impl<'a, T, V: Into<Self>> From<Option<V>> for Slice<'a, T> {
    #[inline(always)]
    fn from(data: Option<V>) -> Self {
        data.map_or(Self(MaybeSlice::Absent), Into::into)
    }
}

impl<'a, T> From<&'a mut [T]> for SliceMut<'a, T> {
    #[inline(always)]
    fn from(data: &'a mut [T]) -> Self {
        Self(MaybeSlice::Slice(data))
    }
}

impl<'a, T> From<&'a mut Vec<T>> for SliceMut<'a, T> {
    #[inline(always)]
    fn from(data: &'a mut Vec<T>) -> Self {
        Self(MaybeSlice::Slice(data))
    }
}

impl<'a, T, const N: usize> From<&'a mut [T; N]> for SliceMut<'a, T> {
    #[inline(always)]
    fn from(data: &'a mut [T; N]) -> Self {
        Self(MaybeSlice::Slice(data))
    }
}

impl<'a, T, V: Into<Self>> From<Option<V>> for SliceMut<'a, T> {
    #[inline(always)]
    fn from(data: Option<V>) -> Self {
        data.map_or(Self(MaybeSlice::Absent), Into::into)
    }
}
