//! Presets have the bits of the libraries that they are named after: `tests/data/quantize.json` has hashes of what
//! these make of millions of numbers, written by `tests/data/quantize.py`.

use std::path::PathBuf;

#[path = "support/repository.rs"]
mod repository;

use lanenorm::kernels::reference;
use lanenorm::scheme::{Format, Scheme, Scope};
use repository::repository;
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    preset: String,
    kind: String,
    seed: String,
    rows: usize,
    cols: usize,
    given_scale: Option<f32>,
    given_zero_point: Option<i32>,
    q: String,
    first: String,
    scale: Option<String>,
    zero_point: Option<String>,
}

impl Case {
    fn scheme(&self) -> Scheme {
        let given = || (self.given_scale.expect("a scale"), self.given_zero_point.expect("a zero point"));
        match self.preset.as_str() {
            "I8" => Scheme::I8,
            "U8" => Scheme::U8,
            "TORCH_AO_I8" => Scheme::TORCH_AO_I8,
            "TORCHAO_I8" => Scheme::TORCHAO_I8,
            "ONNX_U8" => Scheme::ONNX_U8,
            "Q8_0" | "Q8_0_REF" => Scheme::Q8_0,
            "Q8_0_X86" => Scheme::Q8_0_X86,
            "Q8_1" => Scheme::Q8_1,
            "Q8_1_X86" => Scheme::Q8_1_X86,
            "Q8_K" | "Q8_K_X86" => Scheme::Q8_K,
            "E4M3" => Scheme::E4M3,
            "E5M2" => Scheme::E5M2,
            "I8_GIVEN" => Scheme::i8_given(given().0, given().1),
            "U8_GIVEN" => Scheme::u8_given(given().0, given().1),
            other => panic!("an unknown preset: {other}"),
        }
    }
}

/// Output `i` of the generator.
fn splitmix64(seed: u64, i: usize) -> u64 {
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn element(kind: &str, seed: u64, i: usize) -> f32 {
    let z = splitmix64(seed, i);
    let v = (z >> 40) as f32 / (1 << 23) as f32 - 1.0;
    match kind {
        "uniform" => v,
        "heavy" => v * v * v * v * v,
        "ties" if i.is_multiple_of(32) => 127.0,
        "ties" => ((z >> 40) % 255) as f32 * 0.5 - 63.5,
        "tiny" => v * 1e-6,
        "large" => v * 1e6,
        // The product is exact.
        "wide" => v * f32::from_bits((127 + (z & 63) as u32 - 32) << 23),
        "zeros" => v * 0.0,
        other => panic!("an unknown kind of rows: {other}"),
    }
}

/// Element `i` of the rows of the kind `near`: see `near` in `quantize.py`.
fn near(scheme: &Scheme, seed: u64, cols: usize, i: usize) -> f32 {
    let row = if scheme.scope == Scope::Tensor { 0 } else { i / cols };
    let amax = (splitmix64(seed, row * cols) >> 40) as f32 + 1.0;
    let z = splitmix64(seed, i);
    if i.is_multiple_of(32) {
        return if z >> 9 & 1 == 1 { amax } else { -amax };
    }
    let scale = match scheme.scope {
        Scope::Given { scale, .. } => scale,
        _ if scheme.format == Format::U8 => amax / 127.5,
        _ => amax / scheme.divisor,
    };
    let half = ((z >> 40) % 253) as f64 - 126.5;
    let v = (half * f64::from(scale)) as f32;
    f32::from_bits(v.to_bits() + (z & 7) as u32 % 5 - 2)
}

fn hash(bytes: &[u8]) -> String {
    let terms = bytes.iter().enumerate().map(|(i, &byte)| (u64::from(byte) + 1).wrapping_mul(splitmix64(0, i)));
    terms.fold(0, u64::wrapping_add).to_string()
}

#[test]
fn presets_have_the_bits_of_the_libraries_they_are_named_after() {
    let path: PathBuf = repository().join("tests/data/quantize.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let Recorded { cases } = serde_json::from_str(&text).expect("quantize.json");
    let mut wrong = Vec::new();
    for case in &cases {
        let (scheme, seed) = (case.scheme(), case.seed.parse().expect("a seed"));
        let &Case { rows, cols, .. } = case;
        let element = |i| match case.kind.as_str() {
            "near" => near(&scheme, seed, cols, i),
            kind => element(kind, seed, i),
        };
        let y: Vec<f32> = (0..rows * cols).map(element).collect();
        let mut q = vec![0; rows * scheme.row_bytes(cols)];
        let (mut scale, mut zero_point) = (Vec::new(), Vec::new());
        match (scheme.scope, scheme.layout.block()) {
            (_, Some((block, bytes))) => {
                q.chunks_mut(bytes).zip(y.chunks(block)).for_each(|(q, y)| reference::quantize_block(&scheme, y, q));
            }
            (Scope::Row, None) => {
                for (q, y) in q.chunks_mut(cols).zip(y.chunks(cols)) {
                    let (s, z) = reference::quantize(&scheme, y, q);
                    scale.extend(s.to_le_bytes());
                    zero_point.push(z as u8);
                }
            }
            _ => {
                let (s, z) = reference::quantize(&scheme, &y, &mut q);
                scale.extend(s.to_le_bytes());
                zero_point.push(z as u8);
            }
        }
        let first: String = q[..64].iter().map(|byte| format!("{byte:02x}")).collect();
        let is = |recorded: &Option<String>, bytes: &[u8]| recorded.as_ref().is_none_or(|r| *r == hash(bytes));
        if hash(&q) != case.q || !is(&case.scale, &scale) || !is(&case.zero_point, &zero_point) {
            wrong.push(format!(
                "{} of {} rows: q {first}, recorded {}; q is {}, scales are {}, zero points are {}",
                case.preset,
                case.kind,
                case.first,
                hash(&q) == case.q,
                is(&case.scale, &scale),
                is(&case.zero_point, &zero_point)
            ));
        }
    }
    assert!(wrong.is_empty() && cases.len() >= 50, "{}", wrong.join("\n"));
}
