//! The C ABI, which `include/lanenorm.h` declares. Rust code that is handed pointers may call it too.
//!
//! Every function checks all its arguments before it does anything: NULL, sizes, strides, alignment, overlaps. It
//! returns a [`lanenorm_status`], has written nothing if that is not `Ok`, and never unwinds. The work itself is done
//! by the plans and kernels that Rust users have, and gives the same bits.
//!
//! Rows never become slices, since another thread might be writing to the gaps between them: kernels are given
//! pointers. (Vectors and statistics are contiguous, and become slices of just the elements that a call is about.
//! Outputs among them get zeros first: the elements of a slice must have a value, and C's memory may have none.)
//!
//! # Safety
//!
//! Callers of all functions have these duties, unless there are no rows or no columns, or the call returns an error:
//!
//! - A pointer that is not NULL points to as many elements as the call is about, all in one allocation. It is valid for
//!   reads, and the pointer of an output for writes too.
//! - While a call runs, nothing else writes what it reads, nor touches what it writes. A call for a range of rows or
//!   blocks touches these rows alone, and their elements of what has an element for each row.
//! - A `lanenorm_plan` has been filled in by `lanenorm_plan_init` in this process, or its first eight bytes are not
//!   what `lanenorm_plan_init` writes there.
//! - A structure with a `struct_size` has as many bytes.
#![allow(unsafe_code)]
#![allow(non_camel_case_types, reason = "these names are those of the header")]
#![allow(clippy::missing_safety_doc, reason = "the duties are the same for all functions: see above")]
#![allow(clippy::too_many_arguments, reason = "the functions are fixed")]
#![allow(clippy::doc_markdown, reason = "the docs are those of the header")]

mod backward;
mod channels;
mod check;
mod forward;
mod functions;
mod gate;
mod places;
mod plan;
mod quantize;
mod second;

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char};
use std::fmt::{self, Write};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lanenorm_kernels::{Error as Refused, Tier};

pub use backward::*;
pub use channels::*;
pub use forward::*;
pub use functions::*;
pub use gate::*;
pub use plan::*;
pub use quantize::*;
pub use second::*;

use crate::{Error, Parallelism, default_isa};

/// What a call returns. Unless it is `LANENORM_STATUS_OK`, nothing has been written.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_status {
    /// Done.
    Ok = 0,
    /// A pointer that must not be NULL is NULL.
    NullPointer = 1,
    /// A pointer is not aligned to the size of its elements.
    Misaligned = 2,
    /// A size overflows `size_t`, or goes beyond the end of the address space.
    Overflow = 3,
    /// A size does not fit: a `struct_size`, a range of rows or blocks, `inner_rows`, groups that do not divide the
    /// rows.
    Size = 4,
    /// The rows of a buffer overlap one another.
    Stride = 5,
    /// An output overlaps another buffer in a way that is not provided for.
    Overlap = 6,
    /// eps is negative, infinite or NaN.
    Eps = 7,
    /// A descriptor or `LANENORM_ISA` asks for an instruction set that is not available, or that is none.
    Isa = 8,
    /// A combination that does not exist: of types, of buffers, of statistics, or an unknown number of an enumeration.
    Unsupported = 9,
    /// A plan has not been initialized, or another version or build of the library has initialized it.
    Uninitialized = 10,
    /// There is no memory for the scratch space of a backward call.
    OutOfMemory = 11,
    /// A bug of the library. This is the only error after which outputs may have been written.
    Internal = 12,
    /// A part of a scheme of quantization is out of range, or parts of it do not go together.
    Scheme = 13,
}

impl lanenorm_status {
    const ALL: [Self; 14] = [
        Self::Ok,
        Self::NullPointer,
        Self::Misaligned,
        Self::Overflow,
        Self::Size,
        Self::Stride,
        Self::Overlap,
        Self::Eps,
        Self::Isa,
        Self::Unsupported,
        Self::Uninitialized,
        Self::OutOfMemory,
        Self::Internal,
        Self::Scheme,
    ];

    const fn message(self) -> &'static CStr {
        match self {
            Self::Ok => c"ok",
            Self::NullPointer => c"a pointer is NULL that must not be",
            Self::Misaligned => c"a pointer is not aligned to its elements",
            Self::Overflow => c"a size overflows",
            Self::Size => c"a size does not fit",
            Self::Stride => c"the rows of a buffer overlap one another",
            Self::Overlap => c"an output overlaps another buffer",
            Self::Eps => c"eps is negative, infinite or NaN",
            Self::Isa => c"the instruction set asked for is not available",
            Self::Unsupported => c"a combination that is not supported",
            Self::Uninitialized => c"the plan has not been initialized",
            Self::OutOfMemory => c"out of memory",
            Self::Internal => c"internal error",
            Self::Scheme => c"a part of the scheme is out of range",
        }
    }
}

