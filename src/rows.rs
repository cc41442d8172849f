/// Rows to be read: contiguous, or some distance apart in a larger buffer.
///
/// A slice of whole rows converts into this.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T = f32> {
    pub(crate) data: &'a [T],
    pub(crate) layout: Layout,
}

/// Rows to be written: contiguous, or some distance apart in a larger buffer, whose other elements stay untouched.
///
/// A mutable slice of whole rows converts into this.
#[derive(Debug)]
pub struct RowsMut<'a, T = f32> {
    pub(crate) data: &'a mut [T],
    pub(crate) layout: Layout,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    Contiguous,
    Strided { rows: usize, stride: usize },
}

impl<'a, T> Rows<'a, T> {
    /// `rows` rows of which row `r` starts at element `r * stride` of `data`.
    ///
    /// That they fit and do not overlap is checked when they are used, since the plan knows their length.
    pub fn strided(data: &'a [T], rows: usize, stride: usize) -> Self {
        Self { data, layout: Layout::Strided { rows, stride } }
    }
}

impl<'a, T> RowsMut<'a, T> {
    /// `rows` rows of which row `r` starts at element `r * stride` of `data`.
    ///
    /// That they fit and do not overlap is checked when they are used, since the plan knows their length.
    pub fn strided(data: &'a mut [T], rows: usize, stride: usize) -> Self {
        Self { data, layout: Layout::Strided { rows, stride } }
    }
}

impl<'a, T> From<&'a [T]> for Rows<'a, T> {
    fn from(data: &'a [T]) -> Self {
        Self { data, layout: Layout::Contiguous }
    }
}

impl<'a, T> From<&'a Vec<T>> for Rows<'a, T> {
    fn from(data: &'a Vec<T>) -> Self {
        Self::from(data.as_slice())
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Rows<'a, T> {
    fn from(data: &'a [T; N]) -> Self {
        Self::from(data.as_slice())
    }
}

impl<'a, T> From<&'a mut [T]> for RowsMut<'a, T> {
    fn from(data: &'a mut [T]) -> Self {
        Self { data, layout: Layout::Contiguous }
    }
}

impl<'a, T> From<&'a mut Vec<T>> for RowsMut<'a, T> {
    fn from(data: &'a mut Vec<T>) -> Self {
        Self::from(data.as_mut_slice())
    }
}

impl<'a, T, const N: usize> From<&'a mut [T; N]> for RowsMut<'a, T> {
    fn from(data: &'a mut [T; N]) -> Self {
        Self::from(data.as_mut_slice())
    }
}
