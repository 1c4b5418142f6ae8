"""Sequences per second of a text classifier: `retrograde train --task classify` beside the same model in torch.nn.

Both train an embedding, an LSTM of 128 and an output layer on texts whose lengths are those of film reviews. The plain
way takes shuffled batches, padded to their longest, through ``torch.nn.LSTM``, and reads the state at each last real
step. Ours takes batches of like length, packed, through ``rg.nn.LSTM``. They take turns in one process, step by step.

    python benchmarks/classify_text.py [--threads 2] [--steps 40]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import nn

from retrograde.data.shuffle import Shuffle
from retrograde.data.storage import Ragged
from retrograde.tasks.models import SequenceModel

VOCABULARY, SIZE, BATCH = 20_000, 128, 64


class Plain(nn.Module):
    """As a tutorial has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, SIZE)
        self.recurrent = nn.LSTM(SIZE, SIZE)
        self.output = nn.Linear(SIZE, 2)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.recurrent(self.embedding(tokens))
        return self.output(hidden[lengths - 1, torch.arange(len(lengths))])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    # IMDB's reviews: a median of some 200 words, a mean of 270, a long tail, here cut at 1000 as training does.
    lengths = np.clip(random.lognormal(5.3, 0.65, 25_000), 10, 1000).astype(np.int64)
    texts = Ragged.of((random.integers(1, VOCABULARY, n) for n in lengths), np.int32)
    labels = torch.from_numpy(random.integers(0, 2, len(texts)))
    plain = Plain()
    ours = SequenceModel(VOCABULARY, 2, SIZE, embedding_size=SIZE)
    bucketed = Shuffle(lengths, BATCH, seed=0)
    order = random.permutation(len(texts))

    def chosen(model: nn.Module, step: int) -> np.ndarray:
        return bucketed(step) if model is ours else order[step * BATCH : (step + 1) * BATCH]

    times: dict[nn.Module, list[float]] = {plain: [], ours: []}
    optimizers = {model: torch.optim.Adam(model.parameters(), 1e-3, fused=True) for model in times}
    for step in range(asked.steps + 2):
        for model in times:
            began = time.perf_counter()
            batch = chosen(model, step)
            tokens = torch.from_numpy(texts.padded(batch)).long()
            loss = nn.functional.cross_entropy(model(tokens, torch.from_numpy(lengths[batch])), labels[batch])
            loss.backward()
            optimizers[model].step()
            optimizers[model].zero_grad()
            if step >= 2:  # the first ones warm up
                times[model].append(time.perf_counter() - began)
    # Bucketed steps differ in length by design: the mean tells the rate, its halves how sure it is.
    for name, model in (("torch.nn, padded", plain), ("retrograde", ours)):
        halves = [BATCH / statistics.fmean(times[model][part::2]) for part in (0, 1)]
        rate = BATCH / statistics.fmean(times[model])
        print(f"{name:<18} {rate:7.1f} sequences/s   (halves {halves[0]:.1f}, {halves[1]:.1f})")
    print(f"ratio {statistics.fmean(times[plain]) / statistics.fmean(times[ours]):.2f}, {asked.threads} threads")


if __name__ == "__main__":
    main()
