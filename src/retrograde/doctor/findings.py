"""What the doctor can find: the list of findings, and a finding with its numbers.

Tests: `tests/doctor/test_diagnosis.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

Severity = Literal["sick", "unknown", "note"]


class Kind(StrEnum):
    """The name of a finding."""

    # How the gradient travels through time
    VANISHING_HURTS = "vanishing_hurts"
    VANISHING_HARMLESS = "vanishing_harmless"
    EXPLODING = "exploding"
    CHAOS = "chaos"
    CURSE_OF_MEMORY = "curse_of_memory"
    ONE_DIRECTION = "one_direction"
    TRUNCATION = "truncation"
    NO_FIRST_ORDER_SIGNAL = "no_first_order_signal"
    # Units and gates
    SATURATION = "saturation"
    DEAD_RELU = "dead_relu"
    STUCK_GATES = "stuck_gates"
    # The training
    CLIPPING_TOO_TIGHT = "clipping_too_tight"
    CLIPPING_NEVER_ACTIVE = "clipping_never_active"
    CLIPPING_HIDES_SPIKES = "clipping_hides_spikes"
    NOT_FINITE = "not_finite"
    LEARNING_RATE_TOO_HIGH = "learning_rate_too_high"
    LEARNING_RATE_TOO_LOW = "learning_rate_too_low"
    MEMORIZED = "memorized"
    NOT_TRAINED = "not_trained"
    TRAINING_LOOP = "training_loop"
    # Data and wiring
    INPUT_SCALE = "input_scale"
    TARGET_SCALE = "target_scale"
    TARGETS_AHEAD = "targets_ahead"
    CONSTANT_OUTPUT = "constant_output"
    OUTPUT_RANGE = "output_range"
    RANDOM_OUTPUT = "random_output"
    DROPOUT_IN_EVAL = "dropout_in_eval"
    TARGETS_BROADCAST = "targets_broadcast"
    WRONG_TIME_AXIS = "wrong_time_axis"
    STATE_LEAKS = "state_leaks"
    STATE_NOT_CARRIED = "state_not_carried"
    STATE_DETACHED = "state_detached"
    LAYER_NOT_CALLED = "layer_not_called"
    DEAD_HEAD = "dead_head"
    MASK_ERROR = "mask_error"


@dataclass(frozen=True)
class About:
    """What a finding means, wherever it is shown."""

    title: str  # a few words
    severity: Severity  # "sick": training suffers from it; "unknown": it cannot be decided; "note": worth knowing
    meaning: str  # a sentence or two for someone who has never seen the term
    source: str = ""  # paper or text
    spares_training: bool = False  # a mistake with which the loss can fall all the same


FINDINGS: Mapping[Kind, About] = {
    Kind.VANISHING_HURTS: About(
        "vanishing gradient that hurts",
        "sick",
        "The data asks the network to remember further back than its gradient reaches, so it cannot learn to.",
        "Hochreiter 1991; Bengio, Simard and Frasconi 1994",
    ),
    Kind.VANISHING_HARMLESS: About(
        "vanishing gradient that does not matter",
        "note",
        "The gradient fades with the lag, but nothing further back helps to predict the targets.",
    ),
    Kind.EXPLODING: About(
        "exploding gradient",
        "sick",
        "The product of the Jacobians grows with the lag, so single sequences produce gradients of any size.",
        "Pascanu, Mikolov and Bengio 2013",
    ),
    Kind.CHAOS: About(
        "chaos",
        "sick",
        "Nearby states move apart exponentially (the largest Lyapunov exponent is above 0), so gradients explode for "
        "every sequence; clipping does not cure this.",
        "Mikhaeil, Monfared and Durstewitz 2022",
    ),
    Kind.CURSE_OF_MEMORY: About(
        "curse of memory",
        "sick",
        "The gradient of the states is calm, but the more a unit remembers, the more sensitive the output is to its "
        "recurrent weight: gradients of the parameters grow like (1 - λ²)^-3.",
        "Zucchet and Orvieto 2024",
    ),
    Kind.ONE_DIRECTION: About(
        "gradient in one direction only",
        "sick",
        "The product of Jacobians keeps one direction of the state and loses the others: the network can learn to "
        "remember one number.",
        "Engelken 2023",
    ),
    Kind.TRUNCATION: About(
        "truncation hides needed lags",
        "sick",
        "Truncated backpropagation through time is shorter than the lags that the data asks for.",
        "Tallec and Ollivier 2017",
    ),
    Kind.NO_FIRST_ORDER_SIGNAL: About(
        "no signal that a gradient can see",
        "unknown",
        "No lag has a consistent gradient. The targets may be noise, or depend on several steps only together (such "
        "as parity): the measurement cannot tell.",
    ),
    Kind.SATURATION: About(
        "saturated units",
        "sick",
        "Most units are at the flat ends of their nonlinearity, where the derivative, and so the gradient, is near 0.",
        "Glorot and Bengio 2010",
    ),
    Kind.DEAD_RELU: About(
        "dead ReLU units", "sick", "Units that are 0 for every sequence and step receive no gradient.", "Lu et al. 2020"
    ),
    Kind.STUCK_GATES: About(
        "stuck gates",
        "sick",
        "Gates that are always open or always closed pass no gradient to their own weights.",
        "Gu et al. 2020",
    ),
    Kind.CLIPPING_TOO_TIGHT: About(
        "clipping too tight",
        "sick",
        "Nearly every gradient is scaled down to the threshold, which then acts as the learning rate.",
        "Pascanu, Mikolov and Bengio 2013",
    ),
    Kind.CLIPPING_NEVER_ACTIVE: About(
        "clipping never active", "note", "No gradient was above the threshold: clipping had no effect."
    ),
    Kind.CLIPPING_HIDES_SPIKES: About(
        "clipping hides spikes",
        "note",
        "A few sequences have gradients far above those of the others; clipping scales the whole batch down for them.",
    ),
    Kind.NOT_FINITE: About("NaN or infinity", "sick", "A value that is not a number ends all learning."),
    Kind.LEARNING_RATE_TOO_HIGH: About(
        "learning rate at the edge of stability",
        "sick",
        "The curvature of the loss is too high for the learning rate: updates overshoot.",
        "Cohen et al. 2021, 2022",
    ),
    Kind.LEARNING_RATE_TOO_LOW: About(
        "learning rate too low",
        "sick",
        "The updates are so short, and so few, that the weights stay where they began.",
    ),
    Kind.MEMORIZED: About(
        "learned by heart",
        "sick",
        "Sequences of the training are predicted well, others worse than by a constant answer: nothing carries over.",
        spares_training=True,
    ),
    Kind.NOT_TRAINED: About(
        "parameters that are not trained",
        "sick",
        "Parameters get a gradient, but the optimizer does not change them.",
    ),
    Kind.TRAINING_LOOP: About(
        "training loop that does not train",
        "sick",
        "From the same weights, with the same data and learning rate, plain updates learn what the training did not.",
    ),
    Kind.INPUT_SCALE: About(
        "scale of the inputs", "sick", "The inputs are far from zero mean and unit variance.", "LeCun et al. 1998"
    ),
    Kind.TARGET_SCALE: About(
        "scale of the targets", "sick", "The targets are far from the range that the output starts in."
    ),
    Kind.TARGETS_AHEAD: About(
        "targets of later inputs",
        "unknown",
        "The targets can be predicted from inputs that come later, and not from earlier ones: labels that are shifted "
        "against the inputs, or a forecast of what cannot be foreseen.",
    ),
    Kind.CONSTANT_OUTPUT: About(
        "constant output", "sick", "The network gives nearly the same output for every sequence."
    ),
    Kind.OUTPUT_RANGE: About(
        "outputs that cannot reach the targets",
        "sick",
        "The last function of the network bounds its outputs, and the loss asks for values beyond these bounds.",
        spares_training=True,
    ),
    Kind.RANDOM_OUTPUT: About(
        "random outputs in eval mode",
        "note",
        "The network draws random numbers in eval mode as well, so validation and predictions are random.",
    ),
    Kind.DROPOUT_IN_EVAL: About(
        "dropout in eval mode",
        "sick",
        "Dropout takes states away in eval mode as well, so validation and predictions are worse than the network.",
        "Srivastava et al. 2014",
        spares_training=True,
    ),
    Kind.TARGETS_BROADCAST: About(
        "targets broadcast against outputs",
        "sick",
        "Outputs and targets have different shapes, so each output is compared with the targets of all: only their "
        "mean can be learned.",
    ),
    Kind.WRONG_TIME_AXIS: About(
        "wrong axis taken as time", "sick", "The layer runs over the batch, not over time (batch_first?)."
    ),
    Kind.STATE_LEAKS: About(
        "state leaks between sequences",
        "sick",
        "What one sequence contains changes the output of another.",
        spares_training=True,
    ),
    Kind.STATE_NOT_CARRIED: About(
        "state not carried over", "sick", "The state is reset at every step or window, so nothing can be remembered."
    ),
    Kind.STATE_DETACHED: About(
        "state detached at every step",
        "sick",
        "The state is passed on, but not its gradient, so that only the last step before each loss is trained.",
    ),
    Kind.LAYER_NOT_CALLED: About(
        "layer never called",
        "sick",
        "A recurrent layer of the model does not take part in the output.",
        spares_training=True,
    ),
    Kind.DEAD_HEAD: About("dead head", "sick", "The output does not depend on the recurrent states."),
    Kind.MASK_ERROR: About(
        "padding counts", "sick", "Steps beyond the end of a sequence change its loss, or real steps are masked."
    ),
}


@dataclass(frozen=True)
class Curve:
    """A line of a chart."""

    label: str
    x: list[float]
    y: list[float | None]  # None: not known


@dataclass(frozen=True)
class Chart:
    """A figure of a finding, drawn alike in the terminal, by matplotlib and on the page."""

    title: str
    x_label: str
    y_label: str
    curves: list[Curve]
    log: bool = False  # of the y axis
    marks: Mapping[str, float] = field(default_factory=dict)  # vertical lines, by what they show


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found, with the numbers that led to it.

    Attributes
    ----------
    kind : Kind
        What it is; `about` says what that means.
    message : str
        One sentence, with the numbers.
    numbers : dict of float
        Measured quantities by name.
    rule : str
        The rule that decided, with its thresholds: ``"need 30 > reach 12"``.
    where : str
        Label of the layer; empty for the whole network.
    ruled_out : tuple of str
        Other explanations that the measurements exclude, each with its number.
    chart : Chart or None
        The figure.
    """

    kind: Kind
    message: str
    numbers: Mapping[str, float]
    rule: str
    where: str = ""
    ruled_out: tuple[str, ...] = ()
    chart: Chart | None = None

    @property
    def about(self) -> About:
        """Title, severity, meaning and source."""
        return FINDINGS[self.kind]

    @property
    def severity(self) -> Severity:
        """``"sick"``, ``"unknown"`` or ``"note"``."""
        return self.about.severity

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"title": self.about.title, "severity": self.severity}
