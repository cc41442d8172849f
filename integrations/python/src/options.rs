//! The arguments that calls have in common.

use lanenorm::capi::{
    lanenorm_activation, lanenorm_gate_kind, lanenorm_op, lanenorm_preset, lanenorm_rounding, lanenorm_sums,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::array::{Array, tuple};
use crate::call::{Norm, Params};
use crate::dtype::Dtype;

/// One axis, or several.
#[derive(Debug, FromPyObject)]
pub(crate) enum Axis {
    One(isize),
    Several(Vec<isize>),
}

/// Which axes of a tensor are normalized.
#[derive(Debug)]
pub(crate) struct Axes {
    /// All axes, with those that are normalized at the end. `None` if they are there.
    pub(crate) order: Option<Vec<usize>>,
    /// How many of the axes come before.
    pub(crate) first: usize,
}

impl Axes {
    pub(crate) fn new(axis: Option<Axis>, shape: &[usize]) -> PyResult<Self> {
        let ndim = shape.len();
        let given = match axis {
            None => vec![-1],
            Some(Axis::One(axis)) => vec![axis],
            Some(Axis::Several(axes)) => axes,
        };
        if given.is_empty() {
            return Err(PyValueError::new_err("axis is (), expected one axis or more"));
        }
        let mut is_normalized = vec![false; ndim];
        for &axis in &given {
            let at = if axis < 0 { axis + ndim as isize } else { axis };
            let Some(seen) = usize::try_from(at).ok().and_then(|at| is_normalized.get_mut(at)) else {
                return Err(PyValueError::new_err(format!("axis {axis} is out of range: x has {ndim} dimensions")));
            };
            if *seen {
                return Err(PyValueError::new_err(format!("axis {axis} is given twice")));
            }
            *seen = true;
        }
        let (first, is_normalized) = (ndim - given.len(), &is_normalized);
        let axes = |normalized| (0..ndim).filter(move |&axis| is_normalized[axis] == normalized);
        let order: Vec<usize> = axes(false).chain(axes(true)).collect();
        let is_moved = order.iter().enumerate().any(|(i, &axis)| i != axis);
        Ok(Self { order: is_moved.then_some(order), first })
    }

    /// A tensor with the axes that are normalized at its end.
    pub(crate) fn apply<'py>(&self, array: Array<'py>) -> PyResult<Array<'py>> {
        self.order.as_ref().map_or(Ok(array.clone()), |order| array.transposed(order))
    }

    /// The other way round.
    pub(crate) fn undo<'py>(&self, array: Array<'py>) -> PyResult<Array<'py>> {
        let Some(order) = &self.order else { return Ok(array) };
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &axis)| back[axis] = at);
        array.transposed(&back)
    }

    /// If one axis is normalized that is not the last one: samples, channels and pixels of a tensor of this shape.
    pub(crate) fn channels(&self, shape: &[usize]) -> Option<[usize; 3]> {
        let order = self.order.as_ref()?;
        if self.first + 1 != shape.len() {
            return None;
        }
        let axis = order[self.first];
        Some([shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()])
    }
}

/// gamma and beta, which live as long as this.
#[derive(Debug)]
pub(crate) struct Affine<'py> {
    gamma: Option<Array<'py>>,
    beta: Option<Array<'py>>,
    groups: usize,
    repeat: usize,
}

impl<'py> Affine<'py> {
    /// gamma and beta for rows whose axes start at `first` in `shape`. They have the shape of a row, or one that
    /// `broadcasts` to the whole shape, such that groups of rows have their own.
    pub(crate) fn new(
        gamma: Option<&Bound<'py, PyAny>>,
        beta: Option<&Bound<'py, PyAny>>,
        dtype: Dtype,
        shape: &[usize],
        first: usize,
        broadcasts: bool,
    ) -> PyResult<Self> {
        let read = |given: Option<&Bound<'py, PyAny>>, what| given.map(|given| Array::input(given, what)).transpose();
        let (gamma, beta) = (read(gamma, "gamma")?, read(beta, "beta")?);
        let mut groups = None;
        for (array, what) in [(&gamma, "gamma"), (&beta, "beta")] {
            let Some(array) = array else { continue };
            array.expect_dtype(what, |given| given.goes_with(dtype), dtype)?;
            let of = groups_of(array.shape(), shape, first).filter(|&of| broadcasts || of == [1, 1]);
            let Some(of) = of else {
                let (given, row) = (tuple(array.shape()), tuple(&shape[first..]));
                let or = if broadcasts {
                    format!(", or a shape that stands for groups of rows of {}", tuple(shape))
                } else {
                    String::new()
                };
                return Err(PyValueError::new_err(format!("{what} has shape {given}, expected {row}{or}")));
            };
            if groups.is_some_and(|groups| groups != of) {
                let [gamma, beta] = [&gamma, &beta].map(|v| v.as_ref().map_or(String::new(), |v| tuple(v.shape())));
                return Err(PyValueError::new_err(format!("beta has shape {beta}, expected that of gamma: {gamma}")));
            }
            groups = Some(of);
        }
        if let (Some(gamma), Some(beta)) = (&gamma, &beta)
            && gamma.dtype() != beta.dtype()
        {
            let (gamma, beta) = (gamma.dtype(), beta.dtype());
            return Err(PyTypeError::new_err(format!("beta has dtype {beta}, expected that of gamma: {gamma}")));
        }
        let in_order = |array: Option<Array<'py>>| array.map(Array::in_order).transpose();
        let [groups, repeat] = groups.unwrap_or([1, 1]);
        Ok(Self { gamma: in_order(gamma)?, beta: in_order(beta)?, groups, repeat })
    }

