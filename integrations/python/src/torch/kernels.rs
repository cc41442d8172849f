//! The operators, for tensors on CPUs, and what they do under autograd.
//!
//! A public operator has two kernels. For `CPU` it computes. For `Autograd` it looks whether a gradient is wanted: then
//! the call goes to an operator whose gradient is Python's; otherwise it computes at once, since each other way by
//! the dispatcher takes as long as the work on a small tensor. Where fake tensors or modes of Python are about, which
//! want to see operators, it calls one below.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};

use lanenorm::capi::lanenorm_op;

use super::shim::{Kernel, Shim, Tensor, Value, shim};
use crate::array::tuple;
use crate::call::{Backward, Forward, Norm, Params, Statistics};
use crate::dtype::Dtype;
use crate::view::{Layout, View};

/// What a kernel has done.
type Done = Result<(), String>;

thread_local! {
    /// The message of an exception, which nobody frees while it is thrown.
    static MESSAGE: RefCell<CString> = RefCell::default();
}

/// Runs a kernel, whose errors become exceptions.
///
/// # Safety
/// - The caller is called by what catches exceptions of C++, and has nothing to drop.
unsafe fn guarded(kernel: impl FnOnce() -> Done) {
    let done = catch_unwind(AssertUnwindSafe(kernel)).unwrap_or_else(|_| Err("a bug of lanenorm: a panic".into()));
    if let Err(message) = done {
        // SAFETY: the caller's duty. The message has been moved.
        unsafe { throw(message) };
    }
}

/// # Safety
/// - As of [`guarded`].
#[cold]
#[inline(never)]
unsafe fn throw(message: String) {
    let p = MESSAGE.with_borrow_mut(|kept| {
        *kept = CString::new(message).unwrap_or_default();
        kept.as_ptr()
    });
    // SAFETY: the message lives until the next one of this thread.
    unsafe { shim().throw(CStr::from_ptr(p)) };
}

/// The values of a call, which are taken one after the other.
struct Stack(*mut Value);

impl Stack {
    /// # Safety
    /// - There is another value.
    unsafe fn next(&mut self) -> Value {
        // SAFETY: the caller's duty.
        unsafe {
            let value = *self.0;
            self.0 = self.0.add(1);
            value
        }
    }

    /// # Safety
    /// - The next value is a tensor.
    unsafe fn tensor(&mut self) -> Tensor {
        // SAFETY: the caller's duty.
        unsafe { Tensor::new(self.next()) }
    }

    /// # Safety
    /// - The next value is an optional tensor.
    unsafe fn optional(&mut self) -> Option<Tensor> {
        // SAFETY: the caller's duty.
        unsafe { shim().take(self.next()).map(|value| Tensor::new(value)) }
    }

    /// The arguments that are numbers: eps, and if all are there the dimensions of a row, the offset and the rounding.
    ///
    /// # Safety
    /// - The next values are these.
    unsafe fn numbers(&mut self, has_all: bool) -> Numbers {
        // SAFETY: the caller's duty.
        unsafe {
            let eps = f64::from_bits(self.next());
            if !has_all {
                return Numbers { eps, dims: 1, offset: 0.0, rounding: 0 };
            }
            let (dims, offset, rounding) = (self.next() as i64, f64::from_bits(self.next()), self.next() as i64);
            Numbers { eps, dims, offset: offset as f32, rounding }
        }
    }
}

#[derive(Clone, Copy)]
struct Numbers {
    eps: f64,
    dims: i64,
    offset: f32,
    rounding: i64,
}

impl Numbers {
    /// The axis at which the rows of a tensor of this shape begin.
    fn first(&self, shape: &[usize]) -> Result<usize, String> {
        let (dims, ndim) = (self.dims, shape.len());
        let found = usize::try_from(dims).ok().filter(|&dims| dims > 0).and_then(|dims| ndim.checked_sub(dims));
        found.ok_or_else(|| format!("dims is {dims}, expected 1 or more, and at most the {ndim} dimensions of input"))
    }

