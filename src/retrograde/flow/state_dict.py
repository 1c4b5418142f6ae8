"""Read a file of weights, and rebuild the recurrent layers by the names and shapes of their parameters."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..cells import BY_MODE, BY_NAME, FUSED, Cell, find
from ..errors import FlowError, OptionError, first_line
from ..files import check_regular
from ..nn.factory import stepwise_layer
from ..nn.stepwise import Stepwise

# `encoder.rnn.weight_hh_l1_reverse`; a cell (`decoder.weight_hh`) has no layer number.
_NAME = re.compile(
    r"^(?:(?P<module>.*)\.)?(?P<kind>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh|gain_ih|gain_hh|gain_sum|gain_c"
    r"|shift_c)"
    r"(?:_l(?P<layer>\d{1,4})(?P<reverse>_reverse)?)?$",
    re.DOTALL,
)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "ema")
Layer = nn.RNNBase | Stepwise
_FILE_BYTES = 1 << 40  # the largest file of weights that is read


@dataclass(frozen=True)
class Found:
    """A recurrent module, rebuilt from the parameters of a state_dict.

    Attributes
    ----------
    name : str
        The module's name, with ``_`` for every character but letters, digits and ``. - _``; empty at the root.
    module : Module
        An RNN, GRU or LSTM of ``torch.nn`` with the weights; of another cell, or with gains of a layer normalization, a
        layer of `retrograde.nn` that runs step by step.
    as_stored : tuple of str
        Weights taken as a parametrization stores them, because only its code knows what it computes from them. This is
        right for dropout of weights, which is off in eval mode.
    """

    name: str
    module: Layer
    as_stored: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Labels of its layers and directions, as torch names them."""
        suffixes = ("", "_reverse") if self.module.bidirectional else ("",)
        return [f"l{layer}{suffix}" for layer in range(self.module.num_layers) for suffix in suffixes]

    def __str__(self) -> str:
        module = self.module
        words = [f"{module_kind(module)} {module.input_size} → {module.hidden_size}"]
        if module_kind(module) == "RNN":
            words.append(str(module.nonlinearity))
        if module.num_layers > 1:
            words.append(f"{module.num_layers} layers")
        if module.bidirectional:
            words.append("bidirectional")
        if isinstance(module, Stepwise):
            words += ["layer normalization"] * module.layer_norm
        elif module.proj_size:
            words.append(f"projected to {module.proj_size}")
        if not module.bias:
            words.append("no bias")
        return ", ".join(words)


def module_kind(module: Layer) -> str:
    """Name of a module's cell in capitals."""
    return (module.cell if isinstance(module, Stepwise) else BY_MODE[module.mode]).title


# --- The file ---------------------------------------------------------------------------------------------------------


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The parameters in a safetensors file, or in a torch file read without running any pickled code.

    A ``state_dict`` nested in a training checkpoint (under ``"state_dict"``, ``"model"``, …) is found: the first
    mapping that has recurrent weights, otherwise the one with the most tensors.

    Raises
    ------
    FlowError
        The file is missing, damaged, of another format, or could not be read without running code.
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
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FlowError(
            f"{path} is neither a complete safetensors file nor a file of torch.save ({first_line(error)[:160]})."
        ) from None


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
                f"{path} contains more than tensors: reading it would run pickled code ({wanted[1]}), which is "
                "refused. If you trust it, save model.state_dict() alone."
            ) from None
        raise FlowError(
            f"{path} is a pickle but not a plain state_dict, or is damaged; no pickled code is run. "
            "Save model.state_dict() with torch.save or safetensors."
        ) from None
    except Exception as error:  # a damaged archive raises anything
        if "TorchScript" in str(error):
            raise FlowError(
                f"{path} is a TorchScript archive: save the state_dict() of the model it came from."
            ) from None
        raise FlowError(f"{path} is damaged or cut short: torch cannot read it ({first_line(error)[:160]}).") from None


def _mapping(content: Any, path: Path) -> dict[str, Tensor]:
    """The state_dict within the content of a torch file."""
    best: dict[str, Tensor] = {}
    for found in _nested(content, 4):
        if any(_NAME.match(name) for name in found):
            return found
        best = max(best, found, key=len)
    if not best:
        raise FlowError(f"{path} contains a {type(content).__name__} without named tensors, not a state_dict.")
    return best


