"""Generating text with a language model: one token after the other, drawn from its predictions.

Tests: `tests/tasks/test_language.py`.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..data.vocabulary import Vocabulary
from ..errors import DivergedError, OptionError
from .task import State


@torch.no_grad()
def generate(
    model: nn.Module,
    vocabulary: Vocabulary,
    prompt: str = "",
    length: int = 300,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Continue a prompt, piece by piece.

    prompt: read first, not repeated. Without one the model starts as after a line end.
    length: number of characters to generate, whatever the tokens are.
    temperature: divides the logits; 0 takes the most probable token each time.
    top_k: draw only from the k most probable tokens.
    top_p: draw only from the fewest tokens whose probability adds up to p (Holtzman et al. 2020).
    seed: the same seed draws the same text; torch's global random state is left alone.
    Yields text as soon as it is whole (a character of several bytes may take several tokens). The unknown token is
        never drawn.
    """
    _check_sampling(length, temperature, top_k, top_p)
    device = next(model.parameters()).device
    generator = torch.Generator()
    if seed is not None:
        generator.manual_seed(seed)
    else:
        generator.seed()
    start = vocabulary.encode(prompt.encode("utf-8", "replace").decode() or "\n")
    tokens = torch.from_numpy(start).long()[:, None].to(device)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    model.eval()
    state: State = None
    written = 0
    while written < length:
        logits, state = model(tokens, state)
        scores = logits[-1, 0].double().cpu()
        if not bool(scores.isfinite().all()):
            raise DivergedError("the model's output is not finite: its weights are from a training that diverged.")
        if vocabulary.unknown is not None:
            scores[vocabulary.unknown] = -math.inf
        token = _draw(scores, temperature, top_k, top_p, generator)
        tokens = torch.tensor([[token]], device=device)
        if piece := decoder.decode(vocabulary.bytes_of(token)):
            piece = piece[: length - written]
            written += len(piece)
            yield piece


def _check_sampling(length: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    if length < 0:
        raise OptionError(f"--length {length} is negative.")
    if not 0 <= temperature < math.inf:
        raise OptionError(f"--temperature {temperature} must be 0 (the most probable token each time) or more.")
    if top_k is not None and top_k < 1:
        raise OptionError(f"--top-k {top_k} must be 1 or more.")
    if top_p is not None and not 0 < top_p <= 1:
        raise OptionError(f"--top-p {top_p} must be above 0 and at most 1.")


def _draw(
    scores: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    if temperature == 0:
        return int(scores.argmax())
    scores, order = (scores / temperature).sort(descending=True, stable=True)
    probabilities = scores[:top_k].softmax(0)
    if top_p is not None:
        # Keep a token if those before it do not yet reach p: the first always stays.
        probabilities[probabilities.cumsum(0) - probabilities >= top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
