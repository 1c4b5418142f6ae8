"""The signal by lag of encoder-decoders: layers that run along the losses, and start from the final states of others.

The loss of step t reaches step k of the decoder after t − k steps. Through the decoder's initial states it reaches the
encoder: the step that is j steps before the encoder's last after t + 1 + j steps, t + 1 of the decoder and j of the
encoder. That is its lag. As in `both_ways`, the gradient of the weights from the input is taken apart, of the layers
that read the data: an input is of one step alone, a state knows what came before it.

Between the encoder's final states and the decoder's initial ones there may be any modules that treat each sequence by
itself: they have one Jacobian per sequence. An encoder may run in both directions; a step then counts from the nearer
end, where the layer that starts at the other end forgets it last.

Tests: `tests/flow/test_encoder_decoder.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import _torch_private
from ...errors import FlowError
from ..recording.calls import AnyCall, Call
from ..recording.graph import MIXED, MIXED_ERRORS, Graph, closed, distinct_weights
from ..recording.runs import batch_of, same_weights, steps_of
from ..recurrence import adjoint
from ..recurrence.cells import Trajectory
from ..wiring.dependence import Dependence
from ..wiring.head import adjoints_by_step, is_causal_stack
from .both_ways import sides_of

__all__ = ["Relay", "by_path", "relayed"]

SAME = 1e-3  # relative difference of gradients up to which the layers count as connected in this way
WIDEST = 2**25  # numbers of the Jacobians between encoder and decoder
UNKNOWN = "The signal by lag is not known for this encoder-decoder: "
ATTENDS = (
    UNKNOWN
    + "{} reads states of {} directly (attention, or a context at every step). A step that is read where it is needs "
    "no memory, so its distance says nothing. Diagnose the network without this connection to see what its states have "
    "to carry."
)
OWN_OUTPUTS = (
    UNKNOWN
    + "the inputs of {} are made from its own outputs. Diagnose it with the targets of the step before as inputs "
    "(teacher forcing)."
)
NOT_STACKED = (
    UNKNOWN + "{} must be layers that feed one another as they are, run forward, an encoder of one layer also in both "
    "directions."
)
HEAD = UNKNOWN + "the loss of a step looks at other steps of {} than its own."
POOLED = (
    UNKNOWN
    + "the initial states of {} are made from several states of {} (a mean or maximum over the steps), so a step "
    "has no one distance from the losses."
)
TOO_WIDE = UNKNOWN + "the modules between {} and {} have too many numbers to be taken apart."
UNPROVED = UNKNOWN + "the gradient reaches {} in other ways than through the initial states of {}."


@dataclass
class Relay:
    """A decoder and the encoder from whose final states it starts.

    Attributes
    ----------
    decoder : list of str
        Labels of its layers, from the bottom.
    encoder : list of list of str
        Stacks of layers, each from the bottom: one, or one for each direction.
    links : dict
        By label of a decoder's and of an encoder's layer, ∂(initial state)/∂(final state) of every sequence
        `(B, S, S')`, of an LSTM h and c next to each other; None where the one is the other. Pairs without a path are
        left out.
    """

    decoder: list[str]
    encoder: list[list[str]]
    links: dict[tuple[str, str], Tensor | None]

    @property
    def labels(self) -> list[str]:
        """Of all layers, the decoder's first."""
        return [*self.decoder, *(label for stack in self.encoder for label in stack)]

    @property
    def asked(self) -> list[str]:
        """Of those that read the data."""
        return [self.decoder[0], *(stack[0] for stack in self.encoder)]

    def changed(self, how: Callable[[Tensor], Tensor]) -> Relay:
        """The same with other links."""
        links = {pair: None if link is None else how(link) for pair, link in self.links.items()}
        return Relay(self.decoder, self.encoder, links)

    @classmethod
    def side_by_side(cls, relays: Sequence[Relay]) -> Relay:
        """The same of the sequences of several batches."""
        first = relays[0]
        links: dict[tuple[str, str], Tensor | None] = {}
        for pair in first.links:
            own = [link for relay in relays if (link := relay.links[pair]) is not None]
            links[pair] = torch.cat(own) if own else None
        return cls(first.decoder, first.encoder, links)

    def places(self, label: str, run: Trajectory) -> tuple[Tensor, Tensor]:
        """For each lag of a layer that reads the data, less that of its last: the step, and whether it is counted.

        Both `(steps, B)`. Of a decoder these are its own steps; of an encoder, steps before its end, in both directions
        those that are no nearer to the other end.
        """
        at = torch.arange(run.steps, device="cpu").unsqueeze(1).expand(-1, run.batch_size)
        live = torch.ones_like(at, dtype=torch.bool) if run.mask is None else run.mask.cpu()
        if label == self.decoder[0]:
            return at, live
        length = live.sum(0)
        there, from_start = at < length, length - 1 - at  # at: steps before the end of the layer
        if len(self.encoder) > 1:
            there = there & (at < from_start if run.reverse else at <= from_start)
        return at if run.reverse else from_start.clamp(min=0), there