impl From<Error> for lanenorm_status {
    /// The message of the error becomes the last one of this thread.
    #[cold]
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Arguments(refused) => return refused.into(),
            Error::Isa { .. } | Error::UnknownIsa(_) => Self::Isa,
            _ => Self::Size,
        };
        refuse(status, format_args!("{error}"))
    }
}

impl From<Refused> for lanenorm_status {
    /// As of an error of plans.
    #[cold]
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Eps(_) => Self::Eps,
            Refused::Overflow { .. } => Self::Overflow,
            Refused::Scheme { .. } => Self::Scheme,
            Refused::NoGradient
            | Refused::DsWithoutDx { .. }
            | Refused::Statistics { .. }
            | Refused::QuantizedSums { .. } => Self::Unsupported,
            _ => Self::Size,
        };
        refuse(status, format_args!("{refused}"))
    }
}

/// The bytes of the longest message, its terminating zero included.
const MESSAGE_LEN: usize = 256;

/// Memory without a destructor: it lives as long as its thread, and takes no allocation.
struct Message(UnsafeCell<[u8; MESSAGE_LEN]>);

thread_local! {
    static LAST: Message = const { Message(UnsafeCell::new([0; MESSAGE_LEN])) };
}

/// A message that is cut off where the memory ends; the last byte stays zero.
struct Cut<'a> {
    to: &'a mut [u8; MESSAGE_LEN],
    len: usize,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = MESSAGE_LEN - 1 - self.len;
        let n = s.len().min(room);
        self.to[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Keeps the message for [`lanenorm_last_error_message`].
#[cold]
#[inline(never)]
fn refuse(status: lanenorm_status, message: fmt::Arguments<'_>) -> lanenorm_status {
    LAST.with(|last| {
        let mut text = [0; MESSAGE_LEN];
        // A message that does not fit is cut off.
        let _ = Cut { to: &mut text, len: 0 }.write_fmt(message);
        // SAFETY: the memory is this thread's, and no reference to it lives longer than a line.
        unsafe { *last.0.get() = text };
    });
    status
}

/// The boundary that no panic crosses.
#[inline(always)]
fn guard(call: impl FnOnce() -> Result<(), lanenorm_status>) -> lanenorm_status {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => lanenorm_status::Ok,
        Ok(Err(status)) => status,
        Err(panic) => internal(panic.downcast_ref::<String>().map_or("a panic", String::as_str), panic.as_ref()),
    }
}

/// Ends a call as [`lanenorm_status::Internal`] if a job refuses lengths that have been checked: the call must not end
/// in success with nothing written.
#[cold]
#[inline(never)]
fn misfit() -> ! {
    panic!("a job does not fit what has been checked")
}

#[cold]
fn internal(message: &str, panic: &(dyn std::any::Any + Send)) -> lanenorm_status {
    let message = panic.downcast_ref::<&str>().copied().unwrap_or(message);
    refuse(lanenorm_status::Internal, format_args!("a bug in lanenorm: {message}"))
}

/// 0: all threads that there are, as far as that pays. 1: the calling thread. n: as 0, but n threads at most. No rayon
/// pool does any of the work, wherever the caller is: see `Tasks`.
fn parallelism(threads: usize) -> Parallelism {
    match NonZeroUsize::new(threads) {
        None => Parallelism::Auto,
        Some(NonZeroUsize::MIN) => Parallelism::Serial,
        Some(n) => Parallelism::AtMost(n),
    }
}

const fn tier_name(tier: Tier) -> &'static CStr {
    match tier {
        Tier::Neon => c"neon",
        Tier::Avx2 => c"avx2",
        Tier::Avx512 => c"avx512",
        _ => c"scalar",
    }
}

/// What a status means, in a few words: a constant string, also for numbers that are no status.
#[unsafe(no_mangle)]
pub extern "C" fn lanenorm_status_message(status: i32) -> *const c_char {
    let status = lanenorm_status::ALL.into_iter().find(|&s| s as i32 == status);
    status.map_or(c"unknown status", lanenorm_status::message).as_ptr()
}

/// What was wrong with the last call of this thread that returned an error, with names and numbers. Empty if no call of
/// this thread has returned an error. The string is valid until the thread's next error, or its end.
#[unsafe(no_mangle)]
pub extern "C" fn lanenorm_last_error_message() -> *const c_char {
    LAST.with(|last| last.0.get().cast_const().cast())
}

