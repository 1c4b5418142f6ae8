"""One training with each tool: small data, a recurrent network that the tool builds itself, and its forecast."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]
Clock = Callable[[], AbstractContextManager[None]]  # around what is timed
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}


def waves(series: int, steps: int) -> Array:
    """Series ``(series, steps)``: two sines and noise."""
    random = np.random.default_rng(0)
    t, phase = np.arange(steps), random.uniform(0, 6, (series, 1))
    found = (
        np.sin(2 * np.pi * t / 24 + phase) + 0.5 * np.sin(2 * np.pi * t / 7) + random.normal(0, 0.1, (series, steps))
    )
    return found.astype(np.float32)


def darts(cell: str, clock: Clock) -> Array:
    """Darts' ``RNNModel``: autoregressive, 60 steps at a time."""
    from darts import TimeSeries
    from darts.models import RNNModel

    series = [TimeSeries.from_values(one) for one in waves(4, 400)]
    model = RNNModel(
        48, model=cell, hidden_dim=64, training_length=60, n_epochs=2, batch_size=32, random_state=0,
        pl_trainer_kwargs={"accelerator": "cpu", **QUIET},
    )  # fmt: skip
    with clock():
        model.fit(series, verbose=False)
    return np.stack([one.values()[:, 0] for one in model.predict(24, series=series, verbose=False)])


def neuralforecast(cell: str, clock: Clock) -> Array:
    """Neuralforecast's ``LSTM``, ``GRU`` and ``RNN``."""
    import pandas as pd
    from neuralforecast import NeuralForecast, models

    values = waves(8, 300)
    times = pd.date_range("2020-01-01", periods=300, freq="h")
    frame = pd.concat(
        pd.DataFrame({"unique_id": str(number), "ds": times, "y": one}) for number, one in enumerate(values)
    )
    model = getattr(models, cell)(
        h=24, input_size=96, max_steps=30, encoder_hidden_size=64, encoder_n_layers=1, batch_size=8,
        windows_batch_size=32, random_seed=0, accelerator="cpu", **QUIET,
    )  # fmt: skip
    forecast = NeuralForecast([model], freq="h")
    with clock():
        forecast.fit(frame)
    return forecast.predict()[cell].to_numpy()


def pytorch_forecasting(cell: str, clock: Clock) -> Array:
    """Pytorch-forecasting's ``RecurrentNetwork``."""
    import lightning.pytorch as lightning
    import pandas as pd
    from pytorch_forecasting import RecurrentNetwork, TimeSeriesDataSet

    values = waves(8, 200)
    frame = pd.concat(
        (
            pd.DataFrame({"group": str(number), "time": np.arange(200), "value": one})
            for number, one in enumerate(values)
        ),
        ignore_index=True,
    )
    data = TimeSeriesDataSet(
        frame, time_idx="time", target="value", group_ids=["group"], max_encoder_length=72, max_prediction_length=12,
        min_encoder_length=72, time_varying_unknown_reals=["value"],
    )  # fmt: skip
    loader = data.to_dataloader(train=True, batch_size=64, num_workers=0)
    lightning.seed_everything(0, verbose=False)
    network = RecurrentNetwork.from_dataset(data, cell_type=cell, hidden_size=64, learning_rate=1e-3)
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=0.1, **QUIET)
    with clock():
        trainer.fit(network, loader)
    later = data.to_dataloader(train=False, batch_size=64, num_workers=0)
    found = network.predict(later, trainer_kwargs={"accelerator": "cpu", **QUIET})
    return torch.as_tensor(found).numpy()


# SGD: the first steps of RMSprop and Adam divide each number by its own size, so that rounding decides what has none.
SGD = {"optimizer": "SGD", "batch_size": 32}
SKTIME = {
    "GRUClassifier": {"hidden_dim": 64, "n_layers": 1, "batch_first": True, "num_epochs": 4, **SGD},
    "GRUFCNNClassifier": {"hidden_dim": 64, "gru_layers": 1, "batch_first": True, "num_epochs": 2, **SGD},
    "SimpleRNNClassifierTorch": {"hidden_dim": 64, "activation_hidden": "Tanh", "num_epochs": 4, **SGD},
    "TapNetClassifierTorch": {"num_epochs": 1, **SGD},
}


def sktime(kind: str, clock: Clock) -> Array:
    """Sktime's classifiers on torch that have recurrent layers."""
    from sktime.classification import deep_learning

    X, y = _labelled()
    torch.manual_seed(0)
    model = getattr(deep_learning, kind)(**SKTIME[kind], random_state=0)
    with clock():
        model.fit(X, y)
    return model.predict_proba(X)


def _labelled() -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 128)
    X = random.normal(size=(128, 3, 100)).astype(np.float32)
    X[:, 0] += np.sin(np.arange(100) / 5)[None] * y[:, None]
    return X, y


def skorch(cell: str, clock: Clock) -> Array:
    """Skorch's ``NeuralNetClassifier`` over a module of the user."""
    from skorch import NeuralNetClassifier

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = getattr(torch.nn, cell)(3, 64, batch_first=True)
            self.head = torch.nn.Linear(64, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.head(self.recurrent(x)[0][:, -1]), -1)

    X, y = _labelled()
    torch.manual_seed(0)
    net = NeuralNetClassifier(Network, max_epochs=4, lr=0.01, optimizer=torch.optim.Adam, train_split=None, verbose=0)
    with clock():
        net.fit(X.transpose(0, 2, 1).copy(), y)
    return net.predict_proba(X.transpose(0, 2, 1).copy())


def torchrl(cell: str, clock: Clock) -> Array:
    """TorchRL's ``LSTMModule`` and ``GRUModule``, with resets inside the sequences."""
    from tensordict import TensorDict
    from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode

    torch.manual_seed(0)
    kind = LSTMModule if cell == "LSTM" else GRUModule
    module = kind(input_size=8, hidden_size=64, num_layers=1, in_key="observation", out_key="features")
    head = torch.nn.Linear(64, 1)
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], 1e-3)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(16, 100, 8, generator=random)
    start = torch.rand(16, 100, 1, generator=random) < 0.03
    start[:, 0] = True
    target = x.cumsum(1)[..., :1] / 10

    def run() -> torch.Tensor:
        data = TensorDict({"observation": x, "is_init": start}, [16, 100])
        for key in module.in_keys[1:]:
            if "recurrent" in str(key):
                data[key] = torch.zeros(16, 100, 1, 64)
        with set_recurrent_mode(True):
            return head(module(data)["features"])

    with clock():
        for _ in range(10):
            loss = (run() - target).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return run().numpy()


TOOLS: dict[str, tuple[Callable[[str, Clock], Array], tuple[str, ...]]] = {
    "darts": (darts, ("RNN", "GRU", "LSTM")),
    "neuralforecast": (neuralforecast, ("RNN", "GRU", "LSTM")),
    "pytorch-forecasting": (pytorch_forecasting, ("GRU", "LSTM")),
    "sktime": (sktime, tuple(SKTIME)),
    "skorch": (skorch, ("RNN", "GRU", "LSTM")),
    "torchrl": (torchrl, ("GRU", "LSTM")),
}


def quiet() -> None:
    """Without what the tools log and warn of."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
