//! What `cargo bench` measured, as a few sentences and as tables: of each operation in f32, of the other types, and of
//! what plans do beside the plain call.

use std::fmt::Write;

use lanenorm_kernels::table::Op;

use crate::machine::Machine;
use crate::measure::Pace;
use crate::record::{Kernel, Record};
use crate::table::{Table, three_digits};

/// The forms of calls that have a gate. Baselines have the same names.
const GATES: [&str; 2] = ["silu", "silu_before"];

/// The forms of calls that have scalar loops of their own, beside those that quantize or have a gate.
const LOOPS: [&str; 4] = ["l2", "channels_first", "activation", "channels_last"];

/// The operation that is LayerNorm of groups of channels.
const GROUP_NORM: &str = "group_norm";

/// The cell of a table where nothing was measured.
const NOTHING: &str = "-";

/// The names of tiers, narrowest first.
const TIERS: [&str; 4] = ["scalar", "neon", "avx2", "avx512"];

/// The baseline that is the fastest in most cases.
const USUAL: &str = "two_pass_simd";

/// The baselines that the sentences are about, and what they are.
const BASELINES: [(&str, &str); 3] = [
    ("naive", "scalar loops"),
    ("two_pass", "loops that the compiler vectorizes for any processor of the kind"),
    ("two_pass_simd", "the same loops compiled for this tier"),
];

/// The forms of calls that quantize. In two steps, and by baselines, they have the same names.
const SCHEMES: [&str; 2] = ["i8", "q8_0"];
const TWO_STEPS: &str = "_two_steps";

/// The forms of calls that do the work of two calls, which have the same names.
const PAIRS: [&str; 2] = ["q_and_k", "second_y"];
const TWO_CALLS: &str = "_two_calls";

/// All contenders of an operation and a type on one input.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a>(&'a [Kernel]);

