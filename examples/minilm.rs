//! Normalizes every LayerNorm of a real sentence-embedding model on every tier of this machine, and prints for each
//! layer the worst error, whether the tiers agree in bits, and the throughput.
//!
//! ```sh
//! cargo run --release --example minilm
//! ```

#[path = "../tests/data/minilm.rs"]
mod minilm;

use std::hint::black_box;
use std::time::{Duration, Instant};

use lanenorm::kernels::Isa;
use lanenorm::{Error, LayerNorm, Parallelism};

/// The median of many short runs, in GB/s read and written.
fn throughput(bytes: usize, mut run: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    const CALLS: u32 = 100;
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(20) {
        let start = Instant::now();
        for _ in 0..CALLS {
            run()?;
        }
        times.push(start.elapsed() / CALLS);
    }
    times.sort();
    Ok(bytes as f64 / times[times.len() / 2].as_secs_f64() / 1e9)
}

fn main() -> Result<(), Error> {
    let model = minilm::load();
    let tiers: Vec<Isa> = Isa::available().collect();
    println!(
        "Worst error in units of u (|gamma| (1 + |xhat|) + |beta|), u = 2^-24; GB/s read and written by one thread.\n"
    );
    print!("{:24} {:>8} {:>7} {:>6}", "layer", "rows", "error", "bits");
    tiers.iter().for_each(|isa| print!(" {isa:>8}"));
    println!();
    let mut all_agree = true;
    for layer in &model.layers {
        let plan = LayerNorm::new(layer.cols(), model.eps)?.with_parallelism(Parallelism::Serial);
        let mut outputs = Vec::new();
        let mut speeds = Vec::new();
        for &isa in &tiers {
            let plan = plan.with_isa(isa);
            let mut y = vec![0.0; layer.x.len()];
            let bytes = 2 * size_of_val(layer.x.as_slice());
            speeds.push(throughput(bytes, || {
                plan.forward(black_box(&layer.x), Some(&layer.gamma), Some(&layer.beta), black_box(&mut y))
            })?);
            outputs.push(y);
        }
        let error = outputs.iter().map(|y| layer.worst_error(model.eps, y)).fold(0.0, f64::max);
        let agree = outputs.iter().all(|y| y.iter().zip(&outputs[0]).all(|(a, b)| a.to_bits() == b.to_bits()));
        all_agree &= agree;
        let shape = format!("{}x{}", layer.x.len() / layer.cols(), layer.cols());
        print!("{:24} {shape:>8} {error:7.2} {:>6}", layer.name, if agree { "equal" } else { "DIFFER" });
        speeds.iter().for_each(|speed| print!(" {speed:8.1}"));
        println!();
    }
    println!("\n{}", lanenorm::BUILD);
    assert!(all_agree, "tiers differ in bits");
    Ok(())
}
