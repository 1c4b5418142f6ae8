"""Recurrent layers out of a bare ``state_dict``: recognised by the names and shapes of their parameters.

A file of weights holds neither data nor a head, so what can be measured is how the layers themselves carry a gradient:
``drive`` rebuilds them, feeds them noise (or an input given) and puts a loss on every step that is one fixed random
direction of the output.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..cells import BY_MODE, BY_NAME, Cell, find
from ..errors import FlowError, OptionError
from ..files import check_regular
from .measure import gradient_flow
from .result import GradientFlow

__all__ = ["Found", "choose", "drive", "find_recurrent", "read_input", "read_state_dict"]

# `encoder.rnn.weight_hh_l1_reverse`; a cell (`decoder.weight_hh`) has no layer number.
_NAME = re.compile(
    r"^(?:(?P<module>.*)\.)?(?P<kind>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l(?P<layer>\d{1,4})(?P<reverse>_reverse)?)?$",
    re.DOTALL,
)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "ema")
_FILE_BYTES = 1 << 40  # a file of weights has at most; a pipe or device is none
_BY_GATES = {len(cell.gates): cell for cell in BY_NAME.values()}


@dataclass(frozen=True)
class Found:
    """A recurrent module found among the parameters of a checkpoint, rebuilt.

    Attributes
    ----------
    name : str
        Of the module in the checkpoint, every character but letters, digits and ``. - _`` as ``_``; empty at its root.
    module : RNN, GRU or LSTM
        Of ``torch.nn``, with the weights of the checkpoint.
    as_stored : tuple of str
        Weights taken as a parametrisation stores them, because what it makes of them is known to its code alone. Right
        for dropout of weights, which is off in eval mode.
    """

    name: str
    module: nn.RNNBase
    as_stored: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Of its layers and directions, as torch labels them."""
        suffixes = ("", "_reverse") if self.module.bidirectional else ("",)
        return [f"l{layer}{suffix}" for layer in range(self.module.num_layers) for suffix in suffixes]

    def __str__(self) -> str:
        module = self.module
        words = [f"{_kind(module)} {module.input_size} → {module.hidden_size}"]
        if isinstance(module, nn.RNN):
            words.append(module.nonlinearity)
        if module.num_layers > 1:
            words.append(f"{module.num_layers} layers")
        if module.bidirectional:
            words.append("bidirectional")
        if module.proj_size:
            words.append(f"projected to {module.proj_size}")
        if not module.bias:
            words.append("no bias")
        return ", ".join(words)


def _kind(module: nn.RNNBase) -> str:
    return BY_MODE[module.mode].title


