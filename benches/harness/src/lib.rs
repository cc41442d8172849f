//! What the benchmarks of lanenorm have in common. [`measure`] takes times that can be compared, of contenders whose
//! buffers lie where [`buffer`] puts them and whose answers are held against [`answer`]; [`record`] keeps the results,
//! and [`report`] makes tables and a few sentences of them.

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
