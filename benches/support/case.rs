//! The inputs: shapes that models have and shapes that are awkward, filled with random numbers, and real activations.
//! Images have shapes of their own.

use lanenorm::Tier;
use lanenorm::kernels::table::{self, Dtype, Op};
use lanenorm_harness::input::bells;
use lanenorm_harness::number::Number;

use super::activations;
use super::several::HEADS;
use super::variant::GROUPS;

/// The types that the default run times.
const NONE: &[Dtype] = &[];
const F32: &[Dtype] = &[Dtype::F32];
const F32_AND_BF16: &[Dtype] = &[Dtype::F32, Dtype::Bf16];
const UP_TO_F32: &[Dtype] = &[Dtype::F32, Dtype::Bf16, Dtype::F16];
const EVERY: &[Dtype] = &[Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::F64];

/// Rows, columns, the call that has this shape, and the types in which the default run times LayerNorm and RMSNorm,
/// forward and backward.
type Shape = (usize, usize, &'static str, [&'static [Dtype]; 2], [&'static [Dtype]; 2]);

const SHAPES: [Shape; 29] = [
    (1, 8, "what a call costs", [F32, NONE], [NONE, NONE]),
    (1, 768, "one token of BERT-base", [F32, NONE], [NONE, NONE]),
    (1, 2048, "one token of a 1B model", [F32, F32], [NONE, NONE]),
    (1, 4096, "one token of a 7B model", [F32, UP_TO_F32], [NONE, NONE]),
    (1, 16384, "one token of a very large model", [F32, F32], [NONE, NONE]),
    (7, 333, "a multiple of nothing", [F32, NONE], [NONE, NONE]),
    (8, 768, "a few tokens of BERT-base", [EVERY, F32], [F32, F32]),
    (8, 4096, "a few tokens of a 7B model", [F32_AND_BF16, F32_AND_BF16], [NONE, NONE]),
    (32, 1024, "a few tokens of BERT-large", [F32, NONE], [NONE, NONE]),
    (32, 128, "the heads of one token", [F32, F32], [NONE, NONE]),
    (128, 768, "a sentence of BERT-base", [F32, F32], [F32, NONE]),
    (197, 1000, "the tokens of a vision transformer, of an odd width", [F32, NONE], [F32, NONE]),
    (256, 255, "in L2, of an odd width", [F32, F32], [NONE, NONE]),
    (256, 257, "in L2, of another odd width", [F32, NONE], [NONE, NONE]),
    (512, 384, "a paragraph of MiniLM", [F32, NONE], [NONE, NONE]),
    (512, 768, "a paragraph of BERT-base", [EVERY, UP_TO_F32], [EVERY, F32]),
    (2048, 1024, "beyond the L2 cache", [F32, F32], [F32, F32]),
    (512, 128, "the heads of a few tokens", [NONE, F32], [NONE, NONE]),
    (512, 4096, "a paragraph of a 7B model", [NONE, F32], [NONE, NONE]),
    (1024, 48, "channels last", [F32, F32], [NONE, NONE]),
    (2048, 32, "more channels last, or a graph", [F32, F32], [NONE, NONE]),
    (4096, 8, "a table", [F32_AND_BF16, F32], [NONE, NONE]),
    (4096, 16, "a wider table", [F32, F32], [NONE, NONE]),
    (16384, 128, "heads", [F32, NONE], [F32, NONE]),
    (65536, 64, "short heads", [F32, NONE], [F32, NONE]),
    (65536, 128, "heads of a long prompt", [NONE, F32_AND_BF16], [NONE, NONE]),
    (4096, 4096, "a long prompt of a 7B model", [EVERY, UP_TO_F32], [F32_AND_BF16, F32]),
    (4, 1_000_003, "few rows, and long", [F32, NONE], [NONE, NONE]),
    (1, 16_777_216, "one row to be split over threads", [F32, NONE], [NONE, NONE]),
];

/// Samples, channels, height, width, the call that has this shape, and the groups of `GroupNorm`. LayerNorm has none.
type ImageShape = (usize, usize, usize, usize, &'static str, Option<usize>);

/// The default run times them in f32 and bf16.
const IMAGES: [ImageShape; 4] = [
    (8, 96, 56, 56, "the first stage of ConvNeXt", None),
    (8, 384, 14, 14, "the third stage of ConvNeXt", None),
    (1, 320, 64, 64, "the first block of a diffusion model", Some(32)),
    (2, 640, 32, 32, "the second block of a diffusion model", Some(32)),
];

/// The shape of each sample of images.
#[derive(Clone, Copy)]
pub(crate) struct Images {
    pub(crate) channels: usize,
    pub(crate) pixels: usize,
    /// The groups of channels, which are the rows. Without them, the rows are the channels of each pixel.
    pub(crate) groups: Option<usize>,
}

/// A tensor, and the gamma and beta that normalize it.
#[derive(Clone)]
pub(crate) struct Tensor<T> {
    pub(crate) x: Vec<T>,
    pub(crate) gamma: Vec<T>,
    pub(crate) beta: Vec<T>,
    /// The gradient of y. Empty where the operation has none.
    pub(crate) dy: Vec<T>,
}

/// An operation on one or more tensors of one shape that are normalized one after the other, and timed together.
pub(crate) struct Case {
    pub(crate) op: Op,
    pub(crate) dtype: Dtype,
    pub(crate) name: String,
    pub(crate) about: &'static str,
    /// The number of rows of each tensor.
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// `GroupNorm` is LayerNorm of groups, with a gamma and a beta for each channel.
    pub(crate) images: Option<Images>,
    pub(crate) eps: f64,
    /// The number of elements of x, of all tensors together.
    pub(crate) elements: usize,
    in_default_run: bool,
    data: Data,
}

/// Random numbers are made when they are needed: all cases together would fill some gigabytes.
enum Data {
    Random,
    Real(Vec<Tensor<f32>>),
}

/// Cases of this many elements or more are in the full run for forward calls in f32 alone, and the default run has some
/// of the others: what differs there is the memory traffic.
const LARGE: usize = 1 << 20;

/// Plans stream from this number of bytes on, of all tensors of a call.
const STREAM_BYTES: usize = 16 << 20;

/// A number of elements that several threads share, as each takes 32 K.
const FEW: usize = 1 << 16;

/// All operations on all inputs. The types of an input follow each other, so that their times can be compared.
pub(crate) fn all() -> Vec<Case> {
    // Every operation has a scalar kernel.
    let kernels = || table::kernels().filter(|kernel| kernel.tier == Tier::Scalar);
    let mut cases = Vec::new();
    for op in Op::ALL {
        let dtypes = || kernels().filter(move |kernel| kernel.op == op).map(|kernel| kernel.dtype);
        for shape in SHAPES {
            cases.extend(dtypes().map(|dtype| Case::random(op, dtype, shape)));
        }
        cases.extend(dtypes().map(|dtype| activations::case(op, dtype)));
        if op == Op::LayerNorm {
            for shape in IMAGES {
                cases.extend(dtypes().map(|dtype| Case::images(dtype, shape)));
            }
        }
    }
    let is_in_full_run = |case: &Case| case.dtype == Dtype::F32 && !case.op.is_backward() || case.elements < LARGE;
    cases.retain(|case| case.in_default_run || is_in_full_run(case));
    // Nobody trains on one row.
    cases.retain(|case| !case.op.is_backward() || case.rows > 1);
    cases
}

/// The cases of the default run.
pub(crate) fn few() -> Vec<Case> {
    all().into_iter().filter(|case| case.in_default_run).collect()
}

impl Case {
    fn random(op: Op, dtype: Dtype, (rows, cols, about, forward, backward): Shape) -> Self {
        let [layer_norm, rms_norm] = if op.is_backward() { backward } else { forward };
        let default = if is_centered(op) { layer_norm } else { rms_norm };
        let (in_default_run, name) = (default.contains(&dtype), format!("{rows}x{cols}"));
        let (images, eps, elements, data) = (None, 1e-5, rows * cols, Data::Random);
        Self { op, dtype, name, about, rows, cols, images, eps, elements, in_default_run, data }
    }

    fn images(dtype: Dtype, (samples, channels, height, width, about, groups): ImageShape) -> Self {
        let (name, pixels) = (format!("{samples}x{channels}x{height}x{width}"), height * width);
        let elements = samples * channels * pixels;
        let cols = groups.map_or(channels, |groups| channels / groups * pixels);
        let (op, eps, images) = (Op::LayerNorm, 1e-5, Some(Images { channels, pixels, groups }));
        let (rows, in_default_run, data) = (elements / cols, F32_AND_BF16.contains(&dtype), Data::Random);
        Self { op, dtype, name, about, rows, cols, images, eps, elements, in_default_run, data }
    }

    /// A case of given tensors, which have one shape and come from LayerNorms.
    pub(crate) fn real(
        op: Op,
        dtype: Dtype,
        name: String,
        about: &'static str,
        eps: f64,
        tensors: Vec<Tensor<f32>>,
    ) -> Self {
        let cols = tensors[0].gamma.len();
        let rows = tensors[0].x.len() / cols;
        assert!(tensors.iter().all(|t| (t.x.len(), t.gamma.len()) == (rows * cols, cols)), "{name} has several shapes");
        let elements = tensors.len() * rows * cols;
        let (images, in_default_run) = (None, (op, dtype) == (Op::LayerNorm, Dtype::F32));
        Self { op, dtype, name, about, rows, cols, images, eps, elements, in_default_run, data: Data::Real(tensors) }
    }

    /// The same case with fewer elements that take the same path; images stay as they are. Random inputs that are
    /// streamed past the caches by default stay large enough to be streamed. Other inputs stay large enough for several
    /// threads.
    pub(crate) fn thinned(mut self) -> Self {
        let element = self.bytes() / self.elements;
        let streamed = STREAM_BYTES / if self.op.is_backward() { 3 } else { 2 } / element;
        let enough = if self.elements > streamed { streamed } else { FEW };
        if matches!(self.data, Data::Real(_)) || self.images.is_some() || self.elements <= enough {
            return self;
        }
        if self.rows == 1 {
            self.cols = enough + 64;
        } else {
            // One row more than enough, and a multiple of the groups that some variants cut rows into.
            let rows = enough / self.cols + 1;
            let groups = [HEADS, GROUPS].into_iter().find(|&groups| rows >= groups);
            self.rows = rows.next_multiple_of(groups.unwrap_or(1));
        }
        self.elements = self.rows * self.cols;
        self
    }

    pub(crate) fn op_name(&self) -> &'static str {
        if self.is_group_norm() { "group_norm" } else { self.op.name() }
    }

    pub(crate) fn is_group_norm(&self) -> bool {
        self.images.is_some_and(|images| images.groups.is_some())
    }

    /// Whether the operation has a mean and a beta.
    pub(crate) fn is_centered(&self) -> bool {
        is_centered(self.op)
    }

    /// The tensors in the type of the case. They are the same in every run.
    pub(crate) fn tensors<T: Number>(&self) -> Vec<Tensor<T>> {
        let mut tensors = self.inputs();
        if self.op.is_backward() {
            tensors.iter_mut().zip(5..).for_each(|(tensor, seed)| tensor.dy = bells(seed, tensor.x.len(), 0.0, 1.0));
        }
        tensors
    }

    fn inputs<T: Number>(&self) -> Vec<Tensor<T>> {
        match &self.data {
            Data::Real(tensors) => {
                let round = |v: &Vec<f32>| v.iter().map(|&v| T::from_f64(v.into())).collect();
                let tensor = |t: &Tensor<f32>| Tensor {
                    x: round(&t.x),
                    gamma: round(&t.gamma),
                    beta: round(&t.beta),
                    dy: Vec::new(),
                };
                tensors.iter().map(tensor).collect()
            }
            Data::Random => {
                let x = bells(1, self.elements, 0.25, 1.5);
                let params = self.images.map_or(self.cols, |images| images.channels);
                let (gamma, beta) = (bells(2, params, 1.0, 0.25), bells(3, params, 0.0, 0.25));
                vec![Tensor { x, gamma, beta, dy: Vec::new() }]
            }
        }
    }

    pub(crate) fn has_16_bits(&self) -> bool {
        matches!(self.dtype, Dtype::F16 | Dtype::Bf16)
    }

    /// The bytes of x.
    pub(crate) fn bytes(&self) -> usize {
        let element = match self.dtype {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            _ => 2,
        };
        self.elements * element
    }
}

fn is_centered(op: Op) -> bool {
    matches!(op, Op::LayerNorm | Op::LayerNormBackward)
}
