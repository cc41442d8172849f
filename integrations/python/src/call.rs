//! Calls of lanenorm by its C ABI, which takes types at run time, with tensors of whatever library.

use std::ffi::{CStr, c_void};
use std::mem::{MaybeUninit, size_of, zeroed};
use std::ptr::{null, null_mut};

use lanenorm::capi::{
    lanenorm_backward_buffers, lanenorm_channel_gradients, lanenorm_channels, lanenorm_desc, lanenorm_forward_buffers,
    lanenorm_gate, lanenorm_gate_gradients, lanenorm_last_error_message, lanenorm_op, lanenorm_plan,
    lanenorm_plan_backward, lanenorm_plan_channels, lanenorm_plan_channels_backward, lanenorm_plan_forward,
    lanenorm_plan_gate, lanenorm_plan_gate_backward, lanenorm_plan_init, lanenorm_plan_quantize,
    lanenorm_plan_quantized_sizes, lanenorm_quantized, lanenorm_quantized_sizes, lanenorm_rows, lanenorm_rows_mut,
    lanenorm_scheme, lanenorm_status,
};

use crate::dtype::Dtype;
use crate::view::{Layout, View};

/// What the C ABI has refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: lanenorm_status,
    pub(crate) message: String,
}

/// The result of a call.
pub(crate) type Done = Result<(), Refused>;

fn done(status: lanenorm_status) -> Done {
    if status == lanenorm_status::Ok {
        return Ok(());
    }
    // SAFETY: the message is a string of this thread, which makes no other call meanwhile.
    let message = unsafe { CStr::from_ptr(lanenorm_last_error_message()) }.to_string_lossy().into_owned();
    Err(Refused { status, message })
}

/// A structure of the C ABI, all zero but for its size.
///
/// # Safety
/// - The type is a structure of the C ABI, which begins with its size and may be zero elsewhere.
unsafe fn sized<T>() -> T {
    // SAFETY: the caller's duty.
    unsafe {
        let mut structure: T = zeroed();
        (&raw mut structure).cast::<usize>().write(size_of::<T>());
        structure
    }
}

/// What is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) op: lanenorm_op,
    pub(crate) dtype: Dtype,
    pub(crate) cols: usize,
    pub(crate) eps: f64,
    pub(crate) offset: f32,
    pub(crate) rounding: i32,
    pub(crate) sums: i32,
    pub(crate) threads: usize,
}

impl Norm {
    /// Whether rows have a mean.
    pub(crate) fn is_centered(&self) -> bool {
        self.op == lanenorm_op::LayerNorm
    }

    /// A plan for gamma and beta, and for y and sums of these types.
    fn plan(&self, params: &Params, y: Dtype, sum: Dtype) -> Result<lanenorm_plan, Refused> {
        let &Self { op, dtype, cols, eps, offset, rounding, sums, .. } = self;
        // SAFETY: the type is one of the C ABI. A plan is filled in before it is used.
        unsafe {
            let desc = lanenorm_desc {
                op: op as i32,
                dtype: dtype.number(),
                gamma_dtype: params.dtype.unwrap_or(dtype).number(),
                y_dtype: y.number(),
                sum_dtype: sum.number(),
                cols,
                eps,
                groups: params.groups,
                group_repeat: params.repeat,
                gamma_offset: offset,
                rounding,
                sums,
                ..sized()
            };
            let mut plan = lanenorm_plan { opaque: [MaybeUninit::uninit(); 16] };
            done(lanenorm_plan_init(&raw mut plan, &raw const desc))?;
            Ok(plan)
        }
    }
}

/// gamma and beta: one for all rows, or for each of some groups of rows. Null where there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Params {
    pub(crate) gamma: *const c_void,
    pub(crate) beta: *const c_void,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) groups: usize,
    pub(crate) repeat: usize,
}

/// Where statistics are, an element for each row. Null where there are none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statistics {
    pub(crate) mean: *mut c_void,
    pub(crate) mean_lo: *mut c_void,
    pub(crate) rstd: *mut c_void,
}

impl Statistics {
    pub(crate) const NONE: Self = Self { mean: null_mut(), mean_lo: null_mut(), rstd: null_mut() };
}

/// Which tensors a forward call has beside x, which is the first one of its layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward<'a, const N: usize> {
    pub(crate) layout: &'a Layout<N>,
    pub(crate) tensors: [&'a View<'a>; N],
    /// Which tensor is what.
    pub(crate) y: Option<usize>,
    pub(crate) residual: Option<usize>,
    pub(crate) sum: Option<usize>,
    pub(crate) bias: *const c_void,
    pub(crate) params: Params,
    pub(crate) statistics: Statistics,
}

/// No rows.
const NO_ROWS: lanenorm_rows = lanenorm_rows { data: null(), row_stride: 0, outer_stride: 0 };
const NO_ROWS_MUT: lanenorm_rows_mut = lanenorm_rows_mut { data: null_mut(), row_stride: 0, outer_stride: 0 };

