//! The floating-point environment: how the processor rounds, whether it flushes subnormal numbers to zero, which
//! exceptions trap, and which have been raised.
//!
//! Each thread has its own, and a host may have changed it: `-ffast-math` programs and audio hosts flush subnormal
//! numbers, interval arithmetic changes the rounding mode, debuggers of numerics let exceptions trap. The kernels run
//! in the default environment (round to nearest even, nothing flushed, nothing trapped), and give the caller's back
//! with its flags as they were. Rust itself takes the default environment for granted, so that nothing here asks for
//! more than the language does.
//!
//! On x86 it is MXCSR, on aarch64 FPCR and FPSR. Elsewhere the caller must see to it.

/// Runs `f` in the default environment.
///
/// The arithmetic of `f` must be in functions that are not inlined into its body, or be done on what these return. The
/// compiler does not know that arithmetic depends on the environment, and may move arithmetic on values in registers
/// out of `f`.
#[inline(always)]
pub(crate) fn in_default_environment<R>(f: impl FnOnce() -> R) -> R {
    let _kept = Environment::enter();
    f()
}

/// The caller's environment, given back on drop, also where a panic unwinds.
struct Environment {
    #[cfg(all(any(target_arch = "x86_64", target_arch = "x86"), not(miri)))]
    mxcsr: u32,
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    fpcr: u64,
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    fpsr: u64,
}

#[cfg(all(any(target_arch = "x86_64", target_arch = "x86"), not(miri)))]
mod mxcsr {
    use core::arch::asm;

    /// Round to nearest even, nothing flushed, all exceptions masked, none raised.
    pub(super) const DEFAULT: u32 = 0x1f80;

    /// The flags of the exceptions that have been raised. All other bits control.
    pub(super) const FLAGS: u32 = 0x3f;

    #[inline(always)]
    pub(super) fn get() -> u32 {
        let mut v = 0_u32;
        // SAFETY: stores to a local variable. Memory counts as read and written, so that arithmetic on values in memory
        // stays on its side of this instruction.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut v, options(nostack, preserves_flags)) };
        v
    }

    #[inline(always)]
    pub(super) fn set(v: u32) {
        // SAFETY: v is the default, or what the register held before.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const v, options(nostack, preserves_flags)) };
    }
}

#[cfg(all(any(target_arch = "x86_64", target_arch = "x86"), not(miri)))]
impl Environment {
    #[inline(always)]
    fn enter() -> Self {
        let mxcsr = mxcsr::get();
        if mxcsr & !mxcsr::FLAGS != mxcsr::DEFAULT {
            mxcsr::set(mxcsr::DEFAULT);
        }
        Self { mxcsr }
    }
}

#[cfg(all(any(target_arch = "x86_64", target_arch = "x86"), not(miri)))]
impl Drop for Environment {
    /// Sets the register without reading it first: reading takes longer than setting.
    #[inline(always)]
    fn drop(&mut self) {
        mxcsr::set(self.mxcsr);
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
impl Environment {
    #[inline(always)]
    fn enter() -> Self {
        let (fpcr, fpsr): (u64, u64);
        // SAFETY: reads two registers. Memory counts as written, so that arithmetic on values in memory stays on its
        // side of this instruction.
        unsafe {
            core::arch::asm!("mrs {}, fpcr", "mrs {}, fpsr", out(reg) fpcr, out(reg) fpsr,
                options(nostack, preserves_flags));
        }
        if fpcr != 0 {
            // SAFETY: 0 is the default.
            unsafe { core::arch::asm!("msr fpcr, xzr", options(nostack, preserves_flags)) };
        }
        Self { fpcr, fpsr }
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
impl Drop for Environment {
    #[inline(always)]
    fn drop(&mut self) {
        let Self { fpcr, fpsr } = *self;
        let raised: u64;
        // SAFETY: reads a register, and sets two registers to the values that they held before.
        unsafe {
            core::arch::asm!("mrs {}, fpsr", out(reg) raised, options(nostack, preserves_flags));
            if fpcr != 0 {
                core::arch::asm!("msr fpcr, {}", in(reg) fpcr, options(nostack, preserves_flags));
            }
            if raised != fpsr {
                core::arch::asm!("msr fpsr, {}", in(reg) fpsr, options(nostack, preserves_flags));
            }
        }
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64"))))]
impl Environment {
    #[inline(always)]
    fn enter() -> Self {
        Self {}
    }
}
