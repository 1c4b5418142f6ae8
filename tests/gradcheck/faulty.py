"""Models with a right gradient or with one chosen fault."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def passing_back(change):
    """The identity, whose backward pass applies `change` to the gradient."""

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return change(g)

    return Identity.apply


class Product(torch.autograd.Function):
    """h Wᵀ with a gradient for W that is wrong in chosen ways."""

    @staticmethod
    def forward(ctx, h, W, fault):
        ctx.save_for_backward(h, W)
        ctx.fault = fault
        return h @ W.T * (1.01 if fault == "forward in float32" and h.dtype == torch.float32 else 1.0)

    @staticmethod
    def backward(ctx, g):
        h, W = ctx.saved_tensors
        dW = g.T @ h
        if ctx.fault == "scaled":
            dW = dW * 1.01
        elif ctx.fault == "transposed":
            dW = dW.T
        elif ctx.fault == "one entry":
            dW[5, 2] += 0.5
        elif ctx.fault == "in float32" and h.dtype == torch.float32:
            dW = dW * 1.01
        elif ctx.fault == "nan":
            dW[1, 3] = math.nan
        return g @ W, dW, None


class Cell(nn.Module):
    """A recurrent cell written by hand, as users write them, with one fault or none."""

    def __init__(self, hidden_size=8, fault="", f=torch.tanh):
        super().__init__()
        self.inner = nn.Linear(3, hidden_size)
        self.weight_hh = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.fault, self.f = fault, f

    def forward(self, x):
        h, output = x.new_zeros(x.shape[1], len(self.weight_hh)), []
        for t, x_t in enumerate(x):
            if self.fault == "detach" and t == 3:
                h = h.detach()
            h = self.f(self.inner(x_t) + Product.apply(h, self.weight_hh, self.fault))
            output.append(h)
        return torch.stack(output)


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.linear, self.what = nn.Linear(3, 2), what

    def forward(self, x) -> Tensor:
        return self.what(self.linear, x)


def x(*shape):
    return torch.randn(*(shape or (6, 2, 3)))