impl<'a> Case<'a> {
    fn first(self) -> &'a Kernel {
        &self.0[0]
    }

    fn is(self, op: &str, dtype: &str) -> bool {
        (&*self.first().op, &*self.first().dtype) == (op, dtype)
    }

    /// Such as `layer_norm f32 512x768`.
    pub fn name(self) -> String {
        let Kernel { op, dtype, case, .. } = self.first();
        format!("{op} {dtype} {case}")
    }

    /// The plain call of a contender.
    pub fn find(self, contender: &str, threads: bool) -> Option<&'a Kernel> {
        self.find_form(contender, "default", threads)
    }

    fn find_form(self, contender: &str, form: &str, threads: bool) -> Option<&'a Kernel> {
        self.0.iter().find(|k| (&*k.contender, &*k.form, k.threads) == (contender, form, threads))
    }

    fn expect(self, contender: &str, threads: bool) -> &'a Kernel {
        self.find(contender, threads).unwrap_or_else(|| panic!("{} has no {contender}", self.name()))
    }

    /// How many times as long as the plain call of `ours` a contender takes.
    pub fn ratio(self, contender: &str, ours: &str) -> Option<f64> {
        Some(self.find(contender, false)?.copies / self.find(ours, false)?.copies)
    }

    /// The baseline that is the fastest, and how many times as long it takes.
    fn fastest_baseline(self, ours: &str) -> Option<(&'a str, f64)> {
        let baselines = self.0.iter().map(|k| &*k.contender).filter(|name| is_baseline(name));
        baselines.filter_map(|name| Some((name, self.ratio(name, ours)?))).min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

fn is_baseline(name: &str) -> bool {
    name != "copy" && !TIERS.contains(&name)
}

/// The geometric mean of positive numbers and their range; `None` if there are no numbers.
pub fn mean_and_range(values: impl IntoIterator<Item = f64>) -> Option<(f64, [f64; 2])> {
    let values: Vec<f64> = values.into_iter().collect();
    let mean = (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp();
    let least = values.iter().copied().reduce(f64::min)?;
    Some((mean, [least, values.iter().copied().fold(least, f64::max)]))
}

impl Record<Kernel> {
    /// The cases in their order.
    pub fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        let key = |k: &Kernel| (k.op.clone(), k.dtype.clone(), k.case.clone());
        self.results.chunk_by(move |a, b| key(a) == key(b)).map(Case)
    }

    /// The most important facts, a paragraph for each: how many times as fast as baselines, how near to a copy, and
    /// where a baseline is faster.
    pub fn sentences(&self) -> Vec<String> {
        let ours = &*self.machine.default_tier;
        let mut sentences = Vec::new();
        for (baseline, what) in BASELINES {
            let ratios = self.cases().filter_map(|case| case.ratio(baseline, ours));
            if let Some((mean, range)) = mean_and_range(ratios) {
                let [mean, least, most] = [mean, range[0], range[1]].map(three_digits);
                sentences.push(format!(
                    "{mean} times as fast as {baseline} ({what}) in the geometric mean, {least} to {most} times."
                ));
            }
        }
        for op in Op::ALL.map(Op::name).into_iter().chain([GROUP_NORM]) {
            let copies = self.cases().filter(|case| case.is(op, "f32")).filter_map(|case| case.ratio(ours, "copy"));
            if let Some((mean, range)) = mean_and_range(copies) {
                let [mean, least, most] = [mean, range[0], range[1]].map(three_digits);
                sentences.push(format!(
                    "{op} f32 takes {mean} times as long as a plain copy in the geometric mean, {least} to {most} \
                     times."
                ));
            }
        }
        let all = self.cases().count();
        let (mut slower, mut last, mut shapes) = (0, None, String::new());
        for case in self.cases() {
            let Some((name, ratio)) = case.fastest_baseline(ours).filter(|&(_, ratio)| ratio < 1.0) else { continue };
            let Kernel { op, dtype, case, .. } = case.first();
            // The operation and the type are named once.
            let of = if last == Some((op, dtype)) { String::new() } else { format!("{op} {dtype} ") };
            let separator = ["", ", ", "; "][usize::from(slower > 0) + usize::from(slower > 0 && !of.is_empty())];
            let name = if name == USUAL { String::new() } else { format!(" ({name})") };
            let _ = write!(shapes, "{separator}{of}{case} {}{name}", three_digits(ratio));
            (slower, last) = (slower + 1, Some((op, dtype)));
        }
        sentences.push(if slower == 0 {
            format!("Faster than every baseline in all of {all} cases.")
        } else {
            format!(
                "Slower than the fastest baseline ({USUAL} where no name is given) in {slower} of {all} cases, which takes \
                 this part of the time: {shapes}."
            )
        });
        sentences
    }

    /// The sentences as lines for a terminal.
    pub fn summary(&self) -> String {
        let mut out = format!("lanenorm on {}, one thread, all cases:\n", self.machine.default_tier);
        for sentence in self.sentences() {
            out += &wrapped(&sentence, "- ", "  ");
        }
        out
    }

    /// An operation in f32, on all inputs.
    pub fn table_of_op(&self, op: &str) -> Table {
        let (best, threads) = (&*self.machine.default_tier, self.machine.threads);
        let cases: Vec<_> = self.cases().filter(|case| case.is(op, "f32")).collect();
        let rivals = rivals(&cases, best);
        let mut head = common_head(op, best);
        head.extend(rivals.iter().map(|&name| name.into()));
        head.extend([format!("{threads} thr µs"), "gain".into(), "copy gain".into()]);
        let mut table = Table::new(head);
        for case in cases {
            let (ours, copy) = (case.expect(best, false), case.expect("copy", false));
            let (ours_threads, copy_threads) = (case.expect(best, true), case.expect("copy", true));
            let mut row = common_row(case.first().case.clone(), copy, ours);
            row.extend(rivals.iter().map(|name| digits(case.ratio(name, best))));
            row.push(micros(ours_threads));
            row.push(three_digits(ours.copies / ours_threads.copies));
            row.push(three_digits(copy.copies / copy_threads.copies));
            table.push(row);
        }
        table
    }

    /// All operations in types that are not f32, beside f32.
    pub fn table_of_types(&self) -> Table {
        let best = &*self.machine.default_tier;
        let others: Vec<_> = self.cases().filter(|case| case.first().dtype != "f32").collect();
        let rivals = rivals(&others, best);
        let mut head = common_head("other types", best);
        head.push("of f32".into());
        head.extend(rivals.iter().map(|&name| name.into()));
        let mut table = Table::new(head);
        for case in others {
            let Kernel { op, case: name, .. } = case.first();
            let ours = case.expect(best, false);
            let in_f32 = self.cases().find(|other| other.is(op, "f32") && other.first().case == *name);
            let of_f32 = in_f32.map(|case| ours.lower_quartile_ns / case.expect(best, false).lower_quartile_ns);
            let mut row = common_row(case.name(), case.expect("copy", false), ours);
            row.push(digits(of_f32));
            row.extend(rivals.iter().map(|name| digits(case.ratio(name, best))));
            table.push(row);
        }
        table
    }

    /// All forms of calls but the plain one, and those that have a table of their own.
    pub fn table_of_forms(&self) -> Table {
        let head = ["beside the plain call", "tier", "form", "µs", "GB/s", "copies", "of default"];
        let mut table = Table::new(head.map(String::from).into());
        for case in self.cases() {
            let has_table = |kernel: &Kernel| {
                scheme(kernel).is_some() || is_of(&GATES, kernel) || is_of(&LOOPS, kernel) || is_of(&PAIRS, kernel)
            };
            let is_other = |kernel: &&Kernel| kernel.form != "default" && !has_table(kernel);
            for kernel in case.0.iter().filter(is_other) {
                table.push(vec![
                    case.name(),
                    kernel.contender.clone(),
                    if kernel.threads { format!("{}+threads", kernel.form) } else { kernel.form.clone() },
                    micros(kernel),
                    gigabytes(kernel),
                    three_digits(kernel.copies),
                    three_digits(kernel.copies / case.expect(&kernel.contender, kernel.threads).copies),
                ]);
            }
        }
        table
    }

    /// The calls that quantize, beside the same in two steps. `None` if there are none.
    pub fn table_of_quantized(&self) -> Option<Table> {
        self.table_beside_rivals("quantized", "scheme", &SCHEMES, &[TWO_STEPS, ""])
    }

    /// The calls that have a gate. `None` if there are none.
    pub fn table_of_gated(&self) -> Option<Table> {
        self.table_beside_rivals("gated", "gate", &GATES, &[""])
    }

    /// The calls of other forms that have scalar loops of their own. `None` if there are none.
    pub fn table_of_loops(&self) -> Option<Table> {
        self.table_beside_rivals("beside loops", "form", &LOOPS, &[""])
    }

    /// The calls that do the work of two, beside these. `None` if there are none.
    pub fn table_of_pairs(&self) -> Option<Table> {
        self.table_beside_rivals("one call for two", "form", &PAIRS, &[TWO_CALLS])
    }

    /// `GroupNorm` in f32. `None` if it was not measured.
    fn table_of_group_norm(&self) -> Option<Table> {
        self.cases().any(|case| case.is(GROUP_NORM, "f32")).then(|| self.table_of_op(GROUP_NORM))
    }

    /// Calls of these forms beside rivals: scalar loops of the same name, or forms with these suffixes.
    fn table_beside_rivals(&self, name: &str, form: &str, forms: &[&str], suffixes: &[&str]) -> Option<Table> {
        let mut head = vec![name, "tier", form, "µs", "GB/s", "copies", "of default"];
        head.extend(suffixes.iter().map(|s| if s.is_empty() { "naive" } else { s.trim_start_matches('_') }));
        let mut table = Table::new(head.into_iter().map(String::from).collect());
        let mut is_empty = true;
        for case in self.cases() {
            let ours = case.0.iter().filter(|k| forms.contains(&&*k.form) && !is_baseline(&k.contender));
            for kernel in ours {
                let ratio = |rival: Option<&Kernel>| digits(rival.map(|rival| rival.copies / kernel.copies));
                let mut row = vec![
                    case.name(),
                    if kernel.threads { format!("{}+threads", kernel.contender) } else { kernel.contender.clone() },
                    kernel.form.clone(),
                    micros(kernel),
                    gigabytes(kernel),
                    three_digits(kernel.copies),
                    three_digits(kernel.copies / case.expect(&kernel.contender, kernel.threads).copies),
                ];
                row.extend(suffixes.iter().map(|&suffix| {
                    let rival = kernel.form.clone() + suffix;
                    // What is compared with one call for two has threads too.
                    let threads = suffix == TWO_CALLS && kernel.threads;
                    let contender = if suffix.is_empty() { "naive" } else { &kernel.contender };
                    ratio(case.find_form(contender, &rival, threads))
                }));
                table.push(row);
                is_empty = false;
            }
        }
        (!is_empty).then_some(table)
    }

    fn tables(&self) -> impl Iterator<Item = Table> {
        let of_ops = Op::ALL.into_iter().map(|op| self.table_of_op(op.name()));
        let of_ops = of_ops.chain(self.table_of_group_norm());
        let of_calls = [self.table_of_loops(), self.table_of_pairs(), self.table_of_gated(), self.table_of_quantized()];
        of_ops.chain([self.table_of_types(), self.table_of_forms()]).chain(of_calls.into_iter().flatten())
    }

    /// The sentences, the tables, and what their columns mean.
    pub fn text(&self) -> String {
        let tables: String = self.tables().map(|table| format!("\n{}", table.text())).collect();
        format!("{}{tables}\n{}", self.summary(), legend(&self.machine))
    }

    /// The tables as Markdown.
    pub fn markdown(&self) -> String {
        let tables: String = self.tables().map(|table| table.markdown() + "\n").collect();
        format!("{}\n{tables}{}", self.summary(), legend(&self.machine))
    }
}

/// Text in lines of at most 110 characters.
pub fn wrapped(text: &str, first: &str, indent: &str) -> String {
    let (mut out, mut line) = (String::new(), first.to_owned());
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > 110 {
            out += &line;
            out.push('\n');
            line = indent.to_owned();
            is_empty = true;
        }
        let _ = write!(line, "{}{word}", if is_empty { "" } else { " " });
        is_empty = false;
    }
    out + &line + "\n"
}

