"""``GradientFlowCallback`` in real fits."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import retrograde as rg

lightning = pytest.importorskip("lightning.pytorch")
from retrograde.integrations.lightning import GradientFlowCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own advice on workers and loggers
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
STEPS, BATCH = 10, 4


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.GRU(2, 5, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[0]).squeeze(-1)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return (self(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().T  # (B, T) to (T, B)


def data(count: int = 24) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, STEPS, 2, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(-1).cumsum(1)), batch_size=BATCH)


def fit(folder: Path, *callbacks: object, module: Module | None = None, **options: object) -> tuple[Module, object]:
    lightning.seed_everything(0)
    module = module or Module()
    defaults = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    settings = {**defaults, "default_root_dir": folder, "enable_checkpointing": False, **options}
    trainer = lightning.Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, data())
    return module, trainer


def records(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_fit_is_recorded_and_not_changed(tmp_path: Path) -> None:
    callback = GradientFlowCallback(loss, every=5, budget=None, sequences=2)
    logger = lightning.loggers.CSVLogger(tmp_path)
    with_it, _ = fit(tmp_path, callback, logger=logger, log_every_n_steps=1)
    without, _ = fit(tmp_path / "other", logger=False)
    for (name, a), b in zip(with_it.state_dict().items(), without.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert callback.recorder is not None
    found = records(Path(logger.log_dir) / "flow" / "recorded.jsonl")
    assert found == callback.recorder.records and [r["step"] for r in found] == [5, 10]
    assert list(found[0]["layers"]) == ["l0", "l1"] and found[0]["sequences"] == 2
    logger.save()
    table = (Path(logger.log_dir) / "metrics.csv").read_text(encoding="utf-8")
    assert "flow/l1/growth_per_step" in table
    # The last record, against the flow of the module itself.
    x, y = next(iter(data()))
    again = GradientFlowCallback(loss, every=12, budget=None, sequences=None)
    module, _ = fit(tmp_path / "third", again, logger=False)
    batches = list(data())
    x, y = batches[-1]
    flow = rg.gradient_flow(module, x, loss=lambda output: loss(output, y))
    assert again.recorder is not None
    assert again.recorder.records[-1]["layers"]["l0"]["by_lag"] == pytest.approx(list(flow.by_lag()[0]), rel=1e-4)


def test_accumulated_batches_are_one_step_and_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    callback = GradientFlowCallback(loss, every=2, budget=None)
    logger = lightning.loggers.TensorBoardLogger(tmp_path)
    fit(tmp_path, callback, logger=logger, accumulate_grad_batches=2)
    assert callback.recorder is not None and [r["step"] for r in callback.recorder.records] == [2, 4, 6]
    events = accumulator.EventAccumulator(logger.log_dir)
    events.Reload()
    assert [event.step for event in events.Scalars("flow/l0/growth_per_step")] == [2, 4, 6]


def test_a_fit_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = GradientFlowCallback(loss, every=2, budget=None, run=run)
    _, trainer = fit(tmp_path, first, logger=False, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "six.ckpt")
    again = GradientFlowCallback(loss, every=2, budget=None, run=run)
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = lightning.Trainer(max_epochs=2, callbacks=[again], enable_checkpointing=False, **settings)
    trainer.fit(Module(), data(), ckpt_path=tmp_path / "six.ckpt", weights_only=True)
    assert [r["step"] for r in records(run / "flow" / "recorded.jsonl")] == [2, 4, 6, 8, 10, 12]


def test_an_attribute_of_the_module_and_a_batch_unpacked(tmp_path: Path) -> None:
    def whole(output: tuple[Tensor, Tensor]) -> Tensor:
        return output[1][-1].square().sum(-1)

    callback = GradientFlowCallback(
        whole, model="net", unpack=lambda batch: ((batch[0],), None), every=4, budget=None, run=tmp_path
    )
    fit(tmp_path, callback, logger=False)
    assert [r["step"] for r in records(tmp_path / "flow" / "recorded.jsonl")] == [4, 8, 12]


def test_errors_name_the_mend(tmp_path: Path) -> None:
    with pytest.raises(rg.errors.OptionError, match="every is 0"):
        GradientFlowCallback(loss, every=0)
    with pytest.raises(rg.errors.OptionError, match="'nets'"):
        fit(tmp_path, GradientFlowCallback(loss, model="nets"), logger=False)
    with pytest.raises(rg.errors.OptionError, match="unpack="):
        fit(tmp_path, GradientFlowCallback(loss, unpack=lambda batch: (tuple(batch), None)), logger=False)
    with pytest.raises(rg.errors.FlowError, match="no recurrent layer"):
        fit(
            tmp_path,
            GradientFlowCallback(
                lambda output, y: output.squeeze(-1),
                model="head",
                unpack=lambda batch: ((torch.randn(4, 5),), batch[1]),
            ),
            logger=False,
        )


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_is_measured_in_the_models_own_type_and_said(tmp_path: Path, precision: str) -> None:
    def compared(output: Tensor, target: Tensor) -> Tensor:
        assert output.dtype == {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
        return loss(output, target)

    callback = GradientFlowCallback(compared, every=5, budget=None, sequences=None)
    fit(tmp_path, callback, logger=False, precision=precision, max_epochs=1)
    assert callback.recorder is not None
    (record,) = callback.recorder.records
    said = [note for note in record["notes"] if "autocast" in note]
    mixed = precision.endswith("mixed")
    assert said == (["autocast was active (bfloat16); measured in float32, without it"] if mixed else [])
    # Against the same weights and batch in float64; the callback measured after five of six steps.
    other, _ = fit(tmp_path / "again", logger=False, precision=precision, max_epochs=1, max_steps=5)
    x, y = list(data())[4]
    flow = rg.gradient_flow(other.double(), x.double(), loss=lambda output: loss(output, y.double()))
    tolerance = 0.15 if precision == "bf16-true" else 1e-3
    curve = flow.by_lag()[0]
    large = curve > 1e-2 * curve.max()
    measured = torch.tensor(record["layers"]["l0"]["by_lag"]).numpy()
    assert measured[large] == pytest.approx(curve[large], rel=tolerance)
