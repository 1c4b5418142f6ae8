"""A torch.nn.LSTM classifier, measured unchanged: does its gradient reach the word that decides?

The class of a sequence is its first token; everything after is noise, and the sequences differ in length. The
model is ordinary PyTorch (packed input, the last state, a linear head) and knows nothing of retrograde.
"""

from __future__ import annotations

import rich
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence

import retrograde as rg

CLASSES, VOCABULARY, LONGEST = 4, 20, 40


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (h_n, _) = self.lstm(packed)
        return self.head(h_n[-1])


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.randint(CLASSES, VOCABULARY, (size, LONGEST), generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    tokens[:, 0] = labels
    lengths = torch.randint(LONGEST // 2, LONGEST + 1, (size,), generator=generator)
    return tokens, lengths, labels


def main(training_steps: int = 100) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Classifier()
    held_out = batch(16, generator)

    def measure(title: str) -> None:
        tokens, lengths, labels = held_out
        flow = rg.gradient_flow(
            model, tokens, lengths, loss=lambda logits: cross_entropy(logits, labels, reduction="none")
        )
        rich.print(f"\n[bold]{title}[/bold]", flow, sep="\n")
        length = flow.truncation().shortest(0.9)
        print(f"Finding: truncated BPTT must go back {length} steps to keep 90 % of the gradient.")

    measure("Untrained, PyTorch's own initialisation")

    # The remedy the measurement asks for: a forget gate that starts open (Jozefowicz et al., 2015).
    with torch.no_grad():
        model.lstm.bias_ih_l0[32:64] = 3.0
    measure("Untrained, forget bias 3")

    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(training_steps):
        tokens, lengths, labels = batch(32, generator)
        optimiser.zero_grad()
        cross_entropy(model(tokens, lengths), labels).backward()
        optimiser.step()
    tokens, lengths, labels = batch(200, generator)
    accuracy = (model(tokens, lengths).argmax(-1) == labels).float().mean()
    measure(f"Forget bias 3, after {training_steps} steps (accuracy {accuracy:.0%})")


if __name__ == "__main__":
    main()
