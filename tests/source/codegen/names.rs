//! The meaning of symbols.

/// What kind of code a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    Avx2,
    Avx512,
    Neon,
    Scalar,
}

impl Tier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
            Self::Scalar => "scalar",
        }
    }

    /// How assembly names registers that are whole vectors of f32 or f64. (On the portable tier the compiler chooses
    /// registers.)
    pub(crate) fn registers(self) -> &'static [&'static str] {
        match self {
            Self::Avx2 => &["%ymm"],
            Self::Avx512 => &["%zmm"],
            Self::Neon => &[".4s", ".2d"],
            Self::Scalar => &[],
        }
    }
}

/// The tokens that only functions compiled for a tier may take.
pub(crate) const TOKENS: [&str; 3] = ["pulp::x86::v3::V3", "pulp::x86::v4::V4", "pulp::aarch64::Neon"];

/// A symbol as it reads in Rust, without hashes.
pub(crate) fn demangle(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

/// The tier and the kernel that a function has been compiled for, if dispatch enters it.
pub(crate) fn kernel(name: &str, arch: &str) -> Option<(Tier, String)> {
    let entered = [
        ("Entry<pulp::x86::v3::V3, ", Tier::Avx2),
        ("Entry<pulp::x86::v4::V4, ", Tier::Avx512),
        ("Entry<pulp::aarch64::Neon, ", Tier::Neon),
    ];
    for (entry, tier) in entered {
        if name.contains("::vectorize::imp")
            && let Some((_, kernel)) = name.split_once(entry)
        {
            return Some((tier, short(kernel.strip_suffix(">>").unwrap_or(kernel))));
        }
    }
    if let Some(kernel) = name.strip_prefix("lanenorm_kernels::simd::scalar::scalar::<") {
        return Some((Tier::Scalar, short(kernel.strip_suffix('>').unwrap_or(kernel))));
    }
    // Every aarch64 has NEON, so that kernels are inlined into dispatch there.
    let inlined_into = [
        ("lanenorm_kernels::loops::choice::run_some::<", "forward"),
        ("lanenorm_kernels::loops::columns::run_columns::<", "normalize"),
        ("lanenorm_kernels::ops::backward::run::run_parts::<", "backward"),
    ];
    for (function, operation) in inlined_into {
        if let Some(kernel) = name.strip_prefix(function) {
            return (arch == "aarch64").then(|| (Tier::Neon, format!("{operation}<{}", short(kernel))));
        }
    }
    let element = name.strip_prefix("<lanenorm_kernels::ops::backward::merge::Merge<");
    if let Some(element) = element.and_then(|name| name.strip_suffix(">>::run_on")) {
        return (arch == "aarch64").then(|| (Tier::Neon, format!("merge<{}>", short(element))));
    }
    let (element, loops) =
        name.strip_prefix("<lanenorm_kernels::ops::moments::RowMoments<")?.split_once(">>::run_here::<")?;
    (arch == "aarch64").then(|| (Tier::Neon, format!("moments<{}, {}", short(element), short(loops))))
}

/// Paths cut down to their last names: `Fused<f32, true>` of `lanenorm_kernels::loops::fused::Fused<f32, true>`, also
/// where kernels are passed by reference.
fn short(name: &str) -> String {
    let mut short = String::new();
    for part in name.trim_start_matches('&').split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        let start = part.rfind("::").map_or(0, |at| at + 2);
        short += &part[start..];
    }
    short
}

/// A name without its generic arguments, and T for any element type, so that all instances of a function have one name.
pub(crate) fn family(name: &str) -> String {
    let (mut family, mut depth, mut last) = (String::new(), 0, ' ');
    for c in name.chars() {
        let opens = c == '<' && (depth > 0 || last.is_alphanumeric() || last == '_' || last == ':');
        depth += usize::from(opens);
        if depth == 0 {
            family.push(c);
        }
        if c == '>' && last != '-' && depth > 0 {
            depth -= 1;
        }
        last = c;
    }
    for element in ["half::binary16::f16", "half::bfloat::bf16", "f32", "f64"] {
        family = family.replace(&format!("<{element} as"), "<T as");
    }
    family.replace("::::", "::").trim_end_matches("::").replace("lanenorm_kernels::", "")
}

/// Whether the name is of a function of the kernels crate.
pub(crate) fn is_ours(name: &str) -> bool {
    name.trim_start_matches('<').starts_with("lanenorm_kernels::") || name.contains(" as lanenorm_kernels::")
}
