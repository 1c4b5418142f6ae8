"""What happened, in words: the first thing a reader sees."""

from __future__ import annotations

import math

from ..run import Run, part, real
from ..section import Fact, Section
from ..words import count, duration, listing, number, share, times
from . import results
from .by_lag import reaches, window
from .gradient_norms import clipped_share, clipping

__all__ = ["section", "title"]

_FALLING = 0.01  # fall of the validation loss over the last quarter from which more training looks worthwhile
_RISEN = 0.01  # rise over its minimum from which the validation loss counts as risen again
_OFTEN = 0.5  # share of clipped steps from which clipping is the rule
_SPIKE = 100.0  # largest gradient norm, in medians, from which it counts as exploding

_CELLS = {"rnn": "A vanilla RNN", "gru": "A GRU", "lstm": "An LSTM"}
_DATA = {"language": "text"}
_TOKENS = {"char": "character", "word": "word", "bpe": "BPE token"}


def section(run: Run) -> Section:
    """The verdict."""
    words = [_training(run), _score(run)]
    if run.flows:
        words.append(" ".join(reaches(run)))
    else:
        why = run.missing.get("flow/trained", "it was not measured")
        words.append(f"How far the gradient reaches is not known: no gradient flow in the run folder ({why}).")
    words.append(clipping(run))
    return Section("verdict", "What happened", [word for word in words if word], _facts(run), _warnings(run))


def title(run: Run) -> str:
    """The headline of the page: ``A vanilla RNN on builtin:stdlib``."""
    source = part(run.config, "data").get("source")
    return f"{_cell(run)} on {source}" if isinstance(source, str) and source else _cell(run)


def status(run: Run) -> str:
    """Finished, interrupted, diverged, or what the folder shows instead."""
    found = run.summary.get("status")
    return found if isinstance(found, str) else "no summary"


def _cell(run: Run) -> str:
    name = run.option("cell")
    cell = _CELLS.get(name, f"A network of cell “{name}”") if isinstance(name, str) else "A recurrent network"
    nonlinearity = {"tanh": "tanh", "relu": "ReLU"}.get(str(run.option("nonlinearity")))
    return f"A vanilla {nonlinearity} RNN" if name == "rnn" and nonlinearity else cell


def _training(run: Run) -> str:
    layers, hidden = real(run.option("num_layers")), real(run.option("hidden_size"))
    data = part(run.config, "data")
    parameters = real(run.config.get("parameters"))
    size = [
        *([times(layers, "layer")] if math.isfinite(layers) else []),
        *([f"{count(hidden)} units{' each' if layers > 1 else ''}"] if math.isfinite(hidden) else []),
        *([f"{count(parameters)} parameters"] if math.isfinite(parameters) else []),
    ]
    who = _cell(run) + (f" ({', '.join(size)})" if size else "")
    task = run.config.get("task", "language")
    token = run.option("tokens")
    unit = _TOKENS.get(token, "token") if isinstance(token, str) else "token"
    did = f"was trained to predict the next {unit}" if task == "language" else f"was trained on the task “{task}”"
    where = f" of {data['source']}" if isinstance(data.get("source"), str) else ""
    amounts = []
    counted = "tokens"
    if task != "language":
        unit, counted = ("window", "sequences") if task == "forecast" else ("sequence", "sequences")
    for key, name in ((f"train_{counted}", "to learn from"), (f"validation_{counted}", "held out")):
        amount = real(data.get(key))
        amounts += [f"{count(amount)} {unit}s {name}"] if math.isfinite(amount) else []
    vocabulary = real(data.get("vocabulary_size")) if task == "language" else math.nan
    amounts += [f"{count(vocabulary)} different ones"] if math.isfinite(vocabulary) else []
    of_what = f" ({', '.join(amounts)})" if amounts else ""
    return f"{who} {did}{where}{of_what}. {_course(run)}"


def _course(run: Run) -> str:
    seconds, step = real(run.summary.get("seconds")), real(run.summary.get("step"))
    if run.metrics:
        last = run.metrics[-1]
        seconds = seconds if math.isfinite(seconds) else real(last.get("seconds"))
        step = step if math.isfinite(step) else real(last.get("step"))
        epochs = real(last.get("epoch"))
    else:
        epochs = math.nan
    task = str(run.config.get("task", "language"))
    took = listing(
        [
            *([duration(seconds)] if math.isfinite(seconds) else []),
            *([times(step, "step")] if math.isfinite(step) else []),
            *([f"{number(epochs)} passes over the {_DATA.get(task, 'data')}"] if math.isfinite(epochs) else []),
        ]
    )
    found, message = status(run), run.summary.get("message")
    ended = {
        "finished": "Training finished",
        "interrupted": "Training was interrupted (it can go on with --resume)",
        "diverged": "Training diverged",
    }
    if found in ended:
        why = f" {message[0].upper()}{message[1:].rstrip('.')}." if isinstance(message, str) and message else ""
        return ended[found] + (f" after {took}." if took else ".") + why
    return (
        f"The run has no summary ({run.missing.get('summary.json', 'its status is not stated')}): it is still "
        f"training, or was killed. What is shown reaches up to {took or 'an unknown step'}."
    )


