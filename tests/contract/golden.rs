//! Frozen bits: a change of any bit of these is a breaking change. The same constants hold on every tier, every
//! processor and every compiler; the input comes from integers alone.

use lanenorm::{Isa, bf16, f16};

use crate::support::{
    Bf16, Call, F16, F32, F64, GradCall, GradProblem, KINDS, Operation, Output, Problem, Random, Types, Value,
    special_row, tiers,
};

/// LayerNorm of f32: rows, columns, eps, and the hash of y, mean, `mean_lo` and rstd.
const LAYER_NORM: [(usize, usize, f64, u64); 12] = [
    (14, 1, 1e-5, 0xf656_d981_c529_a6c8),
    (28, 7, 1e-5, 0x3c3b_b50f_2a48_9bb5),
    (28, 64, 1e-5, 0x20ad_d25e_fcda_02ca),
    (28, 100, 0.0, 0x8262_032d_6d37_645c),
    (28, 192, 1e-12, 0x9ac8_c0c1_9c3b_3053),
    (14, 193, 1e-5, 0xbdce_21ad_fdba_da94),
    (14, 333, 0.0, 0xdeb0_080f_15ce_5226),
    (14, 768, 1e-5, 0x5cea_bb47_b289_283f),
    (14, 1025, 1e-12, 0x1153_456d_dcbe_227a),
    (14, 5000, 1e-5, 0x6dc0_df54_c4f4_d3ca),
    (3, 20_000, 0.0, 0xfc13_8483_46a8_d06d),
    (1, 100_003, 1e-5, 0xe6c4_a8a3_91d9_13ef),
];

/// RMSNorm of f32: rows, columns, eps, offset, and the hash of y and rstd.
const RMS_NORM: [(usize, usize, f64, f32, u64); 12] = [
    (14, 1, 1e-5, 0.0, 0xbb17_73fd_b1b7_d833),
    (28, 7, 1e-5, 1.0, 0x4420_7021_3b32_2f1a),
    (28, 64, 1e-5, 0.0, 0xc31c_379c_9afe_29c7),
    (28, 100, 0.0, 1.0, 0x0f0c_bf05_9a8f_0ab7),
    (28, 192, 1e-12, 0.0, 0x0f0e_13cc_c87f_6421),
    (14, 193, 1e-5, 1.0, 0xbe0e_344c_ec2f_1e8f),
    (14, 333, 0.0, 0.0, 0x1e89_0a0b_f076_7f31),
    (14, 768, 1e-5, 1.0, 0x5b51_8def_f0a8_d992),
    (14, 1025, 1e-12, 0.0, 0x375a_99e5_040a_6f23),
    (14, 5000, 1e-5, 1.0, 0x47e1_1ab7_3dfb_6961),
    (3, 20_000, 0.0, 0.0, 0x8e68_0bd8_de77_6338),
    (1, 100_003, 1e-5, 1.0, 0xf33c_df1b_7a8f_083e),
];

/// Rows, columns, eps and offset of the problems in the other types.
const OTHERS: [(usize, usize, f64, f32); 9] = [
    (14, 1, 1e-5, 0.0),
    (28, 7, 1e-5, 1.0),
    (28, 64, 1e-5, 0.0),
    (28, 100, 0.0, 1.0),
    (14, 193, 1e-5, 0.0),
    (14, 333, 0.0, 1.0),
    (14, 1025, 1e-12, 0.0),
    (14, 5000, 1e-5, 1.0),
    (1, 100_003, 1e-5, 0.0),
];

type Hashes = fn(Isa) -> [u64; 2];

