//! Trains a layer-normalized character model on two poems for a few seconds, lets it recite, then trains it again on
//! one thread and on two: the losses have the same bits.
//!
//! ```sh
//! cargo run --release --example char_mlp
//! ```
//!
//! The model of Bengio et al., "A Neural Probabilistic Language Model" (JMLR 3, 2003), with characters for words and
//! normalized layers. It guesses a character from the 16 before it:
//!
//! ```text
//! x      = the 16 embeddings, end to end
//! x      = tanh(LN(x W; gamma, beta))        for each of two hidden layers; beta serves as the bias
//! loss   = cross-entropy of softmax(x V) and the character that comes
//! ```
//!
//! The poems are "Jabberwocky" and "The Walrus and the Carpenter" by Lewis Carroll (1832-1898), from "Through the
//! Looking-Glass" (1871), in the public domain. A model can learn nothing from 4 KB but the 4 KB; the point is the
//! training.
//!
//! Why the bits do not depend on threads: lanenorm promises it for dx, and for dgamma and dbeta, which are sums over
//! the rows of a batch. Here each element of a matrix product is one sum in a fixed order, threads take different rows
//! of the product, and nothing else that they share has sums. One thread does the rest.

use std::collections::BTreeSet;
use std::error::Error;
use std::num::NonZero;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use lanenorm::{LayerNorm, Parallelism};
use rand::distr::{Distribution, weighted::WeightedIndex};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

const TEXT: &str = include_str!("data/carroll.txt");
const CONTEXT: usize = 16;
const EMBEDDING: usize = 12;
/// The outputs of a hidden layer.
const WIDTH: usize = 128;
const BATCH: usize = 256;
const STEPS: usize = 400;
/// The rate of the first step; it falls to 0.
const LEARNING_RATE: f32 = 8e-3;
/// Below 1, likely characters are drawn even more often than the model says.
const TEMPERATURE: f32 = 0.5;

/// A parameter, the gradient of the loss, and the running means of the gradient and its square that Adam keeps.
struct Param {
    value: Vec<f32>,
    grad: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Param {
    fn new(value: Vec<f32>) -> Self {
        let zeros = vec![0.0; value.len()];
        Self { grad: zeros.clone(), mean: zeros.clone(), square: zeros, value }
    }

    /// A random matrix of [inputs, outputs] that on average keeps the size of what it is multiplied with.
    fn matrix(inputs: usize, outputs: usize, rng: &mut SmallRng) -> Self {
        let width = (12.0 / inputs as f32).sqrt();
        Self::new((0..inputs * outputs).map(|_| width * (rng.random::<f32>() - 0.5)).collect())
    }

    /// A step of Adam (Kingma and Ba, arXiv:1412.6980, 2014), the first being number 1.
    fn update(&mut self, step: usize, rate: f32) {
        const BETAS: [f32; 2] = [0.9, 0.99];
        let [mean_scale, square_scale] = BETAS.map(|beta| 1.0 / (1.0 - beta.powf(step as f32)));
        let running = self.mean.iter_mut().zip(&mut self.square);
        for ((value, &grad), (mean, square)) in self.value.iter_mut().zip(&self.grad).zip(running) {
            *mean += (1.0 - BETAS[0]) * (grad - *mean);
            *square += (1.0 - BETAS[1]) * (grad * grad - *square);
            *value -= rate * *mean * mean_scale / ((*square * square_scale).sqrt() + 1e-8);
        }
    }
}

/// The product of matrices of [rows, inner] and [inner, cols].
fn multiply(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
    let cols = b.len() / inner;
    let mut c = vec![0.0; a.len() / inner * cols];
    c.par_chunks_exact_mut(cols).zip(a.par_chunks_exact(inner)).for_each(|(c, a)| {
        for (&a, b) in a.iter().zip(b.chunks_exact(cols)) {
            // The loop goes over elements of c, so that it becomes SIMD without a change in the order of any sum.
            c.iter_mut().zip(b).for_each(|(c, &b)| *c += a * b);
        }
    });
    c
}

fn transpose(a: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).into_par_iter().flat_map_iter(|col| a.iter().skip(col).step_by(cols).copied()).collect()
}

/// A hidden layer, with what its backward pass needs from the forward pass.
struct Layer {
    inputs: usize,
    plan: LayerNorm,
    weights: Param,
    gamma: Param,
    beta: Param,
    x: Vec<f32>,
    z: Vec<f32>,
    y: Vec<f32>,
    /// The mean of each row of z, what rounding took from it, and rstd.
    stats: [Vec<f32>; 3],
}

