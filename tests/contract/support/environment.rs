//! Floating-point environments that a host may have set up: see [`Environment::within`].

use std::fmt;

/// The values of the registers, and a name.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Environment {
    name: &'static str,
    registers: Registers,
}

impl Environment {
    /// Runs `f` in this environment. Panics if `f` leaves another behind, be it only a flag that was not raised before.
    #[track_caller]
    pub(crate) fn within<R>(self, f: impl FnOnce() -> R) -> R {
        let before = Registers::get();
        self.registers.set();
        let given = Registers::get();
        let result = f();
        let left = Registers::get();
        before.set();
        assert!(left == given, "{self:?}: {left:?} is left, expected {given:?}");
        result
    }

    /// Makes it the environment of this thread.
    pub(crate) fn enter(self) {
        self.registers.set();
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn environment(name: &'static str, registers: Registers) -> Environment {
    Environment { name, registers }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use mxcsr::*;

#[cfg(target_arch = "x86_64")]
mod mxcsr {
    use std::arch::asm;

    use super::{Environment, environment};

    const MASKS: u32 = 0x1f80;
    const FLUSH_TO_ZERO: u32 = 1 << 15;
    const DENORMALS_ARE_ZEROS: u32 = 1 << 6;
    const DOWN: u32 = 1 << 13;
    const UP: u32 = 2 << 13;
    const TOWARDS_ZERO: u32 = 3 << 13;
    const ALL_FLAGS: u32 = 0x3f;

    pub(crate) const DEFAULT: Environment = environment("the default environment", Registers(MASKS));

    pub(crate) const ENVIRONMENTS: [Environment; 9] = [
        DEFAULT,
        environment("flags raised", Registers(MASKS | ALL_FLAGS)),
        environment("flush to zero", Registers(MASKS | FLUSH_TO_ZERO)),
        environment("denormals are zeros", Registers(MASKS | DENORMALS_ARE_ZEROS)),
        environment("rounding down", Registers(MASKS | DOWN)),
        environment("rounding up", Registers(MASKS | UP)),
        environment("rounding towards zero", Registers(MASKS | TOWARDS_ZERO)),
        environment("exceptions that trap", Registers(0)),
        environment("all at once", Registers(FLUSH_TO_ZERO | DENORMALS_ARE_ZEROS | TOWARDS_ZERO)),
    ];

    /// MXCSR.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) struct Registers(u32);

    impl Registers {
        #[inline(always)]
        pub(super) fn get() -> Self {
            let mut v = 0_u32;
            // SAFETY: stores to a local variable.
            unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut v, options(nostack, preserves_flags)) };
            Self(v)
        }

        #[inline(always)]
        pub(super) fn set(self) {
            // SAFETY: no bit is set that would fault. The test is of the code that runs until the register is set back.
            unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const self.0, options(nostack, preserves_flags)) };
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) use fpcr::*;

#[cfg(target_arch = "aarch64")]
mod fpcr {
    use std::arch::asm;

    use super::{Environment, environment};

    const FLUSH_TO_ZERO: u64 = 1 << 24;
    const FLUSH_F16_TO_ZERO: u64 = 1 << 19;
    const DEFAULT_NAN: u64 = 1 << 25;
    const ALTERNATIVE_F16: u64 = 1 << 26;
    const UP: u64 = 1 << 22;
    const DOWN: u64 = 2 << 22;
    const TOWARDS_ZERO: u64 = 3 << 22;
    const TRAPS: u64 = 0x9f00;
    const ALL_FLAGS: u64 = 0x9f;

    pub(crate) const DEFAULT: Environment = of("the default environment", 0, 0);

    /// Processors without traps leave their bits out.
    pub(crate) const ENVIRONMENTS: [Environment; 9] = [
        DEFAULT,
        of("flags raised", 0, ALL_FLAGS),
        of("flush to zero", FLUSH_TO_ZERO | FLUSH_F16_TO_ZERO, 0),
        of("the alternative f16, default NaNs", ALTERNATIVE_F16 | DEFAULT_NAN, 0),
        of("rounding down", DOWN, 0),
        of("rounding up", UP, 0),
        of("rounding towards zero", TOWARDS_ZERO, 0),
        of("exceptions that trap", TRAPS, 0),
        of("all at once", FLUSH_TO_ZERO | ALTERNATIVE_F16 | TOWARDS_ZERO | TRAPS, 0),
    ];

    const fn of(name: &'static str, fpcr: u64, fpsr: u64) -> Environment {
        environment(name, Registers { fpcr, fpsr })
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) struct Registers {
        fpcr: u64,
        fpsr: u64,
    }

    impl Registers {
        #[inline(always)]
        pub(super) fn get() -> Self {
            let (fpcr, fpsr);
            // SAFETY: reads two registers.
            unsafe {
                asm!("mrs {}, fpcr", "mrs {}, fpsr", out(reg) fpcr, out(reg) fpsr, options(nostack, preserves_flags))
            };
            Self { fpcr, fpsr }
        }

        #[inline(always)]
        pub(super) fn set(self) {
            let Self { fpcr, fpsr } = self;
            // SAFETY: these may hold anything. The test is of the code that runs until they are set back.
            unsafe {
                asm!("msr fpcr, {}", "msr fpsr, {}", in(reg) fpcr, in(reg) fpsr, options(nostack, preserves_flags))
            };
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use none::*;

/// On other processors the caller has to see to the environment.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod none {
    use super::{Environment, environment};

    pub(crate) const DEFAULT: Environment = environment("the default environment", Registers);
    pub(crate) const ENVIRONMENTS: [Environment; 1] = [DEFAULT];

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) struct Registers;

    impl Registers {
        pub(super) fn get() -> Self {
            Self
        }

        pub(super) fn set(self) {}
    }
}