def _best(run: Run) -> tuple[float, float, float, float]:
    """Step, loss (nats per token), perplexity and bits per character of the best evaluation."""
    steps, losses = run.steps, run.series("validation_loss")
    scored = [(loss, row) for row, loss in enumerate(losses) if math.isfinite(loss)]
    nearest = min(scored)[1] if scored else None
    loss, bits = (real(run.summary.get(f"best_validation_{name}")) for name in ("loss", "bits_per_character"))
    step = real(run.summary.get("best_step"))
    if nearest is not None:
        loss = loss if math.isfinite(loss) else losses[nearest]
        step = step if math.isfinite(step) else steps[nearest]
        bits = bits if math.isfinite(bits) else run.series("validation_bits_per_character")[nearest]
    # perplexity = exp(loss in nats), the definition; beyond exp's range it is infinite
    perplexity = math.exp(loss) if loss < 700 else math.inf if math.isfinite(loss) else math.nan
    return step, loss, perplexity, bits


def _score(run: Run) -> str:
    step, loss, perplexity, bits = _best(run)
    if not math.isfinite(loss):
        return "No finite validation loss was recorded."
    at = f" (step {count(step)})" if math.isfinite(step) else ""
    if run.config.get("task", "language") != "language":
        found = [
            f"{fact.label} of {fact.value}" + (f" ({fact.note})" if fact.note else "") for fact in results.facts(run)
        ]
        return f"At its best{at} it reached {listing([f'a validation loss of {number(loss, 4)}', *found])}."
    sentence = f"At its best{at} it reached a validation loss of {number(loss, 4)} nats per token"
    sentence += f", a perplexity of {number(perplexity)}" + (
        f" and {number(bits)} bits per character." if math.isfinite(bits) else "."
    )
    compared = []
    for name in ("unigram", "bigram"):
        baseline = real(run.baselines.get(name, {}).get("loss"))
        if not math.isfinite(baseline):
            continue
        per_character = real(run.baselines[name].get("bits_per_character"))
        value = f"{number(per_character)} bits" if math.isfinite(per_character) else f"{number(baseline)} nats"
        change = 1 - loss / baseline if baseline > 0 else math.nan
        better = f"{share(change)} better" if change > 0 else f"{share(-change)} worse" if change < 0 else "no better"
        compared.append(f"{better} than the {name} baseline ({value})")
    if compared:
        return f"{sentence} That is {listing(compared)}."
    return f"{sentence} No baselines were recorded to compare it with."


def _facts(run: Run) -> list[Fact]:
    _, loss, perplexity, bits = _best(run)
    facts = []
    if math.isfinite(bits):
        bigram = real(run.baselines.get("bigram", {}).get("bits_per_character"))
        note = f"bigram baseline {number(bigram)}" if math.isfinite(bigram) else f"perplexity {number(perplexity)}"
        facts.append(Fact("bits per character", number(bits), note))
    elif run.config.get("task", "language") != "language":
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
    seconds, step = real(run.summary.get("seconds")), real(run.summary.get("step"))
    if math.isfinite(seconds):
        facts.append(Fact("training time", duration(seconds), times(step, "step") if math.isfinite(step) else ""))
    return facts


def _furthest(lags: dict[str, float]) -> float:
    return math.nan if any(map(math.isnan, lags.values())) else max(lags.values(), default=math.nan)


def _warnings(run: Run) -> list[str]:
    found = [*_not_finite(run), *_course_of_loss(run), *_against_baselines(run), *_gradient(run)]
    if status(run) == "diverged":
        step = _best(run)[0]
        kept = f"the weights kept are those of step {count(step)}" if math.isfinite(step) else "no step was scored"
        found.insert(0, f"Training diverged: {kept}. A smaller --lr or --clip-norm may prevent it.")
    return found


def _not_finite(run: Run) -> list[str]:
    found = []
    for key in ("train_loss", "validation_loss", "gradient_norm_max"):
        # JSON has no NaN: training writes null for it, which elsewhere means "not measured"
        null = key == "validation_loss"
        bad = [
            row["step"]
            for row in run.metrics
            if key in row and not math.isfinite(real(row[key])) and (null or row[key] is not None)
        ]
        if bad:
            found.append(f"The {key.replace('_', ' ')} is not a finite number at step {count(bad[0])}.")
    return found


def _course_of_loss(run: Run) -> list[str]:
    train = run.series("train_loss")
    scored = [
        (step, loss, other)
        for step, loss, other in zip(run.steps, run.series("validation_loss"), train, strict=True)
        if math.isfinite(loss)
    ]
    if len(scored) < 4:
        return ["Too few evaluations to judge the course of the loss."] if scored else []
    best = min(range(len(scored)), key=lambda row: scored[row][1])
    best_step, lowest, _ = scored[best]
    last = scored[-1][1]
    earlier = scored[-max(2, len(scored) // 4) - 1][1]
    if last > lowest * (1 + _RISEN):
        rise, falling = share(last / lowest - 1), scored[-1][2] < scored[best][2]
        why = "while the training loss kept falling: it is overfitting" if falling else "and the training loss with it"
        return [f"The validation loss rose by {rise} after step {count(best_step)} {why}. The best weights are kept."]
    if earlier > last * (1 + _FALLING):
        fall = share(1 - last / earlier)
        return [f"The validation loss was still falling at the end ({fall} over the last quarter): train longer."]
    return []


def _against_baselines(run: Run) -> list[str]:
    _, loss, perplexity, _ = _best(run)
    for name in ("unigram", "bigram"):
        if loss >= real(run.baselines.get(name, {}).get("loss")):
            return [f"It does no better than the {name} baseline: it has not yet learnt to use what came before."]
    vocabulary = real(part(run.config, "data").get("vocabulary_size"))
    return ["It does worse than guessing all tokens alike."] if perplexity >= vocabulary else []


def _gradient(run: Run) -> list[str]:
    found = []
    largest = [value for value in run.series("gradient_norm_max") if math.isfinite(value)]
    usual = sorted(value for value in run.series("gradient_norm_median") if math.isfinite(value))
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
