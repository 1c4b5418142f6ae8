"""Remedies for how the gradient travels through time: starts, cells, the regularizer, the length of BPTT.

A start or a cell is tried on a copy of the untrained network before it is prescribed: the arithmetic says how far the
gradient of the copy reaches, and remedies whose copy reaches as far as the data asks for come first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn

from ...cells import GATED
from ...errors import FlowError
from ...flow import GradientFlow
from ...nn import floss, initialize
from ..findings import Kind
from ..prescriptions import Prescription
from ..thresholds import THRESHOLDS
from ..travel import travels_of
from .case import Case, short
from .parts import Part

WANTED = 10  # times the share at which the reach ends, of which a stretched start keeps so much over the need
ENOUGH = 0.9  # of the share that is wanted
WIDER = 2**0.5  # the largest radius: of ReLU units, half of which are 0, it keeps the gradient (He et al. 2015)
TRIES = 5  # of a spectral radius, each corrected by what those before left
PUBLISHED_OMEGA = 4.0  # Pascanu, Mikolov and Bengio 2013: of the mean of (r² − 1)² ≈ 4 (r − 1)² over the steps
WIDEST = 256  # units of a layer whose Lyapunov exponents are all found
COSINE = 0.99  # of the truncated with the full gradient, from which on a truncation hides nothing


class _Start(NamedTuple):
    """A start of the recurrent weights, and how it was computed."""

    arguments: dict[str, Any]
    arithmetic: str
    flow: GradientFlow | None  # of a copy with this start


def vanishing(case: Case) -> Iterator[Prescription]:
    """The gradient does not reach as far as the data asks for."""
    if case.need is None or case.need < 2:
        return
    # Gates come first: on the adding problem of 100 steps an orthogonal tanh network whose gradient reaches far enough
    # stayed at chance, and a GRU with chrono learned (examples/papers/results/hochreiter1997.md).
    cells = list(_cells(case))
    gated = [one for one in cells if one[0].options.get("cell")]
    others = [one for one in cells if not one[0].options.get("cell")]
    plain = list(_plain_starts(case))
    # Gates keep one thing for long. Where step after step asks for an input of its own from d steps ago, the state
    # passes d inputs on at once, which orthogonal weights do (examples/papers/results/engelken2023.md, docs/doctor.md).
    passes_on = bool(plain) and case.delayed
    ladder = [*plain, *gated, *others] if passes_on else [*_gated_starts(case), *gated, *plain, *others]
    ladder.sort(key=lambda tried: not tried[1])  # stable: those that reach far enough first
    yield from (remedy for remedy, _ in ladder)
    yield from _regularizer(case)
    if passes_on:  # not an LSTM: with 30 of its exponents at 0 it did not learn to copy over 30 steps
        yield from flossing(case)


def _tried(case: Case, flow: GradientFlow | None) -> tuple[str, bool]:
    """How far the gradient of a changed copy reaches, in words, and whether that is enough."""
    reach, need = case.reach_of(flow), case.need or 0
    if reach is None:
        return "", False
    if math.isinf(reach):
        return f"; of a copy started so, more than 1 % of the gradient is left over all {case.steps} steps", True
    enough = "enough" if reach >= need else "not enough alone"
    return f"; of a copy started so, 1 % of the gradient is left after {reach:.0f} steps: {enough}", reach >= need


# --- Starts -----------------------------------------------------------------------------------------------------------


def _plain_starts(case: Case) -> Iterator[tuple[Prescription, bool]]:
    """Orthogonal recurrent weights of a vanilla network, stretched where too little is left over the need."""
    if not case.vanilla:
        return
    found = _orthogonal(case)
    words, enough = _tried(case, found.flow)
    yield _orthogonal_start(case, found, words), enough


def _orthogonal_start(case: Case, found: _Start, words: str = "") -> Prescription:
    options = {"init": "orthogonal"} | {k: v for k, v in found.arguments.items() if k == "spectral_radius"}
    return case.started("orthogonal start", found.arithmetic + words, options, **found.arguments)


def _orthogonal(case: Case, which: Callable[..., Any] = min) -> _Start:
    """Orthogonal weights, stretched as far as the need asks for: a share of what a copy sends back is left there.

    That is judged by the layer where the least is left; with ``max`` by the one where the most is. Over more lags than
    the need nothing is asked of the weights, and they are not stretched to where the product of Jacobians grows.
    """
    arguments: dict[str, Any] = {"recurrent": "orthogonal"}
    flow, need = case.changed(case.start(**arguments)), case.need or 0
    arithmetic = (
        f"the singular values of the recurrent weights are {_singular_values(case.parts)}; of an orthogonal matrix all "
        "are 1"
    )
    best = _Start(arguments, arithmetic, flow)
    if not case.vanilla or not need or flow is None:
        return best
    asked = _asked_of(case, flow, need, which)
    share = first = asked.left(flow)
    # Of linear units the share goes as radius^need; a radius that is too large halves the way to it.
    radius, limit, slope = 1.0, math.inf, float(need)
    for _ in range(TRIES if 0 < share < asked.wanted else 0):
        step = min(math.log(asked.wanted / share) / slope, math.log(limit / radius) / 2)
        if (further := float(short(min(radius * math.exp(step), WIDER)))) <= radius:
            break
        stretched = arguments | {"spectral_radius": further}
        flow = case.changed(case.start(**stretched))
        if flow is None or not _is_bounded(flow) or not (after := asked.left(flow)) > share:
            limit = further
            continue
        slope = math.log(after / share) / math.log(further / radius)
        radius, share = further, after
        words = (
            f"{arithmetic}, but of {asked.what} of a copy {first:.2g} is then left over the need of {need} steps "
            f"({asked.why}); at spectral radius {short(radius)} it is {share:.2g}"
        )
        best = _Start(stretched, words, flow)
        if share >= ENOUGH * asked.wanted:
            break
    return best


class _Asked(NamedTuple):
    """What a start is asked to leave over the need."""

    left: Callable[[GradientFlow], float]
    wanted: float
    what: str  # that `left` is a share of
    why: str  # so much is wanted


def _asked_of(case: Case, flow: GradientFlow, need: int, which: Callable[..., Any]) -> _Asked:
    """A share of the gradient; where the state passes `need` inputs on at once, all of the weakest direction for them.

    A radius at which tanh units keep the whole gradient over all steps keeps some directions and loses the others: with
    80 units and a delay of 70 steps the 70th Lyapunov exponent is -0.053 at radius 1.04, and -0.093 at 1.14, from which
    one of two trainings learned nothing (examples/papers/results/engelken2023-full.md).
    """

    def whole(flow: GradientFlow) -> float:
        return case.share_at(flow, need, which) or 0.0

    def weakest(flow: GradientFlow) -> float:
        count = min(need, *(part.weight.shape[1] for part in case.parts))
        return float(which(math.exp(need * flow.lyapunov_exponents(label, count)[-1]) for label in _layers(case)))

    if case.delayed and max(part.weight.shape[1] for part in case.parts) <= WIDEST:
        with suppress(FlowError, ValueError):
            if weakest(flow) > 0:  # ReLU units that are 0 lose directions at any radius
                words = f"the weakest of {need} directions, which so many inputs take at once,"
                return _Asked(weakest, 1.0, words, "as much of it as can be is wanted")
    fraction = THRESHOLDS.reach_fraction.value
    wanted = WANTED * fraction
    return _Asked(whole, wanted, "the gradient", f"{wanted:.0%}, {WANTED} × {fraction:.0%}, is wanted")


def _is_bounded(flow: GradientFlow) -> bool:
    """Whether the product of Jacobians does not grow: no Lyapunov exponent is above 0, as far as is known."""
    for label in flow.layers:
        with suppress(FlowError, ValueError):
            if float(flow.lyapunov_exponents(label, 1)[0]) > 0:
                return False
    return all(own.growth <= THRESHOLDS.calm_growth.value for own in travels_of(flow))


def _singular_values(parts: list[Part]) -> str:
    """The smallest and the largest singular value of the recurrent weights of each gate."""
    values: list[torch.Tensor] = []
    for part in parts:
        weight = part.weight.detach().double()
        size = int(part.module.hidden_size)  # type: ignore[arg-type]
        values += [torch.linalg.svdvals(block) for block in torch.split(weight, size)]
    together = torch.cat(values)
    return f"{float(together.min()):.2g} to {float(together.max()):.2g}"


def _chrono(need: int) -> tuple[dict[str, Any], str]:
    """Gate biases with which units keep their state for all times up to the need, and their arithmetic."""
    longest = max(need, 3)
    words = (
        f"need = {need} steps, so T_max = {longest}: the biases are log u, u uniform from 1 to {longest - 1}, and "
        f"units keep their state for 1 + u = 2 to {longest} steps"
    )
    return {"chrono": longest}, words


def _forget(case: Case, need: int) -> Iterator[tuple[Prescription, bool]]:
    """A bias of the forget gate with which all units keep their state over the need."""
    if need <= 2:
        return
    bias = float(short(math.log(need - 1)))
    words = (
        f"a unit forgets in 1 / (1 - f) = 1 + e^b steps where f has the bias b; need = {need} steps, so "
        f"b = log({need} - 1) = {short(bias)}"
    )
    arguments: dict[str, Any] = {"forget_bias": bias}
    tried, enough = _tried(case, case.changed(case.start(**arguments)))
    yield case.started("forget bias", words + tried, arguments, **arguments), enough


def _gated_starts(case: Case) -> Iterator[tuple[Prescription, bool]]:
    """The gates of a GRU or LSTM open for as long as the data asks for.

    Chrono comes first: its input gates are as closed as its forget gates are open, so that what is not asked for is not
    added up. On four tasks (adding, early sum, first symbol, order; 60 to 100 steps, two seeds) an LSTM learned in 7 of
    8 trainings with it and an orthogonal start, in 4 of 8 with a forget bias and an orthogonal start.
    """
    if not case.gated or case.need is None or not all(part.has_bias for part in case.parts):
        return
    start, words = _chrono(case.need)
    square = all(not getattr(part.module, "proj_size", 0) for part in case.parts)
    arguments = start | ({"recurrent": "orthogonal"} if square else {})
    options = start | ({"init": "orthogonal"} if square else {})
    tried, enough = _tried(case, case.changed(case.start(**arguments)))
    title = "chrono initialization" + (" and orthogonal start" if square else "")
    yield case.started(title, words + tried, options, **arguments), enough
    yield from _forget(case, case.need)


def gates(case: Case) -> Iterator[Prescription]:
    """Biases of all gates from the need: open ones forget, closed ones open."""
    if case.need is None or not case.gated or not all(part.has_bias for part in case.parts):
        return
    start, words = _chrono(case.need)
    tried, _ = _tried(case, case.changed(case.start(**start)))
    yield case.started("chrono initialization", words + tried, start, **start)
    yield from (remedy for remedy, _ in _forget(case, case.need))


# --- Other cells ------------------------------------------------------------------------------------------------------


def _cells(case: Case) -> Iterator[tuple[Prescription, bool]]:
    """Another cell in place of a vanilla one: GRU, LSTM, and ReLU with the identity."""
    if not case.vanilla or case.need is None:
        return
    relu = all(part.nonlinearity == "relu" for part in case.parts)
    start, words = _chrono(case.need)
    for cell in GATED:
        options = {"cell": cell, **start, "init": "orthogonal"} | ({"nonlinearity": "tanh"} if relu else {})
        arguments = start | {"recurrent": "orthogonal"}
        yield from _replaced(
            case, f"{cell.upper()} with chrono initialization", words, (cell, "tanh"), options, arguments
        )
    growth = case.growth_of(case.flow)
    now = "" if growth is None else f"the gradient has ×{growth:.3g} per step now; "
    words, arguments = (
        f"{now}a ReLU unit that is active and starts at the identity leaves ×1",
        {"recurrent": "identity"},
    )
    if relu:
        tried, enough = _tried(case, case.changed(case.start(**arguments)))
        yield case.started("identity start (IRNN)", words + tried, {"init": "identity"}, **arguments), enough
        return
    options = {"nonlinearity": "relu", "init": "identity"}
    yield from _replaced(case, "ReLU with identity start (IRNN)", words, ("rnn", "relu"), options, arguments)


def _replaced(
    case: Case, remedy: str, words: str, cell: tuple[str, str], options: dict[str, Any], arguments: dict[str, Any]
) -> Iterator[tuple[Prescription, bool]]:
    """Another cell, as lines where the model works with it, as options where it is a run."""

    def change(model: nn.Module) -> nn.Module | None:
        for part in case.parts:
            made, (parent, _, name) = part.other(*cell), part.path.rpartition(".")
            if made is None:
                raise FlowError(f"{part.path} has no equal")
            initialize(made, **arguments)
            if not name:
                return made
            setattr(model.get_submodule(parent), name, made)
        return None

    flow = case.changed(change)
    if flow is None and case.examination.origin is None:
        return  # the model takes no such cell
    tried, enough = _tried(case, flow)
    lines = [part.replacement(*cell) for part in case.parts] if flow is not None else []
    python = "\n".join([*lines, case.lines(**arguments)]) if lines else ""
    yield case.prescription(remedy, words + tried, python, options), enough


# --- Training through time --------------------------------------------------------------------------------------------


def _regularizer(case: Case) -> Iterator[Prescription]:
    """The vanishing-gradient regularizer, for vanilla networks without dropout between layers."""
    modules = [part.module for part in case.parts]
    if not case.vanilla or not case.steps or not all(isinstance(module, nn.RNN) for module in modules):
        return
    if any(module.dropout and module.num_layers > 1 for module in modules if isinstance(module, nn.RNN)):
        return
    steps = case.steps
    if (truncated := case.examination.record.bptt) is not None:
        steps = min(steps, truncated)
    omega = float(short(4 * PUBLISHED_OMEGA / steps))
    arithmetic = (
        f"Pascanu et al. weigh the mean of (r^2 - 1)^2, about 4 (r - 1)^2, by {PUBLISHED_OMEGA:g}; here it is a sum "
        f"over T = {steps} steps: 4 × {PUBLISHED_OMEGA:g} / {steps} = {short(omega)}"
    )
    python = (
        "from retrograde.training.regularize import VanishingGradientRegularizer\n"
        f"regularizer = VanishingGradientRegularizer(model, alpha={short(omega)})\n"
        "# in the training loop, after loss.backward() and before clipping:\n"
        "regularizer.add_gradients()"
    )
    yield case.prescription("vanishing-gradient regularizer", arithmetic, python, {"omega": omega})


def bptt(case: Case) -> Iterator[Prescription]:
    """Truncated BPTT long enough for the lags that the data asks for."""
    if case.need is None:
        return
    found, words = case.need + 1, f"need = {case.need} steps back, so {case.need + 1} steps in a window"
    try:
        known = case.number("shortest")
        shortest = case.examination.flow.truncation().shortest(COSINE) if known is None else int(known)
        words += f"; the truncated gradient is within {1 - COSINE:.0%} of the full one from {shortest} steps on"
        found = max(found, shortest)
        words += f": max({case.need + 1}, {shortest}) = {found}"
    except FlowError:
        pass
    if (before := case.examination.record.bptt) is not None and before >= found:
        return
    python = f"bptt = {found}\nfor window in x.split(bptt):  # x: (T, B, …); carry the state over, detached\n    ..."
    yield case.prescription("longer truncated BPTT", words, python, {"bptt": found})


def calm_first(case: Case) -> Iterator[Prescription]:
    """Calm weights where the gradient exploded before any update: clipping would leave the cause in place."""
    if _explodes_from_start(case):
        yield from _calm(case)


def calm(case: Case) -> Iterator[Prescription]:
    """Calm weights where the gradient came to explode in training."""
    if not _explodes_from_start(case):
        yield from _calm(case)


def _explodes_from_start(case: Case) -> bool:
    sensitivity, flow = case.examination.first_sensitivity, case.flow
    growth = 0.0 if flow is None else max((own.growth for own in travels_of(flow)), default=0.0)
    return growth > THRESHOLDS.growth.value or (sensitivity or 0.0) > THRESHOLDS.sensitivity.value


def _calm(case: Case) -> Iterator[Prescription]:
    """Recurrent weights under which the gradient does not grow."""
    case = case.everywhere
    growth, name = max(
        (case.growth_of(case.flow, max) or 0.0, "untrained network"),
        (case.growth_of(case.present, max) or 0.0, "network"),
    )
    if growth <= 1:
        return
    why = f"the gradient of the {name} has ×{growth:.4g} per step"
    found = _orthogonal(case, max)
    if (after := case.growth_of(found.flow, max)) is not None and after < growth:
        yield _orthogonal_start(case, found, f"; {why}, of a copy started so ×{after:.4g}")
    if case.vanilla:
        yield from scaled(case, 1 / growth, why, case.measured if name == "network" else None)


def bounded(case: Case) -> Iterator[Prescription]:
    """Where ReLU states became infinite: spectral radius 1, if the weights that were examined have a larger one."""
    if not case.vanilla or any(part.nonlinearity != "relu" for part in case.parts):
        return
    weights = [part.weight.detach().double() for part in case.measured]
    if not all(bool(weight.isfinite().all()) and weight.shape[0] == weight.shape[1] for weight in weights):
        return
    radius = max(float(torch.linalg.eigvals(weight).abs().max()) for weight in weights)
    if radius > 1:
        why = "nothing bounds the states of ReLU units: the recurrent weights multiply them at every step"
        yield from scaled(case, 1 / radius, why, case.measured)


def chaos(case: Case) -> Iterator[Prescription]:
    """Below the edge of chaos at the start; where training made the network chaotic, gradients over τ = ln 2 / λ."""
    if case.number("interval") is not None:
        yield from _forced(case)
        return
    exponent = next((x for name in ("lyapunov", "exponent", "lambda") if (x := case.number(name)) is not None), None)
    try:
        if exponent is None:
            exponent = _largest_exponent(case, case.examination.flow)
        before = _largest_exponent(case, case.examination.untrained_flow)
    except (FlowError, ValueError):
        before = 0.0
    if before > 0:
        yield from _below_chaos(case, before, "before training")
    if exponent is None or exponent <= 0:
        return
    steps = max(1, round(math.log(2) / exponent))
    if case.need is not None and case.need >= steps:  # gradients so short do not see what is to be learned
        if before <= 0:
            yield from _below_chaos(case, exponent, "now", case.measured)
        return
    arithmetic = (
        f"the largest Lyapunov exponent is {exponent:.3g} per step; tau = ln 2 / {exponent:.3g} = {steps} steps"
    )
    python = (
        f"interval = {steps}\nfor window in x.split(interval):  # x: (T, B, …); start each window from the true state "
        "(teacher forcing), or carry the state over, detached\n    ..."
    )
    record = case.examination.record
    shorter = record.bptt is None or steps < record.bptt
    if shorter:
        yield case.prescription("gradients over the predictable time only", arithmetic, python, {"bptt": steps})


def _forced(case: Case) -> Iterator[Prescription]:
    """The true state every τ steps, for data that are chaotic themselves (sparse teacher forcing)."""
    exponent, interval = case.number("lyapunov") or math.nan, case.number("interval") or 0
    steps = max(1, round(math.log(2) / exponent))
    arithmetic = (
        f"trajectories of the data move apart by {exponent:.3g} per step, and the network is left to itself for "
        f"{interval:.0f}: tau = ln 2 / {exponent:.3g} = {steps} steps"
    )
    python = (
        f"interval = {steps}\n# in forward, x: the true values (T, B, …), h: the state, head: what is read from it\n"
        "# if t % interval == 0:\n#     h = h + (x[t] - head(h)) @ torch.linalg.pinv(head.weight).t()"
    )
    yield case.prescription("the true state more often", arithmetic, python)


def _below_chaos(case: Case, exponent: float, when: str, parts: Sequence[Part] | None = None) -> Iterator[Prescription]:
    """Weights of the start that are not chaotic: orthogonal ones, or those that are chaotic, scaled."""
    why, found = f"the largest Lyapunov exponent is {exponent:.3g} {when}", _orthogonal(case, max)
    with suppress(FlowError, ValueError):
        if found.flow is not None and (after := _largest_exponent(case, found.flow)) < exponent:
            yield _orthogonal_start(case, found, f"; {why}, of a copy started so {after:.3g}")
    if case.vanilla:
        yield from scaled(case, math.exp(-exponent), why, parts)


def _largest_exponent(case: Case, flow: GradientFlow) -> float:
    return max(float(flow.lyapunov_exponents(label, 1)[0]) for label in _layers(case))


def flossing(case: Case) -> Iterator[Prescription]:
    """Gradient flossing: as many Lyapunov exponents at 0 as directions are asked for, are passed on, or are chaotic."""
    fits = [isinstance(part.module, nn.RNNBase) and part.nonlinearity == "tanh" for part in case.parts]
    if not fits or not all(fits):
        return
    if (asked := case.number("asked")) is not None:
        exponents = math.ceil(asked)
        arithmetic = f"the errors ask for {asked:.3g} directions of the state, so {exponents} exponents are pushed to 0"
    elif case.kind == Kind.VANISHING_HURTS:
        exponents = case.need or 0
        arithmetic = f"the state passes {exponents} inputs on at once, so as many exponents are pushed to 0"
    else:
        spectra = [case.examination.untrained_flow.lyapunov_exponents(label) for label in _layers(case)]
        exponents = max(int((spectrum > 0).sum()) for spectrum in spectra)
        arithmetic = f"{exponents} Lyapunov exponents are above 0 before training; all of these are pushed to 0"
    exponents = min(exponents, *(int(part.module.hidden_size) for part in case.parts))  # type: ignore[arg-type]
    if exponents < 1:
        return
    inputs = case.examination.few.inputs
    python = f"rg.nn.floss(model, {'x' if len(inputs) == 1 else '*inputs'}, exponents={exponents})"

    def apply(model: nn.Module) -> None:
        floss(model, *inputs, exponents=exponents)

    yield case.prescription("gradient flossing", arithmetic, python, {"floss": exponents}, apply=apply)


def _layers(case: Case) -> list[str]:
    named = [finding.where for finding in case.findings if finding.where]
    return named or case.examination.flow.layers


def scaled(case: Case, factor: float, why: str, parts: Sequence[Part] | None = None) -> Iterator[Prescription]:
    """The largest spectral radius of the untrained weights, or of those of other parts, times a factor."""
    try:
        weights = [part.weight.detach().double() for part in parts or case.parts]
        radii = [float(torch.linalg.eigvals(weight).abs().max()) for weight in weights]
    except RuntimeError:  # projected: not square
        return
    radius = float(short(max(radii) * factor))
    if radius <= 0:
        return
    arithmetic = f"{why}, at spectral radius {max(radii):.3g}; {max(radii):.3g} × {factor:.4g} = {short(radius)}"
    flow = case.changed(case.start(spectral_radius=radius))
    if (after := case.growth_of(flow, max)) is not None:
        arithmetic += f" (measured afterwards: ×{after:.4g} per step)"
    yield case.started("spectral radius", arithmetic, {"spectral_radius": radius}, spectral_radius=radius)


def one_direction(case: Case) -> Iterator[Prescription]:
    """All directions of the state kept: orthogonal recurrent weights, and gates that keep their state."""
    if case.vanilla:
        found = _orthogonal(case)
        yield _orthogonal_start(case, found)
        yield from (remedy for remedy, _ in _cells(case))
    yield from (remedy for remedy, _ in _gated_starts(case))
