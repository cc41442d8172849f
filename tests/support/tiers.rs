//! The tiers that tests run on.

use lanenorm::{Isa, Tier};

/// Every tier that this processor has. `LANENORM_TEST_MIN_ISA` names one that must be among them.
pub(crate) fn tiers() -> Vec<Isa> {
    let tiers: Vec<Isa> = Isa::available().collect();
    if let Ok(least) = std::env::var("LANENORM_TEST_MIN_ISA") {
        let least: Tier = least.parse().unwrap_or_else(|e| panic!("LANENORM_TEST_MIN_ISA: {least}: {e}"));
        assert!(tiers.iter().any(|isa| isa.tier() == least), "LANENORM_TEST_MIN_ISA: {least} is not here");
    }
    tiers
}