impl<'a, const N: usize> Forward<'a, N> {
    /// A call for x and y alone.
    pub(crate) fn new(layout: &'a Layout<N>, tensors: [&'a View<'a>; N], params: Params) -> Self {
        let (y, residual, sum) = (Some(N - 1), None, None);
        Self { layout, tensors, y, residual, sum, bias: null(), params, statistics: Statistics::NONE }
    }

    fn read(&self, i: Option<usize>) -> lanenorm_rows {
        i.map_or(NO_ROWS, |i| self.layout.rows(i, self.tensors[i]))
    }

    fn write(&self, i: Option<usize>) -> lanenorm_rows_mut {
        i.map_or(NO_ROWS_MUT, |i| self.layout.rows_mut(i, self.tensors[i]))
    }

    fn plan(&self, norm: &Norm) -> Result<lanenorm_plan, Refused> {
        let of = |i: Option<usize>| i.map_or(norm.dtype, |i| self.tensors[i].dtype);
        norm.plan(&self.params, of(self.y), of(self.residual))
    }

    fn buffers(&self) -> lanenorm_forward_buffers {
        let &Self { layout: &Layout { rows, inner, .. }, bias, params, statistics, .. } = self;
        let Statistics { mean, mean_lo, rstd } = statistics;
        let (x, residual, sum, y) =
            (self.read(Some(0)), self.read(self.residual), self.write(self.sum), self.write(self.y));
        let Params { gamma, beta, .. } = params;
        let struct_size = size_of::<lanenorm_forward_buffers>();
        lanenorm_forward_buffers {
            struct_size,
            rows,
            inner_rows: inner,
            x,
            residual,
            sum,
            y,
            bias,
            gamma,
            beta,
            mean,
            mean_lo,
            rstd,
        }
    }

    /// Runs the call.
    ///
    /// # Safety
    /// - The tensors, gamma, beta, the bias and the statistics are there, and nothing else writes them meanwhile.
    pub(crate) unsafe fn run(&self, norm: &Norm) -> Done {
        let (plan, buffers) = (self.plan(norm)?, self.buffers());
        // SAFETY: the caller's duty.
        done(unsafe { lanenorm_plan_forward(&raw const plan, &raw const buffers, norm.threads) })
    }

    /// Runs the call with a gate: tensor `z`.
    ///
    /// # Safety
    /// - As of [`run`](Self::run).
    pub(crate) unsafe fn run_gated(&self, norm: &Norm, z: usize, kind: i32) -> Done {
        let (plan, buffers) = (self.plan(norm)?, self.buffers());
        // SAFETY: the caller's duty.
        unsafe {
            let gate =
                lanenorm_gate { z: self.read(Some(z)), z_dtype: self.tensors[z].dtype.number(), kind, ..sized() };
            done(lanenorm_plan_gate(&raw const plan, &raw const buffers, &raw const gate, norm.threads))
        }
    }

    /// How large the quantized outputs of a call are.
    pub(crate) fn sizes(&self, norm: &Norm, scheme: &lanenorm_scheme) -> Result<lanenorm_quantized_sizes, Refused> {
        let plan = self.plan(norm)?;
        let mut sizes = lanenorm_quantized_sizes { row_bytes: 0, scales: 0, zero_points: 0 };
        // SAFETY: all are there.
        done(unsafe { lanenorm_plan_quantized_sizes(&raw const plan, scheme, self.layout.rows, &raw mut sizes) })?;
        Ok(sizes)
    }

    /// Runs the call, which quantizes. `q` is contiguous.
    ///
    /// # Safety
    /// - As of [`run`](Self::run). The outputs are as large as [`sizes`](Self::sizes) says.
    pub(crate) unsafe fn run_quantized(
        &self,
        norm: &Norm,
        scheme: &lanenorm_scheme,
        q: *mut c_void,
        row_bytes: usize,
        scale: *mut f32,
        zero_point: *mut u8,
    ) -> Done {
        let (plan, buffers) = (self.plan(norm)?, self.buffers());
        // SAFETY: the caller's duty.
        unsafe {
            let q = lanenorm_rows_mut { data: q, row_stride: row_bytes, outer_stride: 0 };
            let to = lanenorm_quantized { q, scale, zero_point, ..sized() };
            done(lanenorm_plan_quantize(&raw const plan, &raw const buffers, scheme, &raw const to, norm.threads))
        }
    }
}

/// A backward call. Tensors 0 and 1 are dy and x.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward<'a, const N: usize> {
    pub(crate) layout: &'a Layout<N>,
    pub(crate) tensors: [&'a View<'a>; N],
    pub(crate) dx: Option<usize>,
    pub(crate) ds: Option<usize>,
    pub(crate) params: Params,
    pub(crate) statistics: Statistics,
    pub(crate) dgamma: *mut c_void,
    pub(crate) dbeta: *mut c_void,
}

