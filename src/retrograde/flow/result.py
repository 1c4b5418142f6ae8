"""``GradientFlow``: the result of a measurement, plain labelled arrays with methods.

Tests: `tests/flow/test_measure.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from ..errors import FlowError
from . import activation, contributions, curves, jacobians, layer_plots, plots, saving
from .activation import Gate, Saturation
from .contributions import Contributions, Truncation
from .jacobians import Bounds
from .learning_signal import statistic as signal
from .learning_signal.statistic import Signal
from .linearization import Linearization
from .recording.stepwise_run import StepwiseRun
from .recurrence.cells import Trajectory
from .summary import summarize
from .wiring import entries
from .wiring.alignment import Alignment

Array = NDArray[np.float64]


@dataclass
class GradientFlow:
    """How the gradient of each loss travels back through time.

    Attributes
    ----------
    layers : list of str
        Labels, as torch labels layers and directions: ``l0``, ``l0_reverse``; after the module's name where a model has
        several recurrent modules (``encoder.l0``).
    norms : ndarray
        ‖∂E_t/∂s_k‖, float64 `(layers, targets, T)`: rows t, columns k, zero where there is no path. A last axis is
        the sequences (``reduce="none"``) or the quantiles asked for.
    targets : ndarray of int
        The steps t of the rows. With one loss per sequence there is one row, whose t is each sequence's last step.
    steps : list of int
        Steps T of each layer; columns beyond are zero (an encoder and a decoder may differ).
    state : str
        What s_k is: ``"h"``, ``"c"`` or ``"hc"``.
    reduce : str or list of float
        ``"mean"``, ``"none"``, or the quantiles over the batch.
    final : bool
        Whether there was one loss per sequence rather than one per step.
    lengths : ndarray of int or None
        Lengths of the sequences, where known.
    sequences : ndarray of int
        How many sequences have a loss at each target.
    cells : list of str
        ``"rnn"``, ``"gru"``, ``"lstm"``, or ``"custom"`` for states that were marked, per layer.
    reverse : list of bool
        Whether the layer runs backwards in time.
    losses : ndarray
        The losses themselves `(targets, B)`.
    loss_steps : int
        How many steps have a loss.
    last : ndarray or None
        With one loss per sequence, the norms of every sequence `(layers, T, B)`, NaN beyond its end.
    alignments : list of Alignment
        By layer, the step of each loss, which gives a pair (t, k) its lag; or why that is not known.
    by_distance : list of (ndarray or None)
        By layer, if the losses of its sequences are at different steps: norms by distance from the nearest state that
        each sequence's loss depends on `(targets, T)`, −∞ below the range; otherwise None.
    notes : list of str
        What a reader must know about the measurement.
    below : ndarray of bool or None
        Shaped as ``norms``: true where the norm is below the range of the type the model computes in, so that ``norms``
        is 0 and ``by_lag`` NaN. None if there are none.
    """

    layers: list[str]
    norms: Array
    targets: NDArray[np.int64]
    steps: list[int]
    state: str
    reduce: str | list[float]
    final: bool
    lengths: NDArray[np.int64] | None
    sequences: NDArray[np.int64]
    cells: list[str]
    reverse: list[bool]
    losses: Array
    loss_steps: int
    last: Array | None = None
    alignments: list[Alignment] = field(default_factory=list)
    by_distance: list[Array | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    linearization: Linearization | None = field(default=None, repr=False)
    sums: contributions.Sums | None = field(default=None, repr=False)
    below: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        """One line; ``print(flow)`` says what was found."""
        reduce = self.reduce if isinstance(self.reduce, str) else f"quantiles {self.reduce}"
        state = self.state if len(self.state) == 1 else "s"  # h and c together, where there is a c
        losses = "one loss per sequence" if self.final else f"losses at {len(self.targets)} steps"
        return (
            f"<GradientFlow of {', '.join(self.layers)}: ‖∂E_t/∂{state}_k‖, {losses}, T = {max(self.steps)}, "
            f"B = {self.losses.shape[1]}, over the batch: {reduce}>"
        )

    def __str__(self) -> str:
        return f"{self!r}\n{summarize(self)}"

    def __rich__(self) -> RenderableType:
        """The terminal form: table by lag, sparkline, growth per step, half-life, horizon, verdict."""
        return Group(Text(repr(self)), Text(), summarize(self))

    def layer_index(self, layer: str | int) -> int:
        """Index of a layer, given by its label or its index.

        Raises
        ------
        FlowError
            There is no such layer.
        """
        if isinstance(layer, str):
            if layer not in self.layers:
                raise FlowError(f"There is no layer {layer!r}; this flow has {', '.join(self.layers)}.")
            return self.layers.index(layer)
        if not -len(self.layers) <= layer < len(self.layers):
            raise FlowError(f"There is no layer {layer}; this flow has {len(self.layers)}.")
        return int(layer) % len(self.layers)

    def layer(self, layer: str | int) -> str:
        """Label of a layer, given by its label or its index."""
        return self.layers[self.layer_index(layer)]

    def lag(self, layer: str | int = 0) -> NDArray[np.int64]:
        """The lag of each pair, in steps of the layer, `(targets, T)`: t − k, and k − t in a reverse layer.

        More exactly, the distance of s_k from the step of loss t (``alignments``): its own step; if the loss has other
        steps than the layer, the last step that it depends on; in an encoder, t + 1 steps after the last. With one loss
        per sequence, the last step that it depends on. If the sequences differ, that of the last one (the first, in a
        reverse layer).

        Raises
        ------
        FlowError
            The step of each loss is not known.
        """
        i = self.layer_index(layer)
        lags = self.alignments[i].lags(self.norms.shape[2])
        there = np.broadcast_to(self.alignments[i].at[:, None, :] >= 0, lags.shape)
        least = np.iinfo(np.int64).min
        last = np.where(there, lags, least).max(2) if lags.shape[2] > 1 else lags[..., 0]
        return np.where(last == least, -1, last)

    def by_lag(self) -> Array:
        """‖∂E_t/∂s_{t−lag}‖, mean over t, `(layers, T)`, with the last axis of ``norms``.

        In a reverse layer s_{t+lag}, against its own direction. NaN where no pair has that lag, where the norms are
        below the range of the model's type, and for a layer whose lags are not known (see ``notes``).

        Raises
        ------
        FlowError
            Lags are not known for any layer.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> rnn = torch.nn.RNN(2, 4)
        >>> flow = rg.gradient_flow(rnn, torch.randn(10, 3, 2), loss=lambda output: output[0].sum(-1))
        >>> flow.by_lag().shape
        (1, 10)
        """
        known = [i for i, own in enumerate(self.alignments) if own.kind != "refused"]
        if not known:
            raise FlowError(self.alignments[0].reason)
        every = {i: curves.of_layer(self, i)[0] for i in known}
        longest = max(len(curve) for curve in every.values())
        found = np.full((len(self.layers), longest, *self.norms.shape[3:]), np.nan)
        for i, curve in every.items():
            found[i, : len(curve)] = curve
        return found

    def by_entry(self, effort: float = 2e10) -> dict[str, Array]:
        """What is left of the gradient so many steps of a layer after it has entered it, by layer.

        A loss per sequence may read the states of many steps (a head that pools), or a layer may run in reverse: the
        lags of `by_lag` count from the last step, and the gradient enters at each step that is read. Here a lag is the
        number of steps of the layer, in its own direction, from where the gradient has entered; the mean is over all
        places where it does, and over the sequences. What comes through another layer enters this one.

        Parameters
        ----------
        effort : float
            At most about so many multiplications: of long sequences some entries are followed.

        Returns
        -------
        dict of ndarray
            By layer, norms of s_k by lag `(T,)`, NaN where no sequence is so long. Empty where lags from the end say
            the same (only the last step is read, by layers that run forward), with a loss at every step, and where it
            is not known: layers that are called for single steps, marked states.

        Raises
        ------
        FlowError
            The flow was saved, and the model's graph is needed.
        """
        if not self.final:
            return {}
        return entries.by_layer(self._linearization.needed_graph, effort)

    def horizon(self, fraction: float = 0.01) -> Array:
        """The first lag at which ``by_lag`` is under ``fraction`` of its first nonzero value, per layer.

        The first is at lag 0, unless the loss does not depend on its own step. NaN for a layer that stays above it at
        all lags: its horizon is beyond T.
        """
        if not 0 < fraction < 1:
            raise FlowError(f"fraction is {fraction}; it must be between 0 and 1.")
        if all(own.kind == "refused" for own in self.alignments):
            raise FlowError(self.alignments[0].reason)
        return np.array([curve.horizon(fraction) for curve in curves.mean_curves(self)])

    @property
    def parameters(self) -> list[str]:
        """Names of the recurrent parameters, as in the model's ``state_dict``."""
        return list(self._owners)

    def _known_owners(self) -> dict[str, list[tuple[str, str]]]:
        """`_owners`; FlowError if no parameter is known."""
        if not (owners := self._owners):
            raise FlowError(
                f"No parameters of {', '.join(self.layers)} are known: the states were marked by hand, or by a layer "
                "with normalization or dropout of its state, so only norms and Jacobians are measured."
            )
        return owners

    @property
    def _owners(self) -> dict[str, list[tuple[str, str]]]:
        """By parameter, the layers that use it and as what: several where a layer ran several times."""
        found: dict[str, list[tuple[str, str]]] = {}
        for label in self.layers:
            for kind, (name, _) in self._linearization.parameters(label).items():
                found.setdefault(name, []).append((label, kind))
        return found

    def weight(self, layer: str | int = 0) -> str:
        """The name, as in the model's ``state_dict``, of a layer's weights from state to state."""
        label = self.layer(layer)
        self._run(label)
        return self._linearization.parameters(label)["weight_hh"][0]

    @property
    def effort(self) -> float:
        """Multiplications that the first question about contributions or truncation needs; 0 afterwards."""
        if self.sums is not None or self.linearization is None:
            return 0.0
        runs = [self.linearization.runs[label] for label in self.layers if label in self.linearization.runs]
        rows = len(self.targets) * max(self.steps) / 2 * self.losses.shape[1]
        return float(rows * sum(sum(w.numel() for w in run.weights.tensors()) for run in runs))

    def _parameter(self, name: str) -> str:
        owners = self._known_owners()
        found = [full for full in owners if full == name or full.endswith("." + name)]
        if len(found) != 1:
            reason = "is the name of several parameters" if found else "is not a parameter of a measured layer"
            raise FlowError(f"{name!r} {reason}; choose among {', '.join(owners)}.")
        return found[0]

    @property
    def _linearization(self) -> Linearization:
        if self.linearization is None:
            raise FlowError("This flow was saved without its trajectory, with norms only (save with trajectory=True).")
        return self.linearization

    def keep_sums(self) -> contributions.Sums:
        """Compute the sums from which contributions and truncation are made, once."""
        if self.sums is None:
            self._known_owners()
            self.sums = contributions.by_lag(self, self._linearization)
        return self.sums

    def _lag_of_sequences(self, layer: str) -> NDArray[np.int64]:
        """Lag of every pair `(targets, T, 1)`, or of every sequence `(targets, T, B)` where these differ."""
        i = self.layer_index(layer)
        return self.alignments[i].lags(self.steps[i])

    @property
    def known_layers(self) -> list[str]:
        """The layers whose lags are known."""
        return [label for label, own in zip(self.layers, self.alignments, strict=True) if own.kind != "refused"]

    def _check_lags(self, names: list[str]) -> None:
        """Refuse parameters of layers whose lags are not known."""
        for name in names:
            for label, _ in self._owners[name]:
                self._lag_of_sequences(label)

    def contributions(self, parameter: str = "weight_hh_l0", gate: str | None = None) -> Contributions:
        """The part of every lag in the gradient of a parameter: norm, cosine with the full gradient, signed share.

        Parameters
        ----------
        parameter
            Its name as in ``state_dict`` (see ``parameters``), or the end of it where that is clear.
        gate
            One gate's rows only: r, z, n of a GRU; i, f, g, o of an LSTM.

        Notes
        -----
        The full gradient is ∂E/∂W with E the sum of all losses followed, over targets and sequences.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> lstm, x = torch.nn.LSTM(2, 4), torch.randn(10, 3, 2)
        >>> flow = rg.gradient_flow(lstm, x, loss=lambda output: output[0].square().sum(-1))
        >>> round(float(flow.contributions("weight_hh_l0", gate="f").share.sum()), 6)
        1.0
        """
        name = self._parameter(parameter)
        self._check_lags([name])
        if gate is not None and name.rpartition(".")[2].startswith("weight_hr"):
            raise FlowError(f"{name} has no gates.")
        label, _ = self._owners[name][0]
        return contributions.from_sums(
            self.keep_sums(), name, contributions.gate_index(self.cells[self.layer_index(label)], gate)
        )

    def share_by_lag(self, parameter: str = "weight_hh_l0", gate: str | None = None) -> Array:
        """Signed share ⟨g_lag, g⟩/‖g‖² of every lag in a parameter's gradient; they add up to 1.

        Lags 0, 1, … unless a head or layer looks ahead; ``contributions(parameter).lags`` names them.
        """
        return self.contributions(parameter, gate).share

    def pair_contributions(self, parameter: str = "weight_hh_l0", gate: str | None = None) -> Contributions:
        """The part of every pair (t, k) in the gradient of a parameter, `(targets, T)` each; see ``contributions``.

        For one run of a layer that ran several times: ``weight_hh_l0#2``.
        """
        parameter, mark, number = parameter.partition("#")
        name = self._parameter(parameter)
        owners = {label.rpartition("#")[2]: (label, kind) for label, kind in self._owners[name]}
        if len(owners) > 1 and number not in owners:
            asked = f"{parameter}{mark}{number}"
            raise FlowError(
                f"{asked} is used by {len(owners)} runs of its layer, each with its own pairs: choose "
                f"{', '.join(f'{parameter}#{run}' for run in owners)}."
            )
        label, kind = owners[number] if len(owners) > 1 else next(iter(owners.values()))
        index = contributions.gate_index(self.cells[self.layer_index(label)], gate)
        return contributions.by_pair(self, self._linearization, label, kind, index - 1 if index else None)

    def truncation(self, parameter: str | None = None) -> Truncation:
        """What truncated BPTT of length L would compute, for every L: norm, angle, error; and the shortest L needed.

        For all recurrent parameters together, or for one.
        """
        names = self.parameters if parameter is None else []
        names = names or [self._parameter(parameter or "weight_hh")]
        self._check_lags(names)
        return contributions.truncation(self.keep_sums(), names)

    def signal_by_lag(
        self,
        layer: str | int = 0,
        *,
        bins: int | None = None,
        permutations: int = 4,
        alpha: float = 0.01,
        seed: int = 0,
        exact: bool | None = None,
    ) -> Signal:
        """Up to which lag the data asks this layer to remember, however small the gradient has become there.

        The gradient that each sequence contributes at a lag points in one direction for many sequences if there is
        something to learn at that lag, and in random directions if not. The measure of this has no unit, so it does not
        fade with the size of the gradient; what chance would give is found by giving each sequence the output error of
        another.

        Parameters
        ----------
        layer
            Whose ∂E/∂U and ∂E/∂W are taken apart.
        bins
            Lags are taken together in so many bins of equal width, all lags of a bin at one size; None: each by itself.
        permutations
            How many times errors are exchanged, to find the variance and skewness of what chance gives.
        alpha
            Family-wise error rate of what counts as significant.
        seed
            Of the permutations.
        exact
            False: gradients are compared in a random projection; None: only where they would take too much time.

        Raises
        ------
        FlowError
            There are fewer than 8 sequences; sequences are mixed; layers are bidirectional, or the head looks at
            several steps at once while there is a loss for each step; the flow has no trajectory.

        Notes
        -----
        A *signal* says that there is something left to learn, not how much it matters: a network that has solved its
        task shows one in its last, tiny errors. What the data asks for is best measured on an untrained network.
        Nothing is seen of targets that depend on several steps only together, such as the parity of a sequence.

        Examples
        --------
        >>> import torch, retrograde as rg
        >>> _ = torch.manual_seed(0)
        >>> x, rnn, head = torch.randn(20, 400, 1), torch.nn.RNN(1, 16), torch.nn.Linear(16, 1)
        >>> loss = lambda output: (1e-3 * head(output[0]) - x.roll(5, 0)).square().sum(-1)  # x_{t−5} at every step t
        >>> rg.gradient_flow(rnn, x, loss=loss).signal_by_lag().need
        5
        """
        return signal.measure(self, layer, bins, permutations, seed, alpha, exact)

    def _run(self, layer: str | int) -> Trajectory:
        return self._linearization.run(self.layer(layer))

    def _walk(self, layer: str | int) -> Trajectory | StepwiseRun:
        return self._linearization.walk(self.layer(layer))

    def jacobian_norms(self, layer: str | int = 0) -> Array:
        """Spectral norm of ∂s_t/∂s_{t−1} at every step and sequence, `(T, B)`; NaN on padding.

        For the layer alone; s is h, or (h, c) for an LSTM. For marked states the first step is NaN too.
        """
        return jacobians.norms(self._walk(layer))

    def spectral_radii(self, layer: str | int = 0) -> Array:
        """Spectral radius of ∂s_t/∂s_{t−1} at every step and sequence, `(T, B)`; NaN on padding."""
        return jacobians.radii(self._walk(layer))

    def singular_values(
        self, first: int = 0, last: int | None = None, layer: str | int = 0, *, log: bool = False
    ) -> Array:
        """Singular values of ∂s_last/∂s_first, falling, `(B, S)`.

        The product is kept as QR factors with its scale in logarithms: spans of 10,000 steps neither overflow nor
        vanish, and small values keep their digits next to large ones.

        Parameters
        ----------
        first, last
            Steps, in the direction of the layer (first > last in a reverse layer); −1 (T in a reverse layer) is the
            state before the first step. The whole run by default.
        log
            Natural logarithms, which a long span needs; −inf for a value that is zero.
        """
        run = self._walk(layer)
        if last is None:
            end = run.known.stop - 1 if isinstance(run, StepwiseRun) else run.steps - 1
            last = run.steps - 1 - end if run.reverse else end
            first = run.steps - 1 if run.reverse and first == 0 else first
        logs = jacobians.log_singular_values(run, first, last)
        if log:
            return logs
        live = logs[np.isfinite(logs)]
        if (np.abs(live) > 700).any():
            raise FlowError(
                f"A singular value is e^{live[np.argmax(np.abs(live))]:.0f}, beyond the range of float64: use log=True."
            )
        return np.exp(logs)

    def lyapunov_exponents(
        self, layer: str | int = 0, n: int | None = None, *, burn_in: int = 0, per_sequence: bool = False
    ) -> Array:
        """Finite-time Lyapunov exponents of the layer along the run, falling, `(S,)` or the leading ``n``.

        Growth per step, as a natural logarithm, of the directions in state space: above 0 a gradient can grow without
        limit; if all are below 0 it must vanish. −inf for a direction that becomes exactly zero. The spectrum of a
        stack is that of its layers together.

        Parameters
        ----------
        layer
            Label or index.
        n
            How many, the whole spectrum by default.
        burn_in
            Steps during which the directions align before anything is counted.
        per_sequence
            `(B, S)` instead of the mean over the batch.
        """
        found = jacobians.lyapunov_exponents(self._walk(layer), n, burn_in)
        return found if per_sequence else np.asarray(found.mean(0))

    def largest_exponents(self, layer: str | int = 0, *, burn_in: int = 0) -> Array:
        """The largest finite-time Lyapunov exponent along every sequence `(B,)`, in little time for large layers.

        By sending a random vector back through the layer; the last ``burn_in`` steps are not counted, as the vector
        aligns with the direction of largest growth there.
        """
        return jacobians.largest_exponents(self._walk(layer), burn_in)

    def lyapunov_dimension(self, layer: str | int = 0, *, burn_in: int = 0) -> float:
        """Kaplan-Yorke dimension of the layer's spectrum: how many directions the states keep."""
        return jacobians.lyapunov_dimension(self.lyapunov_exponents(layer, burn_in=burn_in))

    def bounds(self, layer: str | int = 0) -> Bounds:
        """‖W_hh‖₂·max f′ and its consequences: vanishing certain, exploding possible (vanilla layers)."""
        return jacobians.bounds(self._run(layer))

    def saturation(self, layer: str | int = 0, threshold: float = 0.1) -> Saturation:
        """Share of saturated tanh units (f′ under ``threshold``) and of dead ReLU units, mean f′ per step and unit."""
        if not 0 < threshold <= 1:
            raise FlowError(f"threshold is {threshold}; it must be above 0 and at most 1, as f′ is.")
        return activation.saturation(self._run(layer), threshold)

    def gates(self, layer: str | int = 0) -> dict[str, Gate]:
        """Gates of a GRU (r, z) or LSTM (i, f, o): mean, share above 0.9 and under 0.1, time constants in steps."""
        return activation.gates(self._run(layer))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GradientFlow:
        """Read what ``save`` wrote.

        Raises
        ------
        FlowError
            The files are missing, damaged, or of a newer version.
        """
        return saving.load(cls, path)

    save = saving.save
    to_csv = saving.to_csv
    to_xarray = saving.to_xarray
    plot_heatmap = plots.plot_heatmap
    plot_by_lag = plots.plot_by_lag
    plot_shares = plots.plot_shares
    plot_truncation = plots.plot_truncation
    plot_signal = plots.plot_signal
    plot_spectrum = layer_plots.plot_spectrum
    plot_gates = layer_plots.plot_gates
    plot_activation = layer_plots.plot_activation
    _repr_html_ = plots.notebook_page
