//! Keeps the library in memory while threads of its own run in it.
//!
//! A program may load the library with `dlopen` (or a library that it is linked into) and unload it when no call is
//! running. A helper that sleeps, or that has been started and does not run yet, would then wake in code that is no
//! longer there.
#![allow(unsafe_code)]

#[cfg(all(any(target_os = "linux", target_os = "macos", target_os = "freebsd"), not(miri)))]
pub(super) fn stay_in_memory() {
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::atomic::{AtomicBool, Ordering};

    static STAYS: AtomicBool = AtomicBool::new(false);

    if STAYS.swap(true, Ordering::Relaxed) {
        return;
    }
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is one of this library, or of the program that it is a part of. The name that is found is
    // valid as long as the library is there. Nothing is loaded: what is there already is told never to be unloaded.
    unsafe {
        if libc::dladdr(ptr::from_ref(&STAYS).cast(), info.as_mut_ptr()) != 0 {
            let name = (*info.as_ptr()).dli_fname;
            if !name.is_null() {
                libc::dlopen(name, libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
            }
        }
    }
}

/// Does nothing: on targets for which no way is known, and under Miri, which has no libraries to unload.
#[cfg(not(all(any(target_os = "linux", target_os = "macos", target_os = "freebsd"), not(miri))))]
pub(super) fn stay_in_memory() {}
