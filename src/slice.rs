/// A vector that a call reads, or none.
///
/// A slice, a vector or an array converts into this, and an [`Option`] of one.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a, T>(pub(crate) Option<&'a [T]>);

/// A vector that a call writes, or none.
///
/// A mutable slice, vector or array converts into this, and an [`Option`] of one.
#[derive(Debug)]
pub struct SliceMut<'a, T>(pub(crate) Option<&'a mut [T]>);

impl<'a, T> From<&'a [T]> for Slice<'a, T> {
    #[inline(always)]
    fn from(data: &'a [T]) -> Self {
        Self(Some(data))
    }
}

impl<'a, T> From<&'a Vec<T>> for Slice<'a, T> {
    #[inline(always)]
    fn from(data: &'a Vec<T>) -> Self {
        Self(Some(data))
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Slice<'a, T> {
    #[inline(always)]
    fn from(data: &'a [T; N]) -> Self {
        Self(Some(data))
    }
}

impl<'a, T, V: Into<Self>> From<Option<V>> for Slice<'a, T> {
    #[inline(always)]
    fn from(data: Option<V>) -> Self {
        Self(data.and_then(|data| data.into().0))
    }
}

impl<'a, T> From<&'a mut [T]> for SliceMut<'a, T> {
    #[inline(always)]
    fn from(data: &'a mut [T]) -> Self {
        Self(Some(data))
    }
}

impl<'a, T> From<&'a mut Vec<T>> for SliceMut<'a, T> {
    #[inline(always)]
    fn from(data: &'a mut Vec<T>) -> Self {
        Self(Some(data))
    }
}

impl<'a, T, const N: usize> From<&'a mut [T; N]> for SliceMut<'a, T> {
    #[inline(always)]
    fn from(data: &'a mut [T; N]) -> Self {
        Self(Some(data))
    }
}

impl<'a, T, V: Into<Self>> From<Option<V>> for SliceMut<'a, T> {
    #[inline(always)]
    fn from(data: Option<V>) -> Self {
        Self(data.and_then(|data| data.into().0))
    }
}
