"""Which column of a table plays which part: as named by the user, else by a guess that is told."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from ..errors import DataError, OptionError
from .arrays import TIMES
from .cells import (
    all_differ,
    are_dates,
    are_numeric_lists,
    are_whole,
    have_decimal_commas,
    is_missing,
    kind_of,
    numbers_of,
    odd_cell,
)
from .dates import as_iso, form_of, looks_like_date, moments
from .steps import listed, step_columns, step_label
from .table import Block, Table

__all__ = ["Columns", "columns_for", "step_columns", "step_label", "unused"]


@dataclass(frozen=True)
class Columns:
    """Which columns play which part.

    Attributes
    ----------
    text, label : str or None
        What is read, and what it is to be called.
    group : tuple of str
        Rows that share a group are the steps of one sequence; in a wide table of series, what names a row.
    time : str or None
        Puts the rows of a group in order.
    target, features : tuple of str
        Numbers to forecast, and numbers to read. In a wide table of series the channels: columns of lists, or what the
        names of the columns of steps begin with (see `step_columns`).
    layout : {"long", "wide"}
        Of a table of series: a row is a step, or a row is a series.
    date_form : str
        How the time column writes dates, where that is to be known: see `retrograde.data.dates.date_form`. One form
        for all of a table, whatever part of it is read.
    split : tuple of str
        Rows that share these are sequences by themselves, and are held out together or not at all.
    """

    text: str | None = None
    label: str | None = None
    group: tuple[str, ...] = ()
    time: str | None = None
    target: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    layout: Literal["long", "wide"] = "long"
    date_form: str = ""
    split: tuple[str, ...] = ()

    def used(self) -> list[str]:
        """All of them, each once."""
        names = [self.text, self.label, *self.group, self.time, *self.target, *self.features]
        return list(dict.fromkeys(name for name in names if name is not None))

    def steps(self, names: Sequence[str], channel: str) -> list[str]:
        """The columns of a channel of a wide table, in order of their steps."""
        return step_columns([name for name in names if name not in self.group], channel)

    def check(self, table: Table) -> None:
        """Refuse a table that lacks one of them.

        Raises
        ------
        DataError
            That names it.
        """
        for name in self.used():
            steps = self.layout == "wide" and name in (*self.target, *self.features)
            if name not in table.names and not (steps and self.steps(table.names, name)):
                what = f"columns of steps {name!r}" if steps else f"column {name!r}"
                raise DataError(
                    f"{table.source} has no {what}, which the model was trained with; there are {listed(table.names)}."
                )

    def as_dict(self) -> dict[str, Any]:
        """As a JSON file keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Columns:
        """What `as_dict` wrote."""
        parts: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in kept.items()}
        if isinstance(group := parts.get("group"), str) or ("group" in parts and group is None):
            parts["group"] = () if group is None else (group,)  # as runs before version 0.2 have it
        return cls(**parts)


_USUAL = {
    "text": ("text", "sentence", "review", "content", "document", "body", "comment", "message", "tokens", "words",
             "word", "token"),
    "label": ("label", "labels", "class", "category", "sentiment", "target", "y", "tag", "tags", "ner_tags", "ner",
              "pos_tags", "pos", "digit", "stars", "rating", "polarity", "species"),
    "group": ("group", "sequence", "sequence_id", "seq", "seq_id", "series", "series_id", "series_name", "unique_id",
              "item_id", "sentence_id", "sentence #", "session", "session_id", "subject", "id", "symbol", "ticker"),
    "machine": ("machine", "machine_id", "device", "device_id", "unit", "unit_id", "unit number", "sensor", "sensor_id",
                "engine", "engine_id", "patient", "patient_id", "trial", "trial_id", "recording", "episode", "run_id"),
    "time": TIMES,
    "target": ("target", "value", "values", "y", "close", "price", "sales", "demand", "count"),
    "features": ("x", "features", "inputs", "input", "data", "values", "series", "pixels"),
}  # fmt: skip
_COUNTERS = {*_USUAL["group"], "index", "column 1", "unnamed: 0", "rownames"}  # numbers that count rows, not to learn


