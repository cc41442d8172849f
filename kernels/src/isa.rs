//! The tiers, their detection, and the one dispatch point.
//!
//! An [`Isa`] is proof that the processor has what its [`Tier`] needs: safe functions make one only then. [`Isa::run`]
//! enters a function compiled for the tier and hands the kernel the tier's [`Lanes`](crate::simd::Lanes) token;
//! everything generic below it must be inlined into that function.

use core::fmt;
use core::str::FromStr;

#[cfg(target_arch = "x86_64")]
use crate::simd::Avx2;
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
use crate::simd::Entry;
use crate::simd::{Kernel, scalar};

/// An instruction set that the kernels are compiled for.
///
/// A wider tier compares greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// Portable code without intrinsics; runs on every processor.
    Scalar,
    /// 128-bit NEON on aarch64 (`neon`, `fp`), which all but soft-float targets have.
    Neon,
    /// 256-bit AVX2 on x86-64 (Haswell, Zen and later).
    ///
    /// All of `sse`, `sse2`, `sse3`, `ssse3`, `sse4.1`, `sse4.2`, `fxsr`, `popcnt`, `avx`, `avx2`, `bmi1`, `bmi2`,
    /// `fma`, `lzcnt` and `f16c`, as Rust names target features.
    Avx2,
    /// AVX-512 on x86-64 (Skylake-X, Zen 4 and later).
    ///
    /// All that [`Avx2`](Self::Avx2) names, and `avx512f`, `avx512bw`, `avx512cd`, `avx512dq` and `avx512vl`.
    Avx512,
}

impl Tier {
    /// All tiers, narrowest first, also those that this build or machine lacks.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];

    /// The name used in bench ids, in messages and in `LANENORM_ISA`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error of parsing a tier's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownTier;

impl fmt::Display for UnknownTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown tier: expected scalar, neon, avx2 or avx512")
    }
}

impl core::error::Error for UnknownTier {}

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(s: &str) -> Result<Self, UnknownTier> {
        Self::ALL.into_iter().find(|t| t.name() == s).ok_or(UnknownTier)
    }
}

#[derive(Clone, Copy)]
enum Token {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    Neon(pulp::aarch64::Neon),
}

/// A tier that this processor has.
#[derive(Clone, Copy)]
pub struct Isa(Token);

impl Isa {
    /// The portable tier, which every processor has.
    pub const SCALAR: Self = Self(Token::Scalar);

    /// The given tier, or `None` if this build or this processor lacks it.
    ///
    /// The processor is asked once per process; later calls read a cached answer.
    #[cfg(feature = "std")]
    pub fn new(tier: Tier) -> Option<Self> {
        match tier {
            Tier::Scalar => Some(Self::SCALAR),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => Avx2::try_new().map(|t| Self(Token::Avx2(t))),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => {
                // The AVX2 tier promises F16C, which V4 leaves out: ask for both.
                Avx2::try_new()?;
                pulp::x86::V4::try_new().map(|t| Self(Token::Avx512(t)))
            }
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Tier::Neon => pulp::aarch64::Neon::try_new().map(|t| Self(Token::Neon(t))),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// The given tier without asking the processor, for callers without `std` who know better. `None` if this
    /// build lacks the tier.
    ///
    /// # Safety
    /// - The processor has every feature that [`Tier`] names for this tier. Functions are compiled for all of them: a
    ///   processor without LZCNT, say, does not fault, but runs another instruction that gives other numbers.
    /// - The operating system saves the registers of that tier.
    pub unsafe fn new_unchecked(tier: Tier) -> Option<Self> {
        match tier {
            Tier::Scalar => Some(Self::SCALAR),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's duty, word for word.
            Tier::Avx2 => Some(Self(Token::Avx2(unsafe { Avx2::new_unchecked() }))),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's duty, word for word.
            Tier::Avx512 => Some(Self(Token::Avx512(unsafe { pulp::x86::V4::new_unchecked() }))),
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            // SAFETY: the caller's duty, word for word.
            Tier::Neon => Some(Self(Token::Neon(unsafe { pulp::aarch64::Neon::new_unchecked() }))),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// The widest tier that this processor has.
    ///
    /// This crate reads no environment: `LANENORM_ISA` changes nothing here. The plans of the `lanenorm` crate obey it,
    /// and its `default_isa()` gives the tier that they take.
    #[cfg(feature = "std")]
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// Every tier that this processor has, narrowest first.
    #[cfg(feature = "std")]
    pub fn available() -> impl Iterator<Item = Self> {
        Tier::ALL.into_iter().filter_map(Self::new)
    }

    /// The tier's name.
    pub const fn tier(self) -> Tier {
        match self.0 {
            Token::Scalar => Tier::Scalar,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => Tier::Avx2,
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => Tier::Avx512,
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Token::Neon(_) => Tier::Neon,
        }
    }

    /// Runs a kernel, which is compiled for this tier, in a function compiled for it.
    #[inline(always)]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        if K::PORTABLE && self.tier() == Tier::Scalar {
            return scalar(kernel);
        }
        match self.run_simd(kernel) {
            Some(output) => output,
            None => unreachable!("the kernel is not compiled for the portable tier"),
        }
    }

    /// Runs a kernel as [`run`](Self::run) does, but not on the portable tier: `None` there, and the kernel is not even
    /// compiled for it.
    #[inline(always)]
    pub fn run_simd<K: Kernel>(self, kernel: K) -> Option<K::Output> {
        match self.0 {
            Token::Scalar => {
                // On targets with no other tier nothing else uses `kernel`.
                _ = kernel;
                None
            }
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(t) => {
                // SAFETY: `Avx2` has all features of V3.
                let simd = unsafe { pulp::x86::V3::new_unchecked() };
                Some(t.vectorize(Entry { simd, kernel }))
            }
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => Some(simd.vectorize(Entry { simd, kernel })),
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Token::Neon(simd) => Some(simd.vectorize(Entry { simd, kernel })),
        }
    }
}

impl PartialEq for Isa {
    fn eq(&self, other: &Self) -> bool {
        self.tier() == other.tier()
    }
}

impl Eq for Isa {}

/// The name of the tier.
impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.tier())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tier().fmt(f)
    }
}
