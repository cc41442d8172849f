//! The tokens that pulp lacks.
#![allow(missing_docs, unreachable_pub)]

pulp::simd_type! {
    /// pulp's `V3` with F16C, so that a tier means one set of instructions for all element types.
    pub struct Avx2 {
        pub sse: "sse", pub sse2: "sse2", pub fxsr: "fxsr", pub sse3: "sse3", pub ssse3: "ssse3",
        pub sse4_1: "sse4.1", pub sse4_2: "sse4.2", pub popcnt: "popcnt", pub avx: "avx", pub avx2: "avx2",
        pub bmi1: "bmi1", pub bmi2: "bmi2", pub fma: "fma", pub lzcnt: "lzcnt", pub f16c: "f16c",
    }
}
