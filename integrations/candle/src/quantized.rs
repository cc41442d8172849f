//! Rows that are normalized and quantized in one touch, for products with quantized weights.

use candle_core::quantized::k_quants::{BlockQ4_0, BlockQ8_0, QK8_0};
use candle_core::quantized::{GgmlDType, GgmlType, QTensor};
use candle_core::{DType, Device, Error, Result, Shape, Tensor, bail};
use lanenorm::{Companion, Quantizable, Scheme};
use rayon::prelude::*;

use crate::norm::{Affine, Norm, row};
use crate::view::{Real, read, read_if_given};

/// Normalized rows in blocks of `Q8_0`: 32 elements of 8 bits with a scale in f16.
///
/// They are what [`matmul`](Self::matmul) multiplies by quantized weights. candle's own product, `QMatMul`, takes
/// activations in floats alone and quantizes them itself, once for each product. Where y is finite, that gives the
/// same numbers. A block in which y is NaN or infinite has a scale of NaN here.
///
/// ```
/// use candle_core::quantized::{GgmlDType, QTensor};
/// use candle_core::{Device, Tensor};
/// use lanenorm_candle::RmsNorm;
///
/// let x = Tensor::randn(0f32, 1.0, (4, 64), &Device::Cpu)?;
/// let norm = RmsNorm::new(Tensor::ones(64, x.dtype(), x.device())?, 1e-6);
/// let [q, k] = [48, 16].map(|n| {
///     let weight = Tensor::randn(0f32, 1.0, (n, 64), &Device::Cpu)?;
///     QTensor::quantize(&weight, GgmlDType::Q8_0)
/// });
/// let y = norm.forward_q8_0(&x)?; // quantized once
/// assert_eq!(y.matmul(&q?)?.dims(), [4, 48]);
/// assert_eq!(y.matmul(&k?)?.dims(), [4, 16]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Q8_0 {
    blocks: Vec<BlockQ8_0>,
    shape: Shape,
}

impl Q8_0 {
    /// The dimensions of the rows before they were quantized.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The elements times their scales, in f32.
    ///
    /// # Errors
    /// None is known: candle's constructor of tensors has them.
    pub fn dequantize(&self) -> Result<Tensor> {
        let mut y = vec![0.0; self.shape.elem_count()];
        BlockQ8_0::to_float(&self.blocks, &mut y);
        Tensor::from_vec(y, &self.shape, &Device::Cpu)
    }

    /// The product with a weight of shape `[n, columns]`, transposed, as that of `QMatMul`: in f32, and without
    /// gradients.
    ///
    /// It has the bits of `k_quants::matmul` for the same y, where that is finite. Those of `QMatMul` may differ, since
    /// it sums in another order on some processors, or takes blocks of 256.
    ///
    /// # Errors
    /// If the weight is not of `Q4_0` or `Q8_0`, or does not have as many columns as the rows.
    pub fn matmul(&self, weight: &QTensor) -> Result<Tensor> {
        let (n, k) = weight.shape().dims2()?;
        let Some((&cols, outer)) = self.dims().split_last() else { bail!("there are no columns") };
        if k != cols {
            bail!("the weight has shape [{n}, {k}], expected {cols} columns as rows have");
        }
        let data = weight.data()?;
        let dims: Vec<usize> = outer.iter().copied().chain([n]).collect();
        let mut y = vec![0.0; dims.iter().product()];
        let size = [n, k];
        match weight.dtype() {
            GgmlDType::Q4_0 => product::<BlockQ4_0>(&self.blocks, &data, size, &mut y)?,
            GgmlDType::Q8_0 => product::<BlockQ8_0>(&self.blocks, &data, size, &mut y)?,
            other => bail!("the weight is {other:?}, expected Q4_0 or Q8_0"),
        }
        Tensor::from_vec(y, dims, &Device::Cpu)
    }
}

impl Norm {
    /// y of x in rows, quantized.
    pub(crate) fn quantize(&self, x: &Tensor, affine: Affine<'_>) -> Result<Q8_0> {
        use lanenorm::{bf16, f16};
        match (x.dtype(), affine.gamma.map_or(x.dtype(), Tensor::dtype)) {
            (DType::F32, DType::F32) => quantize::<f32, f32>(self, x, affine),
            (DType::F16, DType::F16) => quantize::<f16, f16>(self, x, affine),
            (DType::F16, DType::F32) => quantize::<f16, f32>(self, x, affine),
            (DType::BF16, DType::BF16) => quantize::<bf16, bf16>(self, x, affine),
            (DType::BF16, DType::F32) => quantize::<bf16, f32>(self, x, affine),
            (DType::F32, other) => bail!("gamma and beta are {other:?}, expected F32 as x"),
            (x @ (DType::F16 | DType::BF16), other) => {
                bail!("gamma and beta are {other:?}, expected {x:?} as x, or F32")
            }
            (x, _) => bail!("x is {x:?}, expected F32, F16 or BF16"),
        }
    }
}

