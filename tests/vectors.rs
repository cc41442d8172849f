//! Golden vectors for implementations in other languages: `tests/data/vectors.json`, described in docs/vectors.md.
//! Every tier has exactly its bits. `LANENORM_WRITE_VECTORS=1` writes it, by the scalar tier.

#[path = "support/repository.rs"]
mod repository;
#[path = "support/tiers.rs"]
mod tiers;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use lanenorm::{Element, Error, Isa, LayerNorm, Norm, Parallelism, RmsNorm, bf16, f16};
use repository::repository;
use serde::{Deserialize, Serialize};
use tiers::tiers;

const OPERATIONS: [&str; 2] = ["layer_norm", "rms_norm"];
const TYPES: [&str; 4] = ["f32", "f64", "f16", "bf16"];

/// The largest size of the file, in bytes.
const MOST_BYTES: usize = 300_000;

const DESCRIPTION: [&str; 9] = [
    "Inputs and the bits that lanenorm gives for them, on every instruction set. docs/vectors.md tells more.",
    "A tensor is a string of elements in row-major order, separated by spaces. An element is its bits (IEEE 754, or \
     bfloat16) as a number in hexadecimal, most significant digit first: 4, 8 or 16 digits.",
    "type is that of x, dy, gamma, beta, y, dx. mean, mean_lo, rstd, dgamma, dbeta are f64 for f64, else f32.",
    "Shapes: x, dy, y, dx are rows x cols; gamma, beta, dgamma, dbeta are groups x cols; mean, mean_lo, rstd have rows \
     elements. Row r belongs to group (r / repeat) % groups.",
    "eps is the bits of an f64. offset is the bits of an f32, and is added to gamma where there is one.",
    "layer_norm: y = (x - mean) / sqrt(var + eps) * (gamma + offset) + beta. rms_norm: the same with mean 0, without \
     beta. f16 and bf16 are computed in f32 and rounded once, to nearest even.",
    "An absent gamma stands for the factor 1, an absent beta for the addend 0.",
    "mean + mean_lo is the mean of a row, and rstd is 1 / sqrt(var + eps).",
    "dx, dgamma, dbeta are the gradients of sum(y * dy), by x, gamma and beta. A case without dy has none.",
];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    description: Vec<String>,
    cases: Vec<Case>,
}

/// One forward call, and one backward call if there is a dy.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    operation: String,
    r#type: String,
    rows: usize,
    cols: usize,
    groups: usize,
    repeat: usize,
    eps: String,
    offset: String,
    x: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gamma: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beta: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dy: Option<String>,
    results: Results,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Results {
    y: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_lo: Option<String>,
    rstd: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dx: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dgamma: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dbeta: Option<String>,
}

impl Results {
    fn named(&self) -> [(&'static str, Option<&String>); 7] {
        let Self { y, mean, mean_lo, rstd, dx, dgamma, dbeta } = self;
        [
            ("y", Some(y)),
            ("mean", mean.as_ref()),
            ("mean_lo", mean_lo.as_ref()),
            ("rstd", Some(rstd)),
            ("dx", dx.as_ref()),
            ("dgamma", dgamma.as_ref()),
            ("dbeta", dbeta.as_ref()),
        ]
    }
}

/// A type of numbers, with its bits and with sizes to try.
trait Number: Copy {
    const ZERO: Self;
    /// An offset, and a spread of elements around it that this type can tell apart.
    const OFFSET: (f64, f64);
    const HUGE: f64;
    const TINY: f64;
    /// A NaN that is negative and quiet, and has a payload.
    const NAN: u64;

