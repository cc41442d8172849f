//! The caches of the first core, as Linux lists them; other systems have no such files.

use std::fs;

/// One entry for each cache, such as `L2 1024K`.
pub(crate) fn list() -> Vec<String> {
    let found: Vec<_> = (0..).map_while(cache).collect();
    if found.is_empty() { vec!["unknown".into()] } else { found }
}

fn cache(index: usize) -> Option<String> {
    let read = |what| fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}")).ok();
    let kind = match read("type")?.trim() {
        "Data" => "d",
        "Instruction" => "i",
        _ => "",
    };
    Some(format!("L{}{kind} {}", read("level")?.trim(), read("size")?.trim()))
}
