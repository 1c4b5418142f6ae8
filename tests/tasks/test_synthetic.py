"""Each task is solved here from its inputs alone, by the rule its paper states, and chance is measured by drawing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrograde.errors import OptionError
from retrograde.tasks.registry import new_task
from retrograde.tasks.synthetic import (
    SYNTHETIC,
    AddingProblem,
    CopyMemory,
    DelayedMatchToSample,
    Latch,
    MultiplicationProblem,
    Parity,
    TemporalOrder,
    synthetic,
)

TASKS = [
    *(AddingProblem(length=40, variant=v) for v in AddingProblem.variants),
    *(MultiplicationProblem(length=40, variant=v) for v in MultiplicationProblem.variants),
    *(TemporalOrder(length=60, symbols=n, variant=v) for n in (2, 3) for v in TemporalOrder.variants),
    CopyMemory(length=7, symbols=5, items=3),
    Latch(length=20, informative=3),
    Latch(length=20, signal_noise=0.2),
    Latch(length=20, target_noise=0.1),
    Latch(length=20, informative=1, signal_noise=0.2, target_noise=0.1),
    Parity(length=12, noise=0.2),
    DelayedMatchToSample(stimuli=4),
    DelayedMatchToSample(stimuli=3, noise=1.5),
]


def name(task):
    return f"{type(task).__name__}-{getattr(task, 'variant', '')}-{getattr(task, 'symbols', '')}"


every_task = pytest.mark.parametrize("task", TASKS, ids=name)


def solve(task, batch):
    """The outputs (T, B, O) or (B, O) of someone who knows the rule, computed from the inputs."""
    x, last, column = batch.inputs, batch.lengths - 1, torch.arange(batch.inputs.shape[1])
    if isinstance(task, AddingProblem | MultiplicationProblem):
        marked = x[..., 1] == 1
        pair = torch.stack([x[:, b, 0][marked[:, b]].sum() for b in column])
        product = torch.stack([x[:, b, 0][marked[:, b]].prod() for b in column])
        # A mark on the first step is hidden under its -1: its number is neutral, so nothing is missing.
        if isinstance(task, MultiplicationProblem):
            return product[:, None]
        return {"hochreiter": 0.5 + pair / 4, "pascanu": pair / 2, "arjovsky": pair}[task.variant][:, None]
    if isinstance(task, TemporalOrder):
        rare = x[..., -2:]
        classes = torch.zeros(len(column), dtype=torch.int64)
        for b in column:
            for symbol in rare[:, b][rare[:, b].sum(-1) == 1].argmax(-1):
                classes[b] = classes[b] * 2 + symbol
        return 50.0 * torch.nn.functional.one_hot(classes, task.output_size)
    if isinstance(task, CopyMemory):
        shown = torch.full(x.shape[:2], task.symbols)
        shown[-task.items :] = x[: task.items].argmax(-1)
        return 50.0 * torch.nn.functional.one_hot(shown, task.output_size)
    if isinstance(task, Latch):
        odds = 2 * x[: task.informative, :, 0].sum(0) / max(task.signal_noise, 0.04)
        if task.target_noise:
            return 0.8 - 0.6 * odds.sigmoid()[:, None]
        return torch.stack([torch.zeros_like(odds), odds], -1)
    if isinstance(task, Parity):
        step = torch.arange(len(x))[:, None]
        odd = ((x[..., 0] > 0) & (step <= last)).sum(0) % 2
        return 50.0 * torch.nn.functional.one_hot(odd, 2)
    assert isinstance(task, DelayedMatchToSample), f"the rule of {type(task).__name__} is missing here"
    seen = x[..., 1:]
    if task.noise:
        # The likelihood of each stimulus, by its mean over the presentation; then Bayes' rule.
        starts = (task.fixation, task.fixation + task.presentation + task.length)
        one, two = (
            (seen[start : start + task.presentation].sum(0) / task.noise).double().softmax(-1) for start in starts
        )
        same = (one * two).sum(-1)
        odds = (same / ((1 - same) / (task.stimuli - 1))).log()
        return torch.stack([torch.zeros_like(odds), odds], -1).float().expand(len(x), -1, -1)
    sample = seen[task.fixation].argmax(-1)
    test = seen[task.fixation + task.presentation + task.length].argmax(-1)
    return 50.0 * torch.nn.functional.one_hot((sample == test).long(), 2).expand(len(x), -1, -1)


def mean_loss(task, outputs, batch):
    return float(task.loss(outputs, batch).sum() / batch.mask.sum())


@every_task
def test_shapes_and_padding(task):
    batch = task.batch(33, torch.Generator().manual_seed(1))
    steps = int(batch.lengths.max())
    assert batch.inputs.shape == (steps, 33, task.input_size)
    assert batch.inputs.dtype == torch.float32
    assert batch.mask.shape == (steps, 33)
    assert batch.targets.shape == ((33,) if task.many_to_one else (steps, 33))
    after = torch.arange(steps)[:, None] >= batch.lengths
    assert not batch.inputs[after].any()
    assert not (batch.mask & after).any()
    if task.many_to_one:
        assert torch.equal(batch.mask.int().argmax(0), batch.lengths - 1)
        assert (batch.mask.sum(0) == 1).all()


@every_task
def test_the_rule_of_the_paper_reaches_the_optimum(task):
    batch = task.batch(2000, torch.Generator().manual_seed(2))
    outputs = solve(task, batch)
    assert mean_loss(task, outputs, batch) == pytest.approx(task.optimum.loss, abs=0.02 if task.optimum.loss else 1e-6)
    if batch.clean is not None:
        assert float(task.correct(outputs, batch).float().mean()) > 0.9
    elif task.optimum.accuracy in (None, 1.0):
        assert task.correct(outputs, batch).all()
    else:
        right = outputs.argmax(-1) == batch.targets
        right = right if task.many_to_one else right[batch.mask]
        assert float(right.float().mean()) == pytest.approx(task.optimum.accuracy, abs=0.02)


@every_task
def test_chance_is_what_drawing_finds(task):
    batch = task.batch(20_000, torch.Generator().manual_seed(3))
    if task.kind == "values":
        assert float(batch.targets.var()) == pytest.approx(task.chance.loss, rel=0.03)
        constant = batch.targets.mean().expand(20_000, 1)
        assert mean_loss(task, constant, batch) == pytest.approx(task.chance.loss, rel=0.03)
        return
    # The best answer that ignores the input: at each step the frequency of every class at that step.
    one_hot = torch.nn.functional.one_hot(batch.targets, task.output_size).float()
    frequency = one_hot.mean(-2, keepdim=True)
    outputs = frequency.clamp_min(1e-9).log().expand_as(one_hot)
    assert mean_loss(task, outputs, batch) == pytest.approx(task.chance.loss, abs=0.003)
    scored = batch.mask.any(0) if task.many_to_one else batch.mask
    right = (outputs.argmax(-1) == batch.targets)[scored].float().mean()
    assert float(right) == pytest.approx(task.chance.accuracy, abs=0.015)


@every_task
def test_same_seed_same_stream(task):
    one, two = task.batches(5), task.batches(5)
    first, second = next(one), next(one)
    for batch in (first, second):
        assert all(
            a is b is None or torch.equal(a, b)
            for a, b in zip(vars(batch).values(), vars(next(two)).values(), strict=True)
        )
    assert first.inputs.shape != second.inputs.shape or not torch.equal(first.inputs, second.inputs)
    other = type(task)(**{**task.__dict__, "seed": 1}).batch(5)
    assert first.inputs.shape != other.inputs.shape or not torch.equal(first.inputs, other.inputs)


@every_task
def test_draws_leave_the_global_generator_alone(task):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    task.batch(3)
    assert torch.equal(torch.get_rng_state(), before)


@every_task
def test_lags_are_met_and_never_exceeded(task):
    generator = torch.Generator().manual_seed(5)
    least, most = task.lags
    assert 0 <= least <= most
    if not isinstance(task, AddingProblem | MultiplicationProblem | TemporalOrder):
        assert most < len(task.batch(400, generator).inputs)
        return
    seen = []
    for _ in range(40):  # many batches: some variants draw one length for all of a batch
        batch = task.batch(400, generator)
        rare = batch.inputs[..., 1] == 1 if task.kind == "values" else batch.inputs[..., -2:].sum(-1) == 1
        seen.append((batch.lengths - 1 - torch.arange(len(rare))[:, None])[rare])
    seen = torch.cat(seen)
    assert int(seen.min()) == least
    assert most - 1 <= int(seen.max()) <= most  # a mark on the first step of the adding problem of 1997 is hidden


@pytest.mark.parametrize("symbols", [2, 3])
def test_temporal_order_has_the_published_positions(symbols):
    task = TemporalOrder(symbols=symbols)
    batch = task.batch(5000, torch.Generator().manual_seed(0))
    assert (int(batch.lengths.min()), int(batch.lengths.max())) == (100, 110)
    assert (batch.inputs[0].argmax(-1) == 0).all()
    assert (batch.inputs[batch.lengths - 1, torch.arange(5000)].argmax(-1) == 1).all()
    rare = batch.inputs[..., -2:].sum(-1)
    assert (rare.sum(0) == symbols).all()
    counted_from_one = rare.T.nonzero()[:, 1].view(5000, symbols) + 1
    windows = [(10, 20), (50, 60)] if symbols == 2 else [(10, 20), (33, 43), (66, 76)]
    assert [(int(p.min()), int(p.max())) for p in counted_from_one.T] == windows


@every_task
def test_only_classes_have_an_accuracy(task):
    assert (task.optimum.accuracy is None) == (task.kind == "values")


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_inputs_of_a_parity_are_1_or_minus_1_with_noise_to_both_sides(noise):
    batch = Parity(length=12, noise=noise).batch(500, torch.Generator().manual_seed(0))
    x = torch.cat([batch.inputs[: int(n), b, 0] for b, n in enumerate(batch.lengths)])
    off = x - x.sign()
    assert float(off.abs().max()) <= noise + 1e-6 and abs(float((x > 0).float().mean()) - 0.5) < 0.05
    if noise:
        assert float(off.min()) < -0.19 and float(off.max()) > 0.19


def test_adding_problem_of_1997_has_the_published_form():
    batch = AddingProblem(length=100).batch(20_000, torch.Generator().manual_seed(0))
    numbers, marks = batch.inputs.unbind(-1)
    column = torch.arange(20_000)
    assert (marks[0] == -1).all()
    assert (marks[batch.lengths - 1, column] == -1).all()
    assert float(numbers.min()) < -0.99
    assert float(numbers.max()) > 0.99
    position = (marks == 1).nonzero()[:, 0]
    assert int(position.max()) == 49  # ten plus the first T/2 - 1 unmarked: never beyond step T/2
    hidden = (marks == 1).sum(0) == 1
    assert float(hidden.float().mean()) == pytest.approx(0.1 + 0.9 / 49, abs=0.01)
    assert (numbers[0, hidden] == 0).all()
    assert 0.0 <= float(batch.targets.min()) <= float(batch.targets.max()) <= 1.0


def test_arjovsky_baseline_is_the_published_number():
    assert AddingProblem(variant="arjovsky").chance.loss == pytest.approx(0.167, abs=5e-4)
    assert CopyMemory(length=100).chance.loss == pytest.approx(10 * math.log(8) / 120)


def test_copy_memory_reads_as_published():
    batch = CopyMemory(length=4, symbols=8, items=3).batch(1)
    shown, wanted = batch.inputs[:, 0].argmax(-1).tolist(), batch.targets[:, 0].tolist()
    assert shown[3:] == [8, 8, 8, 9, 8, 8, 8]  # T - 1 blanks, the delimiter, a blank for each answer
    assert wanted == [8] * 7 + shown[:3]


def test_tolerances_are_the_published_ones():
    adding = AddingProblem(length=20)
    batch = adding.batch(2)
    assert adding.correct(batch.targets[:, None] + torch.tensor([[0.039], [-0.041]]), batch).tolist() == [True, False]
    squared = AddingProblem(length=20, variant="pascanu")
    batch = squared.batch(2)
    assert squared.correct(batch.targets[:, None] + torch.tensor([[0.19], [0.21]]), batch).tolist() == [True, False]
    latch = Latch(length=5)
    batch = latch.batch(2)
    odds = torch.tensor([0.81, 0.79]).logit() * (2 * batch.targets - 1)
    assert latch.correct(torch.stack([torch.zeros(2), odds], -1), batch).tolist() == [True, False]


def test_criterion_looks_at_the_newest_only():
    criterion = MultiplicationProblem().criterion
    assert not criterion.met([True] * 1999)
    assert criterion.met([False] * 500 + [True] * 1988 + [False] * 12)
    assert not criterion.met([True] * 1987 + [False] * 13)


@pytest.mark.parametrize(
    ("task", "sequences", "wrong", "mean_error"),
    [
        (AddingProblem(), 2000, 0, 0.01),
        (MultiplicationProblem(), 2000, 12, None),
        (TemporalOrder(), 2000, 0, 0.1),
        (Latch(), 256, 0, 0.01),
        (Latch(signal_noise=0.2), 256, 5, 0.04),
        (Latch(target_noise=0.1), 256, 0, 0.015),
    ],
)
def test_goals_of_1997(task, sequences, wrong, mean_error):
    criterion = task.criterion
    assert (criterion.sequences, criterion.wrong, criterion.mean_error) == (sequences, wrong, mean_error)
    if mean_error is not None:
        right = [True] * sequences
        assert criterion.met(right, [0.9 * mean_error] * sequences)
        assert not criterion.met(right, [1.1 * mean_error] * sequences)
        assert not criterion.met(right)


def test_the_goal_of_copying_is_every_symbol_of_99_percent():
    criterion = CopyMemory(length=5).criterion
    assert criterion.met([False] * 9 + [True] * 991) and not criterion.met([False] * 10 + [True] * 990)


def test_targets_of_experiment_3c():
    batch = Latch(length=10, target_noise=0.1).batch(500, torch.Generator().manual_seed(0))
    assert torch.equal(batch.clean, 0.5 - 0.3 * batch.inputs[0, :, 0])  # 0.2 after 1, 0.8 after -1
    assert float((batch.targets - batch.clean).var()) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("task", [Latch(length=5, target_noise=0.1), TemporalOrder(), CopyMemory(length=3)])
def test_error_is_the_largest_of_a_sequence(task):
    batch = task.batch(2, torch.Generator().manual_seed(0))
    perfect = solve(task, batch) if batch.clean is None else batch.clean[:, None].clone()
    assert task.error(perfect, batch).tolist() == pytest.approx([0, 0], abs=1e-6)
    if task.kind == "values":
        assert task.error(perfect + torch.tensor([[0.1], [-0.2]]), batch).tolist() == pytest.approx([0.1, 0.2])
        return
    perfect[..., 1, :] = 0  # the second sequence is answered "any class"
    classes = task.output_size
    assert task.error(perfect, batch).tolist() == pytest.approx([0, 1 - 1 / classes], abs=1e-6)


def test_outputs_of_the_wrong_shape_are_named():
    task = Parity(length=5)
    batch = task.batch(3)
    with pytest.raises(OptionError, match=r"Parity: outputs are \(3, 3\); their shape must be"):
        task.loss(torch.zeros(3, 3), batch)


@given(st.sampled_from(sorted(SYNTHETIC)), st.integers(20, 60), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_length_and_batch(task_name, length, batch_size, seed):
    task = synthetic(task_name, length=length)
    batch = task.batch(batch_size, torch.Generator().manual_seed(seed))
    assert task.correct(solve(task, batch), batch).all()
    assert torch.isfinite(batch.inputs).all()


@pytest.mark.parametrize(
    ("task_name", "options", "message"),
    [
        ("nothing", {}, "No synthetic task 'nothing'; there are adding"),
        ("adding", {"size": 3}, "adding has no option 'size'; its options are length, seed, variant"),
        ("adding", {"length": "long"}, "length is 'long'; it must be int"),
        ("adding", {"length": 3}, "length is 3; it must be at least 20"),
        ("adding", {"seed": -1}, "seed is -1; it must be a whole number, 0 or more"),
        ("parity", {"seed": 2**63}, "below 2"),
        ("adding", {"variant": "mine"}, "no variant 'mine'; choose one of hochreiter"),
        ("temporal-order", {"symbols": 4}, "symbols is 4; it must be 2 or 3"),
        ("latch", {"informative": 0}, "informative is 0"),
        ("latch", {"noise": -1}, "noise is -1.0; a variance must be 0 or more"),
        ("parity", {"noise": 1}, "noise is 1.0"),
        ("copy-memory", {"symbols": 1}, "symbols is 1"),
        ("latch", {"target_noise": "inf"}, "target_noise is inf"),
        ("delayed-match-to-sample", {"stimuli": 1}, "stimuli is 1"),
        ("delayed-match-to-sample", {"noise": -1}, "noise is -1.0; a variance"),
    ],
)
def test_impossible_options_are_named(task_name, options, message):
    with pytest.raises(OptionError, match=message):
        synthetic(task_name, **options)


def test_training_on_a_task_takes_64_sequences_at_a_time_unless_told_otherwise():
    batches = [new_task("builtin:adding?length=20", options).batch(0) for options in ({}, {"batch_size": 7})]
    assert [batch.inputs.shape[1] for batch in batches] == [64, 7]