    fn nearest(v: f64) -> Self;
    fn of_bits(bits: u64) -> Self;
    fn bits(self) -> u64;
}

macro_rules! numbers {
    ($($t:ty, $bits:ty, $nearest:expr, $offset:expr, $huge:expr, $tiny:expr, $nan:expr;)*) => {$(
        impl Number for $t {
            const ZERO: Self = <$t>::from_bits(0);
            const OFFSET: (f64, f64) = $offset;
            const HUGE: f64 = $huge;
            const TINY: f64 = $tiny;
            const NAN: u64 = $nan;

            fn nearest(v: f64) -> Self {
                $nearest(v)
            }

            fn of_bits(bits: u64) -> Self {
                Self::from_bits(<$bits>::try_from(bits).expect("as many digits as the type has"))
            }

            fn bits(self) -> u64 {
                self.to_bits().into()
            }
        }
    )*};
}

numbers! {
    f32, u32, |v| v as f32, (1e6, 1.0), 1e30, 1e-40, 0xffc0_1234;
    f64, u64, |v| v, (1e6, 1.0), 1e300, 1e-310, 0xfff8_0000_0000_1234;
    f16, u16, f16::from_f64, (1e4, 64.0), 2e4, 1e-6, 0xfe12;
    bf16, u16, bf16::from_f64, (1e6, 65536.0), 1e30, 1e-40, 0xffd2;
}

fn digits<T: Number>() -> usize {
    2 * size_of::<T>()
}

fn word<T: Number>(v: T) -> String {
    format!("{:0width$x}", v.bits(), width = digits::<T>())
}

fn text<T: Number>(v: &[T]) -> String {
    v.iter().map(|&v| word(v)).collect::<Vec<_>>().join(" ")
}

fn numbers<T: Number>(text: &str, len: usize) -> Result<Vec<T>, String> {
    let number = |word: &str| match u64::from_str_radix(word, 16) {
        Ok(bits) if word.len() == digits::<T>() => Ok(T::of_bits(bits)),
        _ => Err(format!("{word:?} is not {} hexadecimal digits", digits::<T>())),
    };
    let v = text.split(' ').map(number).collect::<Result<Vec<_>, _>>()?;
    if v.len() == len { Ok(v) } else { Err(format!("{} elements, expected {len}", v.len())) }
}

fn optional<T: Number>(text: Option<&String>, len: usize) -> Result<Option<Vec<T>>, String> {
    text.map(|text| numbers(text, len)).transpose()
}

fn refused(error: Error) -> String {
    error.to_string()
}

impl Case {
    fn plan<M: lanenorm::Center>(&self, isa: Isa) -> Result<Norm<M>, String> {
        let (eps, offset) = (numbers(&self.eps, 1)?[0], numbers(&self.offset, 1)?[0]);
        let plan = Norm::new(self.cols, eps).and_then(|plan| plan.with_groups(self.groups, self.repeat));
        Ok(plan.map_err(refused)?.with_offset(offset).with_isa(isa).with_parallelism(Parallelism::Serial))
    }

    fn run(&self, isa: Isa) -> Result<Results, String> {
        match self.r#type.as_str() {
            "f32" => self.run_type::<f32>(isa),
            "f64" => self.run_type::<f64>(isa),
            "f16" => self.run_type::<f16>(isa),
            "bf16" => self.run_type::<bf16>(isa),
            other => Err(format!("the type {other:?} is unknown")),
        }
    }

    fn run_type<T: Element<Float: Number> + Number>(&self, isa: Isa) -> Result<Results, String> {
        let (len, params) = (self.rows * self.cols, self.groups * self.cols);
        let x = numbers::<T>(&self.x, len)?;
        let gamma = optional::<T>(self.gamma.as_ref(), params)?;
        let beta = optional::<T>(self.beta.as_ref(), params)?;
        let dy = optional::<T>(self.dy.as_ref(), len)?;
        let (gamma, beta) = (gamma.as_deref(), beta.as_deref());
        let zeros = |len| vec![<T::Float as Number>::ZERO; len];
        let (mut mean, mut mean_lo, mut rstd) = (zeros(self.rows), zeros(self.rows), zeros(self.rows));
        let (mut dgamma, mut dbeta) = (zeros(params), zeros(params));
        let (mut y, mut dx) = (vec![<T as Number>::ZERO; len], vec![<T as Number>::ZERO; len]);
        match self.operation.as_str() {
            "layer_norm" => {
                let plan: LayerNorm = self.plan(isa)?;
                let call = plan.call(&x).gamma(gamma).beta(beta);
                let call = call.mean_to(&mut mean).mean_lo_to(&mut mean_lo).rstd_to(&mut rstd);
                call.to(&mut y).map_err(refused)?;
                if let Some(dy) = &dy {
                    let call = plan.backward(dy, &x).gamma(gamma).dgamma_to(&mut dgamma).dbeta_to(&mut dbeta);
                    call.to(&mut dx).map_err(refused)?;
                }
            }
            "rms_norm" => {
                let plan: RmsNorm = self.plan(isa)?;
                plan.call(&x).gamma(gamma).rstd_to(&mut rstd).to(&mut y).map_err(refused)?;
                if let Some(dy) = &dy {
                    plan.backward(dy, &x).gamma(gamma).dgamma_to(&mut dgamma).to(&mut dx).map_err(refused)?;
                }
            }
            other => return Err(format!("the operation {other:?} is unknown")),
        }
        let centered = self.operation == "layer_norm";
        Ok(Results {
            y: text(&y),
            mean: centered.then(|| text(&mean)),
            mean_lo: centered.then(|| text(&mean_lo)),
            rstd: text(&rstd),
            dx: dy.as_ref().map(|_| text(&dx)),
            dgamma: dy.as_ref().map(|_| text(&dgamma)),
            dbeta: dy.as_ref().filter(|_| centered).map(|_| text(&dbeta)),
        })
    }

