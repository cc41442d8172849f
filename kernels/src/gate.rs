//! Gates, as values: a normalization is multiplied by a function of other rows, before or after.

/// The gate of a normalization: rows z, one for each row of x, go through a [`Function`], and are multiplied by the
/// rows on one [`Side`] of the normalization.
///
/// ```text
/// after:    y = norm(x) * function(z)          where norm(x) has gamma and beta
/// before:   y = norm(x * function(z))
/// ```
///
/// The product is taken in f32, of numbers in f32, and is not rounded before y is (`norm(x)` has its roundings:
/// see [`Rounding`](crate::rounding::Rounding)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    /// The function of z.
    pub function: Function,
    /// What is multiplied by it.
    pub side: Side,
}

/// The function of a gate, or what follows a [group normalization](crate::ops::group_norm). The formulas and their
/// limits are in [`reference`](crate::reference).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// z * sigmoid(z), also called swish.
    Silu,
    /// 1 / (1 + e^-z).
    Sigmoid,
    /// The form of GELU with tanh.
    GeluTanh,
}

/// What a gate is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// What is normalized.
    After,
    /// x, before it is normalized.
    Before,
}

impl Gate {
    /// norm(x) * silu(z): `Qwen3NextRMSNormGated` of `transformers`, with
    /// [`Rounding::STEPS`](crate::rounding::Rounding::STEPS). It has no offset, unlike `Qwen3NextRMSNorm`.
    pub const SILU: Self = Self { function: Function::Silu, side: Side::After };

    /// norm(x) * sigmoid(z): `KimiLinearRMSNormGated` of `transformers`.
    pub const SIGMOID: Self = Self { function: Function::Sigmoid, side: Side::After };

    /// norm(x) * `gelu_tanh`(z).
    pub const GELU_TANH: Self = Self { function: Function::GeluTanh, side: Side::After };

    /// norm(x * silu(z)): Mamba 2. With [`Rounding::STEPS`](crate::rounding::Rounding::STEPS) it is
    /// `MambaRMSNormGated` of `transformers`, and `Zamba2RMSNormGated`, which has groups within a row. Such groups are
    /// rows here, with a gamma for each.
    pub const SILU_BEFORE: Self = Self { function: Function::Silu, side: Side::Before };

    /// norm(x * sigmoid(z)).
    pub const SIGMOID_BEFORE: Self = Self { function: Function::Sigmoid, side: Side::Before };

    /// norm(x * `gelu_tanh`(z)).
    pub const GELU_TANH_BEFORE: Self = Self { function: Function::GeluTanh, side: Side::Before };
}
