"""The sequential test: exact error rates under optional stopping, power, and how many seeds a proof takes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from retrograde.doctor.evidence import bar, e_value, fewest_seeds, judge


@pytest.mark.parametrize("most", [0.5, 0.2])
def test_the_e_value_is_a_fair_game_under_the_null(most):
    # The mean over all sequences of five seeds, weighted by their probability, is exactly 1.
    mean = sum(
        most ** sum(game) * (1 - most) ** (5 - sum(game)) * e_value(sum(game), 5 - sum(game), most)
        for game in itertools.product((0, 1), repeat=5)
    )
    assert mean == pytest.approx(1, rel=1e-9)
    hits = np.arange(6)
    assert np.all(np.diff([e_value(k, 5 - k, most) for k in hits[2:]]) > 0)


def test_three_seeds_prove_nothing_whatever_the_losses_are():
    found = judge([0.0] * 3, {"untreated": [1e9] * 3}, bar(1))
    assert found.verdict == "cannot tell" and found.e_value < 2**3 < bar(1)
    assert found.fewest_more == found.expected_more == 2
    five = judge([0.0] * 5, {"untreated": [1e9] * 5}, bar(1))
    assert five.verdict == "helps" and five.fewest_more == 0
    assert [fewest_seeds(m) for m in (1, 2, 4, 8)] == [5, 6, 8, 9]


def _trials(count, seeds, arms, shift, rng):
    """Verdicts of simulated trials, read after every seed: of each arm, whose loss is lower by ``shift`` spreads."""
    found = []
    for _ in range(count):
        controls = {name: rng.standard_normal(seeds) for name in ("untreated", "placebo", "random")}
        losses = rng.standard_normal((arms, seeds)) - shift
        found.append([judge(own, controls, bar(arms)).verdict for own in losses])
    return found


def test_false_positives_of_a_whole_trial_stay_below_five_percent_with_optional_stopping():
    found = _trials(200, 20, 3, 0.0, np.random.default_rng(0))
    assert sum("helps" in verdicts for verdicts in found) <= 0.05 * len(found)
    # The least favorable case: better than two controls for sure, and as good as the third.
    rng, wrong, low = np.random.default_rng(3), 0, [1e9] * 20
    for _ in range(200):
        controls = {"untreated": low, "placebo": low, "random": rng.standard_normal(20)}
        wrong += any(judge(own, controls, bar(3)).verdict == "helps" for own in rng.standard_normal((3, 20)))
    assert wrong <= 0.05 * 200
    # Against one control alone, where nothing but the e-value protects: exactly, by counting all paths.
    assert _crossing(bar(1), 60) <= 0.05


def _crossing(threshold, seeds):
    """The probability that the e-value of fair coins is ever at or above the threshold within some seeds."""
    alive, crossed = {0: 1.0}, 0.0
    for n in range(1, seeds + 1):
        after: dict[int, float] = {}
        for wins, chance in alive.items():
            for next_wins in (wins, wins + 1):
                after[next_wins] = after.get(next_wins, 0.0) + chance / 2
        crossed += sum(chance for wins, chance in after.items() if e_value(wins, n - wins) >= threshold)
        alive = {wins: chance for wins, chance in after.items() if e_value(wins, n - wins) < threshold}
    return crossed


def test_a_useful_remedy_is_not_called_useless():
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(300):
        won = rng.random(30) < 0.8  # the edge of what counts as useful
        controls = {name: np.zeros(30) for name in ("untreated", "placebo", "random")}
        wrong += judge(np.where(won, -1.0, 1.0), controls, bar(1)).verdict == "does not help"
    assert wrong <= 0.05 * 300


def test_a_strong_effect_is_found_and_no_effect_is_called_so():
    rng = np.random.default_rng(2)
    strong = [one for verdicts in _trials(60, 20, 2, 3.0, rng) for one in verdicts]
    assert strong.count("helps") >= 0.8 * len(strong)
    nothing = [one for verdicts in _trials(60, 30, 2, 0.0, rng) for one in verdicts]
    assert nothing.count("does not help") >= 0.8 * len(nothing)


def test_a_remedy_must_beat_every_control():
    lower, higher = [0.0] * 9, [1.0] * 9
    better = judge(lower, {"untreated": higher, "placebo": higher, "random": higher}, bar(1))
    assert better.verdict == "helps" and better.seeds == 5
    as_random = judge(lower, {"untreated": higher, "placebo": higher, "random": [-1.0] * 9}, bar(1))
    assert as_random.verdict == "does not help" and as_random.wins["random"] == 0


def test_ties_prove_nothing_for_a_remedy_and_diverged_runs_lose():
    same = judge([1.0] * 8, {"untreated": [1.0] * 8}, bar(1))
    assert same.verdict == "does not help" and same.e_value == 1
    assert judge([math.nan] * 8, {"untreated": [5.0] * 8}, bar(1)).verdict == "does not help"
    assert judge([5.0] * 8, {"untreated": [math.inf] * 8}, bar(1)).verdict == "helps"


def test_how_many_more_seeds_would_decide():
    mixed = judge([0, 2, 0, 2], {"untreated": [1, 1, 1, 1]}, bar(1))
    assert mixed.verdict == "cannot tell" and mixed.fewest_more >= 2 and mixed.expected_more >= mixed.fewest_more
    won = judge([0] * 4, {"untreated": [1] * 4}, bar(1))
    assert won.fewest_more == 1


@pytest.mark.parametrize("own", [[2], [2, 2], [0, 2], [2, 0, 2, 2], [0, 0, 2, 0, 2, 2]])
def test_the_fewest_seeds_that_could_decide_are_all_won_or_all_lost(own):
    def verdict(losses):
        return judge(losses, {"untreated": [1] * len(losses)}, bar(1), ahead=False).verdict

    found = judge(own, {"untreated": [1] * len(own)}, bar(1))
    ways = ([*own, *[loss] * more] for more in range(1, 100) for loss in (0, 2))
    assert found.fewest_more == len(next(way for way in ways if verdict(way) != "cannot tell")) - len(own)