/// The names of the tiers that are not the default and of the baselines, each once.
fn rivals<'a>(cases: &[Case<'a>], best: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for name in cases.iter().flat_map(|case| case.0).filter(|k| k.form == "default").map(|k| &*k.contender) {
        if name != "copy" && name != best && !names.contains(&name) {
            names.push(name);
        }
    }
    // Tiers first; baselines stay in their order.
    names.sort_by_key(|name| TIERS.iter().position(|tier| tier == name).unwrap_or(TIERS.len()));
    names
}

fn common_head(first: &str, best: &str) -> Vec<String> {
    [first, "copy µs", &format!("{best} µs"), "GB/s", "copies"].map(String::from).into()
}

fn common_row(name: String, copy: &Kernel, ours: &Kernel) -> Vec<String> {
    vec![name, micros(copy), micros(ours), gigabytes(ours), three_digits(ours.copies)]
}

fn digits(v: Option<f64>) -> String {
    v.map_or_else(|| NOTHING.into(), three_digits)
}

fn micros(kernel: &Kernel) -> String {
    three_digits(kernel.lower_quartile_ns / 1e3)
}

fn gigabytes(kernel: &Kernel) -> String {
    let element = match &*kernel.dtype {
        "f64" => 8,
        "f32" => 4,
        _ => 2,
    };
    // A block of 32 has 34 bytes.
    match scheme(kernel) {
        Some("i8") => return per_nanosecond((element + 1) * kernel.elements, kernel),
        Some(_) => return per_nanosecond((element * 32 + 34) * kernel.elements / 32, kernel),
        None => {}
    }
    // The tensors that are read or written.
    let tensors = match &*kernel.form {
        "sum" | "unrounded_sums" | "ds" => 4,
        "silu" | "silu_before" | "second_y" => 3,
        // Two of 16 bits, and two of twice the size.
        "sum_f32" => 6,
        "params_only" => 2,
        _ if kernel.op.ends_with("backward") => 3,
        _ => 2,
    };
    per_nanosecond(tensors * element * kernel.elements, kernel)
}