    pub(crate) fn params(&self) -> Params {
        let data =
            |array: &Option<Array<'py>>| array.as_ref().map_or(std::ptr::null(), |array| array.data().cast_const());
        let dtype = self.gamma.as_ref().or(self.beta.as_ref()).map(Array::dtype);
        let (gamma, beta) = (data(&self.gamma).cast(), data(&self.beta).cast());
        Params { gamma, beta, dtype, groups: self.groups, repeat: self.repeat }
    }

    /// The shape of the gradient of gamma: that of gamma, or of a row.
    pub(crate) fn shape(&self, row: &[usize]) -> Vec<usize> {
        self.gamma.as_ref().map_or(row, Array::shape).to_vec()
    }
}

/// The groups of rows of a tensor, and the rows that follow one another in each of them, if `given` is the shape of
/// their gammas: some axes of the tensor that come before its rows, with 1 for the others.
fn groups_of(given: &[usize], shape: &[usize], first: usize) -> Option<[usize; 2]> {
    let row = &shape[first..];
    let lead = given.len().checked_sub(row.len()).filter(|&lead| lead <= first && given[lead..] == *row)?;
    let (given, shape) = (&given[..lead], &shape[first - lead..first]);
    let is_group: Vec<bool> = given.iter().zip(shape).map(|(&g, &n)| g == n && n != 1).collect();
    if given.iter().zip(shape).any(|(&g, &n)| g != n && g != 1) {
        return None;
    }
    let Some(start) = is_group.iter().position(|&is| is) else { return Some([1, 1]) };
    let end = is_group.iter().rposition(|&is| is)? + 1;
    // Axes of the tensor between two groups that gammas do not have.
    if (start..end).any(|axis| !is_group[axis] && shape[axis] != 1) {
        return None;
    }
    let product = |range: std::ops::Range<usize>| shape[range].iter().product::<usize>();
    Some([product(start..end), product(end..lead)])
}

/// Which number a name stands for.
fn named<const N: usize>(what: &str, name: &str, names: [(&str, i32); N]) -> PyResult<i32> {
    names.iter().find(|(known, _)| *known == name).map(|&(_, number)| number).ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(known, _)| format!("{known:?}")).collect();
        PyValueError::new_err(format!("{what} is {name:?}, expected one of {}", names.join(", ")))
    })
}

pub(crate) fn rounding(name: &str) -> PyResult<i32> {
    let [once, steps, gamma] =
        [lanenorm_rounding::Once, lanenorm_rounding::Steps, lanenorm_rounding::Gamma].map(|rounding| rounding as i32);
    named("rounding", name, [("once", once), ("steps", steps), ("gamma", gamma), ("steps_and_gamma", steps + gamma)])
}

pub(crate) fn sums(name: &str) -> PyResult<i32> {
    let names = [
        ("rounded", lanenorm_sums::Rounded as i32),
        ("statistics", lanenorm_sums::Statistics as i32),
        ("unrounded", lanenorm_sums::Unrounded as i32),
    ];
    named("sums", name, names)
}

pub(crate) fn gate(name: &str) -> PyResult<i32> {
    let names = [
        ("silu", lanenorm_gate_kind::Silu as i32),
        ("sigmoid", lanenorm_gate_kind::Sigmoid as i32),
        ("gelu_tanh", lanenorm_gate_kind::GeluTanh as i32),
        ("silu_before", lanenorm_gate_kind::SiluBefore as i32),
        ("sigmoid_before", lanenorm_gate_kind::SigmoidBefore as i32),
        ("gelu_tanh_before", lanenorm_gate_kind::GeluTanhBefore as i32),
    ];
    named("gate", name, names)
}

pub(crate) fn activation(name: Option<&str>) -> PyResult<i32> {
    let names = [
        ("silu", lanenorm_activation::Silu as i32),
        ("sigmoid", lanenorm_activation::Sigmoid as i32),
        ("gelu_tanh", lanenorm_activation::GeluTanh as i32),
    ];
    name.map_or(Ok(lanenorm_activation::None as i32), |name| named("activation", name, names))
}

pub(crate) fn preset(name: &str) -> PyResult<i32> {
    let names = [
        ("i8", lanenorm_preset::I8 as i32),
        ("torch_ao_i8", lanenorm_preset::TorchAoI8 as i32),
        ("torchao_i8", lanenorm_preset::TorchaoI8 as i32),
        ("vllm_i8", lanenorm_preset::VllmI8 as i32),
        ("u8", lanenorm_preset::U8 as i32),
        ("onnx_u8", lanenorm_preset::OnnxU8 as i32),
        ("q8_0", lanenorm_preset::Q8_0 as i32),
        ("q8_0_x86", lanenorm_preset::Q8_0_X86 as i32),
        ("q8_1", lanenorm_preset::Q8_1 as i32),
        ("q8_1_x86", lanenorm_preset::Q8_1_X86 as i32),
        ("q8_k", lanenorm_preset::Q8_K as i32),
        ("e4m3", lanenorm_preset::E4m3 as i32),
        ("e5m2", lanenorm_preset::E5m2 as i32),
    ];
    named("scheme", name, names)
}

/// The number of threads as the C ABI has it.
pub(crate) fn threads(threads: Option<usize>) -> PyResult<usize> {
    match threads {
        None => Ok(0),
        Some(0) => Err(PyValueError::new_err("threads is 0, expected None, or 1 or more")),
        Some(n) => Ok(n),
    }
}

/// A normalization of rows of `cols` elements.
pub(crate) fn norm(op: lanenorm_op, dtype: Dtype, cols: usize, eps: f64, n: Option<usize>) -> PyResult<Norm> {
    Ok(Norm { op, dtype, cols, eps, offset: 0.0, rounding: 0, sums: 0, threads: threads(n)? })
}
