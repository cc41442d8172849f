//! The C ABI with any numbers, strides and pointers into an arena, good or bad by chance, quantized or not. The bytes
//! that a call touches are worked out beside it. A call that succeeds has written its outputs alone, and none of them
//! lies where it must not. A call that fails has written nothing. A call that cannot fit into memory fails. (A call
//! that would fit but leaves the arena is not made.)

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use arbitrary::{Arbitrary, Result, Unstructured};
use lanenorm::capi::*;

/// A call.
#[derive(Arbitrary, Clone, Debug)]
pub struct Input {
    backward: bool,
    part: Option<(Number, Number)>,
    rms: bool,
    dtypes: [Dtype; 3],
    rows: Number,
    inner_rows: Number,
    cols: Number,
    groups: (Number, Number, Number),
    threads: Number,
    /// x, residual, sum, y; or dy, x, ds, dx
    tensors: [Tensor; 4],
    /// bias, gamma, beta, mean, `mean_lo`, rstd; or gamma, mean, `mean_lo`, rstd, dgamma, dbeta
    vectors: [At; 6],
    /// Of a forward call that is quantized.
    quantized: Option<Quantized>,
    /// Where the operation rounds, and which sums are normalized.
    #[arbitrary(with = |u: &mut Unstructured<'_>| Ok([u.int_in_range(0..=3)?, u.int_in_range(0..=2)?]))]
    rounding: [i32; 2],
}

/// What a quantized call has beside the rest.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Quantized {
    scheme: Scheme,
    q: Tensor,
    /// scale, `zero_point`, ranges
    arrays: [At; 3],
    range_count: Number,
    /// Whether arrays are given that the call does not have: then it is refused.
    #[arbitrary(with = |u: &mut Unstructured<'_>| u.ratio(1, 10))]
    gives_all: bool,
    /// Whether a call for some rows takes their range, to the place of scale, and quantizes nothing.
    takes_range: bool,
}

/// A preset, which need not exist, with parts that may be others.
#[derive(Clone, Copy, Debug)]
struct Scheme {
    preset: i32,
    format: Option<i32>,
    scope: Option<i32>,
    layout: Option<i32>,
    block: Option<usize>,
}

impl<'a> Arbitrary<'a> for Scheme {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let preset = u.int_in_range(0..=13)?;
        let mut other = |most| if u.ratio(1, 4)? { u.int_in_range(0..=most).map(Some) } else { Ok(None) };
        let (format, scope, layout) = (other(4)?, other(4)?, other(4)?);
        let block = if u.ratio(1, 4)? { Some(u.int_in_range(0..=9)? * 32) } else { None };
        Ok(Self { preset, format, scope, layout, block })
    }
}

impl Scheme {
    fn structure(self) -> lanenorm_scheme {
        let mut scheme = lanenorm_scheme {
            struct_size: size_of::<lanenorm_scheme>(),
            format: 0,
            scope: 0,
            layout: 0,
            quotient: 0,
            ties: 0,
            least: 0,
            block: 0,
            divisor: 0.0,
            least_amax: 0.0,
            least_scale: 0.0,
            zero_scale: 0.0,
            given_scale: 0.0,
            given_zero_point: 0,
        };
        // SAFETY: it is there, and has this size. If there is no such preset, all stays zero, which is refused.
        let _ = unsafe { lanenorm_scheme_init(&mut scheme, self.preset) };
        if let Some(format) = self.format {
            (scheme.format, scheme.least) = (format, if format == lanenorm_format::I8 as i32 { -127 } else { 0 });
        }
        scheme.scope = self.scope.unwrap_or(scheme.scope);
        scheme.layout = self.layout.unwrap_or(scheme.layout);
        scheme.block = self.block.unwrap_or(scheme.block);
        scheme.given_scale = 0.5;
        scheme
    }
}

/// The bytes of a row of q, the scales and the zero points.
fn sizes(scheme: &lanenorm_scheme, rows: u128, cols: u128) -> [u128; 3] {
    let row_bytes = match scheme.layout {
        1 => cols / 32 * 34,
        2 => cols / 32 * 36,
        3 => cols / 256 * 292,
        _ => cols,
    };
    let scales = match (scheme.layout, scheme.scope) {
        (0, 0) => rows,
        (0, 1) => rows.saturating_mul(cols.checked_div(scheme.block as u128).unwrap_or(0)),
        (0, 2) => 1,
        _ => 0,
    };
    let zero_points = match (scheme.format, scheme.scope) {
        (1, 0) => rows,
        (1, 2) => 1,
        _ => 0,
    };
    [row_bytes, scales, zero_points]
}

/// A number: small as a rule, else any.
#[derive(Clone, Copy, Debug)]
struct Number(usize);