# --- The file ---------------------------------------------------------------------------------------------------------


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The parameters in a safetensors file, or in a torch file read without running any pickled code.

    A ``state_dict`` nested in a training checkpoint (under ``"state_dict"``, ``"model"``, …) is found: the first
    mapping that has recurrent weights, else the one with the most tensors.

    Raises
    ------
    FlowError
        The file is missing, damaged, of another format, or would have to run code.
    """
    path = Path(path)
    try:
        with path.open("rb") if path.is_dir() else _regular(path) as file:
            head = file.read(16)
    except IsADirectoryError:
        raise FlowError(
            f"{path} is a folder: give a file of weights (a run is measured without --checkpoint)."
        ) from None
    except OSError as error:
        raise FlowError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not head:
        raise FlowError(f"{path} is empty.")
    # A safetensors file begins with the length of its JSON header, whose first byte may well be that of a pickle.
    if head[8:9] != b"{" and head.startswith((b"PK\x03\x04", b"\x80")):
        return _mapping(_torch_file(path), path)
    return _safetensors_file(path)


def _regular(path: Path) -> IO[bytes]:
    check_regular(path.stat(), _FILE_BYTES)
    return path.open("rb")


def _safetensors_file(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FlowError(f"{path} is neither a whole safetensors file nor one of torch.save ({_line(error)}).") from None


def _torch_file(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        words = str(error)
        # The name of what the pickle would call or build, where torch says it.
        wanted = re.search(r"GLOBAL (\S+)", words)
        if wanted is not None and "Unsupported" in words:
            raise FlowError(
                f"{path} holds more than tensors: reading it would run pickled code ({wanted[1]}), which is refused. "
                "Where you trust it, save model.state_dict() alone."
            ) from None
        raise FlowError(
            f"{path} is a pickle that is no plain state_dict, or is damaged; no pickled code is run. "
            "Save model.state_dict() with torch.save or safetensors."
        ) from None
    except Exception as error:  # a damaged archive raises anything
        if "TorchScript" in str(error):
            raise FlowError(
                f"{path} is a TorchScript archive: save the state_dict() of the model it came from."
            ) from None
        raise FlowError(f"{path} is damaged or cut short: torch cannot read it ({_line(error)}).") from None


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _mapping(content: Any, path: Path) -> dict[str, Tensor]:
    """The state_dict within what a torch file holds."""
    best: dict[str, Tensor] = {}
    for found in _nested(content, 4):
        if any(_NAME.match(name) for name in found):
            return found
        best = max(best, found, key=len)
    if not best:
        raise FlowError(f"{path} holds a {type(content).__name__} without named tensors, not a state_dict.")
    return best


def _nested(content: Any, depth: int) -> Iterator[dict[str, Tensor]]:
    """Mappings of names to tensors, those under the usual names first, optimisers last."""
    if not isinstance(content, Mapping) or not depth:
        return
    yield {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    for name in sorted(named, key=lambda n: (_WRAPPERS.index(n) if n in _WRAPPERS else len(_WRAPPERS), "optim" in n)):
        yield from _nested(named[name], depth - 1)


# --- The layers -------------------------------------------------------------------------------------------------------


def find_recurrent(parameters: Mapping[str, Tensor], nonlinearity: str | None = None) -> list[Found]:
    """Every RNN, GRU and LSTM among named parameters, rebuilt.

    ``weight_ih`` has 4·H rows in an LSTM, 3·H in a GRU and H in an RNN. Layers, directions, projections and missing
    biases follow from the names; so do cells, which become layers of their own. Weights kept in parts by
    ``weight_norm``, ``spectral_norm``, pruning or dropout of weights are put together as the model in eval mode has
    them.

    Parameters
    ----------
    parameters
        As of ``module.state_dict()``, names with any prefix.
    nonlinearity : {"tanh", "relu"}, optional
        Of the RNNs: no parameter tells it. tanh if not given.

    Raises
    ------
    FlowError
        There is none; a parameter is missing, misshapen, quantised or not finite.

    Examples
    --------
    >>> [found] = find_recurrent(torch.nn.GRU(3, 8, num_layers=2).state_dict())
    >>> print(found)
    GRU 3 → 8, 2 layers
    """
    if nonlinearity not in (None, "tanh", "relu"):
        raise OptionError(f"nonlinearity is {nonlinearity!r}; it is 'tanh' or 'relu'.")
    parameters, as_stored = _as_computed_with(parameters)
    made = next((name for name in parameters if "weight_hh" in name and not _NAME.match(name)), None)
    hint = (
        "" if made is None else f" {made} looks reparametrised: remove that (remove_parametrizations) and save again."
    )
    modules: dict[str, dict[tuple[int, bool, str], tuple[str, Tensor]]] = {}
    for name, tensor in parameters.items():
        if (match := _NAME.match(name)) is not None:
            place = (int(match["layer"] or 0), bool(match["reverse"]), match["kind"])
            modules.setdefault(match["module"] or "", {})[place] = (name, tensor)
    if not modules:
        names = list(parameters)
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise FlowError(
            "No RNN, GRU or LSTM weights were found (names that end like weight_ih_l0, weight_hh_l0): "
            f"the parameters are {shown or 'none'}.{hint}"
        )
    found: list[Found] = []
    for name, own in modules.items():
        plain = re.sub(r"[^\w.\-]", "_", name, flags=re.ASCII)
        while any(plain == other.name for other in found):
            plain += "_"
        stored = tuple(full for full, _ in own.values() if full in as_stored)
        found.append(Found(plain, _rebuilt(own, nonlinearity or "tanh", hint), stored))
    if nonlinearity is not None and not any(isinstance(one.module, nn.RNN) for one in found):
        raise OptionError(
            f"--nonlinearity {nonlinearity} is for an RNN; this checkpoint has {_kind(found[0].module)} weights."
        )
    return found


# What weight_norm, spectral_norm, pruning and dropout of weights keep in place of a weight; its name is between.
_MADE_OF = re.compile(
    r"^(?P<module>(?:.*\.)?)(?:parametrizations\.(?P<new>(?:weight|bias)_(?:ih|hh|hr)(?:_l\d+(?:_reverse)?)?)\."
    r"(?P<part>original\d?|0\._u|0\._v|0\.\w+)|(?P<old>(?:weight|bias)_(?:ih|hh|hr)(?:_l\d+(?:_reverse)?)?)_"
    r"(?P<suffix>g|v|u|orig|mask|raw))$",
    re.DOTALL,
)
_PARTS = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "v"}


def _as_computed_with(parameters: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """The parameters with weights that are kept in parts put together, as the model in eval mode has them.

    Beside them the names of those of which only what a parametrisation stores is there.
    """
    found, as_stored = dict(parameters), set()
    parts: dict[str, dict[str, str]] = {}
    for name in parameters:
        if (match := _MADE_OF.match(name)) is not None:
            whole = match["module"] + (match["new"] or match["old"])
            part = match["suffix"] or _PARTS.get(match["part"], match["part"])
            parts.setdefault(whole, {})[part] = name
    for whole, own in parts.items():
        values = {part: parameters[name] for part, name in own.items()}
        for part, name in own.items():
            _check(name, values[part], shaped=False)
        try:
            weight = _together(values)
        except RuntimeError as error:
            raise FlowError(f"{whole} cannot be put together from {', '.join(own.values())}: {error}") from None
        if weight is None:
            continue  # of a kind that is not known here: named by whoever misses the weight
        for name in own.values():
            del found[name]
        module, _, last = whole.rpartition(".")
        inner = f"{module}.module.{last}".lstrip(".")  # a wrapper that drops weights holds the layer under this name
        siblings = inner.replace("weight_hh", "weight_ih")
        name = inner if "raw" in own and siblings in parameters else whole
        found[name] = weight
        if set(own) == {"orig"}:
            as_stored.add(name)
    return found, as_stored


def _together(parts: dict[str, Tensor]) -> Tensor | None:
    """One weight of its parts; None where they are of no kind that is known."""
    kinds = set(parts)
    if kinds == {"g", "v"}:  # weight_norm: w = g v/‖v‖, the norm over the axes along which there is one g
        g, v = parts["g"], parts["v"]
        axes = [axis for axis in range(v.dim()) if g.dim() == 0 or g.shape[axis] == 1]
        norm: Tensor = torch.linalg.vector_norm(v, dim=axes, keepdim=g.dim() > 0)
        return v * (g / norm)
    if kinds == {"orig", "u", "v"}:  # spectral_norm: w/σ with σ = uᵀ w v
        w = parts["orig"]
        return w / torch.dot(parts["u"], w.flatten(1) @ parts["v"])
    if kinds == {"orig", "mask"}:  # pruning
        return parts["orig"] * parts["mask"]
    if kinds in ({"orig"}, {"raw"}):  # dropout of weights, which is off in eval mode
        return next(iter(parts.values()))
    return None


def _rebuilt(own: dict[tuple[int, bool, str], tuple[str, Tensor]], nonlinearity: str, hint: str) -> nn.RNNBase:
    """The module whose parameters these are."""
    any_name = next(iter(own.values()))[0]
    if (0, False, "weight_ih") not in own or (0, False, "weight_hh") not in own:
        missing = "weight_ih" if (0, False, "weight_ih") not in own else "weight_hh"
        raise FlowError(f"{any_name} has no {missing} of layer 0 beside it: the recurrent layer is not whole.{hint}")
    for name, tensor in own.values():
        _check(name, tensor)
    name, hh = own[0, False, "weight_hh"]
    projection = own.get((0, False, "weight_hr"))
    rows, width = hh.shape
    hidden = projection[1].shape[1] if projection is not None else width
    if not hidden or rows % hidden or rows // hidden not in _BY_GATES:
        raise FlowError(
            f"{name} has shape {tuple(hh.shape)}: of no RNN (H, H), GRU (3·H, H) or LSTM (4·H, H)"
            + ("." if projection is None else f" with a projection {tuple(projection[1].shape)}.")
        )
    cell = _BY_GATES[rows // hidden]
    kind = cell.title
    if projection is not None and "c" not in cell.states:
        raise FlowError(f"{projection[0]} is a projection, which only an LSTM has, beside the weights of a {kind}.")
    sizes: dict[str, Any] = {
        "input_size": own[0, False, "weight_ih"][1].shape[1],
        "hidden_size": hidden,
        "num_layers": max(layer for layer, _, _ in own) + 1,
        "bidirectional": any(reverse for _, reverse, _ in own),
        "bias": any(part.startswith("bias") for _, _, part in own),
    }
    if sizes["num_layers"] > len(own):  # one stray large number would build that many layers
        raise FlowError(f"{any_name}: layers up to {sizes['num_layers'] - 1} are named, but some between are missing.")
    if projection is not None:
        sizes["proj_size"] = width
    dtype = torch.float64 if all(t.dtype == torch.float64 for _, t in own.values()) else torch.float32
    module = _empty(find(cell.name, nonlinearity), sizes)
    prefix = name.rpartition("weight_hh")[0]
    expected: dict[str, Tensor] = {}
    for parameter, wanted in module.state_dict().items():
        match = _NAME.match(parameter)
        assert match is not None
        place = (int(match["layer"]), bool(match["reverse"]), match["kind"])
        if place not in own:
            raise FlowError(f"{prefix}{parameter} is missing: the {kind} is not whole without it.")
        given, tensor = own[place]
        if tensor.shape != wanted.shape:
            raise FlowError(
                f"{given} has shape {tuple(tensor.shape)}; expected {tuple(wanted.shape)} in the {kind} with "
                f"{name} {tuple(hh.shape)}."
            )
        expected[parameter] = tensor.to(dtype)
    module = module.to(dtype).to_empty(device="cpu")
    module.load_state_dict(expected)
    return module.eval()


def _empty(cell: Cell, sizes: dict[str, Any]) -> nn.RNNBase:
    options = {"nonlinearity": cell.nonlinearity} if cell.name == "rnn" else {}
    layer: nn.RNNBase = getattr(nn, cell.title)(**sizes, **options, device="meta")
    return layer


def _check(name: str, tensor: Tensor, shaped: bool = True) -> None:
    if tensor.layout is not torch.strided:
        raise FlowError(f"{name} is kept as {tensor.layout}: save it dense (tensor.to_dense()).")
    if tensor.is_quantized or not tensor.is_floating_point():
        raise FlowError(f"{name} holds {tensor.dtype}, not plain floating-point numbers: give the model unquantised.")
    if tensor.is_meta:
        raise FlowError(f"{name} has no values (it lies on the meta device).")
    dimensions = 1 if ".bias_" in f".{name}" else 2
    if (shaped and tensor.dim() != dimensions) or not tensor.numel():
        raise FlowError(f"{name} has shape {tuple(tensor.shape)}; expected {dimensions} axes, none empty.")
    bad = torch.isfinite(tensor).logical_not()
    if bad.any():
        at = tuple(int(i) for i in bad.nonzero()[0])
        raise FlowError(
            f"{name} is not finite: {int(bad.sum())} of its {tensor.numel()} values, the first {float(tensor[at])} "
            f"at {list(at)}."
        )


# --- What drives them -------------------------------------------------------------------------------------------------


def read_input(path: str | Path) -> Tensor:
    """An input from a ``.npy`` file, ``(T, B, I)``, or ``(T, I)`` for one sequence; no pickle.

    Raises
    ------
    FlowError
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FlowError(f"{path} cannot be read: there is no such file.") from None
    except OSError as error:
        raise FlowError(f"{path} cannot be read: {error.strerror or 'it is damaged'}.") from None
    except MemoryError:
        raise
    except Exception:  # also TokenError, BadZipFile …; NumPy's own words advise to load the pickle
        raise FlowError(f"{path} is no whole .npy file of numbers (Python objects in one are not read).") from None
    if not isinstance(array, np.ndarray):
        raise FlowError(f"{path} is an archive of several arrays: give a .npy file with one.")
    if array.dtype.kind not in "fiu":
        raise FlowError(f"{path} holds {array.dtype}, not real numbers.")
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or not array.size:
        raise FlowError(f"{path} has shape {array.shape}; expected (T, B, I): steps, sequences, inputs; none empty.")
    values = torch.from_numpy(np.array(array, dtype=np.float64))
    if not torch.isfinite(values).all():
        t, b, i = (int(place) for place in torch.isfinite(values).logical_not().nonzero()[0])
        raise FlowError(f"{path} is not finite: {float(values[t, b, i])} at step {t}, sequence {b}, input {i}.")
    return values


