//! Where frameworks round: what their classes make of rows of 16 bits, recorded by `tests/data/rounding.py`, is what
//! plans with the same parts of [`Rounding`] make of them.

#[path = "support/repository.rs"]
mod repository;
#[path = "support/tiers.rs"]
mod tiers;

use std::fs;

use lanenorm::kernels::element::{Addend, Companion, Storage};
use lanenorm::{Element, Gate, Gateable, LayerNorm, RmsNorm, Rounding, Sums, bf16, f16};
use repository::repository;
use safetensors::SafeTensors;
use serde::Deserialize;
use tiers::tiers;

#[derive(Deserialize)]
struct Recorded {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    module: String,
    name: String,
    op: String,
    eps: f64,
    offset: f32,
    parts: Parts,
    x: String,
    gamma: Option<String>,
    beta: Option<String>,
    residual: Option<String>,
    sum: Option<String>,
    y: String,
}

#[derive(Deserialize)]
struct Parts {
    steps: bool,
    gamma: bool,
    /// Whether rstd is rounded, for which there is no preset.
    rstd: bool,
    sums: Option<String>,
}

const COLS: usize = 256;

/// `MAY_DIFFER` of the 1024 elements of a case may differ by a unit: statistics that are summed in another order differ
/// by some units of f32.
const MAY_DIFFER: usize = 3;

impl Case {
    fn rounding(&self) -> Rounding {
        let sums = match self.parts.sums.as_deref() {
            None | Some("rounded") => Sums::Rounded,
            Some("statistics") => Sums::Statistics,
            Some("unrounded") => Sums::Unrounded,
            Some(other) => panic!("{other} is no kind of sums"),
        };
        Rounding { steps: self.parts.steps, gamma: self.parts.gamma, sums }
    }

    fn what(&self) -> String {
        format!("{}.{}, {} to {}", self.module, self.name, self.x, self.y)
    }