    /// An error names the case, the tier, the tensor and the first element that differs.
    fn check(&self, isa: Isa) -> Result<(), String> {
        let here = format!("{} on the {isa} tier", self.name);
        let got = self.run(isa).map_err(|e| format!("{here}: {e}"))?;
        for ((tensor, want), (_, got)) in self.results.named().into_iter().zip(got.named()) {
            let (want, got) = match (want, got) {
                (None, None) => continue,
                (Some(want), Some(got)) => (want, got),
                (want, _) => {
                    let there = if want.is_some() { "there, but not expected" } else { "missing" };
                    return Err(format!("{here}: in the file {tensor} is {there}"));
                }
            };
            let (want, got): (Vec<_>, Vec<_>) = (want.split(' ').collect(), got.split(' ').collect());
            if want.len() != got.len() {
                return Err(format!("{here}: {tensor} has {} elements, and {} in the file", got.len(), want.len()));
            }
            if let Some(i) = (0..got.len()).find(|&i| want[i] != got[i]) {
                return Err(format!("{here}: element {i} of {tensor} is {}, and {} in the file", got[i], want[i]));
            }
        }
        Ok(())
    }
}

fn path() -> PathBuf {
    repository().join("tests/data/vectors.json")
}

fn writes() -> bool {
    std::env::var_os("LANENORM_WRITE_VECTORS").is_some()
}

/// The text of the file, or the text that will be written.
fn json() -> String {
    if writes() { written::json() } else { std::fs::read_to_string(path()).expect("a readable file") }
}

fn vectors() -> Vectors {
    serde_json::from_str(&json()).expect("the format of docs/vectors.md")
}

