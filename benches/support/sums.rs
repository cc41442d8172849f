//! Sums as someone writes them who knows how compilers vectorize: in a small array, so that they may be a register, and
//! four elements added to each at once, so that additions need not wait for each other.

/// As many as rustc 1.95 keeps in registers: loops over 32 or 64 are not unrolled early enough, and the sums stay in memory.
pub(crate) const SUMS: usize = 16;

/// The elements that one step takes.
const BLOCK: usize = 4 * SUMS;

#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let (blocks, tail) = x.as_chunks();
    let mut sums = [0.0; SUMS];
    for block in blocks {
        add(&mut sums, block);
    }
    if !tail.is_empty() {
        add(&mut sums, &padded(tail, 0.0));
    }
    fold(sums)
}

#[inline(always)]
fn add(sums: &mut [f32; SUMS], x: &[f32; BLOCK]) {
    for i in 0..SUMS {
        sums[i] += (x[i] + x[SUMS + i]) + (x[2 * SUMS + i] + x[3 * SUMS + i]);
    }
}

/// Of the deviations from `mean`.
#[inline(always)]
pub(crate) fn sum_of_squares<const FMA: bool>(x: &[f32], mean: f32) -> f32 {
    let (blocks, tail) = x.as_chunks();
    let mut sums = [0.0; SUMS];
    for block in blocks {
        add_squares::<FMA>(&mut sums, block, mean);
    }
    if !tail.is_empty() {
        add_squares::<FMA>(&mut sums, &padded(tail, mean), mean);
    }
    fold(sums)
}

#[inline(always)]
fn add_squares<const FMA: bool>(sums: &mut [f32; SUMS], x: &[f32; BLOCK], mean: f32) {
    for i in 0..SUMS {
        let [a, b, c, d] = [x[i], x[SUMS + i], x[2 * SUMS + i], x[3 * SUMS + i]].map(|x| x - mean);
        sums[i] += mul_add::<FMA>(a, a, b * b) + mul_add::<FMA>(c, c, d * d);
    }
}

/// A last block. Were its elements added to `sums` at indices known at run time alone, the sums would live in memory.
#[inline(always)]
fn padded(tail: &[f32], fill: f32) -> [f32; BLOCK] {
    let mut block = [fill; BLOCK];
    block[..tail.len()].copy_from_slice(tail);
    block
}

/// By halves, unrolled for the same reason.
#[inline(always)]
fn fold(sums: [f32; SUMS]) -> f32 {
    let eight: [f32; 8] = halve(sums);
    let [a, b, c, d] = halve(eight);
    (a + c) + (b + d)
}

#[inline(always)]
fn halve<const N: usize, const HALF: usize>(sums: [f32; N]) -> [f32; HALF] {
    std::array::from_fn(|i| sums[i] + sums[HALF + i])
}

/// Fused only where it is one instruction.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