impl<'a> Arbitrary<'a> for Number {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.int_in_range(0..=29)? {
            // A number that nearly overflows, by itself or when it is multiplied.
            0 => (usize::MAX >> u.int_in_range(0..=63)?).wrapping_add(u.int_in_range(0..=4)?).wrapping_sub(2),
            1..=4 => u.int_in_range(0..=600)?,
            _ => u.int_in_range(0..=20)?,
        }))
    }
}

/// A number of `lanenorm_dtype`, which need not exist.
#[derive(Clone, Copy, Debug)]
struct Dtype(i32);

impl<'a> Arbitrary<'a> for Dtype {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        u.int_in_range(0..=5).map(Self)
    }
}

/// The byte of the arena where a buffer begins, if it is not NULL.
#[derive(Clone, Copy, Debug)]
struct At(Option<usize>);

/// The bytes between the beginnings of two parts of the arena.
const PART: usize = 4096;

const PARTS: usize = 16;

impl<'a> Arbitrary<'a> for At {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        if u.ratio(1, 4)? {
            return Ok(Self(None));
        }
        let part = u.int_in_range(0..=PARTS - 1)?;
        let words = if u.ratio(1, 3)? { u.int_in_range(0..=70)? } else { 0 };
        let bytes = if u.ratio(1, 20)? { u.int_in_range(0..=7)? } else { 0 };
        Ok(Self(Some(part * PART + words * 8 + bytes)))
    }
}

#[derive(Clone, Copy, Debug)]
struct Tensor {
    at: At,
    row_stride: usize,
    outer_stride: usize,
}

impl<'a> Arbitrary<'a> for Tensor {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let at = u.arbitrary()?;
        let mut stride = || Ok(if u.arbitrary()? { u.arbitrary::<Number>()?.0 } else { 0 });
        Ok(Self { at, row_stride: stride()?, outer_stride: stride()? })
    }
}

/// The bytes of a buffer, as a range for each row; or why there are none.
enum Bytes {
    In(Vec<(usize, usize)>),
    BeyondArena,
    BeyondMemory,
}

impl Input {
    /// The bytes of rows that begin here. The arithmetic is wide enough that nothing overflows.
    fn rows(&self, tensor: Tensor, cols: usize, size: usize) -> Bytes {
        let Some(at) = tensor.at.0 else { return Bytes::In(Vec::new()) };
        let wide = |n: usize| n as u128;
        let rows = self.rows.0;
        let inner = if self.inner_rows.0 == 0 { rows } else { self.inner_rows.0 };
        let stride = if tensor.row_stride == 0 { cols } else { tensor.row_stride };
        let outer = match tensor.outer_stride {
            0 => wide(inner) * wide(stride),
            outer => wide(outer),
        };
        if rows == 0 || cols == 0 {
            return Bytes::In(Vec::new());
        }
        let last_of_run = wide(inner.min(rows) - 1).saturating_mul(wide(stride));
        let last = wide((rows - 1) / inner).saturating_mul(outer).saturating_add(last_of_run);
        match last.saturating_add(wide(cols)).saturating_mul(wide(size)) {
            bytes if bytes > isize::MAX as u128 => Bytes::BeyondMemory,
            bytes if bytes > wide(PARTS * PART - at) => Bytes::BeyondArena,
            _ => {
                let start = |r: usize| (r / inner) * outer as usize + (r % inner) * stride;
                Bytes::In((0..rows).map(|r| (at + start(r) * size, cols * size)).collect())
            }
        }
    }

    fn vector(&self, at: At, len: u128, size: usize) -> Bytes {
        let Some(at) = at.0 else { return Bytes::In(Vec::new()) };
        match len.saturating_mul(size as u128) {
            0 => Bytes::In(Vec::new()),
            bytes if bytes > isize::MAX as u128 => Bytes::BeyondMemory,
            bytes if bytes > (PARTS * PART - at) as u128 => Bytes::BeyondArena,
            bytes => Bytes::In(vec![(at, bytes as usize)]),
        }
    }