class _Guess:
    """The columns of one table, as far as they are decided."""

    def __init__(self, task: str, table: Table, given: Mapping[str, Any], labelled: bool) -> None:
        self.task, self.table, self.labelled = task, table, labelled
        self.sample = table.sample()
        self.kinds = {name: kind_of(self.sample[name]) for name in table.names}
        for name in table.names:
            of_text = self.kinds[name] == table.types[name] == "text"
            if of_text and have_decimal_commas(self.sample[name]) and table.decimal_comma(name):
                self.sample[name] = [cell and cell.replace(",", ".") for cell in self.sample[name]]
                self.kinds[name] = "number"
        self.odd = {name: odd for name in table.names if (odd := odd_cell(self.kinds[name], self.sample[name]))}
        self.split: tuple[str, ...] = ()
        self.aside: set[str] = set()  # columns that are not guessed to play a part
        self.chosen: dict[str, Any] = {}
        self.guessed: dict[str, Any] = {}
        self.said: list[str] = []
        layout = given.get("layout")
        self.layout = layout if layout not in (None, "auto") else None
        for part, value in given.items():
            if part == "group" and value == "":
                self.chosen[part] = ()  # no group, and none is to be guessed
            elif part != "layout" and value is not None and value != ():
                self.chosen[part] = value

    def named(self, *parts: str, patterns: bool | None = None) -> None:
        """Turn what the user wrote for some parts into columns: all of them, or only (no) patterns.

        A pattern leaves out the columns that play another part; ``*`` those that hold no numbers, too.
        """
        for part in parts:
            value = self.chosen.get(part)
            pattern = value is not None and any(c in str(value) for c in "*?[") and value not in self.table.names
            if value in (None, ()) or (patterns is not None and pattern != patterns):
                continue
            many = part in ("group", "target", "features")
            names = _named(self.table, part, value, many)
            if pattern:
                del self.chosen[part]
                names = tuple(name for name in names if name not in self.taken())
                names = tuple(name for name in names if value != "*" or self.kinds[name] not in ("text", "time"))
            if not names:
                raise OptionError(f"--{part} {value!r} names only columns that play another part: name others.")
            self.chosen[part] = names if many else names[0]

    def taken(self) -> set[str]:
        """The columns that play a part, as far as they are decided."""
        return set(Columns(**{**self.guessed, **self.chosen}).used())

    def has(self, part: str) -> bool:
        """Whether the part is played."""
        return bool(self.chosen.get(part) or self.guessed.get(part))

    def free(self, *kinds: str) -> list[str]:
        """Columns that play no part yet, of some kinds."""
        taken = {
            *self.taken(),
            *self.aside,
            *(name for name in self.table.names if name.startswith("__index_level_")),
        }  # pandas' own
        return [name for name in self.table.names if name not in taken and self.kinds[name] in kinds]

    def odd_one(self, kind: str, wanted: Callable[[str], bool] = lambda name: True) -> str | None:
        """What to say of a column that plays no part yet, and would be of a kind but for some of its cells."""
        for name in self.free("text"):
            if name in self.odd and self.odd[name][0] == kind and wanted(name):
                _, row, cell = self.odd[name]
                return f"row {row + 1}, column {name!r}: {str(cell)[:40]!r} is not a {kind}, as the other cells are"
        return None

    def guess(self, part: str, value: Any) -> None:
        """Let a column play a part that the user gave to none."""
        if part not in self.chosen and value:
            self.guessed[part] = value

    def columns(self) -> tuple[Columns, list[str]]:
        """What was decided, and the guesses in words."""
        columns = Columns(**{**self.guessed, **self.chosen}, split=self.split)
        if columns.time is not None and self.table.types[columns.time] != "time":
            form = form_of(self.table.text(columns.time), self.table.ask)
            columns = replace(columns, date_form=form)
        parts = [columns.text, columns.label, *columns.group, columns.time, *columns.target, *columns.features]
        twice = [name for name, count in Counter(parts).items() if name is not None and count > 1]
        if twice and columns.layout == "long":
            raise OptionError(f"column {twice[0]!r} of {self.table.source} is given two parts: give it one.")
        notes = [
            f"{part}: {listed(value) if isinstance(value, tuple) else repr(value)} (a guess; --{part} names another)"
            for part, value in self.guessed.items()
            if part != "layout" and value != ("",)
        ]
        if columns.time is not None and columns.date_form:
            first = str(next(cell for cell in self.sample[columns.time] if not is_missing(cell))).strip()
            (iso,) = as_iso([first], columns.date_form)
            notes.append(f"times are read as {columns.date_form}: {first!r} is {iso}.")
        return columns, [*notes, *self.said]


