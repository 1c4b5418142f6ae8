"""What is tried of a wheel right after it was built (see tool.cibuildwheel in pyproject.toml)."""

import os

import torch

import retrograde as rg

assert rg.kernels.available() or "RETROGRADE_ENGINE" not in os.environ, "the wheel has no engine"
model, x = rg.nn.accelerate_(torch.nn.LSTM(3, 4)), torch.randn(12, 2, 3)
flow = rg.gradient_flow(model, x, loss=lambda output: output[0].pow(2).mean(-1))
assert rg.check_gradients(model, x).ok
print(rg.__version__, rg.kernels.info(), flow.horizon(0.01))
