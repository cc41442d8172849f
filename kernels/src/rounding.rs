//! Where a normalization rounds, as a value. `reference.rs` has what it means.

use crate::error::Error;

/// Where the operation rounds to 16 bits before its end, where x has 16 bits.
///
/// Frameworks differ in this, and so do classes of one framework with the same name. All of them compute in f32 and
/// round y to its type in the end. [`ONCE`](Self::ONCE) rounds nowhere else, and has the smallest errors. The other
/// constants have the bits of what they name, up to the statistics: sums of another order differ by some units of f32,
/// so that a few elements in a thousand differ by one unit of 16 bits.
///
/// ```text
/// s      = x + residual + bias                 sums: Rounded, Statistics or Unrounded
/// xhat   = (s - mean(s)) * rstd(s)             in f32
/// factor = gamma + offset                      rounded to the type of gamma if `gamma`
/// xhat   = round(xhat)                         to the type of x if `steps`
/// y      = xhat * factor                       rounded if `steps`, unless gamma is f32
/// y      = y + beta                            rounded to the type of y
/// ```
///
/// Rows beyond the range of f32 sums have xhat in f64, which is rounded to f32 before `steps`. A row whose statistics
/// are NaN is NaN. With [`Sums::Statistics`] these are the statistics of other numbers than are normalized: a sum that
/// rounding makes infinite gives an infinite y, and equal sums need not give beta.
///
/// Rows of f32 and f64 are not rounded in between: to their own type nothing is to be rounded. There only the sum of
/// gamma and offset can be rounded, to a gamma of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rounding {
    /// Whether the normalized element is rounded to the type of x before it is multiplied by gamma, and the product
    /// before beta is added. A product with a gamma of f32 is not rounded, as it is f32 in frameworks. Where gamma and
    /// beta have the type of x, or are absent, each step is rounded even if y is f32.
    pub steps: bool,
    /// Whether the sum of gamma and offset is rounded to the type of gamma.
    pub gamma: bool,
    /// Which sums of x and a residual are normalized.
    pub sums: Sums,
}

/// Which sums are normalized, where x is added to a residual of 16 bits. The sums that a call writes are always
/// rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sums {
    /// The rounded sums: as if the addition were an operation of its own.
    #[default]
    Rounded,
    /// The rounded sums, with the statistics of the sums in f32.
    Statistics,
    /// The sums in f32.
    Unrounded,
}

impl Rounding {
    /// One rounding, of y. `PyTorch`'s `layer_norm` and `rms_norm`; ONNX Runtime's `LayerNormalization` and
    /// `SimplifiedLayerNormalization`; `transformers`: `Olmo2RMSNorm`, `GptOssRMSNorm`, `DeepseekV4RMSNorm`,
    /// `HeliumRMSNorm`, `Gemma3nRMSNorm`, `Gemma4RMSNorm`, `CohereLayerNorm`, and with an offset of 1 `GemmaRMSNorm`,
    /// `Gemma2RMSNorm`, `Gemma3RMSNorm` and `Qwen3NextRMSNorm`.
    pub const ONCE: Self = Self { steps: false, gamma: false, sums: Sums::Rounded };

    /// Each step is rounded. `transformers`: `LlamaRMSNorm` and the many classes with its body (Mistral, Qwen 2 and 3,
    /// Phi 3, GLM 4, `DeepSeek` V2 and V3, Llama 4, Mamba 2, T5), `DebertaLayerNorm`, `ChameleonLayerNorm`. ONNX's
    /// `LayerNormalization` and `RMSNormalization` as the standard defines them.
    pub const STEPS: Self = Self { steps: true, ..Self::ONCE };

    /// y, and the sum of gamma and offset. With an offset of 1, `transformers`: `NemotronLayerNorm1P`,
    /// `VideoPrismLayerNorm`, `MuseSparkTextCenteredRMSNorm`.
    pub const GAMMA: Self = Self { gamma: true, ..Self::ONCE };

    /// Each step, and the sum of gamma and offset. With an offset of 1, `transformers`: `MoonshineStreamingLayerNorm`.
    pub const STEPS_AND_GAMMA: Self = Self { steps: true, ..Self::GAMMA };

    /// One rounding of y, and one of the sums that are normalized, but not of those that the statistics are taken of.
    /// vLLM's `fused_add_rms_norm` on CPUs.
    pub const SUM_STATISTICS: Self = Self { sums: Sums::Statistics, ..Self::ONCE };

    /// One rounding of y; the sums that are normalized are not rounded. ONNX Runtime's `SkipLayerNormalization` and
    /// `SkipSimplifiedLayerNormalization`.
    pub const UNROUNDED_SUMS: Self = Self { sums: Sums::Unrounded, ..Self::ONCE };
}

impl Rounding {
    /// Refuses to quantize sums that are not normalized as they are rounded. `rounds` says that the sums have 16 bits.
    ///
    /// # Errors
    /// If these are such sums.
    pub fn check_quantized(&self, is_sum: bool, rounds: bool) -> Result<(), Error> {
        match self.sums {
            Sums::Statistics if is_sum && rounds => Err(Error::QuantizedSums { sums: "Statistics" }),
            Sums::Unrounded if is_sum && rounds => Err(Error::QuantizedSums { sums: "Unrounded" }),
            _ => Ok(()),
        }
    }
}

impl Default for Rounding {
    /// [`Rounding::ONCE`].
    fn default() -> Self {
        Self::ONCE
    }
}