def columns_for(task: str, table: Table, given: Mapping[str, Any], labelled: bool = True) -> tuple[Columns, list[str]]:
    """Decide the columns of a task: those given, else those that look the part.

    Parameters
    ----------
    task : {"classify", "tag", "forecast"}
    given : mapping
        ``text``, ``label``, ``time``: a column's name. ``group``, ``target``, ``features``: names, a comma between, or
        patterns such as ``pixel*``. ``layout``: ``long`` or ``wide`` to forecast.
    labelled : bool
        Whether labels are needed (not to predict).

    Returns
    -------
    columns : Columns
    notes : list of str
        What was guessed, in words.

    Raises
    ------
    OptionError
        If a column that is named is not there.
    DataError
        If a part that is needed is played by none.
    """
    guess = _Guess(task, table, given, labelled)
    if task == "forecast":
        return _of_series(guess)
    guess.named("text", "label", "group", "time")
    guess.named("features", patterns=False)
    return _of_labels(guess)


# --- To forecast ------------------------------------------------------------------------------------------------------


def _of_series(guess: _Guess) -> tuple[Columns, list[str]]:
    guess.named("group", "time")
    wide = _wide_channels(guess)
    if guess.layout == "wide" or (guess.layout is None and wide is not None):
        return _of_wide(guess, wide)
    guess.named("target", "features", patterns=False)
    if not guess.has("time") and not guess.free("time") and (odd := guess.odd_one("time")):
        raise DataError(f"{guess.table.source}: {odd}; fix it, or name the column that puts rows in order with --time.")
    spread = _spread_over(guess)
    if not spread:
        guess.guess("time", _usual("time", guess.free("number", "time")) or next(iter(guess.free("time")), None))
    if not guess.has("time") and (name := _usual("time", guess.free("text"))) is not None:
        cells = [str(cell) for cell in guess.sample[name] if not is_missing(cell)]
        odd_cell = next((cell for cell in cells if not (looks_like_date(cell) and are_dates([cell]))), cells[0])
        guess.said.append(
            f"column {name!r} puts nothing in order: {odd_cell[:40]!r} is not a time that is known; "
            "rows are read as they lie."
        )
    guess.guess("group", _repeated(guess, _usual("group", guess.free("text"))) or _telling_apart(guess))
    guess.named("target", "features", patterns=True)
    if not guess.has("group") and (
        words := [name for name in guess.free("text") if not all_differ(guess.sample[name])]
    ):
        guess.said.append(
            f"all rows are read as one series; if {listed(words)} tell{'s' * (len(words) == 1)} series apart, name the "
            "--group."
        )
    numbers = [name for name in guess.free("number") if name.lower() not in _COUNTERS and name not in spread]
    usual = _usual("target", numbers)
    # A column that is usually the target, or one of all, is not passed over for a cell.
    if not guess.has("target") and (
        odd := guess.odd_one("number", lambda name: usual is None or name.lower() in _before(usual))
    ):
        raise DataError(f"{guess.table.source}: {odd}; fix it, or name what to forecast with --target.")
    guess.guess("target", (usual,) if usual else tuple(numbers))
    if not guess.has("target"):
        cell = next(
            (
                cell
                for name in reversed(guess.free("text"))
                for cell in guess.sample[name]
                if re.search(r"\d", str(cell))
            ),
            None,
        )
        hint = f" {str(cell)[:40]!r} is not a number; write 1234.5." if cell is not None else ""
        raise DataError(
            f"{guess.table.source} has no column of numbers to forecast; there are {listed(guess.table.names)}.{hint}"
        )
    return guess.columns()