/// The version of the library: "0.1.0", say.
#[unsafe(no_mangle)]
pub extern "C" fn lanenorm_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The instruction set that calls use: "scalar", "neon", "avx2" or "avx512". It is the widest that the processor has,
/// or the one that the environment variable `LANENORM_ISA` names. The variable is read once per process. If it names a
/// set that is not available, this is "unavailable", and calls return `LANENORM_STATUS_ISA`.
#[unsafe(no_mangle)]
pub extern "C" fn lanenorm_isa_name() -> *const c_char {
    default_isa().map_or(c"unavailable", |isa| tier_name(isa.tier())).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> &'static str {
        // SAFETY: the string has an end, and nothing is refused before it is compared.
        unsafe { CStr::from_ptr(lanenorm_last_error_message()) }.to_str().expect("ASCII")
    }

    #[test]
    fn no_panic_crosses_the_boundary() {
        assert_eq!(guard(|| panic!("of {} words", 3)), lanenorm_status::Internal);
        assert_eq!(last(), "a bug in lanenorm: of 3 words");
        assert_eq!(guard(|| panic!("plain")), lanenorm_status::Internal);
        assert_eq!(last(), "a bug in lanenorm: plain");
        assert_eq!(guard(|| misfit()), lanenorm_status::Internal);
        assert_eq!(last(), "a bug in lanenorm: a job does not fit what has been checked");
        assert_eq!(guard(|| std::panic::panic_any(7)), lanenorm_status::Internal);
        assert_eq!(last(), "a bug in lanenorm: a panic");
    }

    #[test]
    fn errors_have_their_messages() {
        use Refused::{DsWithoutDx, Eps, GroupRows, Groups, Length, NoGradient, Overflow, Statistics};
        let says = |status, expected: lanenorm_status, message: &str| {
            assert_eq!((status, last()), (expected, message));
        };
        let max = usize::MAX;
        for (refused, status, message) in [
            (Eps(-1.5), lanenorm_status::Eps, "eps is -1.5, expected a finite number not less than 0".to_string()),
            (
                Overflow { what: "scratch", rows: 3, stride: max },
                lanenorm_status::Overflow,
                format!("scratch is too large: 3 rows, {max} elements apart, overflow usize"),
            ),
            (
                Groups { groups: 0, repeat: 5 },
                lanenorm_status::Size,
                "0 groups of 5 rows: expected at least one of each, and a product that does not overflow usize".into(),
            ),
            (
                GroupRows { rows: 7, groups: 2, repeat: 3 },
                lanenorm_status::Size,
                "x has 7 rows, which is not a multiple of 2 groups of 3".into(),
            ),
            (
                Length { what: "gamma", len: 1, expected: 4 },
                lanenorm_status::Size,
                "gamma has 1 element, expected 4".into(),
            ),
            (
                NoGradient,
                lanenorm_status::Unsupported,
                "no gradient is wanted: none of dx, dgamma and dbeta is given".into(),
            ),
            (
                DsWithoutDx { rows: 9 },
                lanenorm_status::Unsupported,
                "ds has 9 rows, but there is no dx to add ds to".into(),
            ),
            (
                Statistics { rows: 4, given: "mean", missing: "rstd" },
                lanenorm_status::Unsupported,
                "mean of 4 rows is given without rstd: expected both or neither".into(),
            ),
        ] {
            says(refused.into(), status, &message);
            refuse(lanenorm_status::Internal, format_args!("another message"));
            says(Error::Arguments(refused).into(), status, &message);
        }
        let (asked, widest) = (Tier::Avx512, Tier::Scalar);
        let message = "the avx512 tier is not available here; the widest that is: scalar";
        says(Error::Isa { asked, widest }.into(), lanenorm_status::Isa, message);
        let message = "LANENORM_ISA is \"sse9\", expected scalar, neon, avx2 or avx512";
        says(Error::UnknownIsa("sse9".into()).into(), lanenorm_status::Isa, message);
        let message = "x has 3 rows, but y has 2";
        says(Error::Rows { x: 3, y: 2 }.into(), lanenorm_status::Size, message);
    }

    #[test]
    fn long_messages_are_cut() {
        let long = "x".repeat(2 * MESSAGE_LEN);
        assert_eq!(refuse(lanenorm_status::Size, format_args!("{long}{long}")), lanenorm_status::Size);
        assert_eq!(last(), &long[..MESSAGE_LEN - 1]);
        refuse(lanenorm_status::Size, format_args!("short"));
        assert_eq!(last(), "short");
    }

    #[test]
    fn statuses_are_numbered_in_order_and_differ_in_their_messages() {
        for (i, status) in lanenorm_status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, i);
            for other in &lanenorm_status::ALL[..i] {
                assert_ne!(status.message(), other.message());
            }
        }
    }

    #[test]
    fn tiers_have_their_names() {
        for tier in Tier::ALL {
            assert_eq!(tier_name(tier).to_str(), Ok(tier.name()));
        }
    }
}
