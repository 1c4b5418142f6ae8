"""What a recurrent cell is: its gates, its states and the equations of one step, each written once.

The layers, the gradient flow, the reading of weights, the benchmark and the Python side of the engine take the number
of gates, their order in the rows of a weight, the number of states and the step from here. Only two parts have
equations of their own: ``reference/`` in float64 NumPy, which the tests compare everything else with, and the C++
engine. This module does not import torch: it calls methods of the tensors it is given.

How to add a cell: CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

CellName = Literal["rnn", "gru", "lstm"]
Nonlinearity = Literal["tanh", "relu"]
_State: TypeAlias = "tuple[Tensor, ...]"
_Step: TypeAlias = "Callable[[Tensor, Tensor, _State, Callable[[Tensor], Tensor]], tuple[_State, tuple[Tensor, ...]]]"


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent cell; torch's parameter layout, H hidden units.

    Attributes
    ----------
    name : str
        As in options, configurations and results: a `CellName`.
    number : int
        Its place in `CELLS`, which is its number in the engine.
    mode : str
        The name together with the nonlinearity, as in ``torch.nn.RNNBase.mode``; of other cells the name in capitals.
    nonlinearity : {"tanh", "relu"}
        The function f that gives the block `candidate` its value.
    gates : tuple of str
        The blocks of H rows in a weight, in order. The only block of the vanilla network is its state ``"h"``.
    candidate : str
        The block that f is applied to; the others are gates between 0 and 1.
    keeper : str or None
        The gate that says how much of the previous state stays: all of it at 1.
    states : tuple of str
        What a step hands to the next: ``("h",)``, or ``("h", "c")``.
    computed : tuple of str
        The names of what `step` computes: the blocks, the sums they are made from (``a_`` and the block's name), and
        what else there is. For the GRU, ``hn`` is W_hn h_{t-1} + b_hn, which r multiplies.
    summed : bool
        Whether the two products enter the step as their sum only. Then both biases have the same gradient.
    """

    name: CellName
    number: int
    mode: str
    nonlinearity: Nonlinearity
    gates: tuple[str, ...]
    candidate: str
    keeper: str | None
    states: tuple[str, ...]
    computed: tuple[str, ...]
    summed: bool
    _step: _Step

    def __repr__(self) -> str:
        return f"<cell {self.mode}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return find, (self.name, self.nonlinearity)  # so that there is one object for each cell

    @property
    def title(self) -> str:
        """The name in capitals: that of its layer in ``torch.nn`` and of its class in ``reference``."""
        return self.name.upper()

    @property
    def words(self) -> str:
        """``tanh rnn``, ``relu rnn``, ``gru``, …: the name, and the nonlinearity of the vanilla network."""
        return f"{self.nonlinearity} rnn" if self.vanilla else self.name

    @property
    def vanilla(self) -> bool:
        """Whether this is the network without gates, h_t = f(W_ih x_t + W_hh h_{t-1} + b), for any f."""
        return self.gates == self.states

    @property
    def options(self) -> dict[str, str]:
        """What its layer's constructor needs to know about f: the nonlinearity of the vanilla network."""
        return {"nonlinearity": self.nonlinearity} if self.vanilla else {}

    def rows(self, gate: str, hidden_size: int) -> slice:
        """The rows of a weight that belong to a gate."""
        first = self.gates.index(gate) * hidden_size
        return slice(first, first + hidden_size)

    def slope(self, value: Tensor) -> Tensor:
        """f′ at every unit, from the candidate's value: 1 − f² for tanh; for ReLU 1 where f > 0, else 0."""
        return (value > 0).to(value.dtype) if self.nonlinearity == "relu" else 1 - value * value

    def step(
        self,
        x: Tensor,
        u: Tensor,
        state: tuple[Tensor, ...],
        w_hr: Tensor | None = None,
        norm: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Compute one step from the two products; differentiable any number of times, and under ``torch.vmap``.

        Parameters
        ----------
        x, u : Tensor
            W_ih x_t + b_ih and W_hh h_{t-1} + b_hh, ``(…, G H)`` for G gates.
        state : tuple of Tensor
            h_{t-1} ``(…, H)``, and for an LSTM c_{t-1} ``(…, H)``.
        w_hr : Tensor, optional
            The projection of an LSTM's h ``(P, H)``; h_{t-1} is then ``(…, P)``.
        norm : callable, optional
            Normalizes an LSTM's c_t on its way into h_t.

        Returns
        -------
        state : tuple of Tensor
            The states after the step.
        computed : tuple of Tensor
            What it computed, in the order of `computed`.

        Examples
        --------
        >>> import torch
        >>> (h,), _ = find("gru").step(torch.zeros(2, 12), torch.zeros(2, 12), (torch.ones(2, 4),))
        >>> h[0]
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
        """
        new, computed = self._step(x, u, state, norm or _as_it_is)
        return (new if w_hr is None else (new[0] @ w_hr.t(), *new[1:])), computed


def _as_it_is(a: Tensor) -> Tensor:
    return a


def _tanh(x: Tensor, u: Tensor, state: _State, norm: object) -> tuple[_State, tuple[Tensor, ...]]:
    a = x + u
    h = a.tanh()  # h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
    return (h,), (h, a)


def _relu(x: Tensor, u: Tensor, state: _State, norm: object) -> tuple[_State, tuple[Tensor, ...]]:
    a = x + u
    h = a.relu()
    return (h,), (h, a)


def _gru(x: Tensor, u: Tensor, state: _State, norm: object) -> tuple[_State, tuple[Tensor, ...]]:
    (h,) = state
    x_r, x_z, x_n = x.chunk(3, -1)
    u_r, u_z, u_n = u.chunk(3, -1)
    a_r, a_z = x_r + u_r, x_z + u_z
    r, z = a_r.sigmoid(), a_z.sigmoid()
    a_n = x_n + r * u_n  # r acts after the product: u_n = W_hn h_{t-1} + b_hn
    n = a_n.tanh()
    return ((1 - z) * n + z * h,), (r, z, n, a_r, a_z, a_n, u_n)


def _lstm(x: Tensor, u: Tensor, state: _State, norm: Callable[[Tensor], Tensor]) -> tuple[_State, tuple[Tensor, ...]]:
    a_i, a_f, a_g, a_o = (x + u).chunk(4, -1)
    i, f, g, o = a_i.sigmoid(), a_f.sigmoid(), a_g.tanh(), a_o.sigmoid()
    c = f * state[1] + i * g
    return (o * norm(c).tanh(), c), (i, f, g, o, a_i, a_f, a_g, a_o, c)


_H, _R_Z_N, _I_F_G_O = ("h",), ("r", "z", "n"), ("i", "f", "g", "o")


def _sums(gates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"a_{gate}" for gate in gates)


# The order is that of the engine's numbers (kernels/csrc/cells.hpp).
CELLS: tuple[Cell, ...] = (
    Cell("rnn", 0, "RNN_TANH", "tanh", _H, "h", None, ("h",), ("h", "a"), True, _tanh),
    Cell("rnn", 1, "RNN_RELU", "relu", _H, "h", None, ("h",), ("h", "a"), True, _relu),
    Cell("gru", 2, "GRU", "tanh", _R_Z_N, "n", "z", ("h",), (*_R_Z_N, *_sums(_R_Z_N), "hn"), False, _gru),
    Cell("lstm", 3, "LSTM", "tanh", _I_F_G_O, "g", "f", ("h", "c"), (*_I_F_G_O, *_sums(_I_F_G_O), "c"), True, _lstm),
)
# The cells of which torch and the engine compute a whole layer; the others run step by step (nn/stepwise.py).
FUSED = tuple(cell for cell in CELLS if cell.name in ("rnn", "gru", "lstm"))
GATED = tuple(cell.name for cell in FUSED if cell.keeper is not None)
BY_MODE: dict[str, Cell] = {cell.mode: cell for cell in CELLS}
BY_NAME: dict[str, Cell] = {cell.name: cell for cell in CELLS if cell.mode != "RNN_RELU"}  # the vanilla cell with tanh
# Of torch's cells, by the number of gates, which is all that a weight's shape says about its cell.
BY_GATES: dict[int, Cell] = {len(cell.gates): cell for cell in FUSED if cell.mode != "RNN_RELU"}


def find(name: str, nonlinearity: str = "tanh") -> Cell:
    """The cell of that name; ``nonlinearity`` has an effect for the vanilla network only.

    Raises
    ------
    OptionError
        There is none.
    """
    if name not in BY_NAME:
        raise OptionError(f"there is no cell {name!r}; choose one of {', '.join(BY_NAME)}.")
    return next((c for c in CELLS if (c.name, c.nonlinearity) == (name, nonlinearity)), BY_NAME[name])


def cell_of(layer: object, rows: int, hidden_size: int) -> Cell | None:
    """The cell of a layer whose ``weight_hh`` has so many rows; None if it is not known.

    A layer that runs step by step says it (``layer.cell``); of any other it is torch's cell with that number of gates.
    """
    own = getattr(layer, "cell", None)
    return own if isinstance(own, Cell) else BY_GATES.get(rows // hidden_size)
