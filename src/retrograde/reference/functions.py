"""The nonlinear functions of the models and their cross-entropy, each followed by its derivative."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .arrays import Array

__all__ = [
    "activation",
    "activation_gradient",
    "cross_entropy",
    "cross_entropy_gradient",
    "sigmoid",
    "softmax",
]

Nonlinearity = Literal["tanh", "relu"]


def activation(nonlinearity: Nonlinearity, z: Array) -> Array:
    """f(z), entry by entry."""
    if nonlinearity == "tanh":
        return np.tanh(z)  # f(z) = tanh z
    return np.maximum(z, 0.0)  # f(z) = max(z, 0)


def activation_gradient(nonlinearity: Nonlinearity, s: Array) -> Array:
    """f′(z), computed from s = f(z): for tanh and ReLU the value determines the slope."""
    if nonlinearity == "tanh":
        return 1.0 - s**2  # f′(z) = 1 − tanh² z
    return np.where(np.isnan(s), s, s > 0.0)  # f′(z) = 1 where z > 0, else 0 (torch also takes 0 at the kink)


def sigmoid(z: Array) -> Array:
    """σ(z), the logistic function, without overflow for large ``|z|``; σ′ = σ(1 − σ)."""
    e = np.exp(-np.abs(z))  # the exponent is never positive
    return np.asarray(np.where(z >= 0.0, 1.0, e) / (1.0 + e))  # σ(z) = 1 / (1 + e^{−z}) = e^z / (1 + e^z)


def softmax(o: Array) -> Array:
    """ŷ = softmax(o) over the last axis."""
    e = np.exp(o - o.max(axis=-1, keepdims=True))  # subtracting the maximum prevents overflow and cancels out
    return np.asarray(e / e.sum(axis=-1, keepdims=True))  # ŷ_i = e^{o_i} / Σ_j e^{o_j}


def cross_entropy(o: Array, y: Array) -> Array:
    """E_t = −Σ_i y_i log softmax(o)_i over the last axis, from the logits o."""
    shifted = o - o.max(axis=-1, keepdims=True)
    log_y_hat = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))  # log ŷ_i = o_i − log Σ_j e^{o_j}
    return np.asarray(-(y * np.where(y == 0.0, 0.0, log_y_hat)).sum(axis=-1))  # E_t = −Σ_i y_i log ŷ_i


def cross_entropy_gradient(o: Array, y: Array) -> Array:
    """∂E_t/∂o_t: the product of the two factors ∂E_t/∂ŷ_t and ∂ŷ_t/∂o_t is a difference."""
    return softmax(o) - y  # ∂E_t/∂o_t = ŷ_t − y_t, because Σ_i y_i = 1
