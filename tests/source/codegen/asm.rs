//! Assembly as the compiler writes it, cut into functions and innermost loops.

use std::collections::{BTreeSet, HashMap};

/// A function: its instructions, and where its labels point.
pub(crate) struct Function<'a> {
    pub(crate) symbol: &'a str,
    instructions: Vec<&'a str>,
    labels: HashMap<&'a str, usize>,
}

/// An innermost loop, as counts of its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loop {
    pub(crate) instructions: usize,
    /// Arithmetic on whole registers of the tier.
    pub(crate) packed: usize,
    /// Instructions that touch the stack.
    pub(crate) stack: usize,
    pub(crate) calls: usize,
}

/// All functions of a file.
pub(crate) fn functions(text: &str) -> Vec<Function<'_>> {
    let symbols = typed(text, "function");
    let mut functions: Vec<Function<'_>> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or(line).split("//").next().unwrap_or(line);
        let label = line.strip_suffix(':').filter(|label| !label.contains(char::is_whitespace));
        match label {
            Some(symbol) if symbols.contains(symbol) => {
                functions.push(Function { symbol, instructions: Vec::new(), labels: HashMap::new() });
                inside = true;
                continue;
            }
            Some(label) if label.starts_with(".Lfunc_end") => inside = false,
            _ => {}
        }
        let Some(function) = functions.last_mut().filter(|_| inside) else { continue };
        match label {
            Some(label) => {
                function.labels.insert(label, function.instructions.len());
            }
            None if line.trim().is_empty() || line.trim().starts_with(['.', '#']) => {}
            None => function.instructions.push(line.trim()),
        }
    }
    functions
}

fn mnemonic(instruction: &str) -> &str {
    instruction.split_whitespace().next().unwrap_or(instruction)
}

fn is_jump(instruction: &str) -> bool {
    let name = mnemonic(instruction);
    name.starts_with('j') || ["b", "cbz", "cbnz", "tbz", "tbnz"].contains(&name) || name.starts_with("b.")
}

fn is_call(instruction: &str) -> bool {
    ["call", "callq", "bl", "blr"].contains(&mnemonic(instruction))
}

/// Whether an instruction does floating-point arithmetic in all lanes of a register. The names of such registers
/// contain one of `registers`.
fn is_packed(instruction: &str, registers: &[&str]) -> bool {
    const OPERATIONS: [&str; 11] =
        ["fmadd", "fmsub", "fnmadd", "fnmsub", "add", "sub", "mul", "div", "sqrt", "mla", "mls"];
    let name = mnemonic(instruction);
    let operation = match name.strip_suffix("ps").or(name.strip_suffix("pd")) {
        Some(name) => name.strip_prefix('v'),
        None => name.strip_prefix('f'),
    };
    let is_arithmetic = operation.is_some_and(|name| OPERATIONS.iter().any(|operation| name.starts_with(operation)));
    is_arithmetic && registers.iter().any(|register| instruction.contains(register))
}

impl<'a> Function<'a> {
    fn target(&self, instruction: &str) -> Option<usize> {
        let operand = instruction.rsplit([' ', '\t', ',']).next()?;
        is_jump(instruction).then(|| self.labels.get(operand).copied())?
    }

    /// The loops that contain no other loop: from the target of a backward jump to the jump.
    pub(crate) fn innermost_loops(&self, registers: &[&str]) -> Vec<Loop> {
        let back = self.instructions.iter().enumerate().filter_map(|(at, i)| Some((self.target(i)?, at)));
        let loops: BTreeSet<(usize, usize)> = back.filter(|&(from, to)| from <= to).collect();
        let contains = |a: (usize, usize), b: (usize, usize)| a != b && a.0 <= b.0 && b.1 <= a.1;
        let innermost = loops.iter().filter(|&&a| !loops.iter().any(|&b| contains(a, b)));
        innermost.map(|&(from, to)| self.count(&self.instructions[from..=to], registers)).collect()
    }

    fn count(&self, instructions: &[&str], registers: &[&str]) -> Loop {
        let has_frame = self.instructions.iter().any(|i| i.ends_with("%rsp, %rbp"));
        let touches_stack = |i: &&&str| i.contains("(%rsp") || i.contains("[sp") || has_frame && i.contains("(%rbp");
        Loop {
            instructions: instructions.len(),
            packed: instructions.iter().filter(|i| is_packed(i, registers)).count(),
            stack: instructions.iter().filter(touches_stack).count(),
            calls: instructions.iter().filter(|i| is_call(i)).count(),
        }
    }

    /// The most bytes of stack that the function takes, with its return address. For x86-64 alone.
    pub(crate) fn frame(&self) -> usize {
        let taken = |instruction: &str| {
            let operand = instruction.split_whitespace().nth(1).unwrap_or_default();
            let number = || operand.trim_start_matches(['$', '-']).trim_end_matches(',').parse::<usize>().unwrap_or(0);
            match mnemonic(instruction) {
                "pushq" => 8,
                "subq" if instruction.ends_with(", %rsp") && operand.starts_with('$') => number(),
                // The shorter encoding of the subtraction of 128.
                "addq" if instruction.ends_with(", %rsp") && operand.starts_with("$-") => number(),
                // Alignment moves the stack pointer down by less than the alignment.
                "andq" if instruction.ends_with(", %rsp") => number().saturating_sub(8),
                _ => 0,
            }
        };
        8 + self.instructions.iter().map(|instruction| taken(instruction)).sum::<usize>()
    }

    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.instructions.iter().any(|i| i.contains(text))
    }

    /// The symbols that the function calls, or whose addresses it takes.
    pub(crate) fn references(&self) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        for &instruction in &self.instructions {
            let leaves = ["call", "callq", "bl", "jmp", "b"].contains(&mnemonic(instruction));
            for operand in instruction.split([' ', '\t', ',', '(', ')', '[', ']', '*']).skip(1) {
                let symbol = operand.split('@').next().unwrap_or(operand);
                let symbol = symbol.rsplit(':').next().unwrap_or(symbol);
                let is_name = symbol.starts_with(|c: char| c.is_alphabetic() || c == '_');
                let is_far = operand.contains("@GOT") || operand.contains("@PLT") || operand.contains(":got");
                if is_name && (leaves || is_far || symbol.starts_with("_R")) {
                    found.insert(symbol);
                }
            }
        }
        found
    }
}

/// The symbols of data.
pub(crate) fn objects(text: &str) -> BTreeSet<&str> {
    typed(text, "object")
}

fn typed<'a>(text: &'a str, kind: &str) -> BTreeSet<&'a str> {
    let types = text.lines().filter_map(|line| line.trim().strip_prefix(".type"));
    types.filter(|rest| rest.ends_with(kind)).filter_map(|rest| rest.trim().split(',').next()).collect()
}