    /// Runs all checks.
    pub fn run(&self) {
        let is_empty = self.rows.0 == 0 || self.cols.0 == 0;
        let [dtype, gamma_dtype, y_dtype] = self.dtypes.map(|dtype| dtype.0);
        let size_of_dtype = |dtype: i32| [4, 4, 8, 2, 2, 1][dtype as usize];
        let beside = |d: i32| size_of_dtype(if d == 0 { dtype } else { d });
        let own = size_of_dtype(dtype);
        let float = if dtype == 2 { 8 } else { 4 };
        let params = (self.groups.0.0.max(1) as u128).saturating_mul(self.cols.0 as u128);
        let (rows, cols) = (self.rows.0 as u128, self.cols.0 as u128);
        let y_size = if self.backward { own } else { beside(y_dtype) };
        let tensors = [0, 1, 2, 3].map(|k| self.rows(self.tensors[k], self.cols.0, if k == 3 { y_size } else { own }));
        let lens = if self.backward {
            let gamma = (params, beside(gamma_dtype));
            [gamma, (rows, float), (rows, float), (rows, float), (params, float), (params, float)]
        } else {
            let gamma = (params, beside(gamma_dtype));
            [(cols, own), gamma, gamma, (rows, float), (rows, float), (rows, float)]
        };
        let vectors = [0, 1, 2, 3, 4, 5].map(|k| self.vector(self.vectors[k], lens[k].0, lens[k].1));
        let is_output = |k: usize| match k {
            0..4 => k == 3 || k == 2 && !self.backward,
            4..10 => k >= if self.backward { 8 } else { 7 },
            k => k < 13,
        };
        let quantized = self.quantized.filter(|_| !self.backward).map_or_else(Vec::new, |of| self.quantized(of));

        let mut must_fail = false;
        let mut buffers = Vec::new();
        for bytes in tensors.into_iter().chain(vectors).chain(quantized) {
            match bytes {
                // A part of the call may lie in the arena, but nothing is promised about it.
                Bytes::BeyondArena => return,
                Bytes::BeyondMemory => must_fail = true,
                Bytes::In(ranges) => {
                    buffers.push(ranges);
                    continue;
                }
            }
            buffers.push(Vec::new());
        }

        let mut arena: Vec<u64> =
            (0..PARTS * PART / 8).map(|i| (i as u64).wrapping_mul(0x3ff1_2345_6789_abcd)).collect();
        if let Some(&(at, len)) = buffers.get(13).and_then(|ranges| ranges.first()) {
            // SAFETY: any bytes are numbers.
            let bytes = &mut unsafe { arena.align_to_mut::<u8>() }.1[at..][..len];
            let range = [(-1.0f32).to_le_bytes(), 1.0f32.to_le_bytes()];
            bytes.chunks_mut(8).for_each(|bytes| bytes.copy_from_slice(range.as_flattened()));
        }
        let before = arena.clone();
        let base: *mut u8 = arena.as_mut_ptr().cast();
        let status = self.call(base);
        assert_ne!(status, lanenorm_status::Internal, "{self:?}");
        // SAFETY: any bytes are numbers.
        let (after, before) = unsafe { (arena.align_to::<u8>().1, before.align_to::<u8>().1) };
        if status != lanenorm_status::Ok {
            assert!(after == before, "{self:?}: {status:?}, but something was written");
            return;
        }
        assert!(!must_fail || is_empty, "{self:?}: more than fits into memory");
        let meet = |&(a, a_len): &(usize, usize), &(b, b_len): &(usize, usize)| a < b + b_len && b < a + a_len;
        let mut is_written = vec![false; PARTS * PART];
        for (k, ranges) in buffers.iter().enumerate().filter(|&(k, _)| is_output(k)) {
            for (i, range) in ranges.iter().enumerate() {
                is_written[range.0..][..range.1].fill(true);
                assert!(!ranges[..i].iter().any(|other| meet(range, other)), "{self:?}: rows of buffer {k} overlap");
                for (j, others) in buffers.iter().enumerate() {
                    // An output with the very rows of x or residual, or of dy, replaces them.
                    let replaces = (2..4).contains(&k) && j < if self.backward { 1 } else { 2 } && ranges == others;
                    let overlaps = j != k && !replaces && others.iter().any(|other| meet(range, other));
                    assert!(is_empty || !overlaps, "{self:?}: buffer {k} overlaps buffer {j}");
                }
            }
        }
        let differs = (0..is_written.len()).find(|&i| !is_written[i] && after[i] != before[i]);
        assert_eq!(differs, None, "{self:?}: a byte that is no output's was written");
    }

    /// The bytes of q, scale, `zero_point` and ranges, or of the range that is taken.
    fn quantized(&self, of: Quantized) -> Vec<Bytes> {
        let Quantized { scheme, q, arrays: [scale, zero_point, ranges], range_count, takes_range, .. } = of;
        let scheme = scheme.structure();
        let nothing = || Bytes::In(Vec::new());
        if takes_range && self.part.is_some() {
            return vec![nothing(), self.vector(scale, 2, 4), nothing(), nothing()];
        }
        let [row_bytes, scales, zero_points] = sizes(&scheme, self.rows.0 as u128, self.cols.0 as u128);
        let needs_ranges = scheme.scope == 2 && self.part.is_some_and(|(_, count)| count.0 > 0);
        vec![
            self.rows(q, usize::try_from(row_bytes).unwrap_or(usize::MAX), 1),
            self.vector(scale, scales, 4),
            self.vector(zero_point, zero_points, 1),
            if needs_ranges { self.vector(ranges, range_count.0 as u128 * 2, 4) } else { nothing() },
        ]
    }