    /// The bytes of y, and of the sums if there are any.
    fn run<T, G, Y>(&self, data: &SafeTensors<'_>, isa: lanenorm::Isa) -> (Vec<f32>, Option<Vec<T>>)
    where
        T: Element<Float = f32> + Addend<T>,
        G: Companion<T> + bytemuck::Pod,
        Y: Companion<T> + Storage<Float = f32>,
    {
        let x = tensor::<T>(data, &self.x);
        let (gamma, beta) = (self.gamma.as_ref(), self.beta.as_ref());
        let (gamma, beta) = (gamma.map(|name| tensor::<G>(data, name)), beta.map(|name| tensor::<G>(data, name)));
        let residual = self.residual.as_ref().map(|name| tensor::<T>(data, name));
        let mut sums = residual.clone();
        let mut y = vec![Y::from_computed(0.0); x.len()];
        // A macro, since the two plans have two types.
        macro_rules! run {
            ($plan:expr $(, $beta:ident)?) => {{
                let plan = $plan.expect("a plan").with_isa(isa).with_offset(self.offset);
                let call = plan.with_rounding(self.rounding());
                let call = call.call(&x).gamma(gamma.as_deref())$(.$beta(beta.as_deref()))?;
                match &mut sums {
                    None => call.to(&mut y),
                    Some(sums) => call.residual_in_place(&mut sums[..]).to(&mut y),
                }
            }};
        }
        let done = match self.op.as_str() {
            "layer_norm" => run!(LayerNorm::new(COLS, self.eps), beta),
            "rms_norm" => run!(RmsNorm::new(COLS, self.eps)),
            other => panic!("{other} is no operation"),
        };
        done.expect("the lengths fit");
        (y.iter().map(|v| v.to_computed()).collect(), sums)
    }
}

/// A tensor of the file.
fn tensor<T: bytemuck::Pod>(data: &SafeTensors<'_>, name: &str) -> Vec<T> {
    let bytes = data.tensor(name).expect("the tensor is there").data();
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

fn of_type(name: &str) -> &str {
    name.rsplit('.').next().expect("the type is the suffix")
}

/// The difference of two numbers in units of a type whose significand has `bits` bits.
fn units(a: f32, b: f32, bits: i32) -> f32 {
    let exponent = a.abs().max(b.abs()).log2().floor() as i32;
    (a - b).abs() / 2f32.powi(exponent + 1 - bits)
}

fn check<T, G>(case: &Case, data: &SafeTensors<'_>, bits: i32)
where
    T: Element<Float = f32> + Addend<T>,
    f32: Companion<T>,
    G: Companion<T> + bytemuck::Pod,
{
    for isa in tiers() {
        let (y, sums) =
            if of_type(&case.y) == "f32" { case.run::<T, G, f32>(data, isa) } else { case.run::<T, G, T>(data, isa) };
        let expected: Vec<f32> = if of_type(&case.y) == "f32" {
            tensor(data, &case.y)
        } else {
            tensor::<T>(data, &case.y).iter().map(|v| v.to_computed()).collect()
        };
        if of_type(&case.y) == "f32" && !case.parts.steps {
            // Nothing was rounded.
            for (y, expected) in y.iter().zip(&expected) {
                assert!((y - expected).abs() <= 1e-6 * expected.abs(), "{}: {y}, expected {expected}", case.what());
            }
            continue;
        }
        let differ: Vec<(f32, f32)> =
            y.iter().copied().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits()).collect();
        assert!(differ.len() <= MAY_DIFFER, "{isa}, {}: {} differ, {differ:?}", case.what(), differ.len());
        for (y, expected) in differ {
            // One unit of xhat is up to two of the product.
            assert!(units(y, expected, bits) <= 2.0, "{isa}, {}: {y}, expected {expected}", case.what());
        }
        if let Some(sums) = sums
            && let Some(name) = &case.sum
        {
            assert_eq!(sums, tensor::<T>(data, name), "{isa}, {}: sums", case.what());
        }
    }
}

#[test]
fn roundings_are_those_of_the_classes_that_they_name() {
    let at = repository().join("tests/data");
    let json = fs::read_to_string(at.join("rounding.json")).expect("the record is there");
    let bytes = fs::read(at.join("rounding.safetensors")).expect("the record is there");
    let (recorded, data): (Recorded, _) =
        (serde_json::from_str(&json).expect("the record is valid"), SafeTensors::deserialize(&bytes).expect("valid"));
    let cases: Vec<&Case> = recorded.cases.iter().filter(|case| !case.parts.rstd).collect();
    assert!(cases.len() > 90);
    for case in cases {
        let is_wide = case.gamma.as_deref().is_some_and(|gamma| of_type(gamma) == "f32");
        match (of_type(&case.x), is_wide) {
            ("bf16", false) => check::<bf16, bf16>(case, &data, 8),
            ("bf16", true) => check::<bf16, f32>(case, &data, 8),
            ("f16", false) => check::<f16, f16>(case, &data, 11),
            ("f16", true) => check::<f16, f32>(case, &data, 11),
            (other, _) => panic!("{other} is not recorded"),
        }
    }
}

/// What classes with a gate make of rows, recorded by `tests/data/gates.py`.
fn gates_of<T>(data: &SafeTensors<'_>, dtype: &str, bits: i32)
where
    T: Gateable + Companion<T>,
{
    let of = |name: &str| tensor::<T>(data, &format!("{name}.{dtype}"));
    let (x, z, gamma) = (of("x"), of("z"), of("gamma"));
    let classes = [
        ("Qwen3NextRMSNormGated", Gate::SILU, Rounding::STEPS, 1),
        ("KimiLinearRMSNormGated", Gate::SIGMOID, Rounding::ONCE, 1),
        // Groups of columns are rows here.
        ("Zamba2RMSNormGated", Gate::SILU_BEFORE, Rounding::STEPS, 4),
    ];
    for (class, gate, rounding, groups) in classes {
        for isa in tiers() {
            let plan = RmsNorm::new(COLS / groups, 1e-6).and_then(|plan| plan.with_groups(groups, 1));
            let plan = plan.expect("a plan").with_isa(isa).with_rounding(rounding);
            let mut y = x.clone();
            plan.call(&x).gamma(&gamma).gate(&z, gate).to(&mut y).expect("the lengths fit");
            let differ: Vec<(f32, f32)> = y
                .iter()
                .zip(of(class))
                .map(|(y, expected)| (y.to_computed(), expected.to_computed()))
                .filter(|(y, expected)| y.to_bits() != expected.to_bits())
                .collect();
            assert!(differ.len() <= MAY_DIFFER, "{isa}, {class}, {dtype}: {differ:?}");
            assert!(differ.iter().all(|&(y, expected)| units(y, expected, bits) <= 2.0), "{isa}, {class}: {differ:?}");
        }
    }
}

#[test]
fn gates_are_those_of_the_classes_that_they_name() {
    let bytes = fs::read(repository().join("tests/data/gates.safetensors")).expect("the record is there");
    let data = SafeTensors::deserialize(&bytes).expect("the record is valid");
    gates_of::<bf16>(&data, "bf16", 8);
    gates_of::<f16>(&data, "f16", 11);
}
