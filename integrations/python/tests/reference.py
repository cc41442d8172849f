"""Normalization by its formula, in float64."""

import numpy as np


def wide(array):
    return np.asarray(array).astype(np.float64)


def moved(x, gamma, beta, axis):
    """x, and gamma and beta with the axes of x."""
    axes = (axis,) if isinstance(axis, int) else axis
    axes = sorted(a % x.ndim for a in axes)
    shape = [x.shape[a] if a in axes else 1 for a in range(x.ndim)]
    gamma, beta = (None if v is None else wide(v).reshape(shape) for v in (gamma, beta))
    return wide(x), 1.0 if gamma is None else gamma, 0.0 if beta is None else beta, tuple(axes)


def layer_norm(x, gamma=None, beta=None, eps=1e-5, axis=-1):
    x, gamma, beta, axes = moved(x, gamma, beta, axis)
    centered = x - x.mean(axes, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axes, keepdims=True) + eps) * gamma + beta


def rms_norm(x, gamma=None, eps=1e-6, axis=-1):
    x, gamma, _, axes = moved(x, gamma, None, axis)
    return x / np.sqrt((x**2).mean(axes, keepdims=True) + eps) * gamma


def gradients(dy, x, gamma=None, eps=1e-5, *, centered=True):
    """dx, dgamma and dbeta, where the last axis is normalized."""
    dy, x = wide(dy), wide(x)
    g = dy if gamma is None else dy * wide(gamma)
    mean = x.mean(-1, keepdims=True) if centered else 0.0
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    xhat = (x - mean) * rstd
    dx = g - xhat * (g * xhat).mean(-1, keepdims=True)
    if centered:
        dx = dx - g.mean(-1, keepdims=True)
    lead = tuple(range(x.ndim - 1))
    return dx * rstd, (dy * xhat).sum(lead), dy.sum(lead)


def silu(z):
    return z / (1 + np.exp(-z))