impl Layer {
    fn new(inputs: usize, rng: &mut SmallRng) -> Result<Self, lanenorm::Error> {
        // A task for each thread: for a batch this small, `Auto` would not wake a second thread.
        let tasks = NonZero::new(rayon::current_num_threads()).map_or(Parallelism::Auto, Parallelism::Tasks);
        Ok(Self {
            inputs,
            plan: LayerNorm::new(WIDTH, 1e-5)?.with_parallelism(tasks),
            weights: Param::matrix(inputs, WIDTH, rng),
            gamma: Param::new(vec![1.0; WIDTH]),
            beta: Param::new(vec![0.0; WIDTH]),
            x: Vec::new(),
            z: Vec::new(),
            y: Vec::new(),
            stats: Default::default(),
        })
    }

    /// z = x W, y = tanh(LN(z)).
    fn forward(&mut self, x: Vec<f32>) -> Result<Vec<f32>, lanenorm::Error> {
        self.z = multiply(&x, &self.weights.value, self.inputs);
        self.x = x;
        self.y.resize(self.z.len(), 0.0);
        self.stats.iter_mut().for_each(|stat| stat.resize(self.z.len() / WIDTH, 0.0));
        let [mean, mean_lo, rstd] = &mut self.stats;
        let call = self.plan.call(&self.z).gamma(&self.gamma.value).beta(&self.beta.value);
        call.mean_to(mean).mean_lo_to(mean_lo).rstd_to(rstd).to(&mut self.y)?;
        self.y.par_iter_mut().with_min_len(WIDTH).for_each(|y| *y = y.tanh());
        Ok(self.y.clone())
    }

    /// Takes the gradient of y, keeps the gradients of the parameters, and returns the gradient of x.
    fn backward(&mut self, mut dy: Vec<f32>) -> Result<Vec<f32>, lanenorm::Error> {
        // tanh' = 1 - tanh^2.
        dy.iter_mut().zip(&self.y).for_each(|(dy, y)| *dy *= 1.0 - y * y);
        let [mean, mean_lo, rstd] = &self.stats;
        let call = self.plan.backward_in_place(&mut dy, &self.z).gamma(&self.gamma.value);
        let call = call.mean(mean).mean_lo(mean_lo).rstd(rstd);
        call.dgamma_to(&mut self.gamma.grad).dbeta_to(&mut self.beta.grad).run()?;
        let dz = dy; // written over it
        self.weights.grad = multiply(&transpose(&self.x, self.inputs), &dz, dz.len() / WIDTH);
        Ok(multiply(&dz, &transpose(&self.weights.value, WIDTH), WIDTH))
    }
}

/// The model. Each row of `embedding` belongs to a character; `output` is V.
struct Model {
    embedding: Param,
    layers: [Layer; 2],
    output: Param,
}

impl Model {
    fn new(characters: usize, rng: &mut SmallRng) -> Result<Self, lanenorm::Error> {
        Ok(Self {
            embedding: Param::matrix(characters, EMBEDDING, rng),
            layers: [Layer::new(CONTEXT * EMBEDDING, rng)?, Layer::new(WIDTH, rng)?],
            output: Param::matrix(WIDTH, characters, rng),
        })
    }

    fn params(&mut self) -> Vec<&mut Param> {
        let layers = self.layers.iter_mut().flat_map(|l| [&mut l.weights, &mut l.gamma, &mut l.beta]);
        layers.chain([&mut self.embedding, &mut self.output]).collect()
    }

    /// The logits of the next character, for each context of 16 characters.
    fn forward(&mut self, contexts: &[usize]) -> Result<Vec<f32>, lanenorm::Error> {
        let embedding = |&c: &usize| self.embedding.value[c * EMBEDDING..][..EMBEDDING].iter().copied();
        let x = contexts.iter().flat_map(embedding).collect();
        let x = self.layers.iter_mut().try_fold(x, |x, layer| layer.forward(x))?;
        Ok(multiply(&x, &self.output.value, WIDTH))
    }

    /// The mean loss over a batch. Keeps the gradients of all parameters.
    fn loss(&mut self, contexts: &[usize], next: &[usize]) -> Result<f64, lanenorm::Error> {
        let mut dlogits = self.forward(contexts)?;
        let characters = dlogits.len() / next.len();
        let mut loss = 0.0;
        for (row, &next_of_row) in dlogits.chunks_exact_mut(characters).zip(next) {
            softmax(row, 1.0);
            loss -= f64::from(row[next_of_row]).ln();
            // The gradient of the logits: each probability less the right one, 0 or 1.
            row[next_of_row] -= 1.0;
            row.iter_mut().for_each(|d| *d /= next.len() as f32);
        }
        self.output.grad = multiply(&transpose(&self.layers[1].y, WIDTH), &dlogits, next.len());
        let dx = multiply(&dlogits, &transpose(&self.output.value, characters), characters);
        let dx = self.layers.iter_mut().rev().try_fold(dx, |dx, layer| layer.backward(dx))?;
        self.embedding.grad.fill(0.0);
        for (&c, dx) in contexts.iter().zip(dx.chunks_exact(EMBEDDING)) {
            let grad = &mut self.embedding.grad[c * EMBEDDING..][..EMBEDDING];
            grad.iter_mut().zip(dx).for_each(|(grad, dx)| *grad += dx);
        }
        Ok(loss / next.len() as f64)
    }
}

