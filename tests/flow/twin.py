"""The layers of these tests, unrolled step by step under autograd: the reference for the flow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def unrolled(
    module: nn.RNNBase, x: Tensor, *, lengths: list[int] | None = None, free_cell: bool = True
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Outputs `(T, B, ·)` of a layer, computed by loops over cells, and its states s_k by layer and step.

    A state is one tensor. Of an LSTM it is (h, c) concatenated, as independent coordinates, if ``free_cell``; otherwise
    the tensor c_k from which h_k was computed.
    """
    assert not module.batch_first
    steps, batch = x.shape[:2]
    states: dict[str, list[Tensor]] = {}
    for layer in range(module.num_layers):
        outputs = []
        for suffix in ["", "_reverse"] if module.bidirectional else [""]:
            name = f"l{layer}{suffix}"
            w = {p: getattr(module, f"{p}_{name}", None) for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            hr = getattr(module, f"weight_hr_{name}", None)
            h = x.new_zeros(batch, module.proj_size or module.hidden_size)
            c = x.new_zeros(batch, module.hidden_size)
            out: dict[int, Tensor] = {}
            seen: dict[int, Tensor] = {}
            for k in reversed(range(steps)) if suffix else range(steps):
                a = nn.functional.linear(x[k], w["weight_ih"], w["bias_ih"])
                b = nn.functional.linear(h, w["weight_hh"], w["bias_hh"])
                live = x.new_tensor([k < n for n in lengths]).bool().unsqueeze(1) if lengths else None
                if module.mode == "GRU":
                    (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
                    r, z = (ar + br).sigmoid(), (az + bz).sigmoid()
                    new = (1 - z) * (an + r * bn).tanh() + z * h
                elif module.mode == "LSTM":
                    i, f, g, o = (a + b).chunk(4, -1)
                    new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                    new = o.sigmoid() * new_c.tanh()
                    new = new if hr is None else new @ hr.T
                    c = new_c if live is None else torch.where(live, new_c, c)
                else:
                    new = (a + b).tanh() if module.mode == "RNN_TANH" else (a + b).relu()
                h = new if live is None else torch.where(live, new, h)
                if module.mode == "LSTM" and free_cell:
                    seen[k] = torch.cat([h, c], -1)
                    h, c = seen[k].tensor_split([h.shape[1]], -1)
                else:
                    seen[k] = c if module.mode == "LSTM" else h
                out[k] = h if live is None else h * live
            outputs.append(torch.stack([out[k] for k in range(steps)]))
            states[name] = [seen[k] for k in range(steps)]
        x = torch.cat(outputs, -1)
    return x, states


def norms(losses: Tensor, states: dict[str, list[Tensor]]) -> np.ndarray:
    """‖∂E_{t,b}/∂s_{k,b}‖ `(layers, targets, T, B)`, by one backward pass per target; ``losses`` is `(targets, B)`."""
    flat = [s for track in states.values() for s in track]
    rows = []
    for row in losses:
        gradients = torch.autograd.grad(row.sum(), flat, retain_graph=True, allow_unused=True)
        rows.append([row.new_zeros(row.shape) if g is None else g.norm(dim=-1) for g in gradients])
    table = torch.stack([torch.stack(row) for row in rows])  # (targets, layers·T, B)
    return table.unflatten(1, (len(states), -1)).transpose(0, 1).detach().numpy()


Loss = Callable[[Tensor], Tensor]