#[test]
fn every_tier_has_the_bits_of_the_file() {
    if writes() {
        std::fs::write(path(), json()).expect("a writable file");
    }
    let Vectors { description, cases } = vectors();
    assert_eq!(description, DESCRIPTION);
    let tiers = tiers();
    let failures: Vec<_> =
        cases.iter().flat_map(|case| tiers.iter().filter_map(|&isa| case.check(isa).err())).collect();
    assert!(failures.is_empty(), "{} failures in {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn the_file_is_small_and_has_each_operation_on_each_type() {
    let Vectors { cases, .. } = vectors();
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    for operation in OPERATIONS {
        for r#type in TYPES {
            let of_both = cases.iter().filter(|case| case.operation == operation && case.r#type == r#type);
            let count = of_both.filter(|case| case.dy.is_some()).count();
            assert!(count >= 10, "{operation} on {type}: {count} cases with gradients");
        }
    }
    let bytes = json().len();
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    for case in vectors().cases.iter().filter(|case| case.cols < 64) {
        for (tensor, _) in case.results.named().into_iter().filter(|(_, text)| text.is_some()) {
            let mut wrong = case.clone();
            let results = &mut wrong.results;
            let text = match tensor {
                "y" => &mut results.y,
                "rstd" => &mut results.rstd,
                "mean" => results.mean.as_mut().expect("as above"),
                "mean_lo" => results.mean_lo.as_mut().expect("as above"),
                "dx" => results.dx.as_mut().expect("as above"),
                "dgamma" => results.dgamma.as_mut().expect("as above"),
                _ => results.dbeta.as_mut().expect("as above"),
            };
            let last = text.pop().and_then(|digit| digit.to_digit(16)).expect("a digit") ^ 1;
            write!(text, "{last:x}").expect("memory");
            let message = wrong.check(Isa::SCALAR).expect_err(&case.name);
            assert!(message.starts_with(&case.name) && message.contains(&format!(" of {tensor} is ")), "{message}");
        }
    }
}

/// Makes the cases of the file.
mod written {
    use super::*;

    #[derive(Clone, Copy)]
    enum Kind {
        Ordinary,
        Offset,
        Constant,
        Huge,
        Tiny,
        Nan,
        Infinity,
        Zeros,
    }

    const KINDS: [(Kind, &str); 8] = [
        (Kind::Ordinary, "ordinary"),
        (Kind::Offset, "offset"),
        (Kind::Constant, "constant"),
        (Kind::Huge, "huge"),
        (Kind::Tiny, "tiny"),
        (Kind::Nan, "nan"),
        (Kind::Infinity, "infinity"),
        (Kind::Zeros, "zeros"),
    ];

    /// Numbers from -2 to 2.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1u64 << 51) as f64 - 2.0
        }

        fn vector<T: Number>(&mut self, len: usize) -> Vec<T> {
            (0..len).map(|_| T::nearest(self.next())).collect()
        }

        /// The first row is of the kind, and the other rows are ordinary. With the kind of an offset all rows have the
        /// offset.
        fn rows<T: Number>(&mut self, kind: Kind, rows: usize, cols: usize) -> Vec<T> {
            let mut x = self.vector::<T>(rows * cols);
            let (offset, spread) = T::OFFSET;
            if let Kind::Offset = kind {
                x.fill_with(|| T::nearest(offset + spread * self.next()));
            }
            let first = &mut x[..cols];
            match kind {
                Kind::Ordinary | Kind::Offset => {}
                Kind::Constant => first.fill(T::nearest(1234.567)),
                Kind::Huge => first.fill_with(|| T::nearest(T::HUGE * self.next())),
                Kind::Tiny => first.fill_with(|| T::nearest(T::TINY * self.next())),
                Kind::Nan => first[cols / 2] = T::of_bits(T::NAN),
                Kind::Infinity => first[cols / 2] = T::nearest(f64::NEG_INFINITY),
                Kind::Zeros => first.fill(T::ZERO),
            }
            x
        }
    }

    /// Whether there are gamma, beta (in layer normalization) and dy.
    #[derive(Clone, Copy)]
    struct With {
        gamma: bool,
        beta: bool,
        dy: bool,
    }

    const ALL: With = With { gamma: true, beta: true, dy: true };
    const NO_PARAMS: With = With { gamma: false, beta: false, dy: true };

    /// Cases of one operation on one type.
    struct Cases<'a> {
        random: &'a mut Random,
        operation: &'static str,
        r#type: &'static str,
        cases: &'a mut Vec<Case>,
    }

    impl Cases<'_> {
        fn push<T: Number>(&mut self, what: &str, kind: Kind, shape: (usize, usize), with: With) -> &mut Case {
            let (Self { operation, r#type, random, cases }, (rows, cols)) = (self, shape);
            let beta = with.beta && *operation == "layer_norm";
            let eps = if let Kind::Zeros = kind { 0.0 } else { 1e-5 };
            cases.push(Case {
                name: format!("{operation}/{type}/{what}/{rows}x{cols}"),
                operation: operation.to_string(),
                r#type: r#type.to_string(),
                rows,
                cols,
                groups: 1,
                repeat: 1,
                eps: word(eps),
                offset: word(0.0f32),
                x: text(&random.rows::<T>(kind, rows, cols)),
                gamma: with.gamma.then(|| text(&random.vector::<T>(cols))),
                beta: beta.then(|| text(&random.vector::<T>(cols))),
                dy: with.dy.then(|| text(&random.vector::<T>(rows * cols))),
                results: Results::default(),
            });
            cases.last_mut().expect("pushed above")
        }

        fn push_all<T: Number>(&mut self) {
            let centered = self.operation == "layer_norm";
            for (kind, name) in KINDS {
                self.push::<T>(name, kind, (2, 7), ALL);
            }
            self.push::<T>("one column", Kind::Ordinary, (2, 1), ALL);
            self.push::<T>("no gamma, no beta", Kind::Ordinary, (2, 7), NO_PARAMS);
            self.push::<T>("no beta", Kind::Ordinary, (1, 64), With { beta: false, ..ALL });
            self.push::<T>("offset of gamma", Kind::Ordinary, (2, 7), ALL).offset = word(1.0f32);
            // Long cases are few, since the file must be small.
            if centered {
                self.push::<T>("no gamma", Kind::Ordinary, (2, 7), With { gamma: false, ..ALL });
                self.push::<T>("offset", Kind::Offset, (1, 193), With { dy: size_of::<T>() < 8, ..ALL });
            }
            if self.r#type == "f32" {
                if centered {
                    self.push::<T>("many rows", Kind::Ordinary, (130, 3), ALL);
                } else {
                    self.push::<T>("offset", Kind::Offset, (1, 193), ALL);
                }
                self.push::<T>("more than a chunk", Kind::Offset, (1, 1030), With { dy: centered, ..NO_PARAMS });
                let (gamma, beta) = (self.random.vector::<T>(3 * 7), self.random.vector::<T>(3 * 7));
                let case = self.push::<T>("three groups", Kind::Ordinary, (6, 7), ALL);
                (case.groups, case.repeat) = (3, 2);
                case.gamma = Some(text(&gamma));
                case.beta = case.beta.is_some().then(|| text(&beta));
            }
        }
    }

    pub(super) fn json() -> String {
        let (mut random, mut cases) = (Random(0x1a9e_4042), Vec::new());
        for operation in OPERATIONS {
            for r#type in TYPES {
                let mut of_both = Cases { random: &mut random, operation, r#type, cases: &mut cases };
                match r#type {
                    "f32" => of_both.push_all::<f32>(),
                    "f64" => of_both.push_all::<f64>(),
                    "f16" => of_both.push_all::<f16>(),
                    _ => of_both.push_all::<bf16>(),
                }
            }
        }
        for case in &mut cases {
            case.results = case.run(Isa::SCALAR).expect("a valid case");
        }
        let vectors = Vectors { description: DESCRIPTION.map(str::to_string).to_vec(), cases };
        serde_json::to_string_pretty(&vectors).expect("strings and numbers") + "\n"
    }
}
