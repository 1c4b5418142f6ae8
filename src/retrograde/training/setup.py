"""What training needs before its first step: device, processes, seed, optimizer, and a model that fits into memory.

Tests: `tests/training/test_trainer.py`.
"""

from __future__ import annotations

import os
import random
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from ..errors import OptionError
from ..memory import installed_memory
from ..nn.flossing import flossed_layers
from ..options import Options
from ..tasks.models import without_values
from ..tasks.task import Task
from .distributed import DistributedContext
from .regularize import VanishingGradientRegularizer


def is_first_process() -> bool:
    """Whether this is rank 0, as torchrun and accelerate launch say."""
    return os.environ.get("RANK", "0") == "0"


def seed_everything(seed: int) -> None:
    """Seed torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def make_context(options: Options) -> DistributedContext:
    """Device, precision and processes, by Hugging Face accelerate.

    Raises OptionError if the device does not exist.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(options.device, True):
        raise OptionError(f"--device {options.device} is not there on this machine; leave it out or give cpu.")
    # Accelerate has one state per process, and refuses another device or precision than that of the first training.
    owns_group = not torch.distributed.is_initialized()
    if owns_group:
        AcceleratorState._reset_state(reset_partial_state=True)
    # On a machine without CUDA, accelerate uses gloo between CPUs only if it is asked for the CPU.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    no_gpu = options.device == "auto" and not available["cuda"] and (several or not available["mps"])
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=options.stall_minutes))
    accelerator = Accelerator(
        cpu=options.device == "cpu" or no_gpu,
        mixed_precision="bf16" if options.precision == "bf16" else "no",
        kwargs_handlers=[patience] if several else None,
    )
    return DistributedContext(accelerator, options.stall_minutes, owns_group)


def make_optimizer(options: Options, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer that the options name."""
    # Fused: one pass over the parameters, a third of the time of the default on a CPU.
    common: dict[str, Any] = {
        "lr": options.lr,
        "weight_decay": options.weight_decay,
        "fused": device.type in ("cpu", "cuda"),
    }
    if options.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=options.momentum, **common)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), **common)


def check_model(options: Options, task: Task[Any]) -> None:
    """Refuse a model that cannot be built, or does not fit into memory, before anything is allocated or written.

    Raises OptionError.
    """
    memory = installed_memory()
    sizes = (
        f"--hidden-size {options.hidden_size:,} (--num-layers {options.num_layers}, --embedding-size "
        f"{options.embedding_size:,})"
    )
    try:
        with without_values():
            model = task.model()
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise OptionError(
            f"{sizes} makes a weight of more than {2**63 / 2**30:,.0f} GB of memory, which no machine has: lower them."
        ) from None
    if options.omega:
        VanishingGradientRegularizer(model, options.omega)
    if options.floss:
        flossed_layers(model, options.floss)
    if memory is None:
        return
    parameters = sum(parameter.numel() for parameter in model.parameters())
    copies = 2 if options.optimizer == "sgd" else 4  # weights and gradients; Adam's two moments
    if (needed := 4 * copies * parameters) > memory:
        raise OptionError(
            f"{sizes} makes a model of {parameters:.3g} numbers, whose training needs {needed / 2**30:,.0f} GB of "
            f"memory; there are {memory / 2**30:,.0f}: lower them."
        )
    # Data from a file has only so many sequences; the size of a generated batch has no such bound.
    steps = task.generated_steps
    if (needed := 4 * task.batch_size * steps * options.num_layers * options.hidden_size) > memory:
        raise OptionError(
            f"--batch-size {task.batch_size:,} sequences of {steps:,} steps need at least {needed / 2**30:,.0f} GB of "
            f"memory for their states; there are {memory / 2**30:,.0f}: lower it, or the length."
        )