def _spread_over(guess: _Guess) -> list[str]:
    """Columns over which times are spread, a year and a month, say; rows are then read in the order they lie."""
    by_lower = {name.lower(): name for name in guess.free("number")}
    spread = [by_lower[unit] for unit in ("year", "month", "day", "hour", "minute") if unit in by_lower]
    if guess.has("time") or guess.free("time") or len(spread) < 2 or spread[0].lower() != "year":
        return []
    guess.said.append(
        f"times are spread over {listed(spread)}: rows are read in the order they lie; a column of whole dates puts "
        "them in order."
    )
    return spread


def _wide_channels(guess: _Guess) -> dict[str, list[str]] | None:
    """The channels of a table whose rows are series, with the columns of each; None if its rows are rather steps."""
    lists = [name for name in guess.free("list") if are_numeric_lists(guess.sample[name])]
    if lists:
        return {name: [name] for name in lists}
    if guess.has("time"):
        return None
    channels: dict[str, list[str]] = {}
    odd = [name for name in guess.free("text") if guess.odd.get(name, ("",))[0] == "number"]  # refused where it is read
    for name in [*guess.free("number", "empty"), *odd]:
        if (label := step_label(name)) is not None:
            channels.setdefault(label[0], []).append(name)
    channels = {stem: names for stem, names in channels.items() if len(names) >= 3}
    if not channels or (guess.layout is None and (_usual("time", guess.free("number", "time")) or _growing(guess))):
        return None
    longest = max(channels.values(), key=len)
    dated = are_dates([step_label(name)[1] for name in longest])  # type: ignore[index]
    rows = len(guess.sample[longest[0]])
    named = any(all_differ(guess.sample[name]) for name in guess.free("text")) or _usual("group", guess.free("text"))
    if guess.layout == "wide" or dated or (named and len(longest) >= 6) or (rows < len(longest) >= 12):
        return channels
    return None


def _growing(guess: _Guess) -> bool:
    """Whether a column holds dates each later than the one above it, as those of steps are."""
    return any(
        (np.diff(moments(guess.sample[name])) > 0).all()
        for name in guess.free("time")
        if not any(map(is_missing, guess.sample[name])) and len(guess.sample[name]) > 2
    )


def _of_wide(guess: _Guess, channels: dict[str, list[str]] | None) -> tuple[Columns, list[str]]:
    source = guess.table.source
    if guess.has("time"):
        raise OptionError("--time is for a table whose rows are steps; this one has a row per series (--layout wide).")
    if channels is None:
        raise DataError(
            f"{source}: --layout wide needs columns of steps whose names end in a number or a date (v1, v2, … or "
            f"2024-01, 2024-02, …), or columns of lists; there are {listed(guess.table.names)}."
        )
    for part in ("target", "features"):
        if part in guess.chosen:
            guess.chosen[part] = _named_channels(guess, part, channels)
    texts = [
        name
        for name in guess.free("text")
        if all_differ(guess.sample[name]) and not any(map(is_missing, guess.sample[name]))
    ]
    counters = [name for name in guess.free("number") if name.lower() in _COUNTERS and all_differ(guess.sample[name])]
    group = next(iter(texts), None) or next(iter(counters), None)
    if group is not None:
        guess.guess("group", (group,))
    elif "group" not in guess.chosen:
        # No column names the rows: those of text together may (a country and its province).
        words = guess.free("text")
        together = list(zip(*(map(str, guess.sample[name]) for name in words), strict=True))
        if words and len(set(together)) == len(together):
            guess.guess("group", tuple(words))
    free = [name for name in channels if name not in guess.chosen.get("features", ())]
    usual = _usual("target", free)
    guess.guess("target", (usual,) if usual is not None else tuple(free))
    if not guess.has("target"):
        raise DataError(f"{source} has no numbers to forecast apart from the --features.")
    target = {**guess.guessed, **guess.chosen}["target"]
    steps = channels[target[0]]
    if guess.layout is None:
        what = "a list each" if steps[0] == target[0] else f"{len(steps)} steps from {steps[0]!r} to {steps[-1]!r}"
        note = f"layout: wide, a row is a series, {what} (a guess; --layout long reads a row as a step)"
    guess.guessed["layout"] = "wide"
    columns, notes = guess.columns()
    return columns, [note, *notes] if guess.layout is None else notes


