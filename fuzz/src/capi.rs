//! The C ABI: good calls succeed and write their outputs alone; calls that are spoilt in any way are refused, with a
//! status other than `Internal`, and with nothing written.

use std::ffi::c_void;
use std::mem::{MaybeUninit, offset_of};
use std::ptr::{null, null_mut};

use arbitrary::{Arbitrary, Unstructured};
use lanenorm::capi::*;

/// A call, and what is wrong with it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Input {
    rms: bool,
    dtype: Dtype,
    cols: Small,
    rows: Small,
    gap: Small,
    has: [bool; 6],
    in_place: bool,
    threads: Small,
    tier: Small,
    eps: f32,
    bits: u64,
    function: Function,
    spoils: Vec<(Spoil, u16)>,
}

/// 0 to 40.
#[derive(Clone, Copy, Debug)]
struct Small(usize);

impl<'a> Arbitrary<'a> for Small {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        u.int_in_range(0..=40).map(Self)
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Dtype {
    F32 = 1,
    F64,
    F16,
    Bf16,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Function {
    Forward,
    ForwardRows,
    Backward,
    LayerNormF32,
}

/// A fault that makes a call bad, whatever else is wrong with the call.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Spoil {
    NoX,
    NoOutput,
    MisalignedX,
    MisalignedOutput,
    MisalignedGamma,
    HugeRows,
    HugeCols,
    HugeStride,
    Overlap,
    NarrowStride,
    InnerRows,
    StructSize,
    DescSize,
    Eps,
    Op,
    DtypeNumber,
    TierNumber,
    Groups,
    NoPlan,
    PlanOfZeros,
    NoBuffers,
    MeanOfRms,
}

/// The length of each part of the arena, in elements of f64.
const ROOM: usize = 4096;

const PARTS: usize = 10;

const BLANK: u64 = 0x7ff8_5aa5_5aa5_5aa5;

const NONE: lanenorm_rows = lanenorm_rows { data: null(), row_stride: 0, outer_stride: 0 };

const NONE_MUT: lanenorm_rows_mut = lanenorm_rows_mut { data: null_mut(), row_stride: 0, outer_stride: 0 };

impl Input {
    /// Runs all checks.
    pub fn run(&self) {
        let mut arena = vec![BLANK; PARTS * ROOM];
        // Inputs are numbers of any type; outputs keep the blank until they are written.
        for (i, word) in arena[..5 * ROOM].iter_mut().enumerate() {
            *word = self.bits.rotate_left(i as u32 % 64) ^ i as u64;
        }
        let before = arena.clone();
        let base = arena.as_mut_ptr();
        let part = |k: usize| -> *mut c_void { base.wrapping_add(k * ROOM).cast() };
        let size = [0, 4, 8, 2, 2][self.dtype as usize];
        let (rows, cols) = (self.rows.0, self.cols.0);
        let stride = cols + self.gap.0;
        let backward = self.function == Function::Backward;
        let simple = self.function == Function::LayerNormF32;
        let (size, stride) = if simple { (4, cols) } else { (size, stride) };
        let rms = self.rms && !simple;

        let mut desc = lanenorm_desc {
            struct_size: size_of::<lanenorm_desc>(),
            op: i32::from(rms),
            dtype: self.dtype as i32,
            gamma_dtype: 0,
            y_dtype: 0,
            store: (self.bits % 3) as i32,
            tier: if self.tier.0.is_multiple_of(2) { 0 } else { 1 },
            cols,
            eps: f64::from(if self.eps.is_finite() { self.eps.abs() } else { 1e-5 }),
            groups: 0,
            group_repeat: 0,
            gamma_offset: 0.0,
            sum_dtype: 0,
            rounding: (self.bits / 3 % 4) as i32,
            sums: (self.bits / 12 % 3) as i32,
            last_group_repeat: 0,
        };
        let absent = |k: usize, to: usize| if self.has[k] { part(to) } else { null_mut() };
        let (mut x, mut gamma, mut rows_given, mut cols_given) = (part(0), absent(0, 1), rows, cols);
        let mut y = if self.in_place && !backward { x } else { part(5) };
        if backward && self.in_place {
            y = part(2);
        }
        let (mut row_stride, mut inner_rows) = (stride, 0);
        let mut mean = if self.has[2] && !rms { part(6) } else { null_mut() };
        let (mut struct_size, mut no_plan, mut plan_of_zeros, mut no_buffers) = (None, false, false, false);
        let mut spoilt = false;
        for &(spoil, n) in &self.spoils {
            let n = usize::from(n);
            let is_empty = rows == 0 || cols == 0;
            match spoil {
                Spoil::NoX if !is_empty => x = null_mut(),
                Spoil::NoOutput if !is_empty && !backward => y = null_mut(),
                Spoil::MisalignedX if !is_empty => x = x.map_addr(|at| at | 1),
                Spoil::MisalignedOutput if !is_empty && !y.is_null() => y = y.map_addr(|at| at | 1),
                Spoil::MisalignedGamma if !is_empty && self.has[0] => gamma = part(1).wrapping_byte_add(1),
                Spoil::HugeRows if cols > 0 && n > 0 => rows_given = usize::MAX - n,
                Spoil::HugeCols if rows > 0 && n > 0 => (cols_given, row_stride) = (usize::MAX - n, 0),
                Spoil::HugeStride if rows > 1 && cols > 0 && !simple => row_stride = usize::MAX - n,
                // Rows of one column may lie between one another.
                Spoil::Overlap if rows > 0 && cols > 1 => y = x.wrapping_byte_add(size),
                Spoil::NarrowStride if rows > 1 && cols > 1 && !simple => row_stride = 1 + n % (cols - 1),
                Spoil::InnerRows if rows > 0 && !simple => inner_rows = rows + 1 + n,
                Spoil::StructSize if !simple => struct_size = Some(n % 64),
                // It has to reach to the end of eps.
                Spoil::DescSize if !simple => desc.struct_size = n % offset_of!(lanenorm_desc, groups),
                Spoil::Eps => desc.eps = [f64::NAN, -1.0, f64::INFINITY, f64::NEG_INFINITY][n % 4],
                Spoil::Op if !simple => desc.op = 4 + n as i32,
                Spoil::DtypeNumber if !simple => desc.dtype = if n % 2 == 0 { -1 } else { 5 + n as i32 },
                Spoil::TierNumber if !simple => desc.tier = 5 + n as i32,
                Spoil::Groups if !simple => (desc.groups, desc.group_repeat) = (usize::MAX, 2 + n),
                Spoil::NoPlan if !simple => no_plan = true,
                Spoil::PlanOfZeros if !simple => plan_of_zeros = true,
                Spoil::NoBuffers if !simple => no_buffers = true,
                Spoil::MeanOfRms if rms && !backward => mean = part(6),
                _ => continue,
            }
            spoilt = true;
        }
        desc.cols = cols_given;

        let input = |data: *mut c_void| lanenorm_rows { data, row_stride, outer_stride: 0 };
        let output = |data: *mut c_void| lanenorm_rows_mut { data, row_stride, outer_stride: 0 };
        let forward = lanenorm_forward_buffers {
            struct_size: struct_size.unwrap_or(size_of::<lanenorm_forward_buffers>()),
            rows: rows_given,
            inner_rows,
            x: input(x),
            residual: if self.has[1] { input(part(2)) } else { NONE },
            sum: if self.has[1] && self.has[3] { output(part(7)) } else { NONE_MUT },
            y: output(y),
            bias: if self.has[1] { absent(4, 3) } else { null_mut() },
            gamma,
            beta: if rms { null_mut() } else { absent(5, 4) },
            mean,
            mean_lo: null_mut(),
            rstd: if self.has[2] { part(8) } else { null_mut() },
        };
        let backward_buffers = lanenorm_backward_buffers {
            struct_size: struct_size.unwrap_or(size_of::<lanenorm_backward_buffers>()),
            rows: rows_given,
            inner_rows,
            dy: input(part(2)),
            x: input(x),
            ds: if self.has[1] { input(part(3)) } else { NONE },
            dx: output(y),
            gamma,
            mean: null(),
            mean_lo: null(),
            rstd: null(),
            dgamma: absent(3, 7),
            dbeta: if rms { null_mut() } else { absent(4, 8) },
        };
        let mut plan = lanenorm_plan { opaque: [MaybeUninit::new(0); 16] };
        let threads = self.threads.0 % 4;
        // SAFETY: the parts of the arena have all elements of the call, unless the call is spoilt; then it is refused.
        let status = unsafe {
            let made = if simple { lanenorm_status::Ok } else { lanenorm_plan_init(&mut plan, &desc) };
            if made == lanenorm_status::Ok {
                if plan_of_zeros {
                    plan.opaque = [MaybeUninit::new(0); 16];
                }
                let plan: *const lanenorm_plan = if no_plan { null() } else { &plan };
                let forward: *const _ = if no_buffers { null() } else { &forward };
                let backward: *const _ = if no_buffers { null() } else { &backward_buffers };
                match self.function {
                    Function::Forward => lanenorm_plan_forward(plan, forward, threads),
                    Function::ForwardRows => lanenorm_plan_forward_rows(plan, forward, 0, rows_given),
                    Function::Backward => lanenorm_plan_backward(plan, backward, threads),
                    Function::LayerNormF32 => lanenorm_layer_norm_f32(
                        x.cast(),
                        rows_given,
                        cols_given,
                        gamma.cast(),
                        null(),
                        desc.eps as f32,
                        y.cast(),
                        mean.cast(),
                        null_mut(),
                        threads,
                    ),
                }
            } else {
                made
            }
        };
        assert_ne!(status, lanenorm_status::Internal, "{self:?}");
        if spoilt {
            assert_ne!(status, lanenorm_status::Ok, "{self:?}");
            assert!(arena == before, "{self:?}: {status:?}, but something was written");
            return;
        }
        assert_eq!(status, lanenorm_status::Ok, "{self:?}");
        // Parts that are inputs alone, and the elements behind the rows of the other parts.
        let written = (rows * stride * size).div_ceil(8);
        let may_be_written = |k: usize| match k {
            0 => !backward && self.in_place,
            2 => backward && self.in_place,
            5..=8 => true,
            _ => false,
        };
        for k in 0..PARTS {
            let untouched = if may_be_written(k) { written.max(rows).max(cols) } else { 0 };
            let range = k * ROOM + untouched..(k + 1) * ROOM;
            assert!(arena[range.clone()] == before[range], "{self:?}: part {k} was written");
        }
    }
}