class _Side(nn.Module):
    """Recurrent modules side by side, each under its name in the checkpoint."""

    def __init__(self, found: Sequence[Found]) -> None:
        super().__init__()
        self.parts = list(found)
        for one in found:
            # By hand: add_module refuses dots, and names that a module has for something else ("forward").
            self._modules[one.name or "root"] = one.module

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [one.module(x)[0] for one, x in zip(self.parts, inputs, strict=True)]


def choose(found: Sequence[Found], asked: Sequence[str]) -> tuple[list[Found], list[str]]:
    """The modules that have the layers asked for, and the labels of these in `drive` of those modules.

    A layer is asked for by its label: ``encoder.l0``; ``l0`` alone is that of every module, ``encoder`` all of one.

    Raises
    ------
    FlowError
        There is no such layer.
    """
    labels = {f"{one.name or 'root'}.{label}": (one, label) for one in found for label in one.labels}
    wanted: dict[str, tuple[Found, str]] = {}
    for name in asked:
        matching = {full: owner for full, owner in labels.items() if full == name or full.endswith(f".{name}")}
        matching = matching or {full: owner for full, owner in labels.items() if full.startswith(f"{name}.")}
        if not matching:
            raise FlowError(f"There is no layer {name!r}; this checkpoint has {', '.join(labels)}.")
        wanted |= matching
    chosen = [one for one in found if any(one is owner for owner, _ in wanted.values())]
    return chosen, [full if len(chosen) > 1 else label for full, (_, label) in wanted.items()]


