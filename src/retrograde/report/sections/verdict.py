"""What happened, in words: the first thing a reader sees."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...cells import find
from ...runs import Metrics, not_better_than
from ..run import RunContents, real
from ..section import Fact, Section
from ..words import count, duration, listing, number, share, times
from . import results
from .by_lag import reaches, window
from .gradient_norms import clipped_share, clipping

_FALLING = 0.01  # fall of the validation loss over the last quarter from which more training looks worthwhile
_RISEN = 0.01  # rise over its minimum from which the validation loss counts as risen again
_OFTEN = 0.5  # share of clipped steps from which clipping is the rule
_SPIKE = 100.0  # largest gradient norm, in medians, from which it counts as exploding

_NONLINEARITIES = {"tanh": "tanh", "relu": "ReLU"}


def section(run: RunContents) -> Section:
    """The verdict."""
    words = [_training(run), _score(run)]
    if run.flows:
        words.append(" ".join(reaches(run)))
    else:
        why = run.missing.get("flow/trained", "it was not measured")
        words.append(f"How far the gradient reaches is not known: no gradient flow in the run folder ({why}).")
    words.append(clipping(run))
    return Section("verdict", "What happened", [word for word in words if word], _facts(run), _warnings(run))


def title(run: RunContents) -> str:
    """The headline of the page: ``A vanilla RNN on builtin:stdlib``."""
    return f"{_cell(run)} on {run.config.data.source}" if run.config.data.source else _cell(run)


def status(run: RunContents) -> str:
    """Finished, interrupted, diverged, or that there is no summary."""
    return run.outcome.status


def _cell(run: RunContents) -> str:
    options = run.config.options
    cell = find(options.cell)
    if cell.vanilla:
        return f"A vanilla {_NONLINEARITIES[options.nonlinearity]} RNN"
    return f"{'An' if cell.title[0] in 'AEFHILMNORSX' else 'A'} {cell.title}"


def _training(run: RunContents) -> str:
    options, data = run.config.options, run.config.data
    size = [
        times(options.num_layers, "layer"),
        f"{count(options.hidden_size)} units{' each' if options.num_layers > 1 else ''}",
        f"{count(run.config.parameters)} parameters",
    ]
    task = run.task
    amounts = {f"{task.unit}s to learn from": f"train_{task.counted}"}
    amounts |= {f"{task.unit}s held out": f"validation_{task.counted}"}
    amounts |= {"different ones": "vocabulary_size"} if task.predicts_tokens else {}
    known = [f"{count(amount)} {name}" for name, key in amounts.items() if (amount := data.amount(key)) is not None]
    of_what = f" ({', '.join(known)})" if known else ""
    return f"{_cell(run)} ({', '.join(size)}) {task.training} {data.source}{of_what}. {_course(run)}"


def _course(run: RunContents) -> str:
    last = run.metrics[-1] if run.metrics else None
    seconds, step = real(run.outcome.seconds), real(run.outcome.step)
    epochs = real(last.epoch) if last else math.nan
    if last is not None:
        seconds = seconds if math.isfinite(seconds) else real(last.seconds)
        step = step if math.isfinite(step) else last.step
    amounts = {
        duration(seconds): seconds,
        times(step, "step"): step,
        f"{number(epochs)} passes over the {run.task.data}": epochs,
    }
    took = listing([text for text, amount in amounts.items() if math.isfinite(amount)])
    ended = {
        "finished": "Training finished",
        "interrupted": "Training was interrupted (it can go on with --resume)",
        "diverged": "Training diverged",
    }
    found, message = status(run), run.outcome.message
    if found in ended:
        why = f" {message[0].upper()}{message[1:].rstrip('.')}." if message else ""
        return ended[found] + (f" after {took}." if took else ".") + why
    return (
        f"The run has no summary ({run.missing.get('summary.json', 'its status is not stated')}): it is still "
        f"training, or was killed. What is shown reaches up to {took or 'an unknown step'}."
    )


def _best(run: RunContents) -> tuple[float, float, float, float]:
    """Step, loss (nats per token), perplexity and bits per character of the best evaluation."""
    step, best = real(run.outcome.best_step), run.outcome.scores
    loss, bits = real(best.get("loss")), real(best.get("bits_per_character"))
    scored = [line for line in run.metrics if math.isfinite(line.loss)]
    if scored:
        nearest = min(scored, key=lambda line: line.loss)
        loss = loss if math.isfinite(loss) else nearest.loss
        step = step if math.isfinite(step) else nearest.step
        bits = bits if math.isfinite(bits) else real(nearest.validation.get("bits_per_character"))
    # perplexity = exp(loss in nats), the definition; beyond exp's range it is infinite
    perplexity = math.exp(loss) if loss < 700 else math.inf if math.isfinite(loss) else math.nan
    return step, loss, perplexity, bits


def _score(run: RunContents) -> str:
    step, loss, perplexity, bits = _best(run)
    if not math.isfinite(loss):
        return "No finite validation loss was recorded."
    at = f" (step {count(step)})" if math.isfinite(step) else ""
    if not run.task.predicts_tokens:
        found = [f"{one.label} of {one.value}" + (f" ({one.note})" if one.note else "") for one in results.facts(run)]
        reached = listing([f"a validation loss of {number(loss, 4)}", *found])
        return f"At its best{at} it reached {reached}.{_corrected(run, step, loss)}"
    sentence = f"At its best{at} it reached a validation loss of {number(loss, 4)} nats per token"
    sentence += f", a perplexity of {number(perplexity)}" + (
        f" and {number(bits)} bits per character." if math.isfinite(bits) else "."
    )
    compared = []
    for name in ("unigram", "bigram"):
        baseline, bits = run.baseline(name), run.baseline(name, "bits_per_character")
        if math.isfinite(baseline):
            value = f"{number(bits)} bits" if math.isfinite(bits) else f"{number(baseline)} nats"
            gain = 1 - loss / baseline if baseline > 0 else math.nan
            better = f"{share(gain)} better" if gain > 0 else f"{share(-gain)} worse" if gain < 0 else "no better"
            compared.append(f"{better} than the {name} baseline ({value})")
    rest = f"That is {listing(compared)}." if compared else "No baselines were recorded to compare it with."
    return f"{sentence} {rest}"


def _corrected(run: RunContents, step: float, loss: float) -> str:
    """What the curves show at the best step, where the weights were settled after training (`Task.settle`)."""
    drawn = next((line.loss for line in run.metrics if line.step == step), loss)
    if number(drawn, 4) == number(loss, 4):
        return ""
    return (
        f" The curves show {number(drawn, 4)} there: what it puts out was corrected on the validation part afterwards."
    )


def _facts(run: RunContents) -> list[Fact]:
    _, loss, perplexity, bits = _best(run)
    facts = []
    if math.isfinite(bits):
        bigram = run.baseline("bigram", "bits_per_character")
        note = f"bigram baseline {number(bigram)}" if math.isfinite(bigram) else f"perplexity {number(perplexity)}"
        facts.append(Fact("bits per character", number(bits), note))
    elif not run.task.predicts_tokens:
        facts += results.facts(run)
    elif math.isfinite(loss):
        facts.append(Fact("validation loss", number(loss), f"perplexity {number(perplexity)}"))
    reach = {name: _furthest(lags) for name, lags in run.horizons.items()}
    names = {"trained": "steps until 1 % of the gradient is left", "untrained": "the same before training"}
    for name, lag in reach.items():
        shown = count(lag) if math.isfinite(lag) else f"over {window(run.flows[name]) - 1}"
        layers = len(run.flows[name].layers)
        facts.append(Fact(names[name], shown, f"furthest of {layers} layers" if layers > 1 else ""))
    clipped = clipped_share(run)
    if math.isfinite(clipped):
        facts.append(Fact("of the steps were clipped", share(clipped)))
    seconds, step = real(run.outcome.seconds), real(run.outcome.step)
    if math.isfinite(seconds):
        facts.append(Fact("training time", duration(seconds), times(step, "step") if math.isfinite(step) else ""))
    return facts


def _furthest(lags: dict[str, float]) -> float:
    return math.nan if any(map(math.isnan, lags.values())) else max(lags.values(), default=math.nan)


def _warnings(run: RunContents) -> list[str]:
    found = [*_not_finite(run), *_course_of_loss(run), *_against_baselines(run), *_advice(run), *_gradient(run)]
    if status(run) == "diverged":
        step = _best(run)[0]
        kept = f"the weights kept are those of step {count(step)}" if math.isfinite(step) else "no step was scored"
        found.insert(0, f"Training diverged: {kept}. A smaller --lr or --clip-norm may prevent it.")
    return found


def _not_finite(run: RunContents) -> list[str]:
    # JSON has no NaN: training writes null instead. A null is NaN for the validation loss; else it was not measured.
    values: dict[str, Callable[[Metrics], float | None]] = {
        "train loss": lambda line: line.train_loss,
        "validation loss": lambda line: line.loss if "loss" in line.validation else None,
        "gradient norm max": lambda line: line.gradient_norm_max,
    }
    found = []
    for name, value in values.items():
        bad = [line.step for line in run.metrics if not math.isfinite(0.0 if (x := value(line)) is None else x)]
        if bad:
            found.append(f"The {name} is not a finite number at step {count(bad[0])}.")
    return found


def _course_of_loss(run: RunContents) -> list[str]:
    scored = [line for line in run.metrics if math.isfinite(line.loss)]
    if len(scored) < 4:
        return ["Too few evaluations to judge the course of the loss."] if scored else []
    best, last, earlier = min(scored, key=lambda line: line.loss), scored[-1], scored[-max(2, len(scored) // 4) - 1]
    if last.loss > best.loss * (1 + _RISEN):
        rise, falling = share(last.loss / best.loss - 1), real(last.train_loss) < real(best.train_loss)
        why = "while the training loss kept falling: it is overfitting" if falling else "and the training loss with it"
        return [f"The validation loss rose by {rise} after step {count(best.step)} {why}. The best weights are kept."]
    if earlier.loss > last.loss * (1 + _FALLING):
        fall = share(1 - last.loss / earlier.loss)
        return [f"The validation loss was still falling at the end ({fall} over the last quarter): train longer."]
    return []


def _against_baselines(run: RunContents) -> list[str]:
    _, loss, perplexity, _ = _best(run)
    for name in ("unigram", "bigram"):
        if loss >= run.baseline(name):
            return [f"It does no better than the {name} baseline: it has not yet learned to use what came before."]
    if not run.task.predicts_tokens and (verdict := not_better_than(run.outcome.scores, run.baselines)):
        untrained = " The best weights are those before training." if run.outcome.best_step == 0 else ""
        return [f"It is {verdict}.{untrained}"]
    vocabulary = real(run.config.data.amount("vocabulary_size"))
    return ["It does worse than guessing all tokens alike."] if perplexity >= vocabulary else []


def _advice(run: RunContents) -> list[str]:
    """What to try first, where the run was not learned and its causes were looked for."""
    if run.diagnosis is None or not run.diagnosis.advice:
        return []
    from ...doctor.outcome import was_not_learned  # with the diagnosis, it is there already

    why = was_not_learned(run.summary)
    return [f"It was not learned: {why}. The doctor: {run.diagnosis.advice} (see below)."] if why else []


def _gradient(run: RunContents) -> list[str]:
    found = []
    largest = [value for value in run.series(lambda line: line.gradient_norm_max) if math.isfinite(value)]
    usual = sorted(value for value in run.series(lambda line: line.gradient_norm_median) if math.isfinite(value))
    middle = usual[len(usual) // 2] if usual else math.nan
    if largest and max(largest) > _SPIKE * middle > 0:
        found.append(
            f"The gradient exploded at times: its norm reached {number(max(largest))}, "
            f"{number(max(largest) / middle, 2)} times its usual {number(middle)}."
        )
    clipped = clipped_share(run)
    if clipped > _OFTEN:
        found.append(f"{share(clipped)} of the steps were clipped: the threshold acts as the learning rate; raise it.")
    trained = run.flows.get("trained")
    if trained is not None and any(map(math.isnan, run.horizons["trained"].values())):
        found.append(
            f"The gradient still reaches across the whole window measured ({window(trained)} steps): "
            "its true reach is longer than this page can show."
        )
    return found
