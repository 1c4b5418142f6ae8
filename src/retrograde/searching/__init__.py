"""Search for the options that train best: `space` says over what, `trial` is one training, `study` the whole."""

from __future__ import annotations

from ..runs import SearchedTrial
from .space import Choices, Range
from .study import Search, search

__all__ = ["Choices", "Range", "Search", "SearchedTrial", "search"]
