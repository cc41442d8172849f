//! Frozen bits: a change of any bit of these is a breaking change. The same constants hold on every tier, every
//! processor and every compiler; the input comes from integers alone.

use crate::support::{Call, KINDS, Operation, Output, Problem, Random, special_row, tiers};

/// LayerNorm: rows, columns, eps, and the hash of y, mean, `mean_lo` and rstd.
const LAYER_NORM: [(usize, usize, f64, u64); 12] = [
    (14, 1, 1e-5, 0xf656_d981_c529_a6c8),
    (28, 7, 1e-5, 0x638b_7dd9_2381_3adb),
    (28, 64, 1e-5, 0x20ad_d25e_fcda_02ca),
    (28, 100, 0.0, 0x2978_8160_7857_c9fd),
    (28, 192, 1e-12, 0x480a_5e73_adc1_a5f2),
    (14, 193, 1e-5, 0xd9ae_4856_0c47_f35b),
    (14, 333, 0.0, 0x3564_341c_6ea5_2729),
    (14, 768, 1e-5, 0x5cea_bb47_b289_283f),
    (14, 1025, 1e-12, 0x0bdb_6037_4d05_8d66),
    (14, 5000, 1e-5, 0xb012_32e8_a513_44e2),
    (3, 20_000, 0.0, 0xfc13_8483_46a8_d06d),
    (1, 100_003, 1e-5, 0xe6c4_a8a3_91d9_13ef),
];

/// RMSNorm: rows, columns, eps, offset, and the hash of y and rstd.
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

/// FNV-1a, 64 bits.
fn hash(problem: &Problem, output: &Output) -> u64 {
    let Output { y, mean, mean_lo, rstd } = output;
    let values = match problem.operation {
        Operation::LayerNorm => [&y[..], mean, mean_lo, rstd],
        Operation::RmsNorm { .. } => [&y[..], rstd, &[], &[]],
    };
    values
        .into_iter()
        .flatten()
        .flat_map(|v| v.to_bits().to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// LayerNorm. Row r is of kind r: ordinary rows, and one of each special kind.
fn problem(rows: usize, cols: usize, eps: f64) -> Problem {
    let mut random = Random::new(0x1a9e_4042);
    let mut vector = |n: usize| (0..n).map(|_| random.signed()).collect::<Vec<_>>();
    let (gamma, beta, mut x) = (Some(vector(cols)), Some(vector(cols)), vector(rows * cols));
    for (r, row) in x.chunks_exact_mut(cols).enumerate() {
        special_row(r % KINDS, &mut random, row);
    }
    Problem { operation: Operation::LayerNorm, rows, cols, x, gamma, beta, eps }
}

#[test]
fn the_bits_have_not_changed() {
    let layer_norm = LAYER_NORM.map(|(rows, cols, eps, hash)| (problem(rows, cols, eps), hash));
    let rms_norm = RMS_NORM.map(|(rows, cols, eps, offset, hash)| (problem(rows, cols, eps).rms_norm(offset), hash));
    let mut changed = String::new();
    for (problem, expected) in layer_norm.into_iter().chain(rms_norm) {
        for &isa in tiers() {
            let got = hash(&problem, &problem.run(&Call::plain(isa)));
            if got != expected {
                changed += &format!("\n{isa}, {problem}: {got:#018x}, expected {expected:#018x}");
            }
        }
    }
    assert!(changed.is_empty(), "the bits have changed, which is a breaking change:{changed}");
}