fn softmax(row: &mut [f32], temperature: f32) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|v| *v = ((*v - max) / temperature).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

/// Contexts from anywhere in the text, end to end, and the character after each.
fn batch(text: &[usize], rng: &mut SmallRng) -> (Vec<usize>, Vec<usize>) {
    let at: Vec<usize> = (0..BATCH).map(|_| rng.random_range(CONTEXT..text.len())).collect();
    let contexts = at.iter().flat_map(|&at| &text[at - CONTEXT..at]).copied().collect();
    (contexts, at.iter().map(|&at| text[at]).collect())
}

/// Moves each parameter along its gradient, a little ahead and a little back: the slope of the loss must be the length
/// of the gradient. (Curvature and the rounding of f32 together make an error of 1e-4.)
fn check_gradients(model: &mut Model, contexts: &[usize], next: &[usize]) -> Result<(), lanenorm::Error> {
    const H: f64 = 1e-2;
    for i in 0..model.params().len() {
        model.loss(contexts, next)?;
        let (value, grad) = (model.params()[i].value.clone(), model.params()[i].grad.clone());
        let length = grad.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let mut moved = |h: f64| {
            let along = value.iter().zip(&grad).map(|(&v, &g)| (f64::from(v) + h * f64::from(g) / length) as f32);
            model.params()[i].value = along.collect();
            model.loss(contexts, next)
        };
        let slope = (moved(H)? - moved(-H)?) / (2.0 * H);
        assert!((slope / length - 1.0).abs() < 1e-3, "parameter {i}: a slope of {slope}, a gradient of {length}");
        model.params()[i].value = value;
    }
    Ok(())
}

/// Trains a model on the current pool, always from the same seed, and returns it with all losses.
fn train(text: &[usize], characters: usize, name: &str) -> Result<(Model, Vec<f64>), lanenorm::Error> {
    let rng = &mut SmallRng::seed_from_u64(1);
    let mut model = Model::new(characters, rng)?;
    // The bar hides itself where stderr is not a terminal.
    let style = ProgressStyle::with_template("{prefix:10} {bar:40} {pos}/{len}  loss {msg}").expect("a valid template");
    let bar = ProgressBar::new(STEPS as u64).with_style(style).with_prefix(name.to_owned());
    let mut losses = Vec::with_capacity(STEPS);
    for step in 0..STEPS {
        let (contexts, next) = batch(text, rng);
        let loss = model.loss(&contexts, &next)?;
        losses.push(loss);
        bar.set_message(format!("{loss:.3}"));
        let rate = LEARNING_RATE * (1.0 - step as f32 / STEPS as f32);
        model.params().into_iter().for_each(|param| param.update(step + 1, rate));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((model, losses))
}

fn main() -> Result<(), Box<dyn Error>> {
    let alphabet = Vec::from_iter(BTreeSet::from_iter(TEXT.chars()));
    let text: Vec<usize> = TEXT.chars().filter_map(|c| alphabet.binary_search(&c).ok()).collect();
    println!("{} characters, {} different ones; {}", text.len(), alphabet.len(), lanenorm::BUILD);
    let rng = &mut SmallRng::seed_from_u64(2);
    let (contexts, next) = batch(&text, rng);
    check_gradients(&mut Model::new(alphabet.len(), rng)?, &contexts, &next)?;
    println!("all gradients agree with finite differences\n");

    let start = Instant::now();
    let (mut model, losses) = train(&text, alphabet.len(), "training")?;
    println!("training on {} threads, {:.1} s:", rayon::current_num_threads(), start.elapsed().as_secs_f64());
    for (step, loss) in losses.iter().enumerate().filter(|(step, _)| step % 100 == 0 || step + 1 == STEPS) {
        println!("  step {step:3}  loss {loss:.3}");
    }
    assert!(losses[STEPS - 1] < 0.1 * losses[0], "nothing has been learnt");

    println!("\nIt recites, from the first {CONTEXT} characters on:\n");
    let mut recital = text[..CONTEXT].to_vec();
    while recital.len() < 400 {
        let mut odds = model.forward(&recital[recital.len() - CONTEXT..])?;
        softmax(&mut odds, TEMPERATURE);
        recital.push(WeightedIndex::new(odds)?.sample(rng));
    }
    println!("{}...\n", recital.iter().map(|&c| alphabet[c]).collect::<String>());

    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let (_, again) = pool.install(|| train(&text, alphabet.len(), &format!("threads: {threads}")))?;
        let same = losses.iter().map(|loss| loss.to_bits()).eq(again.iter().map(|loss| loss.to_bits()));
        assert!(same, "losses on {threads} threads differ in bits");
    }
    println!("trained again on 1 thread and on 2 threads: all {STEPS} losses have the same bits");
    Ok(())
}