/// One hash for all problems of [`OTHERS`], by `LayerNorm` and by `RMSNorm`.
const HASHES: [(Hashes, &str, [u64; 2]); 9] = [
    (hashes::<F64>, F64::NAME, [0x9c64_c2b4_bcf2_9893, 0x502c_362a_2d0c_b6f7]),
    (hashes::<F16>, F16::NAME, [0x5bac_8afa_e87f_1f87, 0x1c22_c411_3988_ceb8]),
    (hashes::<Bf16>, Bf16::NAME, [0x7f4c_d745_559b_1edc, 0x4f7d_c70b_c411_3ca3]),
    (hashes::<(f16, f32, f16)>, <(f16, f32, f16)>::NAME, [0x515b_d2df_b886_9427, 0xad85_ca3d_6752_4717]),
    (hashes::<(bf16, f32, bf16)>, <(bf16, f32, bf16)>::NAME, [0x5298_22eb_3e60_3500, 0x93c4_c4cc_70cc_e1e9]),
    (hashes::<(f16, f16, f32)>, <(f16, f16, f32)>::NAME, [0x943e_83a1_7bc3_f4d7, 0xda66_95f1_3690_8095]),
    (hashes::<(bf16, bf16, f32)>, <(bf16, bf16, f32)>::NAME, [0xb98e_e7e8_3a17_ce43, 0xb32a_4472_6bd0_ced1]),
    (hashes::<(f16, f32, f32)>, <(f16, f32, f32)>::NAME, [0xbde1_b8c6_28f2_d4d7, 0x1f8d_06f2_21e9_54fb]),
    (hashes::<(bf16, f32, f32)>, <(bf16, f32, f32)>::NAME, [0x2a9d_85e9_9c80_1340, 0x7f63_6315_2e33_37fd]),
];

/// Rows, columns, eps and offset of the gradients: one part of rows, several, and ragged ones.
const GRADIENTS: [(usize, usize, f64, f32); 8] = [
    (1, 7, 1e-5, 0.0),
    (17, 64, 1e-5, 1.0),
    (130, 100, 0.0, 0.0),
    (65, 333, 1e-12, 1.0),
    (2049, 12, 1e-5, 0.0),
    (9, 1025, 1e-5, 0.0),
    (28, 5000, 1e-5, 1.0),
    (2, 30_011, 0.0, 0.0),
];

/// One hash for all problems of [`GRADIENTS`], by `LayerNorm` and by `RMSNorm`.
const GRADIENT_HASHES: [(Hashes, &str, [u64; 2]); 6] = [
    (gradient_hashes::<F32>, F32::NAME, [0xca0c_c0bf_d4a7_ee1b, 0x5d0a_7b87_387f_519f]),
    (gradient_hashes::<F64>, F64::NAME, [0xd8b6_12d8_5c35_cfd7, 0x2e84_8de8_25dd_2f9e]),
    (gradient_hashes::<F16>, F16::NAME, [0x23f0_5135_5cf6_0e52, 0x4a95_cd92_a87f_4b55]),
    (gradient_hashes::<Bf16>, Bf16::NAME, [0x0f7f_6f5a_5219_7bd0, 0x469e_91c8_032a_386f]),
    (gradient_hashes::<(f16, f32, f16)>, <(f16, f32, f16)>::NAME, [0x8d0e_5d67_d210_6f8d, 0x982b_38f7_7d2e_a529]),
    (gradient_hashes::<(bf16, f32, bf16)>, <(bf16, f32, bf16)>::NAME, [0xb4f2_2824_e8ed_3f1c, 0xbd8e_9a29_6c80_a30d]),
];

/// FNV-1a, 64 bits.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    fn with<V: Value>(self, values: &[V]) -> Self {
        let bytes = values.iter().flat_map(|v| v.bits().to_le_bytes().into_iter().take(size_of::<V>()));
        Self(bytes.fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)))
    }

    fn with_output<K: Types>(self, problem: &Problem<K>, output: &Output<K>) -> Self {
        let Output { y, mean, mean_lo, rstd } = output;
        let hash = self.with(y);
        if problem.operation.is_layer_norm() { hash.with(mean).with(mean_lo).with(rstd) } else { hash.with(rstd) }
    }
}

/// A problem of LayerNorm. Row r is of kind r: ordinary rows, and one of each special kind.
fn problem<K: Types>(rows: usize, cols: usize, eps: f64) -> Problem<K> {
    problem_of_kinds(rows, cols, eps, KINDS)
}