def _nested(content: Any, depth: int) -> Iterator[dict[str, Tensor]]:
    """Mappings of names to tensors, those under the usual names first, optimizers last."""
    if not isinstance(content, Mapping) or not depth:
        return
    yield {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    for name in sorted(named, key=lambda n: (_WRAPPERS.index(n) if n in _WRAPPERS else len(_WRAPPERS), "optim" in n)):
        yield from _nested(named[name], depth - 1)


# --- The layers -------------------------------------------------------------------------------------------------------


def find_recurrent(
    parameters: Mapping[str, Tensor], nonlinearity: str | None = None, cell: str | None = None
) -> list[Found]:
    """Every RNN, GRU and LSTM among named parameters, rebuilt.

    ``weight_ih`` has 4·H rows in an LSTM, 3·H in a GRU, H in an RNN, and likewise in any cell of `retrograde.cells`:
    of several with as many gates it is torch's. Layers, directions, projections and missing
    biases follow from the names; so do cells, which become layers of their own. Weights kept in parts by
    ``weight_norm``, ``spectral_norm``, pruning or dropout of weights are put together as the model in eval mode has
    them.

    Parameters
    ----------
    parameters
        As in ``module.state_dict()``, names with any prefix.
    nonlinearity : {"tanh", "relu"}, optional
        Nonlinearity of the RNNs, which no parameter tells; tanh by default.
    cell : str, optional
        The cell of the weights that have as many gates as it.

    Raises
    ------
    FlowError
        There is no recurrent layer; a parameter is missing, misshapen, quantized or not finite.

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
    hint = "" if made is None else f" {made} looks reparametrized: undo that (remove_parametrizations) and save again."
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
        found.append(Found(plain, _rebuilt(own, nonlinearity or "tanh", cell, hint), stored))
    if nonlinearity is not None and not any(module_kind(one.module) == "RNN" for one in found):
        raise OptionError(
            f"--nonlinearity {nonlinearity} is for an RNN; this checkpoint has {module_kind(found[0].module)} weights."
        )
    if cell is not None and not any(module_kind(one.module) == find(cell).title for one in found):
        raise OptionError(
            f"--cell {cell} has {len(find(cell).gates)}·H rows in its weights, and none here has so many."
        )
    return found


# What weight_norm, spectral_norm, pruning and dropout of weights store instead of a weight.
_MADE_OF = re.compile(
    r"^(?P<module>(?:.*\.)?)(?:parametrizations\.(?P<new>(?:weight|bias)_(?:ih|hh|hr)(?:_l\d+(?:_reverse)?)?)\."
    r"(?P<part>original\d?|0\._u|0\._v|0\.\w+)|(?P<old>(?:weight|bias)_(?:ih|hh|hr)(?:_l\d+(?:_reverse)?)?)_"
    r"(?P<suffix>g|v|u|orig|mask|raw))$",
    re.DOTALL,
)
_PARTS = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "v"}


def _as_computed_with(parameters: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """The parameters, weights stored in parts combined as in eval mode; and the names of weights taken as stored."""
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
            weight = _combined(values)
        except RuntimeError as error:
            raise FlowError(f"{whole} cannot be combined from {', '.join(own.values())}: {error}") from None
        if weight is None:
            continue  # of an unknown kind: the error about the missing weight names it
        for name in own.values():
            del found[name]
        module, _, last = whole.rpartition(".")
        inner = f"{module}.module.{last}".lstrip(".")  # a wrapper that drops weights has the layer under this name
        siblings = inner.replace("weight_hh", "weight_ih")
        name = inner if "raw" in own and siblings in parameters else whole
        found[name] = weight
        if set(own) == {"orig"}:
            as_stored.add(name)
    return found, as_stored


def _combined(parts: dict[str, Tensor]) -> Tensor | None:
    """One weight from its parts; None where they are of an unknown kind."""
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


def _rebuilt(
    own: dict[tuple[int, bool, str], tuple[str, Tensor]], nonlinearity: str, asked: str | None, hint: str
) -> Layer:
    """The module whose parameters these are."""
    any_name = next(iter(own.values()))[0]
    if (0, False, "weight_ih") not in own or (0, False, "weight_hh") not in own:
        missing = "weight_ih" if (0, False, "weight_ih") not in own else "weight_hh"
        raise FlowError(f"{any_name} has no {missing} of layer 0 next to it: the recurrent layer is incomplete.{hint}")
    for name, tensor in own.values():
        _check(name, tensor)
    name, hh = own[0, False, "weight_hh"]
    projection = own.get((0, False, "weight_hr"))
    rows, width = hh.shape
    hidden = projection[1].shape[1] if projection is not None else width
    gates = rows // hidden if hidden and rows % hidden == 0 else 0
    known = [one for one in BY_NAME.values() if len(one.gates) == gates]
    known = [one for one in known if one.name == asked] or known
    if not known:
        raise FlowError(
            f"{name} has shape {tuple(hh.shape)}, which is not that of an RNN (H, H), GRU (3·H, H) or LSTM (4·H, H)"
            + ("" if projection is None else f" with a projection {tuple(projection[1].shape)}")
            + ". Weights of another cell do not say what they compute: measure the run or the model they are from."
        )
    if len(known) > 1 and known[0] not in FUSED:  # torch's cells are the usual ones
        names = " and ".join(one.name for one in known)
        raise FlowError(f"{name} has {gates}·H rows, as {names} have: say which it is (cell=, --cell).")
    cell = find(known[0].name, nonlinearity)
    kind = cell.title
    if projection is not None and cell.name != "lstm":
        raise FlowError(
            f"{projection[0]} is a projection, which only an LSTM has, but the weights are those of a {kind}."
        )
    sizes: dict[str, Any] = {
        "input_size": own[0, False, "weight_ih"][1].shape[1],
        "hidden_size": hidden,
        "num_layers": max(layer for layer, _, _ in own) + 1,
        "bidirectional": any(reverse for _, reverse, _ in own),
        "bias": any(part.startswith("bias") for _, _, part in own),
    }
    if sizes["num_layers"] > len(own):  # one stray large number would build that many layers
        raise FlowError(f"{any_name}: layers up to {sizes['num_layers'] - 1} are named, but some below are missing.")
    if projection is not None:
        sizes["proj_size"] = width
    dtype = torch.float64 if all(t.dtype == torch.float64 for _, t in own.values()) else torch.float32
    module = _empty(cell, sizes, any(part.startswith("gain") for _, _, part in own))
    prefix = name.rpartition("weight_hh")[0]
    expected: dict[str, Tensor] = {}
    for parameter, wanted in module.state_dict().items():
        match = _NAME.match(parameter)
        assert match is not None
        place = (int(match["layer"]), bool(match["reverse"]), match["kind"])
        if place not in own:
            raise FlowError(f"{prefix}{parameter} is missing: the {kind} is incomplete without it.")
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


def _empty(cell: Cell, sizes: dict[str, Any], layer_norm: bool) -> Layer:
    if layer_norm or cell not in FUSED:
        return stepwise_layer(cell, **sizes, layer_norm=layer_norm, device="meta")
    layer: nn.RNNBase = getattr(nn, cell.title)(**sizes, **cell.options, device="meta")
    return layer


def _check(name: str, tensor: Tensor, shaped: bool = True) -> None:
    if tensor.layout is not torch.strided:
        raise FlowError(f"{name} is stored as {tensor.layout}: save it dense (tensor.to_dense()).")
    if tensor.is_quantized or not tensor.is_floating_point():
        raise FlowError(
            f"{name} has type {tensor.dtype}, not plain floating-point numbers: save the model before it is quantized."
        )
    if tensor.is_meta:
        raise FlowError(f"{name} has no values (it is on the meta device).")
    dimensions = 1 if re.search(r"(^|\.)(bias|gain|shift)_", name) else 2
    if (shaped and tensor.dim() != dimensions) or not tensor.numel():
        raise FlowError(f"{name} has shape {tuple(tensor.shape)}; expected {dimensions} axes, none empty.")
    bad = torch.isfinite(tensor).logical_not()
    if bad.any():
        at = tuple(int(i) for i in bad.nonzero()[0])
        raise FlowError(
            f"{name} is not finite: {int(bad.sum())} of its {tensor.numel()} values, the first {float(tensor[at])} "
            f"at {list(at)}."
        )