def _named_channels(guess: _Guess, part: str, channels: dict[str, list[str]]) -> tuple[str, ...]:
    """The channels a user named, by what their columns begin with or by patterns of these."""
    value = guess.chosen[part]
    wanted = [one.strip() for one in value.split(",")] if isinstance(value, str) else [str(one) for one in value]
    found: list[str] = []
    for one in wanted:
        matches = [stem for stem, names in channels.items() if one == stem or fnmatch.filter([stem, *names], one)]
        if not matches:
            raise OptionError(
                f"--{part} {one!r}: {guess.table.source} has no such columns of steps; there are "
                f"{listed(list(channels))}."
            )
        found += [stem for stem in matches if stem not in found]
    return tuple(found)


def _telling_apart(guess: _Guess) -> tuple[str, ...] | None:
    """Columns that tell series apart, where times come more than once: a text, a small number, or some together."""
    time = {**guess.guessed, **guess.chosen}.get("time")
    if time is None or all_differ(guess.sample[time]):
        return None
    rows = len(guess.sample[time])
    numbers = guess.free("number")
    to_forecast = numbers if len(numbers) == 1 else [_usual("target", numbers)]  # no name of a series
    few = [
        name
        for name in guess.free("text", "number")
        if name not in to_forecast
        and len(set(map(str, guess.sample[name]))) <= max(1, rows // 3)
        and (guess.kinds[name] == "text" or are_whole(guess.sample[name]))
    ]
    for names in (*([name] for name in few), *(few[:count] for count in range(2, len(few) + 1))):
        if all_differ(list(zip(guess.sample[time], *(guess.sample[name] for name in names), strict=True))):
            return tuple(names)
    return None


# --- To classify and tag ----------------------------------------------------------------------------------------------


def _of_labels(guess: _Guess) -> tuple[Columns, list[str]]:
    sample, source, kinds = guess.sample, guess.table.source, guess.kinds
    label = _usual(
        "label", guess.free("text", "number", "list"), lambda name: _could_be_labels(kinds[name], sample[name])
    )
    if label is None and guess.labelled and "label" not in guess.chosen:
        label = _few_values(sample, guess.free("text", "number"))
    guess.guess("label", label)
    if guess.labelled and not guess.has("label"):
        raise DataError(
            f"{source}: no column looks like a label; name one with --label (there are {listed(guess.table.names)})."
        )
    guess.guess("group", _repeated(guess, _usual("group", guess.free("text", "number"))) or _grouped_steps(guess))
    if guess.has("group"):
        guess.guess("time", _usual("time", guess.free("number", "time")) or next(iter(guess.free("time")), None))
    elif "time" in guess.chosen:
        raise OptionError("--time puts the steps of a sequence in order; name the --group of rows that are its steps.")
    guess.named("features", patterns=True)
    if "features" not in guess.chosen and "text" not in guess.chosen:
        texts = [name for name in guess.free("text", "list") if not are_numeric_lists(sample[name])]
        usual = _usual("text", texts)
        numbers = [name for name in guess.free("number") if name.lower() not in _COUNTERS]
        lists = [name for name in guess.free("list") if are_numeric_lists(sample[name])]
        if usual is None and not numbers and not lists and texts:
            usual = max(texts, key=lambda name: sum(len(str(cell)) for cell in sample[name]))
        if usual:
            guess.guess("text", usual)
        elif lists:
            guess.guess("features", (_usual("features", lists) or lists[0],))
        else:
            guess.guess("features", tuple(numbers))
            if numbers and (odd := guess.odd_one("number", lambda name: name.lower() not in _COUNTERS)):
                guess.said.append(f"{odd}: the column is left out (fix the cell, or name it with --features).")
    if not guess.has("text") and not guess.has("features"):
        raise DataError(
            f"{source}: nothing is left to read; name a --text column or --features "
            f"(there are {listed(guess.table.names)})."
        )
    columns, notes = guess.columns()
    if columns.text and columns.features:
        raise OptionError("--text and --features exclude one another: a network reads words or numbers.")
    return columns, notes


def _grouped_steps(guess: _Guess) -> tuple[str, ...] | None:
    """Columns that name sequences where rows are steps: the same times come again and again, once in each sequence.

    A label for each sequence must be the same in all of its rows.
    """
    if "group" in guess.chosen or any(guess.kinds[name] == "list" for name in guess.table.names):
        return None
    names = guess.free("number", "time")
    time = guess.chosen.get("time") or _usual("time", names) or next(iter(guess.free("time")), None)
    machine = _repeated(guess, _usual("machine", guess.free("text", "number")))
    if time is None or guess.has("text"):
        found = machine
    else:
        guess.guessed["time"] = time
        found = _telling_apart(guess) or machine
        del guess.guessed["time"]
    if found is None or guess.task == "tag":
        return found
    label = guess.chosen.get("label") or guess.guessed.get("label")
    if label is None:
        return found
    keys = ", ".join(guess.table.text(name) for name in found)
    differ = guess.table.database.execute(
        f"SELECT 1 FROM cells GROUP BY {keys} HAVING count(DISTINCT {guess.table.text(label)}) > 1 LIMIT 1"
    )
    if differ:
        guess.said.append(
            f"rows of the same {listed(found)} have different labels: each row is a sequence by itself, and rows of "
            f"the same {listed(found)} are held out together. For a label per step, --task tag --group "
            f"{','.join(found)}."
        )
        guess.split, guess.aside = found, {*found, *filter(None, [time])}
        return None
    return found


def unused(table: Table, columns: Columns) -> list[str]:
    """What to say of the columns that are not read."""
    read = {*columns.used(), *columns.split}
    if columns.layout == "wide":
        read |= {step for name in (*columns.target, *columns.features) for step in columns.steps(table.names, name)}
    rest = [name for name in table.names if name not in read and not name.startswith("__index_level_")]
    if not rest:
        return []
    return [f"not read: {listed(rest)} (--features names the columns to read)."]


# --- What names and cells tell ----------------------------------------------------------------------------------------


def _named(table: Table, part: str, value: Any, many: bool) -> tuple[str, ...]:
    wanted = [str(value)] if isinstance(value, str) else [str(one) for one in value]
    if many and len(wanted) == 1 and wanted[0] not in table.names:
        wanted = [one.strip() for one in wanted[0].split(",")]
    found: list[str] = []
    for one in wanted:
        matches = [one] if one in table.names else fnmatch.filter(table.names, one)
        if many and not matches:  # a matrix of NumPy by its own name
            matches = [name for name in table.names if re.fullmatch(re.escape(one) + r"_\d+", name)]
        if not matches:
            raise OptionError(f"--{part} {one!r}: {table.source} has no such column; there are {listed(table.names)}.")
        if len(matches) > 1 and not many:
            raise OptionError(f"--{part} {one!r} names {len(matches)} columns, {listed(matches)}; one is needed.")
        found += [name for name in matches if name not in found]
    return tuple(found)


def _usual(part: str, names: Sequence[str], fits: Callable[[str], bool] = lambda name: True) -> str | None:
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[usual] for usual in _USUAL[part] if usual in by_lower and fits(by_lower[usual])), None)


