"""Text from data, made safe to print: a terminal obeys control characters, and data must not give it orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["described", "printable", "scores"]

# Line end and tab stay; the others become their pictures (U+2400 …), those of the C1 block a replacement character.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def printable(text: str) -> str:
    r"""The text with its control characters neutralised.

    Examples
    --------
    >>> printable("a\tb\x1b[31m")
    'a\tb␛[31m'
    """
    return text.translate(_PICTURES)


def described(data: Mapping[str, Any]) -> str:
    """The ``data`` of a ``config.json`` in words."""
    if "characters" in data:
        return (
            f"{data['characters']:,} characters, {data['train_tokens']:,} + {data['validation_tokens']:,} tokens, "
            f"vocabulary {data['vocabulary_size']:,}"
        )
    if "plan" in data:
        plan = data["plan"]
        many = f"{data['series']:,} series" if data["series"] > 1 else "one series"
        return (
            f"{many}, {plan['channels']} channel{'s' * (plan['channels'] > 1)}; {plan['horizon']} steps from "
            f"{plan['context']}, {plan['strategy']}; {data['train_sequences']:,} windows to train with"
        )
    if "lags" in data:
        return f"chance {data['chance']['loss']:.4g}, optimum {data['optimum']['loss']:.4g}, lags {data['lags']}"
    parts = [f"{data[part + '_sequences']:,} to {word}" for part, word in _PARTS if data.get(part + "_sequences")]
    reads = f"vocabulary {data['vocabulary_size']:,}" if data.get("vocabulary_size") else f"{data['channels']} channels"
    return f"sequences: {', '.join(parts)}; {data['labels']} labels, {reads}, the longest {data['longest']:,} steps"


_PARTS = (("train", "train"), ("validation", "validate"), ("test", "test"))
_SCORES = {
    "loss": ("loss", "{:.4f}"),
    "perplexity": ("perplexity", "{:.4g}"),
    "bits_per_character": ("", "{:.3f} bits/character"),
    "accuracy": ("accuracy", "{:.2%}"),
    "macro_f1": ("macro F1", "{:.3f}"),
    "entity_f1": ("entity F1", "{:.3f}"),
    "mae": ("MAE", "{:.4g}"),
    "rmse": ("RMSE", "{:.4g}"),
    "mase": ("MASE", "{:.3f}"),
    "coverage": ("over", "{:.0%} of the numbers"),
    "correct": ("solved", "{:.1%} of the sequences"),
}


def scores(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The metrics that are there, each in words, the loss first.

    Examples
    --------
    >>> scores({"validation_accuracy": 0.8412, "validation_loss": 0.4}, "validation_")
    ['loss 0.4000', 'accuracy 84.12%']
    """
    found = []
    for key, (name, form) in _SCORES.items():
        value = values.get(prefix + key)
        if value is not None:
            found.append(f"{name} {form.format(value)}".strip())
    return found
