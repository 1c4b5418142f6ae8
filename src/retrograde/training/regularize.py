"""The vanishing-gradient regularizer Ω of Pascanu, Mikolov and Bengio (2013), section 3.3."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..cells import BY_MODE
from ..errors import OptionError

# Below this squared norm of ∂E/∂s_{k+1} its direction is rounding error (the bound of the authors' code).
_NOTHING = 1e-20


class VanishingGradientRegularizer:
    """Adds α ∂⁺Ω/∂W to the gradient of the recurrent weights, so that the gradient keeps its norm through time.

    Ω = Σ_k Ω_k,  Ω_k = ( ‖∂E/∂s_{k+1} · ∂s_{k+1}/∂s_k‖ / ‖∂E/∂s_{k+1}‖ − 1 )²   (equation 9)

    with k over all steps of a sequence, and the mean over the sequences of the batch. As in the paper only the
    immediate derivative ∂⁺Ω/∂W is taken (equation 10): ∂E/∂s_{k+1} and s_k count as constants. s_k is the hidden state
    h_k of ``torch.nn.RNN``, so that ∂s_{k+1}/∂s_k = diag f'(a_{k+1}) W, as in the authors' own code; the paper writes
    the same network in its pre-activations. Each layer and direction has its own Ω, and they add up.

    The total derivative ∂E/∂s_k comes from one backward sweep over what the ordinary backward pass left at the output:
    δ_k = ∂⁺E/∂s_k + δ_{k+1} diag f'(a_{k+1}) W. With truncated backpropagation k stays within the chunk.

    Parameters
    ----------
    module
        A vanilla network (``RNN``, tanh or relu, ours or ``torch.nn``'s), or a model that has some inside. Hooks
        on its layers are active until `remove` is called. Dropout between layers and parametrized weights are refused,
        because their masks are not known afterwards.
    alpha
        Weight of Ω. The paper's 4 belongs to another scale, see the notes.

    Raises
    ------
    OptionError
        For a GRU or an LSTM: the paper defines Ω for the vanilla network only, and their gates are there to solve the
        same problem. For a model without a recurrent layer; for dropout between layers or parametrised weights.

    Notes
    -----
    The authors' code squares the two norms (as their equation 10 does) and takes the mean over steps and sequences
    where the paper has the sum over steps. Near a ratio r of 1 its terms are (r² - 1)² ≈ 4 (r - 1)², so that the α = 4
    of their experiments is about α = 16 / T here.

    References
    ----------
    Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013.

    Examples
    --------
    >>> model = torch.nn.RNN(2, 8)
    >>> regularizer = VanishingGradientRegularizer(model, alpha=2.0)
    >>> output, _ = model(torch.randn(5, 3, 2))
    >>> output[-1].square().sum().backward()
    >>> omega = regularizer.add_gradients()   # between backward() and clipping
    >>> omega > 0
    True
    """

    def __init__(self, module: torch.nn.Module, alpha: float = 1.0):
        if not 0 <= alpha < math.inf:
            raise OptionError(f"alpha, the weight of the regularizer, is {alpha}; it must be 0 or more.")
        layers = [m for m in module.modules() if isinstance(m, torch.nn.RNNBase)]
        if not layers:
            raise OptionError(
                f"the regularizer needs a vanilla RNN; {type(module).__name__} has no recurrent layer inside."
            )
        for layer in layers:
            if not isinstance(layer, torch.nn.RNN):
                raise OptionError(
                    f"the vanishing-gradient regularizer is defined for the vanilla network, not for {layer.mode}, "
                    "whose gates are there to solve the same problem: start them with forget_bias or chrono instead."
                )
            if parametrize.is_parametrized(layer):
                raise OptionError(
                    "the vanishing-gradient regularizer needs the recurrent weights themselves; here they are computed "
                    "from others (weight drop?): leave one of the two out."
                )
            if layer.dropout and layer.num_layers > 1:
                raise OptionError(
                    "the vanishing-gradient regularizer cannot see through dropout between layers; it is "
                    f"{layer.dropout}: set it to 0 or use one layer."
                )
        self.alpha = alpha
        self._seen: list[_ForwardPass] = []
        self._hooks = [layer.register_forward_hook(self._watch, with_kwargs=True) for layer in layers]

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._seen.clear()

    def add_gradients(self, total: Callable[[Tensor], Tensor] | None = None, scale: float = 1.0) -> float:
        """Add α ∂⁺Ω/∂W to the gradients and return Ω. Call it after ``backward()``, before clipping.

        Forward passes that no ``backward()`` reached are left out.

        total: sums a tensor over the processes that share a batch (all of them call this, after their gradients were
            averaged): Ω is then the mean over the sequences of all.
        scale: how many times larger the gradients are than if one process had the batch alone; 0 if none of the
            sequences is this process's own.
        """
        omega = 0.0
        for call in self._seen:
            if call.at_output or call.at_state:
                omega += sum(_add(stack, call.layer, self.alpha, total, scale) for stack in _adjoints(call))
        self._seen.clear()
        return omega

    def _watch(self, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        output = result[0].data if isinstance(result[0], PackedSequence) else result[0]
        if not (layer.training and output.requires_grad):
            return
        given = [kwargs["input"], *args] if "input" in kwargs else [*args]
        given.append(kwargs.get("hx"))
        call = _ForwardPass(layer, _detached(given[0]), _detached(given[1]), _detached(result[0]), [], [])
        output.register_hook(_into(call.at_output))
        result[1].register_hook(_into(call.at_state))
        self._seen.append(call)


def _into(arrived: list[Tensor]) -> Callable[[Tensor | None], None]:
    """A hook that keeps a gradient; a tensor that does not affect the loss may get None."""

    def hook(gradient: Tensor | None) -> None:
        if gradient is not None:
            arrived.append(gradient)

    return hook


class _ForwardPass(NamedTuple):
    """A forward pass of one layer, and the gradients that its backward pass left at the outputs."""

    layer: Any
    input: Any
    h_0: Any
    output: Any
    at_output: list[Tensor]  # ∂⁺E/∂output
    at_state: list[Tensor]  # ∂⁺E/∂h_n


class _Adjoints(NamedTuple):
    """The adjoints of one layer in one direction, in the order of time."""

    suffix: str
    slope: Tensor  # f'(a_k), (T, B, H), k = 1 … T
    delta: Tensor  # ∂E/∂s_k, (T, B, H), k = 1 … T


def _detached(x: Any) -> Any:
    """Without its graph, which would be kept alive otherwise."""
    if isinstance(x, PackedSequence):
        return x._replace(data=x.data.detach())
    return x.detach() if isinstance(x, Tensor) else x


def _padded(x: Any, layer: Any) -> Tensor:
    """(T, B, F), padded with zeros, in the order the sequences were given."""
    if isinstance(x, PackedSequence):
        return pad_packed_sequence(x)[0]
    if x.dim() == 2:
        return x.unsqueeze(1)  # type: ignore[no-any-return]
    return x.transpose(0, 1) if layer.batch_first else x  # type: ignore[no-any-return]


@torch.no_grad()
def _adjoints(call: _ForwardPass) -> list[_Adjoints]:
    """∂E/∂s_k of every layer and direction, from ∂⁺E/∂(output) of the top one: layer by layer downwards."""
    layer, H = call.layer, call.layer.hidden_size
    sequence, output = _padded(call.input, layer), _padded(call.output, layer)
    packed = isinstance(call.output, PackedSequence)
    lengths = pad_packed_sequence(call.output)[1] if packed else torch.full((sequence.shape[1],), len(sequence))
    incoming = torch.zeros_like(output)
    for gradient in call.at_output:
        incoming += _padded(call.output._replace(data=gradient) if packed else gradient, layer)
    at_state = output.new_zeros(layer.num_layers * (2 if layer.bidirectional else 1), len(lengths), H)
    for gradient in call.at_state:
        at_state += gradient.view_as(at_state)
    valid = (torch.arange(len(sequence))[:, None] < lengths).to(output.device)[:, :, None]

    directions = ("", "_reverse") if layer.bidirectional else ("",)
    outputs = [*_lower_outputs(layer, sequence, call.h_0, lengths), output]
    stacks: list[_Adjoints] = []
    for depth in reversed(range(layer.num_layers)):
        below: Tensor | None = None
        for side, name in enumerate(directions):
            suffix = f"_l{depth}{name}"
            h = outputs[depth][..., side * H : side * H + H] * valid
            slope = BY_MODE[layer.mode].slope(h) * valid
            delta = (incoming[..., side * H : side * H + H] * valid).clone()
            end = torch.zeros_like(lengths) if name else lengths - 1  # h_n is the state at the last step that was read
            delta[end, torch.arange(len(lengths))] += at_state[depth * len(directions) + side]
            recurrent = getattr(layer, f"weight_hh{suffix}")
            times = range(len(delta)) if name else reversed(range(len(delta)))
            later: Tensor | None = None
            for k in times:  # δ_k = ∂⁺E/∂s_k + δ_{k+1} diag f'(a_{k+1}) W
                if later is not None:
                    delta[k] += (later @ recurrent) * valid[k]
                later = delta[k] * slope[k]
            # ∂E/∂x_k = δ_k diag f'(a_k) U is the ∂⁺E/∂s_k of the layer below
            part = (delta * slope) @ getattr(layer, f"weight_ih{suffix}")
            below = part if below is None else below + part
            stacks.append(_Adjoints(suffix, slope, delta))
        assert below is not None
        incoming = below
    return stacks


def _lower_outputs(layer: Any, sequence: Tensor, h_0: Any, lengths: Tensor) -> list[Tensor]:
    """The outputs of every layer but the top one, (T, B, D·H) each: torch does not return them."""
    D = 2 if layer.bidirectional else 1
    outputs = []
    for depth in range(layer.num_layers - 1):
        one = torch.nn.RNN(
            sequence.shape[-1],
            layer.hidden_size,
            nonlinearity=layer.nonlinearity,
            bias=layer.bias,
            bidirectional=layer.bidirectional,
        ).to(sequence)
        for name, parameter in one.named_parameters():
            parameter.data = getattr(layer, name.replace("_l0", f"_l{depth}")).detach()
        start = None if h_0 is None else h_0[depth * D : depth * D + D]
        if start is not None and start.dim() == 2:
            start = start.unsqueeze(1)
        packed = torch.nn.utils.rnn.pack_padded_sequence(sequence, lengths, enforce_sorted=False)
        sequence = pad_packed_sequence(one(packed, start)[0])[0]
        outputs.append(sequence)
    return outputs


def _add(
    stack: _Adjoints, layer: Any, alpha: float, total: Callable[[Tensor], Tensor] | None = None, scale: float = 1.0
) -> float:
    """Ω of one stack; α ∂⁺Ω/∂W goes into the gradient of its recurrent weight."""
    name = f"weight_hh{stack.suffix}"
    weight: Tensor = getattr(layer, name)
    constant = weight.detach().requires_grad_()
    with torch.enable_grad():
        norm = stack.delta.square().sum(-1)
        something = norm > _NOTHING * scale**2
        stretched = ((stack.delta * stack.slope) @ constant)[something]  # ∂E/∂s_{k+1} · diag f'(a_{k+1}) W
        ratio = torch.linalg.vector_norm(stretched, dim=-1) / norm[something].sqrt()
        omega = (ratio - 1).square().sum()
        (gradient,) = torch.autograd.grad(omega, constant)
    sequences = omega.new_tensor(float(stack.delta.shape[1] if scale else 0))
    if total is not None:
        together = total(torch.cat([gradient.flatten(), omega.detach()[None], sequences[None]]))
        gradient, omega, sequences = together[:-2].view_as(gradient), together[-2], together[-1]
    gradient, omega = gradient / sequences, omega / sequences
    if alpha and isinstance(weight.grad, Tensor):
        weight.grad.add_(gradient, alpha=alpha)
    return float(omega.detach())
