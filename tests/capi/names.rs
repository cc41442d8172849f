//! Names, messages, and the tier that the environment asks for.

use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};

use lanenorm::capi::*;
use lanenorm::{Isa, Tier};

use crate::this_program::this_program;
use crate::tiers::tiers;
use crate::{BLANK, DESC, init, is_blank, last_error, tier};

fn string(p: *const c_char) -> &'static str {
    // SAFETY: the strings of these functions are constant and end with a zero.
    unsafe { CStr::from_ptr(p) }.to_str().expect("ASCII")
}

#[test]
fn version_and_messages() {
    assert_eq!(string(lanenorm_version()), env!("CARGO_PKG_VERSION"));
    assert_eq!(string(lanenorm_status_message(0)), "ok");
    assert_eq!(string(lanenorm_status_message(lanenorm_status::Eps as i32)), "eps is negative, infinite or NaN");
    for unknown in [-1, 14, i32::MAX, i32::MIN] {
        assert_eq!(string(lanenorm_status_message(unknown)), "unknown status");
    }
}

#[test]
fn every_tier_can_be_asked_for() {
    assert_eq!(string(lanenorm_isa_name()), lanenorm::default_isa().expect("a tier that is here").tier().name());
    for isa in tiers() {
        let plan = init(&lanenorm_desc { tier: tier(isa), cols: 8, ..DESC });
        // SAFETY: the plan is there.
        assert_eq!(string(unsafe { lanenorm_plan_isa_name(&plan) }), isa.tier().name());
    }
    for (number, absent) in (1..).zip(Tier::ALL).filter(|&(_, tier)| Isa::new(tier).is_none()) {
        let (mut plan, desc) = (BLANK, lanenorm_desc { tier: number, cols: 8, ..DESC });
        // SAFETY: both are there.
        assert_eq!(unsafe { lanenorm_plan_init(&mut plan, &desc) }, lanenorm_status::Isa);
        assert!(last_error().contains(absent.name()), "{}", last_error());
        assert!(is_blank(&plan));
    }
    // SAFETY: the plan is NULL, or one that is not initialized.
    unsafe {
        assert_eq!(string(lanenorm_plan_isa_name(null())), "unavailable");
        assert_eq!(string(lanenorm_plan_isa_name(&BLANK)), "unavailable");
    }
}

/// Not a test: the test below runs this in a process of its own.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn child() {
    let (mut y, mut plan, desc) = ([7.0f32; 8], BLANK, lanenorm_desc { cols: 8, ..DESC });
    let p = y.as_mut_ptr();
    // SAFETY: all buffers are there.
    let (call, init) = unsafe {
        (
            lanenorm_layer_norm_f32(p, 1, 8, null(), null(), 1e-5, p, null_mut(), null_mut(), 1),
            lanenorm_plan_init(&mut plan, &desc),
        )
    };
    println!("{} {call:?} {init:?} {:?} {}", string(lanenorm_isa_name()), y[0], last_error());
}

#[test]
fn the_environment_names_the_tier() {
    let child = |isa: &str| {
        let output = this_program()
            .args(["--ignored", "--exact", "names::child", "--nocapture"])
            .env("LANENORM_ISA", isa)
            .output()
            .expect("this test can be run");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let out = child("scalar");
    assert!(out.contains("scalar Ok Ok 0.0"), "{out}");
    let out = child("sse9");
    assert!(out.contains("unavailable Isa Isa 7.0 LANENORM_ISA is \"sse9\""), "{out}");
    let absent = Tier::ALL.into_iter().find(|&tier| Isa::new(tier).is_none()).expect("no machine has all tiers");
    let out = child(absent.name());
    assert!(out.contains("unavailable Isa Isa 7.0") && out.contains(absent.name()), "{out}");
}
