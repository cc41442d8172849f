//! Quantized calls with any scheme, good or bad, and places that fit or not. A call that succeeds has the bits of
//! quantizing, by the definition, what a plain call on the scalar tier writes in f32, and writes nothing else. A call
//! that is refused has written nothing. A call is refused if and only if its scheme is, or something does not fit.

use arbitrary::{Arbitrary, Result, Unstructured};
use lanenorm::kernels::reference;
use lanenorm::scheme::{Format, Layout, Quotient, Range, Scheme, Scope, Ties};
use lanenorm::{Companion, Error, Isa, Norm, Quantizable, Rows, RowsMut, bf16, f16};

use crate::forward::added;
use crate::shape::{Numbers, Shape};
use crate::support::forms::{Io, Operation, StatsMut};
use crate::support::{Buffer, Plan, Problem, Types, Value, assert_same_bits, tiers};

/// A problem, its scheme, and the form of its call.
#[derive(Arbitrary, Clone, Debug)]
pub struct Input {
    dtypes: Dtypes,
    shape: Shape,
    long: Long,
    scheme: AnyScheme,
    x: Numbers,
    vectors: [Numbers; 2],
    addends: [Numbers; 2],
    form: Form,
    y: Wanted,
    q: Place,
    scale: Length,
    zero_point: Length,
}

/// The types of x and of gamma, and one of 16 bits that y may have beside them.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Dtypes {
    F32WithF16,
    F32WithBf16,
    F32GammaF16,
    F16,
    Bf16,
    F16GammaF32,
    Bf16GammaF32,
}

/// What is normalized.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Form {
    X,
    SumKept,
    SumOverResidual,
    SumDropped,
}

/// The y that is written too. A sum that is dropped has one of its own type, whatever is wanted.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Wanted {
    No,
    Wide,
    Narrow,
}

/// Columns of rows that are normalized piece by piece, and of such as are not by a few.
#[derive(Clone, Copy, Debug)]
struct Long(Option<usize>);

impl<'a> Arbitrary<'a> for Long {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const COLS: [usize; 6] = [8191, 8192, 8193, 8448, 8224, 16640];
        Ok(Self(if u.ratio(1, 16)? { Some(*u.choose(&COLS)?) } else { None }))
    }
}

/// Any scheme: one of the constants as a rule, of which some parts may be replaced.
#[derive(Clone, Copy, Debug)]
struct AnyScheme(Scheme);

const SCHEMES: [Scheme; 19] = [
    Scheme::I8,
    Scheme::TORCH_AO_I8,
    Scheme::TORCHAO_I8,
    Scheme::VLLM_I8,
    Scheme::U8,
    Scheme::ONNX_U8,
    Scheme::E4M3,
    Scheme::E5M2,
    Scheme::Q8_0,
    Scheme::Q8_0_X86,
    Scheme::Q8_1,
    Scheme::Q8_1_X86,
    Scheme::Q8_K,
    Scheme::i8_blocks(32),
    Scheme::i8_blocks(64),
    Scheme::i8_given(0.02, 3),
    Scheme::u8_given(0.01, 128),
    Scheme::E4M3.given(0.01),
    Scheme::E5M2.given(0.01),
];

