//! What a run ends with: its tables, and what their columns mean.

use lanenorm::Isa;
use lanenorm::kernels::table::Op;

use super::case::Case;
use super::machine::Machine;
use super::measure::{PLACES, Timing};
use super::results;
use super::table::Table;

/// A case and what was measured of it.
pub(crate) type Measured = (Case, Vec<Timing>);

/// The tables of a run.
pub(crate) struct Report {
    tables: Vec<Table>,
    legend: String,
}

impl Report {
    pub(crate) fn new(measured: &[Measured], best: Isa, machine: &Machine) -> Self {
        let mut tables: Vec<_> = Op::ALL.into_iter().map(|op| results::of_op(measured, op, best)).collect();
        tables.extend([results::of_types(measured, best), results::of_forms(measured)]);
        Self { tables, legend: legend(best, machine) }
    }

    pub(crate) fn text(&self) -> String {
        let tables: String = self.tables.iter().map(|table| format!("\n{}", table.text())).collect();
        format!("{tables}\n{}", self.legend)
    }

    pub(crate) fn markdown(&self) -> String {
        let tables: String = self.tables.iter().map(|table| table.markdown() + "\n").collect();
        tables + &self.legend
    }
}

fn legend(best: Isa, machine: &Machine) -> String {
    let threads = rayon::current_num_threads();
    format!(
        "{machine}
layer_norm with gamma and beta, rms_norm with gamma: f32 or the type that is named, out of place, by one thread unless it
  says otherwise. backward: all gradients, with the statistics that forward has kept and scratch memory of the caller.
Default tier: {best}. Shapes: rows x columns.
GB/s: x read and y written once, and of a sum its other addend and itself; backward, dy and x read and dx written once, and
  ds read. copies: time divided by that of a plain copy of x to y, in the type of x; backward takes 1.5 at least.
of f32: time divided by that of {best} on as many elements of f32.
Other tiers and baselines: their time divided by that of {best}. naive: scalar loops, one for each sum and one for y
  (backward: for the sums, for dx, for dgamma and dbeta), with conversions of 16 bits as the half crate has them. welford:
  the textbook. two_pass: auto-vectorized for the build's baseline. two_pass_simd: the same for {best}. simd_welford: one
  Welford per lane, for {best}.
{threads} thr: all threads of the pool, called from inside it; below its threshold a plan uses one. gain: over one thread.
  copy gain: of a copy by {threads} threads.
form: sum: x is the sum of two tensors and is written too, twice the bytes of the copy. mixed: gamma and beta in f32. qk: in
  place on every third row of a packed tensor. adaptive: 1 + gamma and beta of their own for each of eight groups of rows.
  in_place backward: dx over dy. recomputed: statistics taken again. dx_only, params_only: one part of the gradients. ds: the
  gradient of a sum, added to dx. allocating: scratch memory allocated by the call.
of default: time divided by that of the default plan with as many threads.
Times are lower quartiles of blocks of a millisecond or one call, interleaved with those of the copy, and medians over
  {PLACES} placements of the buffers.
"
    )
}
