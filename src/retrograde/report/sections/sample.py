"""A sample of the text that a language model writes."""

from __future__ import annotations

from ..run import RunContents
from ..section import Section


def section(run: RunContents) -> Section | None:
    """The sample text of a language model."""
    if not run.task.writes_text and run.sample is None:
        return None
    title = "What the network writes"
    if run.sample is None:
        why = run.missing.get("sample.txt", "it is not there")
        return Section("sample", title, [f"This run has no sample text (sample.txt: {why})."])
    if not run.sample.strip():
        return Section("sample", title, ["The sample text is empty."])
    words = [
        "The network wrote this by itself, one token after another, each drawn at random from its own prediction and "
        "fed back in as the next input. Characters that could hide or reorder text are shown as signs such as ⟨U+0000⟩."
    ]
    return Section("sample", title, words, text=run.sample)