def drive(
    found: Sequence[Found],
    *,
    steps: int = 100,
    sequences: int = 8,
    seed: int = 0,
    given: Tensor | None = None,
    layers: Sequence[str] | None = None,
) -> GradientFlow:
    """Measure how rebuilt layers carry a gradient, driven by noise under a random head.

    Each module reads standard-normal input (or the input given); E_t = ⟨r, output_t⟩ with r one random direction of
    length 1, the same at every step. So ∂E_t/∂output_t is r, and all that ‖∂E_t/∂s_k‖ shows is the layer's own.

    Parameters
    ----------
    found
        Of `find_recurrent`. Labels are ``l0``, … or, of several modules, ``encoder.l0``, ….
    steps, sequences : int
        T and B of the noise; of an input given, the most that is used of it.
    seed : int
        Of noise and directions; torch's random state is left alone.
    given : Tensor, optional
        Input ``(T, B, I)`` instead of noise.
    layers
        Labels to measure; all if not given.

    Raises
    ------
    FlowError
        The input does not fit, a label is unknown, or a value stops being finite.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, directions = [], []
    for one in found:
        module, dtype = one.module, one.module.all_weights[0][0].dtype
        outputs = (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
        direction = torch.randn(outputs, generator=generator, dtype=torch.float64)
        directions.append((direction / direction.norm()).to(dtype))
        if given is None:
            noise = torch.randn(steps, sequences, module.input_size, generator=generator, dtype=torch.float64)
            inputs.append(noise.to(dtype))
            continue
        if given.shape[2] != module.input_size:
            mend = " Choose other layers." if len(found) > 1 else ""
            raise FlowError(
                f"The input has {given.shape[2]} numbers a step (shape {tuple(given.shape)}), but {one.name or 'the'} "
                f"{_kind(module)} takes {module.input_size}: give (T, B, {module.input_size}).{mend}"
            )
        inputs.append(given[:steps, :sequences].to(dtype))
    together = len(found) > 1

    def loss(output: Any) -> Tensor:
        outputs = output if together else [output[0]]
        first, *others = [o @ r for o, r in zip(outputs, directions, strict=True)]
        total: Tensor = sum(others, first)
        return total

    if together:
        return gradient_flow(_Side(found), inputs, loss=loss, layers=layers)
    return gradient_flow(found[0].module, inputs[0], loss=loss, layers=layers)