/// A problem with rows of the first `kinds` kinds.
fn problem_of_kinds<K: Types>(rows: usize, cols: usize, eps: f64, kinds: usize) -> Problem<K> {
    let mut random = Random::new(0x1a9e_4042);
    let mut vector = |n: usize| (0..n).map(|_| K::G::of(K::G::signed(&mut random))).collect::<Vec<_>>();
    let (gamma, beta) = (Some(vector(cols)), Some(vector(cols)));
    // As many numbers are drawn as when the table for f32 was made.
    let mut x: Vec<_> = vector(rows * cols).into_iter().map(|v| K::X::of(v.wide())).collect();
    for (r, row) in x.chunks_exact_mut(cols).enumerate() {
        special_row(r % kinds, &mut random, row);
    }
    let operation = Operation::LayerNorm { offset: 0.0 };
    Problem { operation, groups: (1, 1), rows, cols, x, gamma, beta, eps }
}

fn hashes<K: Types>(isa: Isa) -> [u64; 2] {
    let mut hashes = [Hash::EMPTY; 2];
    for (rows, cols, eps, offset) in OTHERS {
        let layer_norm = problem::<K>(rows, cols, eps).with_offset(offset);
        for (hash, problem) in hashes.iter_mut().zip([layer_norm.clone(), layer_norm.rms_norm(offset)]) {
            *hash = hash.with_output(&problem, &problem.run(&Call::plain(isa)));
        }
    }
    hashes.map(|hash| hash.0)
}

/// Problems with x as above, and dy of the same kinds with its rows in another order; and problems of ordinary rows,
/// since sums over rows with a NaN are NaN.
fn gradient_hashes<K: Types>(isa: Isa) -> [u64; 2] {
    let mut hashes = [Hash::EMPTY; 2];
    for ((rows, cols, eps, offset), kinds) in GRADIENTS.iter().flat_map(|&shape| [(shape, KINDS), (shape, 1)]) {
        let layer_norm = problem_of_kinds::<K>(rows, cols, eps, kinds).with_offset(offset);
        let dy: Vec<_> = layer_norm.x.rchunks_exact(cols).flatten().copied().collect();
        for (hash, forward) in hashes.iter_mut().zip([layer_norm.clone(), layer_norm.rms_norm(offset)]) {
            let grads = GradProblem { forward, dy: dy.clone(), ds: None }.run(&GradCall::plain(isa));
            for grad in [grads.dgamma, grads.dbeta].iter().flatten() {
                *hash = hash.with(grad);
            }
            *hash = hash.with(&grads.dx.expect("dx, which was wanted"));
        }
    }
    hashes.map(|hash| hash.0)
}

#[test]
fn the_bits_have_not_changed() {
    let layer_norm = LAYER_NORM.map(|(rows, cols, eps, hash)| (problem::<F32>(rows, cols, eps), hash));
    let rms_norm =
        RMS_NORM.map(|(rows, cols, eps, offset, hash)| (problem::<F32>(rows, cols, eps).rms_norm(offset), hash));
    let mut changed = String::new();
    for (problem, expected) in layer_norm.into_iter().chain(rms_norm) {
        for &isa in tiers() {
            let Hash(got) = Hash::EMPTY.with_output(&problem, &problem.run(&Call::plain(isa)));
            if got != expected {
                changed += &format!("\n{isa}, {problem}: {got:#018x}, expected {expected:#018x}");
            }
        }
    }
    let tables = [("y", &HASHES[..]), ("gradients", &GRADIENT_HASHES[..])];
    for (what, &(hashes, name, expected)) in
        tables.iter().flat_map(|(what, table)| table.iter().map(move |row| (what, row)))
    {
        for &isa in tiers() {
            let got = hashes(isa);
            if got != expected {
                let [got, expected] = [got, expected].map(|[a, b]| format!("[{a:#018x}, {b:#018x}]"));
                changed += &format!("\n{isa}, {what} of {name}: {got}, expected {expected}");
            }
        }
    }
    assert!(changed.is_empty(), "the bits have changed, which is a breaking change:{changed}");
}
