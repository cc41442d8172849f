use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use lanenorm_kernels::{Isa, Tier};

use crate::Error;

/// The given tier, for [`LayerNorm::with_isa`](crate::LayerNorm::with_isa).
///
/// # Errors
/// [`Error::Isa`] if this processor or this build lacks it.
pub fn isa(tier: Tier) -> Result<Isa, Error> {
    Isa::new(tier).ok_or_else(|| Error::Isa { asked: tier, widest: Isa::best().tier() })
}

/// The tier that plans use unless told otherwise: the one that the environment variable `LANENORM_ISA` names (`scalar`,
/// `neon`, `avx2`, `avx512`), or else the widest that this processor has. The variable is read once per process. A
/// variable that is set and empty names no tier, and is refused. Plans alone obey the variable: [`Isa::best`] and all
/// of [`kernels`](crate::kernels) read no environment.
///
/// # Errors
/// [`Error::Isa`] or [`Error::UnknownIsa`] if the variable names a tier that is not available, or none.
#[allow(unsafe_code)]
pub fn default_isa() -> Result<Isa, Error> {
    static CHOICE: AtomicPtr<Result<Isa, Error>> = AtomicPtr::new(ptr::null_mut());
    let mut choice = CHOICE.load(Ordering::Acquire);
    if choice.is_null() {
        // No lock, which a child process might find locked for ever. Threads that come at once make a choice each, and
        // the first one counts.
        let new = Box::into_raw(Box::new(choose(std::env::var_os("LANENORM_ISA").as_deref())));
        choice = match CHOICE.compare_exchange(choice, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(first) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                first
            }
        };
    }
    // SAFETY: the choice that counts is neither freed nor written again.
    unsafe { &*choice }.clone()
}

fn choose(asked: Option<&std::ffi::OsStr>) -> Result<Isa, Error> {
    match asked {
        None => Ok(Isa::best()),
        Some(name) => {
            let name = name.to_string_lossy();
            isa(name.parse().map_err(|_| Error::UnknownIsa(name.into_owned()))?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_a_tier_or_is_refused() {
        assert_eq!(choose(None), Ok(Isa::best()));
        assert_eq!(choose(Some("scalar".as_ref())), Ok(Isa::SCALAR));
        assert_eq!(choose(Some("".as_ref())), Err(Error::UnknownIsa(String::new())));
        assert_eq!(choose(Some("sse9".as_ref())), Err(Error::UnknownIsa("sse9".into())));
        for tier in Tier::ALL {
            match choose(Some(tier.name().as_ref())) {
                Ok(isa) => assert_eq!(isa.tier(), tier),
                Err(e) => assert_eq!(e, Error::Isa { asked: tier, widest: Isa::best().tier() }),
            }
        }
    }
}