impl<'a> Arbitrary<'a> for AnyScheme {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut scheme = *u.choose(&SCHEMES)?;
        let replaced: u16 = if u.ratio(1, 3)? { 0 } else { u.arbitrary()? };
        let is = |bit: u32| replaced >> bit & 1 == 1;
        if is(0) {
            scheme.format = *u.choose(&[Format::I8, Format::U8, Format::E4m3, Format::E5m2])?;
            // What goes with it, or else few are not refused.
            scheme.least = if scheme.format == Format::I8 { -127 } else { 0 };
        }
        if is(1) {
            scheme.scope = match u.int_in_range(0..=4)? {
                0 => Scope::Row,
                1 => Scope::Tensor,
                2 => Scope::Block(*u.choose(&[32, 64, 96, 128, 160, 192, 224, 256])?),
                3 => Scope::Block(u.int_in_range(0..=300)?),
                _ => Scope::Given { scale: number(u)?, zero_point: u.int_in_range(-130..=260)? },
            };
        }
        if is(2) {
            scheme.layout = *u.choose(&[Layout::Apart, Layout::Q8_0, Layout::Q8_1, Layout::Q8K])?;
        }
        if is(3) {
            scheme.divisor = number(u)?;
        }
        if is(4) {
            scheme.least_amax = number(u)?;
        }
        if is(5) {
            scheme.least_scale = number(u)?;
        }
        if is(6) {
            scheme.zero_scale = number(u)?;
        }
        if is(7) {
            scheme.quotient = *u.choose(&[Quotient::Divide, Quotient::Reciprocal, Quotient::Ratio])?;
        }
        if is(8) {
            scheme.ties = *u.choose(&[Ties::Even, Ties::Away])?;
        }
        // As a rule one of those that a format has.
        if is(9) {
            scheme.least = if replaced >> 12 == 0 { u.arbitrary()? } else { *u.choose(&[-127, -128, 0])? };
        }
        Ok(Self(scheme))
    }
}

/// A number of a scheme: ordinary as a rule, else at an end of the range, or any.
fn number(u: &mut Unstructured<'_>) -> Result<f32> {
    const ORDINARY: [f32; 10] = [127.0, 127.5, 128.0, 255.0, 448.0, 57344.0, 1.0, 0.02, 1e-5, 0.0];
    const ENDS: [f32; 8] =
        [f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::INFINITY, f32::NAN, -1.0, -0.0, 1.0 / (1u64 << 60) as f32];
    Ok(match u.int_in_range(0..=7)? {
        0..=4 => *u.choose(&ORDINARY)?,
        // Around the scales that are quick to divide by.
        5 => f32::from_bits(u.int_in_range(0x2000_0000..=0x6000_0000)?),
        6 => *u.choose(&ENDS)?,
        _ => f32::from_bits(u.arbitrary()?),
    })
}

/// Where q lies: right as a rule.
#[derive(Clone, Copy, Debug)]
struct Place {
    contiguous: bool,
    /// By how much there are more rows than x has, a stride longer than a row, and more bytes than the rows take.
    more: [isize; 3],
    misalignment: usize,
}

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut few = |least| if u.ratio(1, 12)? { u.int_in_range(least..=9) } else { Ok(0) };
        let (more_rows, less, more_bytes) = (few(-2)?, few(-3)?, few(-9)?);
        let gap = if less < 0 { less } else { u.int_in_range(0..=9)? };
        Ok(Self {
            contiguous: u.arbitrary()?,
            more: [more_rows, gap, more_bytes],
            misalignment: u.int_in_range(0..=70)?,
        })
    }
}

/// The elements of an array: as many as are right, as a rule. Without elements it may be left out.
#[derive(Clone, Copy, Debug)]
struct Length(isize);

impl<'a> Arbitrary<'a> for Length {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(if u.ratio(1, 12)? { u.int_in_range(-40..=3)? } else { 0 }))
    }
}

impl Length {
    fn of(self, right: usize) -> usize {
        right.saturating_add_signed(self.0)
    }
}

impl Input {
    /// Runs all checks.
    pub fn run(&self) {
        match self.dtypes {
            Dtypes::F32WithF16 => run::<(f32, f32, f32), f16>(self),
            Dtypes::F32WithBf16 => run::<(f32, f32, f32), bf16>(self),
            Dtypes::F32GammaF16 => run::<(f32, f16, f32), f16>(self),
            Dtypes::F16 => run::<(f16, f16, f32), f16>(self),
            Dtypes::Bf16 => run::<(bf16, bf16, f32), bf16>(self),
            Dtypes::F16GammaF32 => run::<(f16, f32, f32), f16>(self),
            Dtypes::Bf16GammaF32 => run::<(bf16, f32, f32), bf16>(self),
        }
    }
}

