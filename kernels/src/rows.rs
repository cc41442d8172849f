//! The memory of rows, read and written, and gamma and beta. Most raw pointers of the crate are kept here.

mod convert;
mod gate_rows;
mod grad_rows;
mod groups;
mod input;
mod io;
mod line;
mod params;
#[allow(unsafe_op_in_unsafe_fn, reason = "most of what is unsafe there hands on the duty of the caller")]
mod source;
mod tail;
#[allow(unsafe_op_in_unsafe_fn, reason = "most of what is unsafe there hands on the duty of the caller")]
mod target;

pub(crate) use convert::{AddRounded, Convert};
pub use gate_rows::{GateGradRows, RawGateRows};
pub(crate) use grad_rows::RowPointers;
pub use grad_rows::{GradRows, RawGradRows};
pub use groups::Groups;
pub(crate) use input::Input;
pub(crate) use io::check;
pub use io::{OneRow, RawRows, RowIo};
pub(crate) use line::CacheLine;
pub use line::{LINE, have_no_gaps, start_on_lines};
pub use params::{Params, Vector};
pub(crate) use source::Source;
pub(crate) use tail::{TAIL, Tail, pad};
pub(crate) use target::{Target, way};