def _before(usual: str) -> tuple[str, ...]:
    """The names that a target would have sooner than this one."""
    return _USUAL["target"][: _USUAL["target"].index(usual.lower())]


def _repeated(guess: _Guess, name: str | None) -> tuple[str, ...] | None:
    """The column, if it can be a group: rows share its values, somewhere in the table."""
    if name is None:
        return None
    sample = guess.sample[name]
    if len({str(value) for value in sample if not is_missing(value)}) < len(sample):
        return (name,)
    text = guess.table.text(name)
    different, cells = guess.table.ask(f"count(DISTINCT {text})", f"count({text})")
    return (name,) if different < cells else None


def _could_be_labels(kind: str, values: Sequence[Any]) -> bool:
    """Whether a column of numbers, whatever its name, holds a few whole ones; other columns are believed."""
    if kind != "number":
        return True
    return are_whole(values) and len(np.unique(numbers_of(values))) <= max(20, len(values) // 2)


def _few_values(sample: Block, names: Sequence[str]) -> str | None:
    """The last column whose values repeat the way labels do."""
    for name in reversed(names):
        distinct, rows = len({str(value) for value in sample[name]}), len(sample[name])
        if 2 <= distinct <= max(2, min(50, rows // 5)) and distinct < rows:
            return name
    return None
