"""Words for numbers, in messages."""

_PLURAL = {"is": "are", "was": "were", "has": "have", "it": "them", "it is": "they are"}


def counted(number: float, noun: str, verb: str = "") -> str:
    """A number of things, and after it a verb (``is``, ``was``, ``has``) that agrees.

    Examples
    --------
    >>> counted(1, "step"), counted(2000, "step"), counted(1, "series", "is"), counted(0, "empty cell", "was")
    ('1 step', '2,000 steps', '1 series is', '0 empty cells were')
    """
    return f"{number:,.0f} {agreed(number, noun)}{' ' * bool(verb)}{agreed(number, verb) if verb else ''}"


def agreed(number: float, word: str) -> str:
    """A noun or a verb in the singular or the plural, as a number of things has it."""
    return word if number == 1 else _PLURAL.get(word, word if word.endswith("s") else f"{word}s")