fn per_nanosecond(bytes: usize, kernel: &Kernel) -> String {
    three_digits(bytes as f64 / kernel.lower_quartile_ns)
}

/// Whether a kernel has one of these forms, or is the same by two calls.
fn is_of(forms: &[&str], kernel: &Kernel) -> bool {
    forms.contains(&kernel.form.strip_suffix(TWO_CALLS).unwrap_or(&kernel.form))
}

/// The name of the scheme of a kernel that quantizes.
fn scheme(kernel: &Kernel) -> Option<&str> {
    let name = kernel.form.strip_suffix(TWO_STEPS).unwrap_or(&kernel.form);
    SCHEMES.contains(&name).then_some(name)
}

fn legend(machine: &Machine) -> String {
    let (best, threads) = (&machine.default_tier, machine.threads);
    let [places, of_large] = [Pace::default(), Pace::of_large()].map(|pace| pace.places);
    format!(
        "{machine}
layer_norm and group_norm with gamma and beta, rms_norm with gamma: f32 or the type that is named, out of place, by one
  thread unless it says otherwise. backward: all gradients, with the statistics that forward has kept and scratch memory
  of the caller.
Default tier: {best}. Shapes: rows x columns, or samples x channels x height x width: layer_norm with a row for each
  pixel, with channels last unless it says otherwise; group_norm with 32 groups, with channels first.
GB/s: x read and y written once, of a sum its other addend and itself, and of a gate z; backward, dy and x read and dx
  written once, and ds read. copies: time divided by that of a plain copy of x to y, in the type of x; backward takes
  1.5 at least.
of f32: time divided by that of {best} on as many elements of f32.
Other tiers and baselines: their time divided by that of {best}. naive: scalar loops, one for each sum and one for y
  (backward: for the sums, for dx, for dgamma and dbeta), with conversions of 16 bits as the half crate has them. welford:
  the textbook. two_pass: auto-vectorized for the build's baseline. two_pass_simd: the same for {best}. simd_welford: one
  Welford per lane, for {best}.
{threads} thr: all threads of the pool, called from inside it; below its threshold a plan uses one. gain: over one thread.
  copy gain: of a copy by {threads} threads.
form: sum: x is the sum of two tensors and is written too, twice the bytes of the copy. sum_f32: x of 16 bits is
  added to a residual of f32, which is written, three times the bytes. unrounded_sums: the sum of 16 bits is normalized
  before it is rounded. steps: the normalized element, its product with gamma, and y are rounded to 16 bits. mixed: gamma
  and beta in f32. qk: in place on every third row of a packed tensor. adaptive: 1 + gamma and beta of their own for each
  of eight groups of rows.
  in_place backward: dx over dy. recomputed: statistics taken again. dx_only, params_only: one part of the gradients. ds: the
  gradient of a sum, added to dx. allocating: scratch memory allocated by the call.
beside loops: l2: divided by the L2 norm. channels_first: on samples x channels x pixels. activation: silu of y.
  channels_last: on samples x pixels x channels. naive: loops of that form by one thread, their time divided by that of
  the call; those of channels_first are auto-vectorized for the build's baseline, as pixels lie side by side.
one call for two: q_and_k: in place on 24 heads of queries and 8 of keys in each token of a packed tensor, with a gamma
  for each of the two. second_y: two outputs, with gamma and beta for each, 1.5 times the bytes of the copy. two_calls:
  the time of two calls, divided by that of the one.
gated: 1.5 times the bytes of the copy. silu: y is multiplied by silu(z). silu_before: x is, before it is normalized.
  naive: the scalar loops of y, and a scalar loop that multiplies, by one thread, their time divided by that of the call.
quantized: y in 8 bits, GB/s: x read and these written. i8: with a scale for each row. q8_0: blocks of GGUF. two_steps: the
  plain call, and then loops over y that the compiler vectorizes for the default tier; naive: the scalar loops of y, and such
  loops that quantize it; both by one thread, their time divided by that of the call.
of default: time divided by that of the default plan with as many threads.
Times are lower quartiles of blocks of a millisecond or one call, interleaved with those of the copy, and medians over
  {places} placements of the buffers, or {of_large} of large ones.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(case: &str, contender: &str, copies: f64) -> Kernel {
        Kernel {
            op: "layer_norm".into(),
            dtype: "f32".into(),
            case: case.into(),
            cols: 8,
            elements: 8,
            contender: contender.into(),
            form: "default".into(),
            threads: false,
            lower_quartile_ns: 1e3 * copies,
            median_ns: 1e3 * copies,
            copies,
            blocks: 1,
        }
    }

    fn record() -> Record<Kernel> {
        let times = [("1x8", [1.0, 2.0, 4.0, 3.0]), ("8x8", [1.0, 2.0, 4.0, 1.0]), ("9x9", [1.0, 2.0, 0.5, 1.0])];
        let names = ["copy", "scalar", "naive", "two_pass_simd"];
        let of_case = |(case, times): (&'static str, [f64; 4])| {
            names.into_iter().zip(times).map(move |(name, copies)| kernel(case, name, copies))
        };
        let mut results: Vec<Kernel> = times.into_iter().flat_map(of_case).collect();
        for (at, case) in [(12, "9x9"), (8, "8x8"), (4, "1x8")] {
            for name in ["copy", "scalar"] {
                results.insert(at, Kernel { threads: true, ..kernel(case, name, 0.5) });
            }
        }
        let mut machine = Machine::this("a build", "scalar", "a command");
        machine.threads = 2;
        Record { machine, results }
    }

    #[test]
    fn a_reader_is_told_ratios_first() {
        let expected = [
            "1.00 times as fast as naive (scalar loops) in the geometric mean, 0.250 to 2.00 times.",
            "0.721 times as fast as two_pass_simd (the same loops compiled for this tier) in the geometric mean, 0.500 to \
             1.50 times.",
            "layer_norm f32 takes 2.00 times as long as a plain copy in the geometric mean, 2.00 to 2.00 times.",
            "Slower than the fastest baseline (two_pass_simd where no name is given) in 2 of 3 cases, which takes this \
             part of the time: layer_norm f32 8x8 0.500, 9x9 0.250 (naive).",
        ];
        assert_eq!(record().sentences(), expected);
    }

    #[test]
    fn tables_have_a_column_for_each_rival() {
        let table = record().table_of_op("layer_norm").markdown();
        let head = "| layer_norm | copy µs | scalar µs | GB/s | copies | naive | two_pass_simd | 2 thr µs | gain | copy gain |";
        let row = "| 1x8 | 1.00 | 2.00 | 0.032 | 2.00 | 2.00 | 1.50 | 0.500 | 4.00 | 2.00 |";
        let lines: Vec<_> = table.lines().collect();
        assert_eq!((lines[0], lines[2], lines.len()), (head, row, 5));
    }

    #[test]
    fn quantized_calls_have_a_table_of_their_own() {
        assert!(record().table_of_quantized().is_none());
        let mut record = record();
        for (contender, form, copies) in
            [("scalar", "i8", 2.5), ("scalar", "i8_two_steps", 5.0), ("naive", "i8", 6.0), ("scalar", "q8_0", 4.0)]
        {
            let quantized = Kernel { form: form.into(), ..kernel("1x8", contender, copies) };
            record.results.insert(4, quantized);
        }
        let table = record.table_of_quantized().expect("two calls").markdown();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(
            lines[2..],
            [
                "| layer_norm f32 1x8 | scalar | q8_0 | 4.00 | 0.010 | 4.00 | 2.00 | - | - |",
                "| layer_norm f32 1x8 | scalar | i8 | 2.50 | 0.016 | 2.50 | 1.25 | 2.00 | 2.40 |"
            ]
        );
        assert_eq!(record.table_of_forms().markdown().lines().count(), 2);
    }

    #[test]
    fn gated_calls_have_a_table_of_their_own() {
        assert!(record().table_of_gated().is_none());
        let mut record = record();
        for (contender, form, copies) in
            [("scalar", "silu_before", 4.0), ("scalar", "silu", 2.5), ("naive", "silu", 6.0)]
        {
            record.results.insert(4, Kernel { form: form.into(), ..kernel("1x8", contender, copies) });
        }
        let table = record.table_of_gated().expect("two calls").markdown();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(
            lines[2..],
            [
                "| layer_norm f32 1x8 | scalar | silu | 2.50 | 0.038 | 2.50 | 1.25 | 2.40 |",
                "| layer_norm f32 1x8 | scalar | silu_before | 4.00 | 0.024 | 4.00 | 2.00 | - |"
            ]
        );
        assert_eq!(record.table_of_forms().markdown().lines().count(), 2);
    }

    #[test]
    fn calls_beside_loops_have_a_table_of_their_own() {
        assert!(record().table_of_loops().is_none() && record().table_of_group_norm().is_none());
        let mut record = record();
        for (contender, copies) in [("scalar", 2.5), ("naive", 6.0)] {
            record.results.insert(4, Kernel { form: "channels_first".into(), ..kernel("1x8", contender, copies) });
        }
        let table = record.table_of_loops().expect("a call").markdown();
        let row = "| layer_norm f32 1x8 | scalar | channels_first | 2.50 | 0.026 | 2.50 | 1.25 | 2.40 |";
        assert_eq!(table.lines().skip(2).collect::<Vec<_>>(), [row]);
        assert_eq!(record.table_of_forms().markdown().lines().count(), 2);
    }

    #[test]
    fn calls_that_do_the_work_of_two_have_a_table_of_their_own() {
        assert!(record().table_of_pairs().is_none());
        let mut record = record();
        for (form, copies) in [("second_y_two_calls", 5.0), ("second_y", 2.5)] {
            record.results.insert(4, Kernel { form: form.into(), ..kernel("1x8", "scalar", copies) });
        }
        let table = record.table_of_pairs().expect("a call").markdown();
        let row = "| layer_norm f32 1x8 | scalar | second_y | 2.50 | 0.038 | 2.50 | 1.25 | 2.00 |";
        assert_eq!(table.lines().skip(2).collect::<Vec<_>>(), [row]);
        assert_eq!(record.table_of_forms().markdown().lines().count(), 2);
    }

    #[test]
    fn tables_are_those_of_the_records() {
        let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../record")).expect("records");
        let mut records = 0;
        for folder in folders.map(|folder| folder.expect("a folder").path()) {
            let read = |name: &str| std::fs::read_to_string(folder.join(name));
            let (Ok(json), Ok(markdown)) = (read("kernels.json"), read("kernels.md")) else { continue };
            let record: Record<Kernel> = serde_json::from_str(&json).expect("a record");
            for table in record.tables() {
                let table = table.markdown();
                assert!(markdown.contains(&table), "{} lacks\n{table}", folder.display());
            }
            records += 1;
        }
        assert!(records >= 3, "there are only {records} records");
    }

    #[test]
    fn lines_are_wrapped() {
        let text = "word ".repeat(50);
        let lines = wrapped(text.trim_end(), "- ", "  ");
        assert!(lines.lines().all(|line| line.len() <= 110 && (line.starts_with("- w") || line.starts_with("  w"))));
        assert_eq!(lines.split_whitespace().filter(|word| *word == "word").count(), 50);
    }
}
