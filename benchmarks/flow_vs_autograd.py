"""All ‖∂E_t/∂s_k‖ by ``rg.gradient_flow`` beside the plain way: T backward passes over an unrolled cell.

The plain way is written as well as it can be: weights frozen so that no parameter gradient is computed, torch's own
cells, a loss of its own for every step (one tensor of losses would send each target back through all steps of the
head), one ``torch.autograd.grad`` a target over the states that it can reach, norms of all of them in one call.
Recurrent weights are orthogonal unless ``--init torch`` asks for torch's own: with those gradients vanish, and in some
ways of writing it most of the plain way's time is spent on subnormal numbers. The floor is the products alone at the
machine's multiply-add peak: for each pair (t, k) and sequence one row by ∂h_k/∂h_{k−1}, of an LSTM two (from h and c).

    python benchmarks/flow_vs_autograd.py [--batch 8 --steps 200 --hidden 128 --rounds 5 --threads 2 --init orthogonal]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.bench.machine import fma_peak


def unrolled(module: nn.RNNBase, x: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Outputs by step, and by step the state's tensors: h, of an LSTM h and c."""
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in module.all_weights[0])
    h = x.new_zeros(x.shape[1], module.hidden_size, requires_grad=True)
    c = x.new_zeros(x.shape[1], module.hidden_size)
    outputs, states = [], []
    for x_t in x:
        if module.mode == "GRU":
            h = torch.gru_cell(x_t, h, w_ih, w_hh, b_ih, b_hh)
            states.append([h])
        elif module.mode == "LSTM":
            h, c = torch.lstm_cell(x_t, (h, c), w_ih, w_hh, b_ih, b_hh)
            c = c.view_as(c)  # what goes on to the next step: h is held when it moves
            states.append([h, c])
        else:
            h = torch.rnn_tanh_cell(x_t, h, w_ih, w_hh, b_ih, b_hh)
            states.append([h])
        outputs.append(h)
    return outputs, states


def by_autograd(module: nn.RNNBase, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """T backward passes, `(T, T)`, mean over the batch."""
    outputs, states = unrolled(module, x)
    losses = [loss(output).sum() for output in outputs]
    norms = torch.zeros(len(x), len(x))
    parts = list(zip(*states, strict=True))  # all h, all c
    for t in range(len(x)):
        wanted = [state for part in parts for state in part[: t + 1]]
        # of c_t, which no later step reads, there is no gradient
        found = torch.autograd.grad(losses[t], wanted, retain_graph=True, materialize_grads=True)
        norms[t, : t + 1] = (
            torch.stack(found).view(len(parts), t + 1, *found[0].shape).square().sum((0, 3)).sqrt().mean(-1)
        )
    return norms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    threads = torch.get_num_threads()
    for name, default in (("batch", 8), ("steps", 200), ("hidden", 128), ("rounds", 5), ("threads", threads)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--init", choices=["orthogonal", "torch"], default="orthogonal")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peak = fma_peak(options.threads, seconds=0.2) or float("nan")
    print(
        f"B={options.batch} T={options.steps} H={options.hidden} float32, {options.threads} threads, all pairs (t, k), "
        f"{peak / 1e9:.0f} GFLOP/s at the peak"
    )
    for name in ("RNN", "GRU", "LSTM"):
        torch.manual_seed(0)
        module = getattr(nn, name)(options.hidden, options.hidden)
        if options.init == "orthogonal":
            for block in module.weight_hh_l0.detach().split(options.hidden):
                nn.init.orthogonal_(block)
        head = nn.Linear(options.hidden, 32)
        for p in (*module.parameters(), *head.parameters()):
            p.requires_grad_(False)
        x = torch.randn(options.steps, options.batch, options.hidden)

        def loss(output: Tensor, head: nn.Linear = head) -> Tensor:
            return torch.logsumexp(head(output), -1)

        def plain(module: nn.RNNBase = module, x: Tensor = x) -> Tensor:
            return by_autograd(module, x, loss)

        def ours(module: nn.RNNBase = module, x: Tensor = x) -> rg.GradientFlow:
            return rg.gradient_flow(module, x, loss=lambda output: loss(output[0]))

        expected, found = plain(), torch.from_numpy(ours().norms[0])
        # Norms under 1e-15 are left out: the plain way's squares underflow there.
        error = float(((found - expected).abs() / expected)[expected > 1e-15].max())
        seconds: dict[str, list[float]] = {"plain": [], "ours": []}
        ratios = []
        for _ in range(options.rounds):  # interleaved, so that a busy machine is busy for both
            for key, run in (("plain", plain), ("ours", ours)):
                start = time.perf_counter()
                run()
                seconds[key].append(time.perf_counter() - start)
            ratios.append(seconds["plain"][-1] / seconds["ours"][-1])
        pairs = options.steps * (options.steps + 1) // 2
        floor = 2.0 * pairs * options.batch * options.hidden**2 * (2 if name == "LSTM" else 1) / peak
        print(
            f"{name:5} autograd {statistics.median(seconds['plain']):7.3f} s   gradient_flow "
            f"{statistics.median(seconds['ours']):7.4f} s   x{statistics.median(ratios):5.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f})   floor {floor:.4f} s   largest relative difference {error:.1e}"
        )


if __name__ == "__main__":
    main()