def relayed(graph: Graph) -> tuple[Relay, dict[str, Tensor]] | None:
    """The encoder-decoder of a recorded run and ∂E_t/∂(output_t) of the decoder's layers `(T, B, P)`.

    None if there is none: no layer starts from the states of another. It is proved by sending all losses back through
    the user's graph: what arrives at every layer must be what the links pass on.

    Raises FlowError with the reason, if there is one of which the lags are not known, or sequences are mixed.
    """
    dependence = Dependence(graph)
    starts = {label: _starts_from(own, label, dependence) for label, own in graph.runs.items()}
    decoder = [label for label, sources in starts.items() if sources]
    if not decoder:
        _check_context(graph, dependence)
        return None
    encoder = [label for label in graph.runs if label not in decoder]
    _check_inputs(graph, decoder, encoder, dependence)
    stacks = _stacks(graph, decoder, encoder)
    errors = adjoints_by_step(graph, decoder)
    if errors is None:
        direct = [name for t in range(len(graph.losses)) for name in dependence.of(graph.losses[t]) if name in encoder]
        if direct:
            raise FlowError(ATTENDS.format("the loss", direct[0]))
        raise FlowError(HEAD.format(_named(decoder)))
    if MIXED in graph.notes or graph.mixes_sequences():
        raise FlowError(MIXED_ERRORS)
    relay = Relay(decoder, stacks, _links(graph, decoder, encoder))
    _prove(graph, relay, errors)
    return relay, errors


def _check_context(graph: Graph, dependence: Dependence) -> None:
    """Refuse a decoder that starts by itself and reads the encoder's final state at every step."""
    for label, own in graph.runs.items():
        call = own[0]
        if (
            isinstance(call, Call)
            and len(call.h) > 1
            and not call.own_input
            and call.fed_by is None
            and call.x is not None
        ):
            for name, span in dependence.of(call.x).items():
                if span.number == 1 and steps_of(graph.runs[name]) > 1 and name != label:
                    raise FlowError(ATTENDS.format(label, name))


def _named(labels: Sequence[str]) -> str:
    return ", ".join(labels)


def _starts_from(own: Sequence[AnyCall], label: str, dependence: Dependence) -> list[str]:
    """The layers from whose states a layer starts."""
    first = own[0]
    if not isinstance(first, Call) or first.own_state:
        return []
    return [other for state in first.states for other in dependence.of(state) if other != label]


def _check_inputs(graph: Graph, decoder: list[str], encoder: list[str], dependence: Dependence) -> None:
    """Refuse a decoder whose inputs are not those of the data or, as they are, the outputs of the layer below."""
    for label in decoder:
        for call in graph.runs[label]:
            if not isinstance(call, Call) or call.own_input or call.fed_by is not None or call.x is None:
                continue
            found = dependence.of(call.x)
            if read := [name for name in found if name in encoder]:
                raise FlowError(ATTENDS.format(label, read[0]))
            if label in found:
                raise FlowError(OWN_OUTPUTS.format(label))


def _stacks(graph: Graph, decoder: list[str], encoder: list[str]) -> list[list[str]]:
    """The encoder's stacks.

    Raises FlowError where layers are not stacks.
    """
    steps, batch = graph.losses.shape
    upper = [graph.runs[label] for label in decoder]
    if not is_causal_stack(upper, steps, batch, own_state=False) or not _is_one_stack(upper):
        raise FlowError(NOT_STACKED.format(_named(decoder)))
    first = graph.runs[encoder[0]]
    stacks = [encoder]
    if len(encoder) == 2 and graph.runs[encoder[1]][0].reverse and not first[0].reverse:
        stacks = [[encoder[0]], [encoder[1]]]
    for stack in stacks:
        below = [graph.runs[label] for label in stack]
        forward = is_causal_stack(below, steps_of(below[0]), batch) and _is_one_stack(below)
        alone = len(stacks) == 2 and len(below[0]) == 1 and isinstance(below[0][0], Call) and below[0][0].own_input
        if not (forward or alone) or batch_of(below[0]) != batch or not same_weights(below[0]):
            raise FlowError(NOT_STACKED.format(_named(encoder)))
    return stacks


