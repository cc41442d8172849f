//! Images: what their shape says of rows, and the scalar loops over them.

use lanenorm_harness::answer::transposed;
use lanenorm_harness::naive;

use crate::case::{EPS, Op, Shape};
use crate::contender::Buffers;
use crate::number::Number;

/// The shape of each sample.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Images {
    pub(crate) channels: usize,
    pub(crate) pixels: usize,
    /// The groups of channels, which are the rows. Without them, the rows are the channels of each pixel.
    pub(crate) groups: Option<usize>,
}

impl Images {
    pub(crate) fn cols(self) -> usize {
        self.groups.map_or(self.channels, |groups| self.channels / groups * self.pixels)
    }
}

/// The rows of a tensor, one after the other.
pub(crate) fn rows<T: Copy>(shape: Shape, tensor: &[T]) -> Vec<T> {
    match shape.images {
        Some(Images { channels, pixels, groups: None }) => transposed(tensor, channels, pixels),
        _ => tensor.to_vec(),
    }
}

/// gamma or beta, with an element for each element of all groups.
pub(crate) fn of_elements(shape: Shape, v: Vec<f64>) -> Vec<f64> {
    match shape.images {
        Some(Images { pixels, groups: Some(_), .. }) => {
            v.into_iter().flat_map(|v| std::iter::repeat_n(v, pixels)).collect()
        }
        _ => v,
    }
}

/// What people write who do not use a library.
pub(crate) fn naive<T: Number>(op: Op, images: Images, b: &mut Buffers<T>) {
    let Images { channels, pixels, groups } = images;
    let (x, gamma, beta, y) = (b.x.get(), b.gamma.get(), b.beta.get(), b.y.get_mut());
    let Some(groups) = groups else {
        return naive::layer_norm_channels_first(x, pixels, gamma, beta, EPS, y);
    };
    let group = channels / groups;
    if op.has_silu() {
        naive::group_norm(x, group, pixels, [gamma, beta], EPS, y, naive::silu);
    } else {
        naive::group_norm(x, group, pixels, [gamma, beta], EPS, y, |y| y);
    }
}