    fn call(&self, base: *mut u8) -> lanenorm_status {
        let at = |at: At| -> *mut c_void { at.0.map_or(null_mut(), |at| base.wrapping_add(at).cast()) };
        let strides = |k: usize| (self.tensors[k].row_stride, self.tensors[k].outer_stride);
        let input = |k: usize| {
            let (row_stride, outer_stride) = strides(k);
            lanenorm_rows { data: at(self.tensors[k].at), row_stride, outer_stride }
        };
        let output = |k: usize| {
            let (row_stride, outer_stride) = strides(k);
            lanenorm_rows_mut { data: at(self.tensors[k].at), row_stride, outer_stride }
        };
        let desc = lanenorm_desc {
            struct_size: size_of::<lanenorm_desc>(),
            op: i32::from(self.rms),
            dtype: self.dtypes[0].0,
            gamma_dtype: self.dtypes[1].0,
            y_dtype: self.dtypes[2].0,
            store: 0,
            tier: 0,
            cols: self.cols.0,
            eps: 1e-5,
            groups: self.groups.0.0,
            group_repeat: self.groups.1.0,
            gamma_offset: 0.0,
            sum_dtype: 0,
            rounding: self.rounding[0],
            // Sums that are quantized are rounded.
            sums: if self.quantized.is_some() { 0 } else { self.rounding[1] },
            last_group_repeat: self.groups.2.0,
        };
        let [v0, v1, v2, v3, v4, v5] = self.vectors.map(at);
        let (rows, inner_rows) = (self.rows.0, self.inner_rows.0);
        let forward = lanenorm_forward_buffers {
            struct_size: size_of::<lanenorm_forward_buffers>(),
            rows,
            inner_rows,
            x: input(0),
            residual: input(1),
            sum: output(2),
            y: output(3),
            bias: v0,
            gamma: v1,
            beta: v2,
            mean: v3,
            mean_lo: v4,
            rstd: v5,
        };
        let backward = lanenorm_backward_buffers {
            struct_size: size_of::<lanenorm_backward_buffers>(),
            rows,
            inner_rows,
            dy: input(0),
            x: input(1),
            ds: input(2),
            dx: output(3),
            gamma: v0,
            mean: v1,
            mean_lo: v2,
            rstd: v3,
            dgamma: v4,
            dbeta: v5,
        };
        let quantized = self.quantized.map(|of| {
            let scheme = of.scheme.structure();
            let [_, scales, zero_points] = sizes(&scheme, rows as u128, self.cols.0 as u128);
            let has = [of.takes_range || scales > 0, zero_points > 0, scheme.scope == 2 && self.part.is_some()];
            let given = |k: usize| if has[k] || of.gives_all { at(of.arrays[k]) } else { null_mut() };
            let [scale, zero_point, ranges] = [0, 1, 2].map(given);
            let Tensor { at: q, row_stride, outer_stride } = of.q;
            let q = lanenorm_rows_mut { data: at(q), row_stride, outer_stride };
            let (scale, zero_point, ranges) = (scale.cast(), zero_point.cast(), ranges.cast_const().cast::<f32>());
            let range_count = if ranges.is_null() { 0 } else { of.range_count.0 };
            let struct_size = size_of::<lanenorm_quantized>();
            let to = lanenorm_quantized { struct_size, q, scale, zero_point, ranges, range_count };
            (scheme, to, of.takes_range)
        });
        let mut plan = lanenorm_plan { opaque: [MaybeUninit::new(0); 16] };
        let threads = self.threads.0 % 4;
        // SAFETY: buffers lie in the arena, or the call is to be refused.
        unsafe {
            match (lanenorm_plan_init(&mut plan, &desc), self.part, quantized) {
                (lanenorm_status::Ok, ..) if self.backward => lanenorm_plan_backward(&plan, &backward, threads),
                (lanenorm_status::Ok, Some((first, count)), Some((_, to, true))) => {
                    lanenorm_plan_range_rows(&plan, &forward, first.0, count.0, to.scale)
                }
                (lanenorm_status::Ok, Some((first, count)), Some((scheme, to, false))) => {
                    lanenorm_plan_quantize_rows(&plan, &forward, &scheme, &to, first.0, count.0)
                }
                (lanenorm_status::Ok, None, Some((scheme, to, _))) => {
                    lanenorm_plan_quantize(&plan, &forward, &scheme, &to, threads)
                }
                (lanenorm_status::Ok, Some((first, count)), None) => {
                    lanenorm_plan_forward_rows(&plan, &forward, first.0, count.0)
                }
                (lanenorm_status::Ok, None, None) => lanenorm_plan_forward(&plan, &forward, threads),
                (refused, ..) => refused,
            }
        }
    }
}