def _is_one_stack(runs: Sequence[Sequence[AnyCall]]) -> bool:
    """Whether every layer but the lowest is fed by another one."""
    lowest = [own for own in runs if isinstance(own[0], Call) and own[0].own_input]
    return len(lowest) == 1 and lowest[0] is runs[0]


# --- Between the two --------------------------------------------------------------------------------------------------


def _links(graph: Graph, decoder: list[str], encoder: list[str]) -> dict[tuple[str, str], Tensor | None]:
    """See `Relay`.

    Raises FlowError where other states of the encoder than the final ones are read, or there are too many numbers.
    """
    found: dict[tuple[str, str], Tensor | None] = {}
    generator = torch.Generator().manual_seed(0)
    for label in decoder:
        call = graph.runs[label][0]
        assert isinstance(call, Call)
        states = [state for state in call.states if state.requires_grad]
        sent = [torch.randn(s.shape, generator=generator, dtype=torch.float64, device="cpu").to(s) for s in states]
        ends = _ends(graph, label, states, sent, encoder)
        (only, end), *others = ends.items()
        if not others and len(states) == len(call.states) and torch.equal(end, _in_order(torch.cat(sent, -1), call)):
            found[label, only] = None
            continue
        wide = sum(s.shape[-1] for s in call.states)
        if wide * sum(end.numel() for end in ends.values()) > WIDEST:
            raise FlowError(TOO_WIDE.format(_named(list(ends)), label))
        rows: dict[str, list[Tensor]] = {name: [] for name in ends}
        for state in call.states:
            for i in range(state.shape[-1]):
                one = torch.zeros_like(state)
                one[..., i] = 1.0
                given = _ends(graph, label, [state], [one], encoder) if state.requires_grad else {}
                for name, end in ends.items():
                    rows[name].append(given.get(name, torch.zeros_like(end)))
        found |= {(label, name): torch.stack(own, 1) for name, own in rows.items()}
    return found


def _ends(graph: Graph, label: str, states: list[Tensor], sent: list[Tensor], encoder: list[str]) -> dict[str, Tensor]:
    """What arrives at the encoder's final states `(B, S')`, by layer, sequences in the user's order."""
    calls = {name: [c for c in graph.runs[name] if isinstance(c, Call)] for name in encoder}
    every = [call for own in calls.values() for call in own]
    for call in every:
        call.listens, call.arrived = True, None
    try:
        with _torch_private.no_torch_functions(), closed(graph.recorder.calls):
            torch.autograd.grad(states, [call.anchor for call in every], sent, retain_graph=True, allow_unused=True)
    finally:
        for call in every:
            call.listens = False
    found = {}
    for name, own in calls.items():
        *earlier, last = [None if call.arrived is None else _at_end(call) for call in own]
        if (last is not None and last[1]) or any(part is not None and (part[1] or part[0].any()) for part in earlier):
            raise FlowError(POOLED.format(label, name))
        if last is not None and bool(last[0].any()):
            found[name] = last[0]
    return found


def _at_end(call: Call) -> tuple[Tensor, bool]:
    """What arrived at the final states of a call `(B, S')`, in the user's order, and whether any did at others."""
    assert call.arrived is not None
    g_out, g_h, *g_c = call.arrived
    call.arrived = None
    live = torch.full((g_out.shape[1],), len(g_out), device="cpu") if call.mask is None else call.mask.cpu().sum(0)
    last = torch.zeros_like(live) if call.reverse else live - 1
    each, rest, parts = torch.arange(len(last), device="cpu"), False, []
    for out, end in [(g_out, g_h), *((c, None) for c in g_c)]:
        if out.dim() == 2:  # of a cell state, which only ends have
            parts.append(out)
            continue
        at = out[last, each]
        left = out.clone()
        left[last, each] = 0.0
        rest |= bool(left.any())
        parts.append(at if end is None else at + end)
    return _in_order(torch.cat(parts, -1), call), rest


