//! The copy that everything is measured against.

/// A copy by `tasks` threads of the current rayon pool.
pub fn copy_threads<T: Copy + Send + Sync>(x: &[T], y: &mut [T], tasks: usize) {
    if tasks <= 1 {
        return y.copy_from_slice(x);
    }
    let left = tasks / 2;
    let at = x.len() / tasks * left;
    let ((x_a, x_b), (y_a, y_b)) = (x.split_at(at), y.split_at_mut(at));
    rayon::join(|| copy_threads(x_a, y_a, left), || copy_threads(x_b, y_b, tasks - left));
}
