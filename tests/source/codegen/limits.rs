//! The exceptions that are allowed, and why.

use crate::names::Tier;

/// Whether functions compiled for a SIMD tier may call this one, which is compiled for no tier.
pub(crate) fn may_be_called(callee: &str) -> bool {
    const ALLOWED: [(&str, &str); 23] = [
        ("memcpy", "parts of registers, in tails alone: no main loop calls anything"),
        ("memset", "as above"),
        ("core::panicking::", "never returns"),
        ("core::slice::index::", "never returns"),
        ("<usize as core::fmt::Display>::fmt", "an argument of a panic"),
        ("loops::job::rescue_row", "the slow path of a row, in f64"),
        ("loops::blocks::rescue_block", "the slow path of rows, in f64"),
        ("loops::transposed::rescue", "the slow path of rows, in f64"),
        ("<rows::params::Vector>::all_finite", "gamma and beta looked at for NaN, after rows that do so themselves"),
        ("<rows::params::Params as loops::epilogue::Epilogues>::canonicalize", "a row with a NaN"),
        ("<loops::job::Job>::canonicalize_nans", "rows with a NaN"),
        ("<rows::target::Target>::canonicalize_nans", "a row with a NaN"),
        ("<rows::params::Params>::of_group", "where the gamma of a row starts, of several"),
        ("<rows::groups::Groups>::late_row", "a row beyond the largest number"),
        (
            "<ops::backward::job::GradJob>::kept_norm",
            "the statistics that were kept of a row, where nothing is computed",
        ),
        ("<ops::backward::job::GradJob>::index", "where a row lies, of several runs"),
        ("ops::backward::slow::", "the slow path of a row, in f64"),
        ("ops::backward::run::take_moments", "moments for the slow path, by a kernel of their own"),
        ("stats::exact::", "the slow path of a row, in f64"),
        ("quants::rows::slowly", "elements of extreme scale, by the definition"),
        ("<quants::blocks::Blocks>::slowly", "blocks of extreme scale, by the definition"),
        ("rows::tail::pad", "the end of a row on the slow path, where nothing is computed"),
        ("simd::scalar::scalar", "dispatch, where that of NEON has been inlined into it"),
    ];
    ALLOWED.iter().any(|(allowed, _)| callee.starts_with(allowed))
}

/// Main loops that touch the stack: the kernel, the types ("16" stands for both of 16 bits), how often on AVX2, AVX-512
/// and NEON, and what lies on the stack. Loops that are not listed may not touch it at all.
///
/// The numbers are a few more than were found, since compilers differ in what they keep in registers. Lower them where
/// a change of the kernels allows it. (On NEON blocks and fused rows are in `forward`, and kernels of backward that
/// only one normalization enters are in `backward`: see `names`.)
#[rustfmt::skip]
const STACK: [(&str, &str, [usize; 3], &str); 39] = [
    ("Activate", "", [9, 0, 0], "constants of the functions, and one of two registers"),
    ("Addition", "16", [2, 0, 0], "a pointer or a mask"),
    ("Addition", "f32", [2, 0, 2], "a pointer or a mask"),
    ("Addition", "f64", [2, 0, 2], "a pointer or a mask"),
    ("BlockMoments", "f32", [0, 0, 8], "the sums and the shifts of eight rows"),
    ("Blocks", "16", [40, 16, 0], "widening takes registers of its own, beside the sums and the statistics of two rows"),
    ("Blocks", "f32", [18, 4, 0], "the statistics of two rows, and where the last pair begins"),
    ("Blocks", "f64", [30, 4, 0], "the statistics of two rows, and where the last pair begins"),
    ("Channels", "", [2, 2, 0], "where the channel ends"),
    ("DeriveAt", "", [14, 4, 0], "constants of the functions, and one of two registers"),
    ("Elements", "", [1, 1, 1], "where a part ends"),
    ("FirstTouch", "16", [9, 2, 36], "as of f32, and what is being widened"),
    ("FirstTouch", "f32", [0, 8, 18], "pointers, and on NEON 16 sums, the shift and what is loaded"),
    ("FirstTouch", "f64", [0, 8, 18], "pointers, and on NEON 16 sums, the shift and what is loaded"),
    ("Fused", "16", [90, 32, 0], "eight sums, shift, statistics and what is being widened are more than 16 registers"),
    ("Fused", "f32, Centered, Params<f32>, true", [22, 8, 0], "as of f32, and addresses of what is asked for"),
    ("Fused", "f32", [14, 8, 0], "eight sums, shift, statistics, gamma and beta are more than 16 registers"),
    ("Fused", "f64", [32, 6, 0], "as of f32, and the sums of the first half of a chunk"),
    ("Merge", "", [6, 6, 0], "subtrees that are pending, and pointers"),
    ("Multiply", "", [7, 0, 2], "constants of the functions, and one of two elements"),
    ("Part", "16", [5, 2, 5], "where the loop and the row end, and pointers"),
    ("PixelTile", "", [10, 10, 8], "moments of the chunks of a row, and pointers"),
    ("ProjectRow", "", [12, 4, 0], "what a row takes, and where its elements are, beside eight sums"),
    ("Rows", "", [6, 6, 6], "where a row and its elements are, and the scales of two blocks"),
    ("RunParts", "16", [35, 19, 36], "the statistics of two rows, and seven pointers for each"),
    ("RunParts", "f32", [30, 14, 24], "the statistics of two rows, and seven pointers for each"),
    ("RunParts", "f64", [25, 18, 24], "the statistics of two rows, and seven pointers for each"),
    ("SecondTouch", "16", [7, 6, 0], "pointers"),
    ("SecondTouch", "f32", [7, 6, 3], "pointers"),
    ("SecondTouch", "f64", [5, 6, 0], "pointers"),
    ("Sums", "", [3, 3, 4], "lanes that have been added up"),
    ("SingleRow", "16", [2, 0, 4], "where the row ends"),
    ("Transposed", "f32", [2, 2, 30], "on NEON the statistics of a block"),
    ("Transposed", "16", [6, 44, 36], "as of f32, and the statistics of a block"),
    ("WholeRow", "16", [4, 2, 26], "the shift of the next chunk, and what is being widened"),
    ("WholeRow", "f32", [0, 0, 6], "the shift of the next chunk"),
    ("WholeRow", "f64", [0, 0, 16], "the sums of the first half of a chunk"),
    ("forward", "", [0, 0, 64], "16 sums, shift, statistics, gamma, beta and two rows are more than 32 registers"),
    ("backward", "", [0, 0, 36], "the statistics of two rows, and five pointers for each"),
];

/// How often a main loop of a kernel may touch the stack, and why.
pub(crate) fn stack(tier: Tier, kernel: &str) -> (usize, &'static str) {
    const NOTHING: (usize, &str) = (0, "nothing should be there");
    let (name, arguments) = kernel.split_once('<').unwrap_or((kernel, ""));
    let matches = |of: &str| if of == "16" { arguments.contains("f16") } else { arguments.starts_with(of) };
    let row = STACK.iter().find(|(kernel, types, ..)| *kernel == name && matches(types));
    row.map_or(NOTHING, |(_, _, [avx2, avx512, neon], why)| match tier {
        Tier::Avx2 => (*avx2, *why),
        Tier::Avx512 => (*avx512, *why),
        Tier::Neon => (*neon, *why),
        Tier::Scalar => NOTHING,
    })
}