def _in_order(a: Tensor, call: Call) -> Tensor:
    return a if call.order is None else a[call.order]


def _prove(graph: Graph, relay: Relay, errors: Mapping[str, Tensor]) -> None:
    """Compare what the links pass on with what arrives at every layer that reads the data, of all losses together."""
    runs = {label: graph.trajectory(label) for label in relay.labels}
    weights = distinct_weights(len(graph.losses)).to(graph.losses).unsqueeze(-1)
    asked, graph.wanted = graph.wanted, relay.labels
    try:
        arrived = graph.send((weights * torch.ones_like(graph.losses))[None], keep=True)
    finally:
        graph.wanted = asked
    own = {label: (e * weights.unsqueeze(-1))[None] for label, e in errors.items()}
    for label, found in _down(relay, runs, own):
        there = arrived[label].inputs if label in arrived else None
        there = torch.zeros_like(found) if there is None else there
        if not (found - there).norm() <= SAME * there.norm():
            raise FlowError(UNPROVED.format(label, _named(relay.decoder)))


# --- By lag -----------------------------------------------------------------------------------------------------------


def _down(relay: Relay, runs: Mapping[str, Trajectory], errors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """∂E/∂(W x + b) `(N, T, B, G·H)` of every lowest layer, from what the head sends of N losses `(N, T, B, P)`."""
    starts: dict[str, Tensor] = {}
    above: Tensor | None = None
    for label in reversed(relay.decoder):
        whole = errors[label] if above is None else errors[label] + above
        lowest = label == relay.decoder[0]
        found, above, *start = adjoint.backward(runs[label], whole, None, None, need_x=not lowest, keep=lowest)
        starts[label] = torch.cat([s for s in start if s is not None], -1)
        if lowest:
            assert found.inputs is not None
            yield label, found.inputs
    for stack in relay.encoder:
        above = None
        for label in reversed(stack):
            run, lowest = runs[label], label == stack[0]
            end = _passed(relay, starts, label, run)
            whole = end.new_zeros(len(end), *run.h.shape) if above is None else above
            g_h, g_c = end[..., : run.h.shape[-1]], end[..., run.h.shape[-1] :]
            c = g_c if "c" in run.cell.states else None
            found, above, _, _ = adjoint.backward(run, whole, g_h, c, need_x=not lowest, keep=lowest)
            if lowest:
                assert found.inputs is not None
                yield label, found.inputs


def _passed(relay: Relay, starts: Mapping[str, Tensor], label: str, run: Trajectory) -> Tensor:
    """The gradient of a layer's final state `(N, B, S')`, from those of the decoder's initial states."""
    first = next(iter(starts.values()))
    whole = first.new_zeros(*first.shape[:2], run.state_size)
    for upper, start in starts.items():
        if (upper, label) in relay.links:
            link = relay.links[upper, label]
            whole = whole + (start if link is None else torch.einsum("nbs,bsp->nbp", start, link))
    return whole


def by_path(
    relay: Relay,
    runs: Mapping[str, Trajectory],
    errors: Mapping[str, Tensor],
    right: Mapping[str, Tensor],
    targets: Tensor,
    left: Mapping[str, Tensor | None],
) -> Iterator[tuple[str, int, Tensor]]:
    """What every sequence contributes to ∂E/∂W of the layers that read the data, at each lag `(B, numbers)`.

    Parameters
    ----------
    errors : mapping of Tensor
        By layer of the decoder `(T, B, P)`.
    right : mapping of Tensor
        By layer in ``left``, the inputs at its `Relay.places` `(steps, B, J)`.
    targets : Tensor
        The steps t whose losses are followed.
    left : mapping of Tensor or None
        Projections of the other side of the gradient.
    """
    for label, whole in sides_of(lambda own: _down(relay, runs, own), runs, errors, targets, left).items():
        at, there = relay.places(label, runs[label])
        sides = whole.gather(1, at[None, :, :, None].expand(len(whole), -1, -1, whole.shape[3]))
        sides *= there[None, :, :, None]
        last, within = len(at) - 1, label == relay.decoder[0]
        for lag in range(0 if within else 1, int(targets[-1]) + (1 if within else last + 2)):
            k = targets - lag if within else lag - 1 - targets
            n = ((k >= 0) & (k <= last)).nonzero().flatten()
            yield label, lag, torch.einsum("nbi,nbj->bij", sides[n, k[n]], right[label][k[n]]).flatten(1)
