//! Gradients that have gradients themselves, for second derivatives.
//!
//! They consist of operations of candle, whose gradients candle knows. They are slower than the kernel, and computed in
//! f64 so that they are as accurate. With g = dy * gamma and n = (x - mean) * rstd, or n = x * rstd without a mean,
//!
//! ```text
//! dx = rstd * (g - mean(g) - n * mean(g * n))     without a mean: rstd * (g - n * mean(g * n))
//! dgamma = sum over rows of dy * n
//! dbeta = sum over rows of dy
//! ```

use candle_core::{D, DType, Result, Tensor};

use crate::norm::{Affine, Norm};

thread_local! {
    /// Whether candle keeps the graph of gradients. It is read once for each thread, as candle itself does it.
    static KEPT: bool = std::env::var("CANDLE_GRAD_DO_NOT_DETACH").is_ok_and(|kept| !kept.is_empty() && kept != "0");
}

/// Whether somebody may take gradients of the results of this backward pass.
///
/// That may be so even if dy itself is constant: dx depends on x.
pub(crate) fn is_asked_for(dy: &Tensor) -> bool {
    dy.track_op() || KEPT.with(|&kept| kept)
}

/// The gradients of x, gamma and beta, as far as they are tracked. x must have elements.
pub(crate) fn backward(
    norm: &Norm,
    x: &Tensor,
    Affine { gamma, beta }: Affine<'_>,
    dy: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let (x_type, cols) = (x.dtype(), x.dim(D::Minus1)?);
    let mean = |of: &Tensor| of.mean_keepdim(D::Minus1);
    let (x, dy) = (x.to_dtype(DType::F64)?, dy.to_dtype(DType::F64)?);
    let centered = if norm.is_centered() { x.broadcast_sub(&mean(&x)?)? } else { x.clone() };
    let rstd = (mean(&centered.sqr()?)? + norm.eps())?.sqrt()?.recip()?;
    let n = centered.broadcast_mul(&rstd)?;

    let dx = || {
        let g = match gamma {
            Some(gamma) => dy.broadcast_mul(&(gamma.to_dtype(DType::F64)? + norm.offset())?)?,
            None => dy.clone(),
        };
        let along_n = n.broadcast_mul(&mean(&(&g * &n)?)?)?;
        let rest = if norm.is_centered() { g.broadcast_sub(&mean(&g)?)? } else { g };
        (rest - along_n)?.broadcast_mul(&rstd)?.to_dtype(x_type)
    };
    let over_rows = |of: &Tensor, param: &Tensor| of.reshape(((), cols))?.sum(0)?.to_dtype(param.dtype());

    let tracked = |tensor: &&Tensor| tensor.track_op();
    Ok([
        x.track_op().then(dx).transpose()?,
        gamma.filter(tracked).map(|gamma| over_rows(&(&dy * &n)?, gamma)).transpose()?,
        beta.filter(tracked).map(|beta| over_rows(&dy, beta)).transpose()?,
    ])
}