    fn norm(&self, op: lanenorm_op, dtype: Dtype, cols: usize) -> Norm {
        let &Self { eps, offset, rounding, .. } = self;
        let rounding = i32::try_from(rounding).unwrap_or(-1);
        Norm { op, dtype, cols, eps, offset, rounding, sums: 0, threads: shim().threads() }
    }
}

/// weight or bias: the tensor that was given, or a copy whose elements follow one another.
struct Param<'a>(Option<Given<'a>>);

enum Given<'a> {
    AsItIs(&'a Tensor),
    Copied(Tensor),
}

impl<'a> Param<'a> {
    fn new(given: Option<&'a Tensor>, what: &str, row: &[usize], dtype: Dtype) -> Result<Self, String> {
        let Some(given) = given else { return Ok(Self(None)) };
        let of = given.dtype(what)?;
        if !of.goes_with(dtype) {
            return Err(format!("{what} has dtype {of}, which does not go with an input of {dtype}"));
        }
        let view = given.view();
        expect_shape(&view, what, row)?;
        if view.data.is_null() && view.len() > 0 {
            return Err(format!("{what} has no memory, expected that of {} elements", view.len()));
        }
        let is_in_order = view.is_contiguous_from(0);
        Ok(Self(Some(if is_in_order { Given::AsItIs(given) } else { Given::Copied(given.contiguous()?) })))
    }

    fn view(&self) -> Option<View<'_>> {
        self.0.as_ref().map(|given| match given {
            Given::AsItIs(tensor) => tensor.view(),
            Given::Copied(tensor) => tensor.view(),
        })
    }
}

fn expect_shape(view: &View<'_>, what: &str, shape: &[usize]) -> Done {
    if view.shape == shape {
        return Ok(());
    }
    Err(format!("{what} has shape {}, expected {}", tuple(view.shape), tuple(shape)))
}

fn params(weight: &Param<'_>, bias: &Param<'_>) -> Result<Params, String> {
    let (gamma, beta) = (weight.view(), bias.view());
    if let (Some(View { dtype: gamma, .. }), Some(View { dtype: beta, .. })) = (gamma, beta)
        && gamma != beta
    {
        return Err(format!("bias has dtype {beta}, expected that of weight: {gamma}"));
    }
    let data = |view: Option<View<'_>>| view.map_or(null(), |view| view.data.cast_const());
    let dtype = gamma.or(beta).map(|view| view.dtype);
    Ok(Params { gamma: data(gamma), beta: data(beta), dtype, groups: 1, repeat: 1 })
}

/// The statistics of `rows` rows in one tensor: mean, `mean_lo` and rstd, or rstd alone.
fn statistics(tensor: Option<&Tensor>, rows: usize, is_centered: bool) -> Statistics {
    let Some(view) = tensor.map(Tensor::view) else { return Statistics::NONE };
    let at = |i: usize| view.data.wrapping_byte_add(i * rows * view.dtype.size());
    if is_centered {
        Statistics { mean: at(0), mean_lo: at(1), rstd: at(2) }
    } else {
        Statistics { rstd: at(0), ..Statistics::NONE }
    }
}

