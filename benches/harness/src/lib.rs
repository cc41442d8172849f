//! What the benchmarks of lanenorm have in common. [`measure`] takes times that can be compared. [`buffer`] places the
//! buffers of contenders, and [`answer`] judges their answers. [`record`] keeps the results, and [`report`] makes
//! tables and a few sentences of them.

pub mod answer;
pub mod buffer;
pub mod clock;
pub mod copy;
pub mod input;
pub mod machine;
pub mod measure;
pub mod naive;
pub mod number;
pub mod record;
pub mod report;
pub mod table;
