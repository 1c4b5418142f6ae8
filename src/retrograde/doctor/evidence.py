"""What matched runs prove: an exact sequential test that may be read, and stopped, after every seed.

For each seed a remedy wins or loses against a control (the same seed, trained otherwise). If it does not help, a win is
no more likely than a loss. A bet on wins multiplies its stake by ``q / (1/2)`` at a win and ``(1 - q) / (1/2)`` at a
loss; the e-value is the mean stake of many such bets. Where the remedy does not help, the e-value is ever ≥ 1/α with
probability at most α, however long one looks and whenever one stops (Ville's inequality). With m remedies the bar is
20·m, so that the probability of one false proof among all of them is at most 5 %.

No bet can more than double, so n seeds give at most 2ⁿ: three seeds give 8, and 20 is out of their reach, whatever the
losses are. Five wins out of five are the least that proves one remedy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

Verdict = Literal["helps", "does not help", "cannot tell"]

ALPHA = 0.05  # probability that any remedy of a trial is proven falsely
USEFUL = 0.8  # a remedy helps if it wins for at least this share of the seeds; below, "does not help" can be proven
LOOK_AHEAD = 200  # seeds


def bar(remedies: int) -> float:
    """The e-value that proves one of several remedies."""
    return max(1, remedies) / ALPHA


@lru_cache(maxsize=1 << 14)
def e_value(hits: float, misses: float, most: float = 0.5) -> float:
    """Evidence that hits are more likely than ``most``, from how many there were.

    The mean of ``(q / most)^hits · ((1 - q) / (1 - most))^misses`` over bets q: half the stake on q = 1, the other half
    spread evenly between ``most`` and 1.

    Examples
    --------
    >>> round(e_value(5, 0), 1), round(e_value(3, 0), 1), round(e_value(5, 1), 1)
    (21.2, 5.9, 1.4)
    """
    bets = most + (1 - most) * (np.arange(64) + 0.5) / 64
    logs = hits * np.log(bets / most) + misses * np.log((1 - bets) / (1 - most))
    spread = float(np.exp(np.minimum(logs, 700)).mean())
    everything = math.exp(min(700.0, -hits * math.log(most))) if not misses else 0.0
    return (everything + spread) / 2


def fewest_seeds(remedies: int) -> int:
    """The number of seeds below which no remedy can be proven, even if it wins for all of them.

    Examples
    --------
    >>> fewest_seeds(1), fewest_seeds(4), fewest_seeds(8)
    (5, 8, 9)
    """
    return next(n for n in range(1, LOOK_AHEAD) if e_value(n, 0) >= bar(remedies))


@dataclass(frozen=True)
class Evidence:
    """What is known about a remedy.

    Attributes
    ----------
    verdict : str
        ``"helps"``: better than every control; ``"does not help"``: it is excluded that it beats all of them in 4 seeds
        of 5; else ``"cannot tell"``.
    e_value : float
        For "helps": the smallest of those against each control.
    e_useless : float
        For "does not help": the mean of those against each control.
    bar : float
        What either has to reach.
    seeds : int
        Seeds that were counted: up to the one that decided.
    wins, losses : dict
        By control; a tie is neither.
    fewest_more : int
        The fewest further seeds after which it could be decided; 0 if it is.
    expected_more : int or None
        About how many, if wins and losses go on as so far; None: more than 200.
    """

    verdict: Verdict
    e_value: float
    e_useless: float
    bar: float
    seeds: int
    wins: Mapping[str, int]
    losses: Mapping[str, int]
    fewest_more: int
    expected_more: int | None


def judge(
    remedy: Sequence[float], controls: Mapping[str, Sequence[float]], threshold: float, *, ahead: bool = True
) -> Evidence:
    """Compare a remedy with its controls, seed after seed, until that decides.

    remedy: losses by seed, infinite (or NaN) where training diverged.
    controls: losses of the same seeds under each control.
    threshold: see `bar`.
    ahead: whether to count how many more seeds would decide.
    """
    wins, losses, seen = dict.fromkeys(controls, 0), dict.fromkeys(controls, 0), 0
    verdict, proof, useless = _decided(wins, losses, 0, threshold)
    for pair in zip(remedy, *controls.values(), strict=False):
        own, *others = [math.inf if math.isnan(value) else value for value in pair]
        for name, other in zip(controls, others, strict=True):
            wins[name] += own < other
            losses[name] += own > other
        seen += 1
        verdict, proof, useless = _decided(wins, losses, seen, threshold)
        if verdict != "cannot tell":
            break
    more = _more(wins, losses, seen, threshold) if ahead and verdict == "cannot tell" else (0, 0)
    return Evidence(verdict, proof, useless, threshold, seen, wins, losses, more[0], more[1])


def _decided(
    wins: Mapping[str, float], losses: Mapping[str, float], seeds: float, threshold: float
) -> tuple[Verdict, float, float]:
    """The verdict after some seeds, and both e-values.

    The remedy does not help if it fails to beat any one control. Whichever that is, the smallest e-value is at most its
    own: no correction for the number of controls is needed. A tie does not count as beating.
    """
    proof = min((e_value(wins[name], losses[name]) for name in wins), default=1.0)
    useless = [e_value(seeds - wins[name], wins[name], 1 - USEFUL) for name in wins]
    against = sum(useless) / len(useless) if useless else 1.0
    if proof >= threshold:
        return "helps", proof, against
    return ("does not help" if against >= threshold else "cannot tell"), proof, against


def _more(wins: Mapping[str, int], losses: Mapping[str, int], seeds: int, threshold: float) -> tuple[int, int | None]:
    """The fewest further seeds that could decide, and how many it takes if wins and losses go on as so far."""
    share = {name: (wins[name] / n if (n := wins[name] + losses[name]) else 0.5) for name in wins}
    fewest, expected = LOOK_AHEAD, None
    for more in range(1, LOOK_AHEAD + 1):
        all_won = {name: count + more for name, count in wins.items()}
        all_lost = {name: count + more for name, count in losses.items()}
        possible = (
            _decided(all_won, losses, seeds + more, threshold),
            _decided(wins, all_lost, seeds + more, threshold),
        )
        if fewest == LOOK_AHEAD and any(found[0] != "cannot tell" for found in possible):
            fewest = more
        likely = {name: count + more * share[name] for name, count in wins.items()}
        failed = {name: count + more * (1 - share[name]) for name, count in losses.items()}
        if _decided(likely, failed, seeds + more, threshold)[0] != "cannot tell":
            expected = more
            break
    return fewest, expected if expected is None else max(fewest, expected)