/// The tensors of a forward call.
struct Inputs {
    x: Tensor,
    residual: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

/// What a forward call gives.
struct Outputs {
    y: Tensor,
    sum: Option<Tensor>,
    statistics: Option<Tensor>,
}

/// Runs `call` on tensors and their layout, if they have one, or else on copies of the inputs, which are the first
/// `inputs` of them. Rows begin at axis `first`.
fn arranged<const N: usize>(
    tensors: [&Tensor; N],
    inputs: usize,
    first: usize,
    call: impl Fn(&Layout<N>, [&View<'_>; N]) -> crate::call::Done,
) -> Done {
    let run = |tensors: [&Tensor; N]| {
        let views = tensors.map(Tensor::view);
        let layout = Layout::new(views.each_ref(), first)?;
        Some(call(&layout, views.each_ref()).map_err(|refused| refused.message))
    };
    if let Some(done) = run(tensors) {
        return done;
    }
    let copies = tensors[..inputs].iter().map(|tensor| tensor.contiguous()).collect::<Result<Vec<_>, _>>()?;
    let mut in_order = tensors;
    in_order.iter_mut().zip(&copies).for_each(|(tensor, copy)| *tensor = copy);
    run(in_order).expect("tensors whose elements follow one another have a layout")
}

/// Normalizes. With `keeps`, statistics are among the outputs.
fn forward(op: lanenorm_op, inputs: &Inputs, numbers: Numbers, keeps: bool) -> Result<Outputs, String> {
    let Inputs { x, residual, .. } = inputs;
    let dtype = x.dtype("input")?;
    let shape = x.shape();
    let first = numbers.first(shape)?;
    let (lead, row) = shape.split_at(first);
    let norm = numbers.norm(op, dtype, row.iter().product());
    let (weight, bias) = (inputs.weight.as_ref(), inputs.bias.as_ref());
    let (weight, bias) = (Param::new(weight, "weight", row, dtype)?, Param::new(bias, "bias", row, dtype)?);
    let params = params(&weight, &bias)?;
    let kept = if norm.is_centered() { 3 } else { 1 };
    let rows = lead.iter().product();
    let kept = keeps.then(|| Tensor::empty(&[kept, rows], dtype.of_statistics())).transpose()?;
    let statistics = statistics(kept.as_ref(), rows, norm.is_centered());
    let y = Tensor::empty(shape, dtype)?;
    let Some(residual) = residual else {
        arranged([x, &y], 1, first, |layout, tensors| {
            let call = Forward { statistics, ..Forward::new(layout, tensors, params) };
            // SAFETY: the tensors live on.
            unsafe { call.run(&norm) }
        })?;
        return Ok(Outputs { y, sum: None, statistics: kept });
    };
    let sum_dtype = residual.dtype("residual")?;
    if !(sum_dtype == dtype || sum_dtype == Dtype::F32 && sum_dtype.goes_with(dtype)) {
        return Err(format!("residual has dtype {sum_dtype}, which does not go with an input of {dtype}"));
    }
    expect_shape(&residual.view(), "residual", shape)?;
    let sum = Tensor::empty(shape, sum_dtype)?;
    arranged([x, residual, &sum, &y], 2, first, |layout, tensors| {
        let call = Forward::new(layout, tensors, params);
        let call = Forward { statistics, residual: Some(1), sum: Some(2), ..call };
        // SAFETY: the tensors live on.
        unsafe { call.run(&norm) }
    })?;
    Ok(Outputs { y, sum: Some(sum), statistics: kept })
}

/// Takes gradients: dx, and those of weight and bias. Those that are not wanted, by the bits of `wanted`, are empty.
fn backward(
    op: lanenorm_op,
    [dy, x]: [&Tensor; 2],
    [ds, weight, kept]: [Option<&Tensor>; 3],
    numbers: Numbers,
    wanted: u64,
) -> Result<[Tensor; 3], String> {
    let dtype = x.dtype("input")?;
    let shape = x.shape();
    let first = numbers.first(shape)?;
    let (lead, row) = shape.split_at(first);
    for (tensor, what) in [(Some(dy), "dy"), (ds, "ds")] {
        let Some(tensor) = tensor else { continue };
        let of = tensor.dtype(what)?;
        if of != dtype {
            return Err(format!("{what} has dtype {of}, expected that of input: {dtype}"));
        }
        expect_shape(&tensor.view(), what, shape)?;
    }
    let norm = numbers.norm(op, dtype, row.iter().product());
    let weight = Param::new(weight, "weight", row, dtype)?;
    let params = params(&weight, &Param(None))?;
    let rows = lead.iter().product();
    if let Some(kept) = kept {
        expect_shape(&kept.view(), "statistics", &[if norm.is_centered() { 3 } else { 1 }, rows])?;
        let (of, expected) = (kept.dtype("statistics")?, dtype.of_statistics());
        if of != expected {
            return Err(format!("statistics has dtype {of}, expected {expected}"));
        }
    }
    let statistics = statistics(kept, rows, norm.is_centered());
    let output = |bit: u64, sizes: &[usize], dtype| Tensor::empty(if wanted & bit != 0 { sizes } else { &[0] }, dtype);
    let of_params = dtype.of_statistics();
    let wants_bias = wanted & 4 != 0 && norm.is_centered();
    let [dx, dweight, dbias] =
        [output(1, shape, dtype)?, output(2, row, of_params)?, output(if wants_bias { 4 } else { 0 }, row, of_params)?];
    if wanted & 3 == 0 && !wants_bias {
        return Ok([dx, dweight, dbias]);
    }
    let to = |is_wanted: bool, tensor: &Tensor| if is_wanted { tensor.view().data } else { null_mut() };
    let (dgamma, dbeta) = (to(wanted & 2 != 0, &dweight), to(wants_bias, &dbias));
    let wants_x = wanted & 1 != 0;
    // What is not wanted has the place of x, and is not looked at.
    let to_x = if wants_x { &dx } else { x };
    let inputs = if wants_x { 3 } else { 4 };
    let ds = ds.filter(|_| wants_x);
    arranged([dy, x, ds.unwrap_or(x), to_x], inputs, first, |layout, tensors| {
        let (dx, ds) = (wants_x.then_some(3), ds.map(|_| 2));
        let call = Backward { layout, tensors, dx, ds, params, statistics, dgamma, dbeta };
        // SAFETY: the tensors live on.
        unsafe { call.run(&norm) }
    })?;
    Ok([dx, dweight, dbias])
}

/// What operators of an operation have in common.
trait Operation {
    const OP: lanenorm_op;
    const HAS_BIAS: bool;

    /// Takes the tensors of a forward call from the stack.
    ///
    /// # Safety
    /// - They are there.
    unsafe fn inputs(stack: &mut Stack, adds: bool) -> Inputs {
        // SAFETY: the caller's duty.
        unsafe {
            let (x, residual) = (stack.tensor(), adds.then_some(()).map(|()| stack.tensor()));
            let weight = stack.optional();
            let bias = if Self::HAS_BIAS { stack.optional() } else { None };
            Inputs { x, residual, weight, bias }
        }
    }
}

struct Layer;
struct Rms;

impl Operation for Layer {
    const OP: lanenorm_op = lanenorm_op::LayerNorm;
    const HAS_BIAS: bool = true;
}

impl Operation for Rms {
    const OP: lanenorm_op = lanenorm_op::RmsNorm;
    const HAS_BIAS: bool = false;
}

/// The kernel of a forward operator: with a residual, with all numbers, and with statistics as the last output.
unsafe extern "C-unwind" fn run_forward<O: Operation, const ADDS: bool, const ALL: bool, const KEEPS: bool>(
    values: *mut Value,
    _: u64,
    _: u64,
) {
    // SAFETY: the dispatcher calls this with the values of the schema.
    unsafe {
        guarded(|| {
            let mut stack = Stack(values);
            let (inputs, numbers) = (O::inputs(&mut stack, ADDS), stack.numbers(ALL));
            let Outputs { y, sum, statistics } = forward(O::OP, &inputs, numbers, KEEPS)?;
            let outputs = [Some(y), sum, statistics].into_iter().flatten();
            outputs.enumerate().for_each(|(i, output)| *values.add(i) = output.into_value());
            Ok(())
        });
    }
}

/// The kernel of a backward operator.
unsafe extern "C-unwind" fn run_backward<O: Operation>(values: *mut Value, _: u64, _: u64) {
    // SAFETY: the dispatcher calls this with the values of the schema.
    unsafe {
        guarded(|| {
            let mut stack = Stack(values);
            let (dy, ds, x) = (stack.tensor(), stack.optional(), stack.tensor());
            let (weight, kept) = (stack.optional(), stack.optional());
            let (numbers, wanted) = (stack.numbers(true), stack.next());
            let optional = [ds.as_ref(), weight.as_ref(), kept.as_ref()];
            let [dx, dweight, dbias] = backward(O::OP, [&dy, &x], optional, numbers, wanted)?;
            (*values, *values.add(1)) = (dx.into_value(), dweight.into_value());
            if O::HAS_BIAS {
                *values.add(2) = dbias.into_value();
            }
            Ok(())
        });
    }
}

/// The kernel of a public operator under autograd.
unsafe extern "C-unwind" fn run_autograd<O: Operation, const ADDS: bool, const ALL: bool>(
    values: *mut Value,
    n: u64,
    m: u64,
) {
    let shim = shim();
    let required = if ADDS { 2 } else { 1 };
    let optional = if O::HAS_BIAS { 2 } else { 1 };
    // SAFETY: the dispatcher calls this with the values of the schema. What is called takes the same ones and, where
    // these are not all numbers, one dimension, an offset of 0 and a rounding of 0.
    unsafe {
        let tensor = |i: usize| {
            let value = *values.add(i);
            let p = value as *const Value;
            if i < required { Some(value) } else { (!p.is_null()).then(|| *p) }
        };
        let requires_grad = |i: usize| tensor(i).is_some_and(|tensor| shim.requires_grad(tensor));
        let is_plain = |i: usize| tensor(i).is_none_or(|tensor| shim.is_plain(tensor));
        let tensors = 0..required + optional;
        let is_differentiated = shim.has_forward_mode()
            || ((shim.functions.aoti_torch_grad_mode_is_enabled)() && tensors.clone().any(requires_grad));
        let names = names::<O>(ADDS);
        let name = if is_differentiated {
            names[1]
        } else if shim.any_modes_set() || !tensors.clone().all(is_plain) {
            names[0]
        } else {
            return run_forward::<O, ADDS, ALL, false>(values, n, m);
        };
        guarded(|| {
            let mut all = [0; MOST_VALUES];
            all.as_mut_ptr().copy_from_nonoverlapping(values, n as usize);
            if !ALL {
                all[n as usize] = 1;
            }
            shim.call(name, all.as_mut_ptr())?;
            values.copy_from_nonoverlapping(all.as_ptr(), required);
            Ok(())
        });
    }
}

/// The values of the longest public operator: two tensors, two parameters and four numbers.
const MOST_VALUES: usize = 8;

/// The operators below a public one: the plain one, and the one whose gradient is Python's.
fn names<O: Operation>(adds: bool) -> [&'static CStr; 2] {
    match (O::HAS_BIAS, adds) {
        (true, false) => [c"lanenorm::_layer_norm", c"lanenorm::_layer_norm_autograd"],
        (true, true) => [c"lanenorm::_add_layer_norm", c"lanenorm::_add_layer_norm_autograd"],
        (false, false) => [c"lanenorm::_rms_norm", c"lanenorm::_rms_norm_autograd"],
        (false, true) => [c"lanenorm::_add_rms_norm", c"lanenorm::_add_rms_norm_autograd"],
    }
}

/// The last arguments of operators that have all numbers.
const NUMBERS: &str = ", int dims=1, float offset=0.0, int rounding=0";

/// An operator: its name, its schema, and its kernels.
struct Operator {
    name: String,
    schema: String,
    kernels: Vec<(&'static CStr, Kernel)>,
}

/// The operators of an operation.
fn operators<O: Operation>(name: &str, eps: &str) -> Vec<Operator> {
    let bias = if O::HAS_BIAS { "Tensor? bias=None, " } else { "" };
    let mut all = Vec::new();
    let mut add = |name: String, schema: String, kernels: &[(&'static CStr, Kernel)]| {
        all.push(Operator { name, schema, kernels: kernels.to_vec() });
    };
    let mut with = |adds: bool, forward: [Kernel; 2], autograd: [Kernel; 2], keeping: Kernel| {
        let (name, residual, and) =
            if adds { (format!("add_{name}"), "Tensor residual, ", "Tensor, ") } else { (name.to_owned(), "", "") };
        let few = format!("Tensor input, {residual}Tensor? weight=None, {bias}float eps={eps}");
        let numbers = [format!("({few})"), format!("({few}{NUMBERS})")];
        let result = if adds { "(Tensor, Tensor)" } else { "Tensor" };
        let [short, long] = numbers.each_ref().map(|arguments| format!("{arguments} -> {result}"));
        add(name.clone(), short, &[(c"CPU", forward[0]), (c"Autograd", autograd[0])]);
        add(format!("{name}_general"), long.clone(), &[(c"CPU", forward[1]), (c"Autograd", autograd[1])]);
        add(format!("_{name}"), long.clone(), &[(c"CPU", forward[1])]);
        add(format!("_{name}_autograd"), long, &[(c"CPU", forward[1])]);
        add(format!("_{name}_keeping"), format!("{} -> (Tensor, {and}Tensor)", numbers[1]), &[(c"CPU", keeping)]);
    };
    with(
        false,
        [run_forward::<O, false, false, false>, run_forward::<O, false, true, false>],
        [run_autograd::<O, false, false>, run_autograd::<O, false, true>],
        run_forward::<O, false, true, true>,
    );
    with(
        true,
        [run_forward::<O, true, false, false>, run_forward::<O, true, true, false>],
        [run_autograd::<O, true, false>, run_autograd::<O, true, true>],
        run_forward::<O, true, true, true>,
    );
    let results = if O::HAS_BIAS { "(Tensor, Tensor, Tensor)" } else { "(Tensor, Tensor)" };
    let schema = format!(
        "(Tensor dy, Tensor? ds, Tensor input, Tensor? weight, Tensor? statistics, float eps, int dims, float offset, \
         int rounding, int wanted) -> {results}"
    );
    add(format!("_{name}_backward"), schema, &[(c"CPU", run_backward::<O>)]);
    all
}

/// Registers all operators, once in a process.
pub(super) fn register(shim: &Shim) -> Done {
    static DONE: std::sync::OnceLock<Done> = std::sync::OnceLock::new();
    DONE.get_or_init(|| {
        let mut all = operators::<Layer>("layer_norm", "1e-05");
        all.extend(operators::<Rms>("rms_norm", "1e-06"));
        all.iter().try_for_each(|operator| define(shim, operator))
    })
    .clone()
}

/// Defines an operator for as long as the process lives.
fn define(shim: &Shim, operator: &Operator) -> Done {
    let Operator { name, schema, kernels } = operator;
    let text = |text: String| CString::new(text).expect("schemas have no zeros");
    let (definition, name) = (text(format!("{name}{schema}")), text(name.clone()));
    let (namespace, file) = (c"lanenorm".as_ptr(), c"lanenorm".as_ptr());
    let failed = |what: &str| Err(format!("PyTorch refuses to {what} lanenorm::{}", name.to_string_lossy()));
    let functions = &shim.functions;
    // SAFETY: all are strings, and libraries are never freed.
    unsafe {
        let mut library = null_mut();
        if (functions.aoti_torch_library_init_fragment)(namespace, file, 0, &raw mut library) != 0
            || (functions.aoti_torch_library_def)(library, definition.as_ptr()) != 0
        {
            return failed("define");
        }
        for (key, kernel) in kernels {
            let mut library = null_mut();
            if (functions.aoti_torch_library_init_impl)(namespace, key.as_ptr(), file, 0, &raw mut library) != 0
                || (functions.aoti_torch_library_impl)(library, name.as_ptr(), *kernel) != 0
            {
                return failed("implement");
            }
        }
    }
    Ok(())
}
