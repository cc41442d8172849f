//! The end of a row that has fewer elements than loops take at once: a copy with zeros after it.

use core::mem::MaybeUninit;

/// Room for a step of elements of any type, for the end of a row that has fewer.
#[repr(align(64))]
pub(crate) struct Tail([MaybeUninit<u8>; TAIL]);

/// The bytes of the longest step.
pub(crate) const TAIL: usize = 128;

impl Tail {
    pub(crate) const NEW: Self = Self([const { MaybeUninit::uninit() }; TAIL]);

    #[inline(always)]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

/// Copies `bytes` bytes into `room`, with zeros after them. The copy lasts until the room is used again.
///
/// # Safety
/// - There are `bytes` bytes from `from` on, and at most [`TAIL`].
#[inline(never)]
pub(crate) unsafe fn pad(from: *const u8, bytes: usize, room: &mut Tail) -> *const u8 {
    let to = room.as_mut_ptr();
    // SAFETY: the caller's duty.
    unsafe {
        to.write_bytes(0, TAIL);
        to.copy_from_nonoverlapping(from, bytes);
    }
    to
}