/// The right results.
struct Expected<K: Types, N> {
    q: Vec<u8>,
    scale: Vec<f32>,
    zero_point: Vec<u8>,
    sum: Vec<K::X>,
    y: Vec<f32>,
    narrow: Vec<N>,
    own: Vec<K::X>,
    stats: [Vec<f32>; 3],
}

fn run<K, N>(input: &Input)
where
    K: Types<F = f32, Y = f32>,
    K::X: Quantizable,
    N: Value + Companion<K::X>,
    f32: Companion<K::X>,
{
    let mut shape = input.shape.clone();
    if let Some(cols) = input.long.0 {
        (shape.cols, shape.rows, shape.groups) = (cols, shape.rows.min(2), (1, 1));
    }
    let Shape { rows, cols, groups, eps, has, .. } = shape;
    let x: Vec<K::X> = input.x.fill(rows, cols);
    let residual: Vec<K::X> = input.addends[0].fill(rows, cols);
    let bias: Option<Vec<K::X>> = has[2].then(|| input.addends[1].fill(1, cols));
    let sum = added::<K>(&x, &residual, bias.as_deref(), cols);
    let normalized = if input.form == Form::X { x.clone() } else { sum.clone() };
    let vector = |k: usize| has[k].then(|| input.vectors[k].fill::<K::G>(groups.0, cols));
    let (gamma, beta) = (vector(0), vector(1).filter(|_| !shape.rms));
    let operation = shape.operation();
    let problem = Problem::<K> { operation, groups, rows, cols, x: normalized, gamma, beta, eps };
    let output = problem.expected();

    let scheme = input.scheme.0;
    let is_good = scheme.check(cols).is_ok();
    let (scales, zero_points) = (scheme.scales(rows, cols), scheme.zero_points(rows));
    let mut by_definition = if is_good { quantized(&scheme, &output.y, [rows, cols]) } else { Quantized::default() };
    // Elements that are none have the scale of zeros.
    if is_good && (rows == 0 || cols == 0) {
        let (scale, zero_point) = scheme.scale_of(Range::EMPTY);
        by_definition.scale = vec![scale; scales];
        by_definition.zero_point = vec![zero_point as u8; zero_points];
    }
    let expected = Expected::<K, N> {
        q: by_definition.q,
        scale: by_definition.scale,
        zero_point: by_definition.zero_point,
        sum,
        narrow: plain(&problem),
        own: plain(&problem),
        y: output.y,
        stats: [output.mean, output.mean_lo, output.rstd],
    };
    let place = Bytes::new(&input.q, [rows, scheme.row_bytes(cols)]);
    let lengths = [input.scale.of(scales), input.zero_point.of(zero_points)];
    let fits = is_good && place.fits(rows) && lengths == [scales, zero_points];
    let call = QuantizedCall { input, shape: &shape, problem: &problem, x: &x, residual: &residual, bias, fits };
    for &isa in tiers() {
        call.check(isa, place.clone(), lengths, &expected);
    }
}

/// y of a plain call, in another type.
fn plain<K: Types, Y: Value + Companion<K::X>>(problem: &Problem<K>) -> Vec<Y> {
    let mut y = vec![Y::default(); problem.x.len()];
    let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
    let io = Io::new(Rows::from(&problem.x), RowsMut::from(&mut y));
    assert_eq!(problem.plan(Isa::SCALAR).call_mixed(io, gamma, beta, StatsMut::default()), Ok(()));
    y
}

#[derive(Default)]
struct Quantized {
    q: Vec<u8>,
    scale: Vec<f32>,
    zero_point: Vec<u8>,
}

