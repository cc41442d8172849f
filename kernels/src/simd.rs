//! What a tier provides: pulp's [`Simd`](pulp::Simd) plus the few operations that the kernels need and pulp lacks.
//!
//! **Virtual lanes.** The kernels see a register file of 32 f32 lanes (or 16 f64 lanes) on every tier: two AVX-512
//! registers, four AVX2 registers, eight NEON or scalar ones. Which element belongs to which lane depends on the type
//! of the elements, and not on the hardware width, so sums have one order and the tiers agree in bits. See
//! [`Storage`](crate::element::Storage).
//!
//! **pulp is part of the interface.** [`Lanes`] has pulp's `Simd` as a supertrait, so that a kernel written elsewhere
//! can use its operations; the tokens are pulp's `Scalar128b`, `Neon`, `V3` and `V4`. A new minor version of pulp is a
//! breaking change of this module. The plans of `lanenorm` and the jobs of this crate name nothing of pulp.
//!
//! Intrinsics live in this module and its children alone.

mod environment;
mod float;
mod functions;
mod lanes;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod neon;
#[cfg(target_arch = "x86_64")]
mod tokens;

pub(crate) use environment::in_default_environment;
pub use float::Float;
pub(crate) use float::{WIDE_REGS, regs};
pub use functions::Functions;
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
pub(crate) use lanes::Entry;
pub use lanes::{Access, Bf16Lanes, ByteLanes, F16Lanes, F64Lanes, FOLD_ROWS, Kernel, Lanes, QUAD};
pub(crate) use lanes::{MAX_REGS, outline, rolled, sqrt_f64};
pub(crate) use scalar::scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) use tokens::Avx2;
