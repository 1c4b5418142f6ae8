"""Every threshold of the rules, with its reason: the only place where one is written.

Tests: `tests/doctor/test_vanishing.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..runs.records import BETTER

__all__ = ["THRESHOLDS", "Threshold"]


@dataclass(frozen=True)
class Threshold:
    """A number that decides, and where it is from."""

    value: float
    meaning: str
    source: str


class THRESHOLDS:
    """The table. Rules read ``THRESHOLDS.reach_fraction.value``."""

    reach_fraction = Threshold(0.01, "share of the gradient at lag 0 at which its reach ends", "docs/flow.md: horizon")
    alpha = Threshold(0.01, "family-wise error rate of a signal", "Holm 1979; one healthy run in a hundred")
    no_better = Threshold(
        BETTER,
        "share of a baseline's loss that a run must be below it to count as better",
        "as the report page says it",
    )
    solved_share = Threshold(
        0.05, "share of the loss at chance below which a task counts as solved", "benchmarks/doctor"
    )
    unlearned_share = Threshold(
        0.8,
        "share of the loss at chance above which a task counts as not learned (the floor of noisy tasks is not known)",
        "letters drawn by the letter before, predicted as well as possible, are at 0.67",
    )
    # How the gradient travels through time
    need_share = Threshold(
        0.15, "share of the clearest lag's consistency below which the signal of a lag is not needed", "docs/doctor.md"
    )
    explained_share = Threshold(
        0.9,
        "share of what all steps explain of the errors at which the last steps that explain so much are enough",
        "docs/doctor.md: need",
    )
    left_share = Threshold(
        0.05,
        "share of the loss at chance, explained by inputs that the gradient does not reach, that is worth learning",
        "that of solved_share",
    )
    ahead_share = Threshold(
        0.5,
        "share of the errors that later inputs must explain, and earlier ones not, for targets to be theirs",
        "the larger half",
    )
    learnable_share = Threshold(
        0.1,
        "the same of all inputs, above which a training that ended is not healthy without an explanation",
        "that of unsolved_share",
    )
    prognosis_risk = Threshold(0.5, "risk above which a task will not be learned as it stands", "even odds")
    risk_share = Threshold(
        10**-2.5, "share of the gradient, at the lag of the signal, at which the risk is 50 %", "docs/doctor.md: risk"
    )
    pooled_risk_share = Threshold(
        10**-3.5,
        "the same where the states of several steps are read, in the mean over the signal",
        "docs/doctor.md: risk",
    )
    repetition = Threshold(
        0.5, "autocorrelation of the inputs from which a step stands for an earlier one", "half of the variance"
    )
    risk_without_signal = Threshold(0.9, "risk of a task without a signal that a gradient sees", "parity, noise")
    risk_of_finding = Threshold(0.9, "risk with any other finding that makes a training sick", "benchmarks/doctor")
    main_cause = Threshold(0.5, "share of the decay above which a cause is the main one", "the larger half")
    growth = Threshold(100.0, "growth of the gradient over lags above which it explodes", "docs/flow.md: verdict")
    chaos_errors = Threshold(
        3.0, "standard errors by which the largest Lyapunov exponent is above 0 in chaos", "one in a thousand"
    )
    unseen_doublings = Threshold(
        2.0,
        "steps without an input, in times in which the data's divergence doubles, above which they cannot be learned",
        "Mikhaeil et al. 2022: the best interval is one doubling time",
    )
    truncation_cosine = Threshold(
        0.99,
        "cosine of the truncated with the full gradient below which truncation hides something",
        "Tallec and Ollivier 2017: a biased direction",
    )
    direction_share = Threshold(
        0.01,
        "share of the largest singular value from which a direction of the gradient arrives",
        "that of reach_fraction",
    )
    direction_gap = Threshold(
        0.5,
        "what the second direction keeps per step of what the first keeps, below which one alone is kept",
        "random weights of 8 units or more keep 0.63 to 1",
    )
    calm_growth = Threshold(10.0, "growth of the gradient of the states up to which it is calm", "a tenth of exploding")
    long_memory = Threshold(
        30.0, "steps of memory 1 / (1 - λ²), at most T, above which it may be a curse", "Zucchet and Orvieto 2024"
    )
    amplified = Threshold(
        30.0,
        "gradient of the recurrent weights, in its part of one lag, above which memory is a curse",
        "docs/doctor.md",
    )
    sensitivity = Threshold(
        100.0,
        "relative change of the loss over that of the recurrent weights above which their gradient is huge",
        "1 % of the weights changes the loss by all of its size",
    )
    least_effect = Threshold(
        0.1,
        "share of the errors' variance that one lag must explain to be seen, above which sequences are too few to "
        "speak of no signal",
        "a correlation of 0.32",
    )
    # Units and gates
    flat_slope = Threshold(0.1, "f' below which a tanh unit is saturated: |tanh| > 0.95", "docs/flow.md: saturation")
    hard_slope = Threshold(
        0.01, "f' below which it is hard to leave the flat ends", "networks that learned had at most 24 % there"
    )
    saturated_share = Threshold(
        0.5, "share of saturated tanh units above which a layer that has not learned is sick", "Glorot and Bengio 2010"
    )
    dead_share = Threshold(
        0.7, "share of ReLU units that are 0 everywhere above which a layer is sick", "Zhang et al. 2021 (AutoTrainer)"
    )
    dead_start_share = Threshold(
        0.9, "the same in the head before training, where states hardly differ", "half of the units are off by chance"
    )
    dead_late_share = Threshold(
        0.9, "the same for units that are 0 from the middle of the sequences on", "exploding states alone kill half"
    )
    fewest_activations = Threshold(
        30, "steps times sequences below which no unit is called dead", "a unit on in 10 % is off in all 30: 4 %"
    )
    gate_open = Threshold(0.9, "value above which a gate is open; closed below 1 minus it", "docs/flow.md: gates")
    always = Threshold(0.99, "share of steps and sequences that counts as always", "leaves room for a first step")
    stuck_share = Threshold(0.5, "share of units with a stuck gate above which the gate is stuck", "half of the layer")
    gate_slope = Threshold(
        0.001,
        "slope g(1 - g) of a gate below which no gradient reaches its weights; biases down to -6 are a design",
        "Hochreiter and Schmidhuber 1997: slope 0.0025 at -6",
    )
    gate_slope_trained = Threshold(0.01, "the same after training that has not learned", "Gu et al. 2020")
    keeper_steps = Threshold(
        10.0, "a gate that keeps for longer than this many times the sequence never lets go", "Tallec and Ollivier 2018"
    )
    unsolved_share = Threshold(
        0.1, "share of the loss at chance above which a handicap from the start counts", "benchmarks/doctor"
    )
    # Training
    memorized_share = Threshold(
        0.5,
        "share of the loss at chance below which the sequences of the training count as learned, if others are not",
        "retrograde: halfway",
    )
    clipped_share = Threshold(0.9, "share of clipped gradients above which clipping is always active", "Pascanu 2013")
    path_share = Threshold(
        0.2,
        "longest way that clipped updates can go, over the weights' norm, that is too short to learn",
        "networks that learned a task went 0.25 to 1.2 times that (displacement)",
    )
    fewest_updates = Threshold(50, "updates below which a path is short whatever the rate", "trials have up to 100")
    spike = Threshold(10.0, "times the median that makes a gradient norm a spike", "docs/flow.md: exploding()")
    spikes_share = Threshold(0.05, "share of spikes above which they are the rule", "one in twenty")
    rise = Threshold(1.1, "times its lowest level, or chance, at which a loss does not settle", "noise of a mean")
    peak = Threshold(2.0, "times chance (and the first loss) to which a loss must not rise", "catapult: Lewkowycz 2020")
    swing = Threshold(
        0.5, "mean change of the loss from update to update, over its size, that is a swing", "32 squared errors: 0.28"
    )
    rate_gain = Threshold(
        1.5, "loss at the learning rate over that at a smaller one that is a clear gain", "noise of 5 updates"
    )
    learned_in_trial = Threshold(
        0.7,
        "share of the loss at chance below which a trial has learned what the training did not",
        "clear of unlearned_share",
    )
    smooth_share = Threshold(
        0.2,
        "change of the gradient norm from update to update, over that between batches, below which gradients add up",
        "docs/doctor.md: 0.01 to 0.03 where they do, else 0.2 to 0.6",
    )
    adam_edge = Threshold(
        38.0, "edge of stability of Adam's own sharpness, times the learning rate", "Cohen et al. 2022"
    )
    # Data
    large = Threshold(10.0, "size of inputs (of targets: times that of the output) that is too large", "LeCun 1998: 1")
    small = Threshold(0.01, "largest input, or size of targets, that is too small", "LeCun et al. 1998: 1")
    offset = Threshold(10.0, "|mean| over standard deviation of all inputs that is too far off", "LeCun 1998: 0")
    constant_share = Threshold(
        0.0001,
        "spread of outputs over that of targets (at most 1) below which they are constant",
        "benchmarks/doctor",
    )
    # Wiring
    continues = Threshold(
        0.00135, "chance of such a gain from the batch before, below which batches continue", "three standard errors"
    )
    padding_chance = Threshold(
        1e-6,
        "chance, by how often a value occurs in other steps, of all first steps with it, below which they are padding",
        "one batch in a million that begins so by chance",
    )
    rounding = Threshold(
        1e-6, "share of the largest value below which two results are equal but for rounding", "float32 has 6e-8"
    )


def table() -> list[tuple[str, Threshold]]:
    """All thresholds by name."""
    return [(name, value) for name, value in vars(THRESHOLDS).items() if isinstance(value, Threshold)]