/// By the definition. Rows follow one another.
fn quantized(scheme: &Scheme, y: &[f32], [rows, cols]: [usize; 2]) -> Quantized {
    let mut quantized = Quantized { q: vec![0; rows * scheme.row_bytes(cols)], ..Quantized::default() };
    if let Some((block, bytes)) = scheme.layout.block() {
        for (q, y) in quantized.q.chunks_mut(bytes).zip(y.chunks(block)) {
            reference::quantize_block(scheme, y, q);
        }
        return quantized;
    }
    let mut quantize = |y: &[f32], q: &mut [u8]| {
        let (scale, zero_point) = reference::quantize(scheme, y, q);
        quantized.scale.push(scale);
        quantized.zero_point.push(zero_point as u8);
    };
    match scheme.scope {
        Scope::Row => y.chunks(cols.max(1)).zip(quantized.q.chunks_mut(cols.max(1))).for_each(|(y, q)| quantize(y, q)),
        Scope::Block(block) => y.chunks(block).zip(quantized.q.chunks_mut(block)).for_each(|(y, q)| quantize(y, q)),
        Scope::Tensor | Scope::Given { .. } => quantize(y, &mut quantized.q),
    }
    quantized.scale.truncate(scheme.scales(rows, cols));
    quantized.zero_point.truncate(scheme.zero_points(rows));
    quantized
}

/// What bytes hold that no call has written.
const UNTOUCHED: u8 = 0x77;

/// Memory for q.
#[derive(Clone, Debug)]
struct Bytes {
    data: Vec<u8>,
    start: usize,
    len: usize,
    row_bytes: usize,
    rows: usize,
    /// `None`: rows are those of a contiguous slice.
    stride: Option<usize>,
}

impl Bytes {
    const MARGIN: usize = 128;

    fn new(place: &Place, [rows, row_bytes]: [usize; 2]) -> Self {
        let [more_rows, gap, more_bytes] = place.more;
        let rows = rows.saturating_add_signed(more_rows);
        let stride = if place.contiguous { row_bytes } else { row_bytes.saturating_add_signed(gap) };
        let needed = if rows == 0 { 0 } else { (rows - 1) * stride + row_bytes };
        let len = needed.saturating_add_signed(more_bytes);
        let start = Self::MARGIN + place.misalignment;
        let data = vec![UNTOUCHED; start + len + Self::MARGIN];
        Self { data, start, len, row_bytes, rows, stride: (!place.contiguous).then_some(stride) }
    }

    fn rows_mut(&mut self) -> RowsMut<'_, u8> {
        let data = &mut self.data[self.start..][..self.len];
        match self.stride {
            Some(stride) => RowsMut::strided(data, self.rows, stride),
            None => RowsMut::from(data),
        }
    }

    /// Whether they are places for `rows` rows, as the documentation has it.
    fn fits(&self, rows: usize) -> bool {
        let &Self { len, row_bytes, rows: given, stride, .. } = self;
        match stride {
            None => len == rows * row_bytes,
            Some(_) if row_bytes == 0 => true,
            Some(stride) => {
                given == rows
                    && (rows < 2 || stride >= row_bytes)
                    && (rows == 0 || len >= (rows - 1) * stride + row_bytes)
            }
        }
    }

    /// The rows, one after the other. Panics if anything around them has changed.
    fn into_rows(self, rows: usize) -> Vec<u8> {
        let Self { mut data, start, row_bytes, stride, .. } = self;
        let mut all = Vec::with_capacity(rows * row_bytes);
        for r in 0..rows {
            let row = &mut data[start + r * stride.unwrap_or(row_bytes)..][..row_bytes];
            all.extend_from_slice(row);
            row.fill(UNTOUCHED);
        }
        assert!(data.iter().all(|&v| v == UNTOUCHED), "bytes outside the rows of q were written");
        all
    }
}

