//! Calls on one tensor from several threads: nobody waits for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use candle_core::{DType, Result, Tensor, Var};
use lanenorm_candle::ops;

use crate::child::in_child;
use crate::support::{assert_same, normal};

const EPS: f64 = 1e-5;

/// Two threads, also on a machine with one processor.
const POOL: [(&str, &str); 1] = [("RAYON_NUM_THREADS", "2")];

/// Normally distributed numbers; every 64 rows repeat.
fn rows(rows: usize, cols: usize) -> Result<Tensor> {
    normal(1, &[64, cols], 0.5)?.to_dtype(DType::F32)?.repeat((rows / 64, 1))
}

#[test]
fn of_a_tensor_are_free_while_jobs_of_a_pool_overwrite_its_parts() -> Result<()> {
    in_child("locks::of_a_tensor_are_free_while_jobs_of_a_pool_overwrite_its_parts", &POOL, || {
        // Parts that are worth cutting in two.
        let t = rows(64 * 128, 1024)?;
        let before = t.copy()?;
        let (done, results) = mpsc::channel();
        for i in 0..64 {
            let (part, done) = (t.narrow(0, 128 * i, 128)?, done.clone());
            rayon::spawn(move || {
                let run = || {
                    ops::rms_norm_in_place(&part, None, EPS)?;
                    ops::layer_norm(&part, None, None, EPS)
                };
                done.send(run()).expect("a receiver");
            });
        }
        drop(done);
        let rms = ops::rms_norm(&before.narrow(0, 0, 128)?, None, EPS)?;
        let expected = ops::layer_norm(&rms, None, None, EPS)?;
        let mut jobs = 0;
        for result in results {
            assert_same(&result?, &expected);
            jobs += 1;
        }
        assert_eq!(jobs, 64);
        assert_same(&t, &rms.repeat((64, 1))?);
        Ok(())
    })
}

/// Runs `read` again and again while another thread overwrites the last row of the tensor, and returns its last result.
fn beside_a_writer<R>(t: &Tensor, read: impl Fn() -> Result<R>) -> Result<R> {
    let done = AtomicBool::new(false);
    let written = t.detach().narrow(0, t.dim(0)? - 1, 1)?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut result = Ok(());
            while result.is_ok() && !done.load(Ordering::Acquire) {
                result = ops::rms_norm_in_place(&written, None, EPS);
            }
            result
        });
        let mut result = read();
        for _ in 1..1000 {
            result = result.and_then(|_| read());
        }
        done.store(true, Ordering::Release);
        writer.join().expect("no panic")?;
        result
    })
}

#[test]
fn of_two_parts_of_a_tensor_are_taken_beside_a_writer() -> Result<()> {
    in_child("locks::of_two_parts_of_a_tensor_are_taken_beside_a_writer", &POOL, || {
        for dtype in [DType::F32, DType::BF16] {
            let t = rows(64, 64)?.to_dtype(dtype)?;
            let part = |rows, from| t.narrow(0, 0, rows)?.narrow(1, from, 32);
            // Columns, which the kernel adds, and rows, which are added before it if they are f32.
            let pairs = [(part(8, 0)?, part(8, 32)?), (t.narrow(0, 0, 4)?, t.narrow(0, 4, 4)?)];
            for (x, residual) in pairs {
                let expected = ops::add_layer_norm(&x.copy()?, &residual.copy()?, None, None, EPS)?;
                let (s, y) = beside_a_writer(&t, || ops::add_layer_norm(&x, &residual, None, None, EPS))?;
                assert_same(&s, &expected.0);
                assert_same(&y, &expected.1);
            }
        }
        Ok(())
    })
}

#[test]
fn of_weights_in_the_same_buffer_are_taken_beside_a_writer() -> Result<()> {
    in_child("locks::of_weights_in_the_same_buffer_are_taken_beside_a_writer", &POOL, || {
        let t = Var::from_tensor(&rows(64, 32)?)?;
        let (x, gamma, beta) = (t.narrow(0, 0, 4)?, t.get(4)?, t.get(5)?);
        let run = |x: &Tensor, gamma: &Tensor, beta: &Tensor| {
            let y = ops::layer_norm(x, gamma, beta, EPS)?;
            let (s, z) = ops::add_layer_norm(x, x, gamma, beta, EPS)?;
            let sum = ((y.sqr()? + z)? * s)?;
            let grads = sum.sum_all()?.backward()?;
            Ok::<_, candle_core::Error>((sum, grads))
        };
        let copies = [&x, &gamma, &beta].map(|part| Var::from_tensor(&part.copy()?.detach()));
        let [x_copy, gamma_copy, beta_copy] = copies;
        let expected = run(x_copy?.as_tensor(), gamma_copy?.as_tensor(), beta_copy?.as_tensor())?.0;
        let (sum, grads) = beside_a_writer(&t, || run(&x, &gamma, &beta))?;
        assert!(grads.get(&t).is_some());
        assert_same(&sum, &expected);
        let x = x.copy()?.detach();
        beside_a_writer(&t, || ops::layer_norm_in_place(&x, &gamma.detach(), &beta.detach(), EPS))
    })
}

#[test]
fn of_a_tensor_are_free_while_a_plain_thread_has_jobs_of_a_pool_beside_it() -> Result<()> {
    in_child("locks::of_a_tensor_are_free_while_a_plain_thread_has_jobs_of_a_pool_beside_it", &POOL, || {
        // Enough for a call from outside to be helped, and a part that is worth cutting in two.
        let t = rows(256, 1024)?;
        let expected = ops::layer_norm(&t, None, None, EPS)?;
        let (first, last) = (t.narrow(0, 0, 64)?, t.narrow(0, 192, 64)?);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let spawner = scope.spawn(|| {
                // Each job is spawned when the job before it has begun, so that few jobs wait.
                while !done.load(Ordering::Acquire) {
                    let (part, (begun, begins)) = (last.clone(), mpsc::channel());
                    rayon::spawn(move || {
                        begun.send(()).expect("a receiver");
                        ops::layer_norm_in_place(&part, None, None, EPS).expect("a normalization");
                    });
                    begins.recv().expect("a job");
                }
            });
            let mut result = Ok(());
            for i in 0..60 {
                result = result.and_then(|()| match i % 3 {
                    0 => ops::layer_norm_in_place(&t, None, None, EPS),
                    1 => ops::add_layer_norm(&t, &t, None, None, EPS).map(|_| ()),
                    _ => ops::rms_norm(&t, None, EPS).map(|_| ()),
                });
            }
            done.store(true, Ordering::Release);
            spawner.join().expect("no panic");
            result
        })?;
        // Normalized again and again, rows stay where they are but for rounding and eps.
        assert!(crate::support::distance(&first, &expected.narrow(0, 0, 64)?)? < 1e-3);
        Ok(())
    })
}

#[test]
fn of_a_tensor_and_its_elements_survive_what_unwinds() -> Result<()> {
    // No thread with a stack of this size can be started.
    let variables = [("RUST_MIN_STACK", "4611686018427387904"), ("RAYON_NUM_THREADS", "2")];
    in_child("locks::of_a_tensor_and_its_elements_survive_what_unwinds", &variables, || {
        let x = rows(512, 768)?;
        let expected = ops::layer_norm(&x.narrow(0, 0, 64)?, None, None, EPS)?.repeat((8, 1))?;
        let run = || ops::layer_norm_in_place(&x, None, None, EPS);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert_eq!(x.to_vec2::<f32>()?.len(), 512);
        if let Ok(result) = result {
            result?;
            assert_same(&x, &expected);
        }
        Ok(())
    })
}
