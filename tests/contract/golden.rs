//! Frozen bits: a change of any bit of these is a breaking change. The same constants hold on every tier, every
//! processor and every compiler; the input comes from integers alone.

use crate::support::{Call, KINDS, Output, Problem, Random, special_row, tiers};

/// Rows, columns, eps, and the hash of y, mean, `mean_lo` and rstd.
const GOLDEN: [(usize, usize, f64, u64); 12] = [
    (14, 1, 1e-5, 0xf656_d981_c529_a6c8),
    (28, 7, 1e-5, 0x3c3b_b50f_2a48_9bb5),
    (28, 64, 1e-5, 0x20ad_d25e_fcda_02ca),
    (28, 100, 0.0, 0x8262_032d_6d37_645c),
    (28, 192, 1e-12, 0x9ac8_c0c1_9c3b_3053),
    (14, 193, 1e-5, 0xbdce_21ad_fdba_da94),
    (14, 333, 0.0, 0xdeb0_080f_15ce_5226),
    (14, 768, 1e-5, 0x5cea_bb47_b289_283f),
    (14, 1025, 1e-12, 0x1153_456d_dcbe_227a),
    (14, 5000, 1e-5, 0x47f2_5acb_2b71_13b9),
    (3, 20_000, 0.0, 0xfc13_8483_46a8_d06d),
    (1, 100_003, 1e-5, 0xe6c4_a8a3_91d9_13ef),
];

/// FNV-1a, 64 bits.
fn hash(output: &Output) -> u64 {
    let values = [&output.y, &output.mean, &output.mean_lo, &output.rstd].into_iter().flatten();
    values
        .flat_map(|v| v.to_bits().to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Row r is of kind r: ordinary rows, and one of each special kind.
fn problem(rows: usize, cols: usize, eps: f64) -> Problem {
    let mut random = Random::new(0x1a9e_4042);
    let mut vector = |n: usize| (0..n).map(|_| random.signed()).collect::<Vec<_>>();
    let (gamma, beta, mut x) = (Some(vector(cols)), Some(vector(cols)), vector(rows * cols));
    for (r, row) in x.chunks_exact_mut(cols).enumerate() {
        special_row(r % KINDS, &mut random, row);
    }
    Problem { rows, cols, x, gamma, beta, eps }
}

#[test]
fn the_bits_have_not_changed() {
    let mut changed = String::new();
    for (rows, cols, eps, expected) in GOLDEN {
        for &isa in tiers() {
            let got = hash(&problem(rows, cols, eps).run(&Call::plain(isa)));
            if got != expected {
                changed += &format!("\n{isa}, {rows} x {cols}, eps {eps:e}: {got:#018x}, expected {expected:#018x}");
            }
        }
    }
    assert!(changed.is_empty(), "the bits have changed, which is a breaking change:{changed}");
}