/// Where y goes.
enum Y<'a, T, N> {
    None,
    Wide(RowsMut<'a, f32>),
    Narrow(RowsMut<'a, N>),
    Own(RowsMut<'a, T>),
}

/// Where the rest goes.
struct Outputs<'a> {
    stats: StatsMut<'a, f32>,
    q: RowsMut<'a, u8>,
    scale: Option<&'a mut [f32]>,
    zero_point: Option<&'a mut [u8]>,
}

/// The rows that are normalized.
enum Given<'a, T> {
    X(Rows<'a, T>),
    Kept { x: Rows<'a, T>, residual: Rows<'a, T>, bias: Option<&'a [T]>, s: RowsMut<'a, T> },
    Over { x: Rows<'a, T>, residual: RowsMut<'a, T>, bias: Option<&'a [T]> },
    Dropped { x: Rows<'a, T>, residual: Rows<'a, T>, bias: Option<&'a [T]> },
}

/// Describes the call and runs it.
fn quantize<'a, M: Operation, T: Quantizable, G: Companion<T>, N: Companion<T>>(
    plan: &'a Norm<M>,
    given: Given<'a, T>,
    gamma: Option<&'a [G]>,
    beta: Option<&'a [G]>,
    scheme: &Scheme,
    y: Y<'a, T, N>,
    outputs: Outputs<'a>,
) -> std::result::Result<(), Error>
where
    f32: Companion<T>,
{
    let Outputs { stats, q, scale, zero_point } = outputs;
    macro_rules! described {
        ($call:expr) => {
            M::with_rest($call.gamma(gamma), beta, stats).quantize(scheme).scale_to(scale).zero_point_to(zero_point)
        };
    }
    macro_rules! run {
        ($call:expr) => {{
            let call = described!($call);
            match y {
                Y::None => call.to(q),
                Y::Wide(y) => call.y_to(y).to(q),
                Y::Narrow(y) => call.y_to(y).to(q),
                Y::Own(y) => call.y_to(y).to(q),
            }
        }};
    }
    match given {
        Given::X(x) => run!(plan.call(x)),
        Given::Kept { x, residual, bias, s } => run!(plan.call(x).residual(residual).bias(bias).sum_to(s)),
        Given::Over { x, residual, bias } => run!(plan.call(x).residual_in_place(residual).bias(bias)),
        Given::Dropped { x, residual, bias } => {
            let Y::Own(y) = y else { unreachable!("a sum that is dropped has a y of its own type") };
            described!(plan.call(x).residual(residual).bias(bias)).y_to(y).to(q)
        }
    }
}

struct QuantizedCall<'a, K: Types> {
    input: &'a Input,
    shape: &'a Shape,
    problem: &'a Problem<K>,
    x: &'a [K::X],
    residual: &'a [K::X],
    bias: Option<Vec<K::X>>,
    fits: bool,
}

impl<K: Types<F = f32, Y = f32>> QuantizedCall<'_, K>
where
    K::X: Quantizable,
    f32: Companion<K::X>,
{
    fn check<N: Value + Companion<K::X>>(
        &self,
        isa: Isa,
        mut place: Bytes,
        lengths: [usize; 2],
        expected: &Expected<K, N>,
    ) {
        let &Self { input, shape, problem, fits, .. } = self;
        let Shape { gaps, misalignment, .. } = *shape;
        let Problem { rows, cols, .. } = *problem;
        let (scheme, form) = (&input.scheme.0, input.form);
        let bias = self.bias.as_deref();
        let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());

        let x = Buffer::holding(self.x, cols, gaps[0], misalignment[0]);
        let mut residual = Buffer::holding(self.residual, cols, gaps[1], misalignment[1]);
        let mut s = Buffer::<K::X>::blank(rows, cols, gaps[2], misalignment[2]);
        let (gap, at) = (gaps[3], misalignment[3]);
        let mut wide = Buffer::<f32>::blank(rows, cols, gap, at);
        let mut narrow = Buffer::<N>::blank(rows, cols, gap, at);
        let mut own = Buffer::<K::X>::blank(rows, cols, gap, at);
        let (mut scale, mut zero_point) = (vec![f32::SENTINEL; lengths[0]], vec![UNTOUCHED; lengths[1]]);
        // Those that the operation lacks stay as they are.
        let [mut mean, mut mean_lo, mut rstd] = [(); 3].map(|()| vec![f32::SENTINEL; rows]);

        let given = match form {
            Form::X => Given::X(x.rows()),
            Form::SumKept => Given::Kept { x: x.rows(), residual: residual.rows(), bias, s: s.rows_mut() },
            Form::SumOverResidual => Given::Over { x: x.rows(), residual: residual.rows_mut(), bias },
            Form::SumDropped => Given::Dropped { x: x.rows(), residual: residual.rows(), bias },
        };
        let y = match (form, input.y) {
            (Form::SumDropped, _) => Y::Own(own.rows_mut()),
            (_, Wanted::No) => Y::None,
            (_, Wanted::Wide) => Y::Wide(wide.rows_mut()),
            (_, Wanted::Narrow) => Y::Narrow(narrow.rows_mut()),
        };
        let outputs = Outputs {
            stats: StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) },
            q: place.rows_mut(),
            // Without elements it may be left out.
            scale: Some(&mut scale[..]).filter(|v| !v.is_empty() || shape.streaming),
            zero_point: Some(&mut zero_point[..]).filter(|v| !v.is_empty() || shape.streaming),
        };
        let plan = problem.plan(isa).with_parallelism(shape.parallelism()).with_store(shape.store());
        let result = shape.environment().within(|| match &plan {
            Plan::LayerNorm(plan) => quantize(plan, given, gamma, beta, scheme, y, outputs),
            Plan::RmsNorm(plan) => quantize(plan, given, gamma, beta, scheme, y, outputs),
        });
        let what = format!("{problem}, {isa}, {scheme:?}, {form:?}, {:?}", input.y);
        assert_eq!(result.is_ok(), fits, "{what}: {result:?}, {place:?}, {lengths:?}");

        // What is not an output is as it was. So is an output of a call that has been refused.
        let q = place.into_rows(if fits { rows } else { 0 });
        if let Some(i) = q.iter().zip(&expected.q).position(|(a, b)| a != b) {
            panic!("{what}: byte {i} of q is {}, expected {}", q[i], expected.q[i]);
        }
        let same = |name: &str, is_output: bool, expected: &[f32], got: &[f32]| {
            assert_same_bits(format_args!("{what}: {name}"), 1, &after(fits && is_output, expected, got.len()), got);
        };
        same("scale", true, &expected.scale, &scale);
        let zero_points = if fits { expected.zero_point.clone() } else { vec![UNTOUCHED; lengths[1]] };
        assert_eq!(zero_point, zero_points, "{what}: zero_point");
        let [expected_mean, expected_mean_lo, expected_rstd] = &expected.stats;
        same("mean", !shape.rms, expected_mean, &mean);
        same("mean_lo", !shape.rms, expected_mean_lo, &mean_lo);
        same("rstd", true, expected_rstd, &rstd);

        assert_same_bits(format_args!("{what}: x"), cols, self.x, &x.into_rows());
        let over = fits && form == Form::SumOverResidual;
        assert_same_sum(&what, if over { &expected.sum } else { self.residual }, &residual.into_rows());
        let kept = fits && form == Form::SumKept;
        assert_same_sum(&what, &after(kept, &expected.sum, rows * cols), &s.into_rows());

        let dropped = form == Form::SumDropped;
        let is_wide = !dropped && matches!(input.y, Wanted::Wide);
        same("y", is_wide, &expected.y, &wide.into_rows());
        let is_narrow = fits && !dropped && matches!(input.y, Wanted::Narrow);
        let narrow_y = after(is_narrow, &expected.narrow, rows * cols);
        assert_same_bits(format_args!("{what}: y"), cols, &narrow_y, &narrow.into_rows());
        let own_y = after(fits && dropped, &expected.own, rows * cols);
        assert_same_bits(format_args!("{what}: y"), cols, &own_y, &own.into_rows());
    }
}

/// What an output of `len` elements holds after a call, if it is `written`, or else.
fn after<V: Value>(written: bool, expected: &[V], len: usize) -> Vec<V> {
    if written { expected.to_vec() } else { vec![V::SENTINEL; len] }
}

/// A sum may have any NaN.
fn assert_same_sum<V: Value>(what: &str, expected: &[V], got: &[V]) {
    assert_eq!(expected.len(), got.len(), "{what}: the sum");
    let differs = expected.iter().zip(got).position(|(a, b)| a.bits() != b.bits() && !(a.is_nan() && b.is_nan()));
    assert_eq!(differs, None, "{what}: the sum");
}
