"""``GradientFlowRecorder`` in many kinds of training loops."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import retrograde as rg

T, B, V, H = 12, 8, 5, 6


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


class Tagger(nn.Module):
    """Embedding, a recurrent layer with dropout, batch normalization, a head; tokens `(B, T)` or `(T, B)`."""

    def __init__(self, kind: str = "LSTM", batch_first: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, 4)
        self.layer = getattr(rg.nn if kind.startswith("rg.") else nn, kind.removeprefix("rg."))(
            4, H, num_layers=2, dropout=0.3, batch_first=batch_first
        )
        self.norm = nn.BatchNorm1d(H)
        self.head = nn.Linear(H, V)
        self.last: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        output, _ = self.layer(self.embedding(tokens))
        self.last = output.detach()
        random.random()
        np.random.rand()  # noqa: NPY002
        return self.head(self.norm(output.flatten(0, 1)).view_as(output))


def by_step(output: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none").view_as(target)


def by_step_batch_first(output: Tensor, target: Tensor) -> Tensor:
    return by_step(output, target).T


def train(model: nn.Module, steps: int, recorder: rg.GradientFlowRecorder | None, where: str = "end") -> list[Tensor]:
    """Weights, gradients, buffers and random numbers after a training."""
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    model.train()
    for _ in range(steps):
        x, y = (torch.randint(V, (T, B), generator=generator) for _ in range(2))
        optimiser.zero_grad()
        loss = by_step(model(x), y).mean()
        if recorder is not None and where == "before backward":
            recorder.step(x, target=y)
        loss.backward()
        if recorder is not None and where == "before update":
            recorder.step(x, target=y)
        optimiser.step()
        if recorder is not None and where == "end":
            recorder.step(x, target=y)
    assert model.training
    numbers = torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])  # noqa: NPY002
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    last = [] if model.last is None else [model.last]
    return [*(v.clone() for v in model.state_dict().values()), *gradients, *last, numbers]


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "rg.GRU", "rg.LSTM"])
@pytest.mark.parametrize("where", ["before backward", "before update", "end"])
def test_training_is_bit_for_bit_what_it_is_without(kind: str, where: str) -> None:
    results = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = Tagger(kind)
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        recorder = rg.GradientFlowRecorder(model, by_step, every=2, budget=None) if recorded else None
        results.append(train(model, 7, recorder, where))
        assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        assert all(p.requires_grad for p in model.parameters())
    assert recorder is not None and [record["step"] for record in recorder.records] == [2, 4, 6]
    assert len(results[0]) == len(results[1])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sequences, targets", [(3, None), (None, None), (3, 5), (B, 1)])
def test_a_record_is_the_flow_of_the_sequences_chosen(
    batch_first: bool, sequences: int | None, targets: int | None
) -> None:
    model = Tagger(batch_first=batch_first).double()
    x, y = torch.randint(V, (T, B)), torch.randint(V, (T, B))
    loss = by_step
    if batch_first:
        x, y, loss = x.T, y.T, by_step_batch_first
    recorder = rg.GradientFlowRecorder(model, loss, every=1, budget=None, sequences=sequences, targets=targets)
    record = recorder.step(x, target=y)
    assert record is not None
    rows = torch.linspace(0, B - 1, sequences or B).round().long()
    axis = 0 if batch_first else 1
    x, y = x.index_select(axis, rows), y.index_select(axis, rows)
    followed = None if targets is None else [-(-(i + 1) * T // targets) - 1 for i in range(targets)]
    flow = rg.gradient_flow(model, x, loss=lambda output: loss(output, y), targets=followed)
    assert record["sequences"] == (sequences or B) and record["targets"] == (targets or T) and record["steps"] == T
    assert list(record["layers"]) == flow.layers
    for i, layer in enumerate(record["layers"].values()):
        np.testing.assert_allclose(layer["by_lag"], flow.by_lag()[i], rtol=1e-5)
        assert layer["norm_at_lag_0"] == layer["by_lag"][0]
        horizon = flow.horizon()[i]
        assert layer["horizon"] == (None if np.isnan(horizon) else horizon)
    assert record["loss"] == pytest.approx(float(flow.losses.mean()), rel=1e-5)


def test_dropout_that_is_switched_off_is_not_said_to_be_active() -> None:
    model = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    recorder = rg.GradientFlowRecorder(model, lambda output: output[0].square().sum(-1), every=1, budget=None)
    record = recorder.step(torch.randn(5, 4, 3))
    assert record is not None and ["measured in eval mode" in note for note in record["notes"]] == [True]


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_batch_axis_is_found_where_sizes_coincide(batch_first: bool) -> None:
    layer = nn.GRU(6, 6, batch_first=batch_first).double()  # T = B = features = 6
    x, h_0, y = torch.randn(6, 6, 6).double(), torch.randn(1, 6, 6).double(), torch.randn(6, 6, 6).double()

    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        losses = (output[0] - target).square().sum(-1)
        return losses.T if batch_first else losses

    recorder = rg.GradientFlowRecorder(layer, loss, every=1, budget=None, sequences=2)
    record = recorder.step(x, h_0, target=y)
    rows, axis = torch.tensor([0, 5]), 0 if batch_first else 1
    part = [x.index_select(axis, rows), h_0.index_select(1, rows)]
    flow = rg.gradient_flow(layer, *part, loss=lambda output: loss(output, y.index_select(axis, rows)))
    assert record is not None and record["sequences"] == 2
    np.testing.assert_allclose(record["layers"]["l0"]["by_lag"], flow.by_lag()[0], rtol=1e-5)


def test_one_loss_per_sequence_of_packed_sequences() -> None:
    layer = nn.GRU(3, 5).double()
    lengths = torch.tensor([3, 9, 5, 7, 2, 8])
    padded, y = torch.randn(9, 6, 3).double(), torch.randn(6).double()

    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return (output[1][0].sum(-1) - target).square()

    def packed(rows: list[int]) -> nn.utils.rnn.PackedSequence:
        return nn.utils.rnn.pack_padded_sequence(padded[:, rows], lengths[rows], enforce_sorted=False)

    recorder = rg.GradientFlowRecorder(layer, loss, every=1, budget=None, sequences=2)
    record = recorder.step(packed(list(range(6))), target=y)
    flow = rg.gradient_flow(layer, packed([0, 5]), loss=lambda output: loss(output, y[[0, 5]]))
    assert record is not None and record["sequences"] == 2
    np.testing.assert_allclose(record["layers"]["l0"]["by_lag"], flow.by_lag()[0], rtol=1e-5)


def test_a_loss_that_holds_the_whole_target_measures_the_whole_batch() -> None:
    model, x, y = Tagger(), torch.randint(V, (T, B)), torch.randint(V, (T, B))
    recorder = rg.GradientFlowRecorder(model, every=1, budget=None, targets=None)
    record = recorder.step(x, loss=lambda output: by_step(output, y))
    assert record is not None and record["sequences"] == B
    flow = rg.gradient_flow(model, x, loss=lambda output: by_step(output, y))
    np.testing.assert_allclose(record["layers"]["l1"]["by_lag"], flow.by_lag()[1], rtol=1e-4)


def test_batches_of_changing_length_and_size() -> None:
    model = Tagger()
    recorder = rg.GradientFlowRecorder(model, by_step, every=1, budget=None)
    shapes = [(1, 1), (7, 9), (9, 7), (5, 5), (12, 2), (3, 1), (20, 4)]
    for steps, batch in shapes:
        recorder.step(torch.randint(V, (steps, batch)), target=torch.randint(V, (steps, batch)))
    found = [(record["steps"], record["sequences"]) for record in recorder.records]
    assert found == [(steps, min(4, batch)) for steps, batch in shapes]


def test_masked_steps_are_not_followed() -> None:
    model, x, y = Tagger(), torch.randint(V, (T, B)), torch.randint(V, (T, B))
    mask = (torch.arange(T) >= T - 3).unsqueeze(1)
    recorder = rg.GradientFlowRecorder(model, lambda o, y: by_step(o, y) * mask, every=1, budget=None, targets=2)
    record = recorder.step(x, target=y)
    assert record is not None and record["targets"] == 2
    flow = rg.gradient_flow(
        model, x[:, [0, 2, 5, 7]], loss=lambda o: by_step(o, y[:, [0, 2, 5, 7]]), targets=[T - 2, T - 1]
    )
    np.testing.assert_allclose(record["layers"]["l0"]["by_lag"], flow.by_lag()[0], rtol=1e-4)


def test_a_batch_of_ones_own_is_measured_every_time() -> None:
    model, x, y = Tagger(), torch.randint(V, (T, 2)), torch.randint(V, (T, 2))
    recorder = rg.GradientFlowRecorder(model, by_step, inputs=x, target=y, every=1, budget=None)
    first = recorder.step()
    other = recorder.step(torch.randint(V, (T, B)), target=torch.randint(V, (T, B)))
    assert first is not None and other is not None and first["layers"] == other["layers"]


def test_steps_are_counted_or_given() -> None:
    x, y = torch.randint(V, (T, B)), torch.randint(V, (T, B))

    def measured(numbers: list[int | None], every: int, budget: float | None) -> list[int]:
        recorder = rg.GradientFlowRecorder(Tagger(), by_step, every=every, budget=budget, targets=1)
        return [r["step"] for n in numbers if (r := recorder.step(x, target=y, step=n)) is not None]

    assert measured([None] * 7, 3, None) == [3, 6]
    assert measured(list(range(7)), 3, None) == [0, 3, 6]
    assert measured([4, 5, 7, 7, 8, 13, 14], 3, None) == [7, 13]  # the first at or after each multiple
    assert measured([0, 1, 2], 3, 1.0) == []  # step 0 waits: there is no time yet to have a share of


def test_the_budget_is_kept_and_what_was_skipped_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("retrograde.flow.recorder.time.perf_counter", lambda: clock[0])
    model, x, y = Tagger(), torch.randint(V, (T, B)), torch.randint(V, (T, B))

    def slow(output: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            clock[0] += 1.0  # a measurement takes a second
        return by_step(output, target)

    recorder = rg.GradientFlowRecorder(model, slow, every=10, budget=0.05)
    assert recorder.overhead == 0
    shares = []
    for _ in range(2000):
        clock[0] += 0.1  # a training step
        if recorder.step(x, target=y) is not None:
            shares.append(recorder.overhead)
    assert shares and max(shares) <= 0.05 and recorder.overhead <= 0.05
    # One second in twenty allowed, of about 210: ten, of which the trial at the first step took one.
    assert 8 <= len(recorder.records) <= 10
    assert recorder.skipped == 200 - len(recorder.records)
    last = recorder.records[-1]
    assert sum(r["skipped"] for r in recorder.records) == last["step"] / 10 - len(recorder.records)
    assert all(r["overhead"] <= 0.05 and r["cost"] == pytest.approx(1.0) for r in recorder.records)


def test_the_budget_is_3_percent_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("retrograde.flow.recorder.time.perf_counter", lambda: clock[0])
    model, x, y = Tagger(), torch.randint(V, (T, B)), torch.randint(V, (T, B))

    def slow(output: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            clock[0] += 1.0
        return by_step(output, target)

    recorder = rg.GradientFlowRecorder(model, slow)
    while not recorder.records:
        clock[0] += 0.1
        recorder.step(x, target=y)
    # Every 100 steps; with the trial at the first step this measurement makes 2 s, 3 % of the time from 66.7 s on.
    (record,) = recorder.records
    assert record["step"] == 700 and recorder.skipped == 6 and record["overhead"] <= 0.03
    assert record["sequences"] == 4 and record["targets"] == min(32, T)


def run_for(folder: Path, steps: int, resume: bool = False, **options: object) -> rg.GradientFlowRecorder:
    recorder = rg.GradientFlowRecorder(Tagger(), by_step, every=2, budget=None, run=folder, resume=resume)
    for number in range(steps):
        first = options.get("first")
        step = None if first is None else int(str(first)) + number
        recorder.step(torch.randint(V, (T, B)), target=torch.randint(V, (T, B)), step=step)
    return recorder


def lines(folder: Path) -> list[dict[str, object]]:
    text = (folder / "flow" / "recorded.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_records_are_in_the_run_folder_and_go_on(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    assert lines_of(run_for(run, 5)) == [2, 4]
    with pytest.raises(rg.errors.RunError, match="resume=True"):
        run_for(run, 1)
    recorder = run_for(run, 4, resume=True)
    assert lines_of(recorder) == [2, 4, 6, 8] and lines(run) == recorder.records
    # Back to the checkpoint of step 5: the later steps are trained and recorded again.
    assert lines_of(run_for(run, 2, resume=True, first=5)) == [2, 4, 6]
    assert [line["step"] for line in lines(run)] == [2, 4, 6]


def lines_of(recorder: rg.GradientFlowRecorder) -> list[int]:
    return [record["step"] for record in recorder.records]


def test_a_line_cut_off_by_a_crash_is_dropped_and_damage_is_named(tmp_path: Path) -> None:
    run_for(tmp_path, 6)
    file = tmp_path / "flow" / "recorded.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    assert lines_of(run_for(tmp_path, 2, resume=True)) == [2, 4, 6]
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]
    file.write_bytes(b"[]\n" + whole)
    with pytest.raises(rg.errors.RunError, match="line 1 is not a record"):
        run_for(tmp_path, 1, resume=True)
    file.unlink()
    file.mkdir()
    with pytest.raises(rg.errors.RunError, match=r"recorded\.jsonl cannot be read: "):
        run_for(tmp_path, 1, resume=True)


def test_tensorboard_reads_the_numbers_back(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        recorder = rg.GradientFlowRecorder(Tagger(), by_step, every=2, budget=None, writer=writer)
        for _ in range(5):
            recorder.step(torch.randint(V, (T, B)), target=torch.randint(V, (T, B)))
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    for tag, pick in {
        "flow/l0/growth_per_step": lambda r: r["layers"]["l0"]["growth_per_step"],
        "flow/l1/norm_at_lag_10": lambda r: r["layers"]["l1"]["by_lag"][10],
        "flow/overhead": lambda r: r["overhead"],
    }.items():
        found = events.Scalars(tag)
        assert [event.step for event in found] == [2, 4]
        assert [event.value for event in found] == pytest.approx([pick(r) for r in recorder.records], rel=1e-6)


def test_what_cannot_be_measured_is_told_at_the_first_step() -> None:
    x, y = torch.randint(V, (T, B)), torch.randint(V, (T, B))
    flat = nn.Sequential(nn.Embedding(V, 4), nn.Linear(4, V))
    with pytest.raises(rg.errors.FlowError, match="no recurrent layer"):
        rg.GradientFlowRecorder(flat, by_step).step(x, target=y)
    with pytest.raises(rg.errors.FlowError, match="reduction='none'"):
        rg.GradientFlowRecorder(Tagger(), lambda output, y: by_step(output, y).mean()).step(x, target=y)
    with pytest.raises(rg.errors.FlowError, match="transposed"):
        rg.GradientFlowRecorder(Tagger(), lambda output, y: by_step(output, y).T).step(x, target=y)
    with pytest.raises(rg.errors.OptionError, match="no loss"):
        rg.GradientFlowRecorder(Tagger()).step(x)
    with pytest.raises(rg.errors.OptionError, match="no input"):
        rg.GradientFlowRecorder(Tagger(), by_step).step()
    with pytest.raises(rg.errors.FlowError, match="l7"):
        rg.GradientFlowRecorder(Tagger(), by_step, layers=["l7"]).step(x, target=y)


@pytest.mark.parametrize(
    "option",
    [
        {"every": 0},
        {"every": 2.5},
        {"every": None},
        {"budget": 0},
        {"budget": 2},
        {"sequences": 0},
        {"targets": -1},
        {"fraction": 1.0},
        {"writer": object()},
    ],
)
def test_impossible_options_are_named(option: dict[str, object]) -> None:
    with pytest.raises(rg.errors.OptionError, match=next(iter(option))):
        rg.GradientFlowRecorder(Tagger(), by_step, **option)


def test_a_later_failure_does_not_end_the_training() -> None:
    model = Tagger()
    recorder = rg.GradientFlowRecorder(model, by_step, every=1, budget=None)
    x, y = torch.randint(V, (T, B)), torch.randint(V, (T, B))
    recorder.step(x, target=y)
    with torch.no_grad():
        model.layer.weight_hh_l0.fill_(torch.nan)
    with pytest.warns(UserWarning, match="not finite from step"):
        record = recorder.step(x, target=y)
    assert record is not None and record["step"] == 2 and "not finite" in record["error"]
    assert recorder.step(x, target=y) is not None  # the same again is not warned of
    assert all(p.requires_grad for p in model.parameters()) and model.training


def test_our_own_layers_and_a_compiled_model() -> None:
    for model in (rg.nn.LSTM(3, 4), torch.compile(nn.LSTM(3, 4))):
        recorder = rg.GradientFlowRecorder(
            model, lambda output, y: (output[0] - y).square().sum(-1), every=1, budget=None
        )
        record = recorder.step(torch.randn(T, B, 3), target=torch.randn(T, B, 4))
        assert record is not None and list(record["layers"]) == ["l0"]


def test_the_clip_value_follows_from_the_norms_given(tmp_path):
    layer = nn.LSTM(2, 3)
    recorder = rg.GradientFlowRecorder(layer, lambda output: output[0].sum(-1), every=2, budget=None, run=tmp_path)
    x = torch.randn(4, 2, 2)
    for norm in (1.0, 1.1, torch.tensor(0.9), 50.0, 1.0, 1.2):
        recorder.step(x, gradient_norm=norm)
    assert recorder.gradient_norms == pytest.approx([1.0, 1.1, 0.9, 50.0, 1.0, 1.2])
    found = recorder.suggest_clip()
    assert (
        found.value == 1.2
        and "6 updates (median 1.05, largest 50)" in found.arithmetic
        and found.replay.clipped == 1 / 6
    )
    assert str(found) == f"clip the gradient norm to 1.2: {found.arithmetic}."
    again = rg.GradientFlowRecorder(layer, lambda output: output[0].sum(-1), run=tmp_path, resume=True)
    assert again.suggest_clip().value == 1.2


def test_no_clip_value_without_norms_or_from_clipped_ones():
    recorder = rg.GradientFlowRecorder(nn.LSTM(2, 3), lambda output: output[0].sum(-1))
    with pytest.raises(rg.errors.FlowError, match="0 gradient norms are known, and two are needed"):
        recorder.suggest_clip()
    recorder.gradient_norms += [0.3, 0.5, *[1.0] * 9]
    with pytest.raises(rg.errors.FlowError, match="were clipped before they were recorded"):
        recorder.suggest_clip()
    recorder.gradient_norms[:] = [1.0] * 20
    assert recorder.suggest_clip().value == 1.0