impl<const N: usize> Backward<'_, N> {
    fn buffers(&self) -> lanenorm_backward_buffers {
        let &Self { layout: &Layout { rows, inner, .. }, params, statistics, dgamma, dbeta, .. } = self;
        let Statistics { mean, mean_lo, rstd } = statistics;
        let read = |i: Option<usize>| i.map_or(NO_ROWS, |i| self.layout.rows(i, self.tensors[i]));
        lanenorm_backward_buffers {
            struct_size: size_of::<lanenorm_backward_buffers>(),
            rows,
            inner_rows: inner,
            dy: read(Some(0)),
            x: read(Some(1)),
            ds: read(self.ds),
            dx: self.dx.map_or(NO_ROWS_MUT, |i| self.layout.rows_mut(i, self.tensors[i])),
            gamma: params.gamma,
            mean: mean.cast_const(),
            mean_lo: mean_lo.cast_const(),
            rstd: rstd.cast_const(),
            dgamma,
            dbeta,
        }
    }

    /// Runs the call.
    ///
    /// # Safety
    /// - The tensors, gamma, the statistics and the gradients are there, and nothing else writes them meanwhile.
    pub(crate) unsafe fn run(&self, norm: &Norm) -> Done {
        let (plan, buffers) = (norm.plan(&self.params, norm.dtype, norm.dtype)?, self.buffers());
        // SAFETY: the caller's duty.
        done(unsafe { lanenorm_plan_backward(&raw const plan, &raw const buffers, norm.threads) })
    }

    /// Runs the backward call of rows with a gate: tensor `z`, whose gradient is tensor `dz`.
    ///
    /// # Safety
    /// - As of [`run`](Self::run).
    pub(crate) unsafe fn run_gated(&self, norm: &Norm, z: usize, dz: usize, kind: i32) -> Done {
        let (plan, buffers) = (norm.plan(&self.params, norm.dtype, norm.dtype)?, self.buffers());
        // SAFETY: the caller's duty.
        unsafe {
            let z_dtype = self.tensors[z].dtype.number();
            let gate = lanenorm_gate { z: self.layout.rows(z, self.tensors[z]), z_dtype, kind, ..sized() };
            let dz = self.layout.rows_mut(dz, self.tensors[dz]);
            let to = lanenorm_gate_gradients { dz, beta: self.params.beta, ..sized() };
            let (buffers, gate, to) = (&raw const buffers, &raw const gate, &raw const to);
            done(lanenorm_plan_gate_backward(&raw const plan, buffers, gate, to, norm.threads))
        }
    }
}

/// A contiguous tensor of channels. The columns of its plan are the channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels {
    pub(crate) samples: usize,
    pub(crate) pixels: usize,
    /// 0 for rows that are the channels of a pixel.
    pub(crate) groups: usize,
    pub(crate) is_last: bool,
    pub(crate) activation: i32,
    pub(crate) x: *const c_void,
    pub(crate) params: Params,
    pub(crate) statistics: Statistics,
}

impl Channels {
    fn structure(&self, y: *mut c_void) -> lanenorm_channels {
        let &Self { samples, pixels, groups, is_last, activation, x, params, statistics } = self;
        let (Params { gamma, beta, .. }, Statistics { mean, mean_lo, rstd }) = (params, statistics);
        let (struct_size, order) = (size_of::<lanenorm_channels>(), i32::from(is_last));
        lanenorm_channels {
            struct_size,
            samples,
            pixels,
            groups,
            order,
            activation,
            x,
            y,
            gamma,
            beta,
            mean,
            mean_lo,
            rstd,
        }
    }

    /// Normalizes the tensor.
    ///
    /// # Safety
    /// - All are there, with as many elements as the C ABI says, and nothing else writes them meanwhile.
    pub(crate) unsafe fn run(&self, norm: &Norm, y: *mut c_void) -> Done {
        let (plan, channels) = (norm.plan(&self.params, norm.dtype, norm.dtype)?, self.structure(y));
        // SAFETY: the caller's duty.
        done(unsafe { lanenorm_plan_channels(&raw const plan, &raw const channels, norm.threads) })
    }

    /// Takes the gradients: of x, gamma and beta.
    ///
    /// # Safety
    /// - As of [`run`](Self::run).
    pub(crate) unsafe fn run_backward(&self, norm: &Norm, dy: *const c_void, to: [*mut c_void; 3]) -> Done {
        let (plan, channels) = (norm.plan(&self.params, norm.dtype, norm.dtype)?, self.structure(null_mut()));
        let (struct_size, [dx, dgamma, dbeta]) = (size_of::<lanenorm_channel_gradients>(), to);
        let gradients = lanenorm_channel_gradients { struct_size, dy, dx, dgamma, dbeta };
        // SAFETY: the caller's duty.
        done(unsafe {
            lanenorm_plan_channels_backward(&raw const plan, &raw const channels, &raw const gradients, norm.threads)
        })
    }
}