fn quantize<T: Real + Quantizable, G: Real + Companion<T>>(
    norm: &Norm,
    x: &Tensor,
    Affine { gamma, beta }: Affine<'_>,
) -> Result<Q8_0> {
    let shape = x.shape().clone();
    let mut blocks = vec![BlockQ8_0::zeros(); shape.elem_count() / QK8_0];
    read(x, |x| {
        read_if_given(gamma, |gamma| {
            read_if_given(beta, |beta| {
                let (x, gamma, beta) = (x.rows::<T>()?, row::<G>(gamma)?, row::<G>(beta)?);
                let (scheme, q) = (&Scheme::Q8_0, bytes_of(&mut blocks));
                match norm {
                    Norm::Layer(plan) => plan.call(x).gamma(gamma).beta(beta).quantize(scheme).to(q),
                    Norm::Rms(plan) => plan.call(x).gamma(gamma).quantize(scheme).to(q),
                }
                .map_err(Error::wrap)
            })
        })
    })?;
    Ok(Q8_0 { blocks, shape })
}

/// So many columns of a product are computed in one go.
const TOGETHER: usize = 64;

/// The product of rows and the weight of shape `[n, k]` in `data`.
fn product<B: Block>(rows: &[BlockQ8_0], data: &[u8], [n, k]: [usize; 2], y: &mut [f32]) -> Result<()> {
    let (weight, of_row) = (blocks_of::<B>(data)?, k / B::BLCK_SIZE);
    if weight.len() != n * of_row {
        bail!("the weight has {} blocks, expected {n} rows of {of_row}", weight.len());
    }
    let column = |i: usize| &weight[i * of_row..][..of_row];
    y.par_chunks_mut(n.max(1)).enumerate().for_each(|(r, y)| {
        let x = &rows[r * of_row..][..of_row];
        y.par_chunks_mut(TOGETHER).enumerate().for_each(|(part, y)| {
            for (quad, y) in y.chunks_mut(4).enumerate() {
                let i = part * TOGETHER + quad * 4;
                // As candle does, since these may differ in the order of their sums.
                match y {
                    [a, b, c, d] => {
                        let columns = (column(i), column(i + 1), column(i + 2), column(i + 3));
                        (*a, *b, *c, *d) = B::vec_dot_4(k, columns.0, columns.1, columns.2, columns.3, x);
                    }
                    [a, b, rest @ ..] => {
                        (*a, *b) = B::vec_dot_2(k, column(i), column(i + 1), x);
                        rest.iter_mut().for_each(|c| *c = B::vec_dot(k, column(i + 2), x));
                    }
                    rest => rest.iter_mut().for_each(|a| *a = B::vec_dot(k, column(i), x)),
                }
            }
        });
    });
    Ok(())
}

/// candle gives blocks no constructor but `from_float`, and lends those of a tensor as bytes.
use as_bytes::{Block, blocks_of, bytes_of};

#[expect(unsafe_code, reason = "candle's blocks can be had from bytes in no other way")]
mod as_bytes {
    use candle_core::quantized::GgmlType;
    use candle_core::quantized::k_quants::{BlockQ4_0, BlockQ8_0};
    use candle_core::{Result, bail};

    /// Blocks whose products take blocks of `Q8_0`.
    ///
    /// # Safety
    /// - Any bytes are a block.
    pub(super) unsafe trait Block: GgmlType<VecDotType = BlockQ8_0> {}

    // SAFETY: they consist of integers and an f16, of which any bits are a number.
    unsafe impl Block for BlockQ4_0 {}
    // SAFETY: as above.
    unsafe impl Block for BlockQ8_0 {}

    /// The blocks that bytes are.
    pub(super) fn blocks_of<B: Block>(bytes: &[u8]) -> Result<&[B]> {
        // SAFETY: any bytes are a block.
        match unsafe { bytes.align_to::<B>() } {
            ([], blocks, []) => Ok(blocks),
            _ => bail!("{} bytes of {:?} are not aligned, or are not whole blocks", bytes.len(), B::DTYPE),
        }
    }

    // An f16 and 32 integers, and nothing between them.
    const _: () = assert!(size_of::<BlockQ8_0>() == 2 + 32);

    /// The bytes of blocks, to be written.
    pub(super) fn bytes_of(blocks: &mut [BlockQ8_0]) -> &mut [u8] {
        // SAFETY: it is the memory of the slice, without padding. Any bytes are a block.
        unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), size_of_val(blocks)) }
    }
}
