"""Which column of a table has which role: as the user names it, else by a guess that is printed."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import DataError, OptionError, located
from ..option import flag
from . import categories
from .arrays import TIMES
from .calendar import day_and_clock, how_times_are_read, only_counts, parts_of, units_of, unroll, whole_of
from .cells import Cells, are_dates, begins_with_class, determines, is_flag
from .dates import looks_like_date
from .excel import are_excel_dates, check_not_mixed, form_of_times, how_form_is_read
from .numerals import PLAIN, no_number
from .roles import Columns, Predicts
from .steps import listed, step_label
from .table import Table

_USUAL = {
    "text": ("text", "sentence", "review", "content", "document", "body", "comment", "message", "tokens", "words",
             "word", "token"),
    "label": ("label", "labels", "class", "category", "sentiment", "target", "y", "tag", "tags", "ner_tags", "ner",
              "pos_tags", "pos", "digit", "stars", "rating", "polarity", "species"),
    "group": ("group", "sequence", "sequence_id", "seq", "seq_id", "series", "series_id", "series_name", "unique_id",
              "item_id", "sentence_id", "sentence #", "session", "session_id", "subject", "id", "symbol", "ticker"),
    "machine": ("machine", "machine_id", "device", "device_id", "unit", "unit_id", "unit number", "sensor", "sensor_id",
                "engine", "engine_id", "patient", "patient_id", "participant", "participant_id", "person", "person_id",
                "trial", "trial_id", "recording", "episode", "run_id", "sample", "sample_id"),
    "time": TIMES,
    "target": ("target", "value", "values", "y", "close", "price", "sales", "demand", "count"),
    "features": ("x", "features", "inputs", "input", "data", "values", "series", "pixels"),
}  # fmt: skip
_COUNTERS = {*_USUAL["group"], "index", "column 1", "unnamed: 0", "rownames"}  # numbers that only count rows
_CATEGORIES = 20  # the most different texts of a column that is guessed to be one of categories
_MANY = ("group", "target", "features", "known_future", "static")  # roles that several columns may have


def columns_for(
    predicts: Predicts, table: Table, given: Mapping[str, Any], labelled: bool = True
) -> tuple[Columns, list[str]]:
    """Decide the columns of a task: those given, else those that look like it.

    Parameters
    ----------
    predicts : Predicts
        What the task predicts.
    given : mapping
        ``text``, ``label``, ``time``: a column's name. ``group``, ``target``, ``features``: names, a comma between, or
        patterns such as ``pixel*``. ``layout``: ``long`` or ``wide`` to forecast.
    labelled : bool
        Whether labels are needed (not to predict).

    Returns
    -------
    columns : Columns
    notes : list of str
        The guesses in words.

    Raises
    ------
    OptionError
        If a column that is named does not exist.
    DataError
        If no column has a role that is needed.
    """
    with located(table.source):
        guess = _Guess(predicts, table, given)
        if predicts is Predicts.FUTURE and ((joined := _joined(guess)) or (unrolled := _unrolled(guess))):
            guess = _Guess(predicts, table, given, joined, () if joined else unrolled)
        return _of_series(guess) if predicts is Predicts.FUTURE else _of_labels(guess, labelled)


def unused(table: Table, columns: Columns) -> list[str]:
    """A note on the columns that are not read."""
    read = {*columns.used(), *columns.split, *columns.joined}
    if columns.layout == "wide":
        read |= {step for name in (*columns.target, *columns.features) for step in columns.steps(table.names, name)}
    rest = [name for name in table.names if name not in read and not name.startswith("__index_level_")]
    return [f"not read: {listed(rest)} (--features names the columns to read)."] if rest else []


class _Guess:
    """The columns of one table, as far as they are decided.

    Attributes
    ----------
    chosen, guessed : dict
        Columns by role: as the user named them, and as they were guessed.
    notes : list of str
        What a user should know about the guesses.
    aside : set of str
        Columns that must not be guessed to have a role.
    """

    def __init__(
        self,
        predicts: Predicts,
        table: Table,
        given: Mapping[str, Any],
        joined: tuple[str, ...] = (),
        unrolled: tuple[str, ...] = (),
    ) -> None:
        self.predicts, self.table = predicts, table
        self.cells = {name: Cells(cells) for name, cells in table.sample().items()}
        for name, cells in self.cells.items():
            if table.types[name] != "text" or not (cells.suspect if cells.kind == "text" else cells.grouped):
                continue
            if (numerals := table.numerals(name)) != PLAIN:
                self.cells[name] = Cells([cell and numerals.plain(cell) for cell in cells.all])
        self.kinds = {name: "time" if are_excel_dates(name, one) else one.kind for name, one in self.cells.items()}
        self.split: tuple[str, ...] = ()
        self.joined, self.unrolled = joined, unrolled
        self.aside: set[str] = {name for name in table.names if name.startswith("__index_level_")}  # of pandas
        self.aside |= {*joined}
        self.guessed: dict[str, Any] = {}
        self.notes = how_times_are_read(joined, unrolled)
        self.chosen = {role: value for role, value in given.items() if value is not None and value != ()}
        self.date_format = self.chosen.pop("date_format", None)
        layout = self.chosen.pop("layout", "auto")
        self.layout = None if layout == "auto" else layout
        if self.chosen.get("group") == "":
            self.chosen["group"] = ()  # no group, and none is to be guessed

    # --- Roles --------------------------------------------------------------------------------------------------------

    def named(self, *roles: str, patterns: bool | None = None) -> None:
        """Turn what the user wrote for some roles into columns: all of them, or only (no) patterns.

        A pattern leaves out the columns that have another role; ``*`` also those without numbers.
        """
        for role in roles:
            value = self.chosen.get(role)
            pattern = value is not None and any(c in str(value) for c in "*?[") and value not in self.table.names
            if value in (None, ()) or (patterns is not None and pattern != patterns):
                continue
            names = self._columns_named(role, value)
            if pattern:
                del self.chosen[role]
                names = [name for name in names if name not in self.taken()]
                names = [name for name in names if value != "*" or self.kinds[name] not in ("text", "time")]
            if not names:
                raise OptionError(f"{flag(role)} {value!r} names only columns that have another role: name others.")
            self.chosen[role] = tuple(names) if role in _MANY else names[0]

    def _columns_named(self, role: str, value: Any) -> list[str]:
        names, many = self.table.names, role in _MANY
        wanted = [value] if isinstance(value, str) else list(map(str, value))
        if many and len(wanted) == 1 and wanted[0] not in names:
            wanted = [one.strip() for one in wanted[0].split(",")]
        found: list[str] = []
        for one in wanted:
            matches = [one] if one in names else fnmatch.filter(names, one)
            if many and not matches:  # a matrix of NumPy by its own name
                matches = [name for name in names if re.fullmatch(re.escape(one) + r"_\d+", name)]
            if not matches:
                raise OptionError(
                    f"{flag(role)} {one!r}: {self.table.source} has no such column; there are {listed(names)}."
                )
            if len(matches) > 1 and not many:
                raise OptionError(
                    f"{flag(role)} {one!r} names {len(matches)} columns, {listed(matches)}; one is needed."
                )
            found += matches
        return list(dict.fromkeys(found))

    def get(self, role: str) -> Any:
        """The columns that have a role, None as long as there are none."""
        return self.chosen.get(role, self.guessed.get(role))

    def guess(self, role: str, value: Any) -> None:
        """Give a column a role that the user gave to none."""
        if role not in self.chosen and value:
            self.guessed[role] = value

    def taken(self) -> set[str]:
        """The columns that have a role so far."""
        return set(Columns(**{**self.guessed, **self.chosen}).used())

    def free(self, *kinds: str) -> list[str]:
        """Columns of some kinds that have no role so far."""
        taken = self.taken() | self.aside
        return [name for name in self.table.names if name not in taken and self.kinds[name] in kinds]

    def usual(self, role: str, names: Iterable[str], fits: Callable[[str], bool] = lambda name: True) -> str | None:
        """The column with the most usual name for a role."""
        by_lower = {name.lower(): name for name in reversed(list(names))}
        return next((by_lower[one] for one in _USUAL[role] if one in by_lower and fits(by_lower[one])), None)

    def usual_time(self) -> str | None:
        """The column of times: by its name, else the first that has dates."""
        free = [n for n in self.free("number", "time") if n.lower() != "t" or self.cells[n].count]  # T may be a tax
        found = self.usual("time", free) or next(iter(self.free("time")), None)
        if found is not None and self.kinds[found] == "number":  # the month, say, of the dates in another column
            found = next((name for name in self.free("time") if determines(self.cells[name], self.cells[found])), found)
        if found is None and self.predicts is Predicts.FUTURE:  # ordinal_date
            counted = (name for name in self.free("number") if {*re.split(r"[\W_]+", name.lower())} & {"date", "time"})
            found = next((name for name in counted if (np.diff(self.cells[name].numbers) > 0).all()), None)
        return found

    def numbers(self) -> list[str]:
        """Columns of numbers without a role that do more than count rows."""
        return [n for n in self.free("number") if n.lower() not in _COUNTERS or not self.cells[n].whole]

    def odd_one(self, kind: str, wanted: Callable[[str], bool] = lambda name: True) -> str | None:
        """What to say of a column without a role that would be of a kind but for some of its cells."""
        for name in self.free("text"):
            odd = self.cells[name].odd
            if odd is not None and odd[0] == kind and wanted(name):
                date = kind == "time" and looks_like_date(str(odd[2]))
                what = "written as the other times are" if date else f"a {kind}, as the other cells are"
                return f"row {odd[1] + 1}, column {name!r}: {str(odd[2])[:40]!r} is not {what}"
        return None

    def repeated(self, name: str | None) -> tuple[str, ...]:
        """The column if it can be a group: rows share its values, somewhere in the table."""
        if name is None:
            return ()
        cells = self.cells[name]
        if len({str(cell) for cell in cells.present}) < len(cells.all):
            return (name,)
        text = self.table.text(name)
        different, count = self.table.ask(f"count(DISTINCT {text})", f"count({text})")
        return (name,) if different < count else ()

    def telling_apart(self) -> tuple[str, ...]:
        """Columns that tell series apart where times repeat: a text, a column of few numbers, or some together."""
        time = self.get("time")
        if time is None or self.cells[time].differ:
            return ()
        rows, numbers = len(self.cells[time].all), self.free("number")
        to_forecast = numbers if len(numbers) == 1 else [self.usual("target", numbers)]  # not the name of a series
        few = [
            name
            for name in self.free("text", "number")
            if name not in to_forecast
            and len(set(map(str, self.cells[name].all))) <= max(1, rows // 3)
            and (self.kinds[name] == "text" or self.cells[name].whole)
        ]
        choices = [*([name] for name in few), *(few[:count] for count in range(2, len(few) + 1))]
        again = [self.repeats([time, *names]) for names in choices]
        # Some rows may be in the table twice; then a choice must explain nine repeated times in ten.
        most = min(rows // 20, self.repeats([time]) // 10)
        fits = [names for names, count in zip(choices, again, strict=True) if count == min([*again, most])]
        return tuple(fits[0]) if fits else ()

    def repeats(self, names: Sequence[str]) -> int:
        """Number of rows whose cells in some columns are those of an earlier row."""
        rows = list(zip(*(map(str, self.cells[name].all) for name in names), strict=True))
        return len(rows) - len(set(rows))

    def columns(self) -> tuple[Columns, list[str]]:
        """The decision, and the guesses in words."""
        columns = Columns(
            **{**self.guessed, **self.chosen}, split=self.split, joined=self.joined, unrolled=self.unrolled
        )
        if columns.time is not None and self.table.types[columns.time] != "time":
            form = form_of_times(self.table, columns.time, self.cells[columns.time], self.date_format)
            columns = replace(columns, date_form=form)
        elif self.date_format is not None:
            fix = "name the column with --time" if columns.time is None else f"column {columns.time!r} has others"
            raise OptionError(f"--date-format is for a column of dates that are text: {fix}, or leave it out.")
        columns = replace(columns, categories=self._categories(columns))
        roles = [columns.text, columns.label, columns.time, *columns.target, *columns.features, *columns.known_future]
        roles += {*columns.group, *columns.static}  # the name of a series may be read too
        twice = [name for name, count in Counter(roles).items() if name is not None and count > 1]
        if twice and columns.layout == "long":
            raise OptionError(f"column {twice[0]!r} of {self.table.source} has two roles: give it one.")
        notes = [
            f"{role}: {listed(value) if isinstance(value, tuple) else repr(value)} (a guess; --{role} names another)"
            for role, value in self.guessed.items()
            if role != "layout" and value != ("",)
        ]
        if columns.time is not None and columns.date_form:
            first = str(self.cells[columns.time].present[0]).strip()
            notes.append(how_form_is_read(columns.date_form, first, bool(self.date_format)))
        return columns, [*notes, *self.notes, *categories.note(columns.categories)]

    def _categories(self, columns: Columns) -> dict[str, tuple[str, ...]]:
        """The categories of columns of text that are read; not of one that has numbers but for some of its cells."""
        names = columns.static if columns.layout == "wide" else columns.read
        texts = [name for name in names if self.table.types[name] == self.kinds[name] == "text"]
        return {name: categories.found_in(self.table, name) for name in texts if self.cells[name].odd is None}


# --- To forecast ------------------------------------------------------------------------------------------------------


def _of_series(guess: _Guess) -> tuple[Columns, list[str]]:
    table, cells = guess.table, guess.cells
    static = guess.chosen.pop("static", None)  # the name of a series may be one
    guess.named("group", "time")
    channels = _channels(guess)
    if guess.layout == "wide" or (guess.layout is None and channels is not None):
        return _of_wide(guess, channels, static)
    guess.named("target", "features", "known_future", patterns=False)
    if not guess.get("time") and not guess.free("time") and (odd := guess.odd_one("time")):
        raise DataError(f"{table.source}: {odd}; fix it, or name the column that puts rows in order with --time.")
    spread = _spread_over(guess)
    if not spread:
        guess.guess("time", guess.usual_time())
    if not guess.get("time") and (name := guess.usual("time", guess.free("text"))) is not None:
        some = [str(cell) for cell in cells[name].present]
        check_not_mixed(table.source, name, cells[name])
        wrong = next((cell for cell in some if not (looks_like_date(cell) and are_dates([cell]))), some[0])
        guess.notes.append(
            f"column {name!r} puts nothing in order: {wrong[:40]!r} is not a time that is known (--time {name} "
            "--date-format states how it is written); rows are read in the order of the file."
        )
    named = guess.usual("group", guess.free("text"))
    for role in ("group", "machine"):
        named = named or guess.usual(role, guess.free("number"), lambda one: cells[one].few)
    guess.guess("group", guess.repeated(named) or guess.telling_apart())
    guess.chosen |= {} if static is None else {"static": static}
    guess.named("static")
    guess.named("target", "features", "known_future", patterns=True)
    words = [name for name in guess.free("text") if not cells[name].differ]
    if not guess.get("group") and words:
        guess.notes.append(
            f"all rows are read as one series; if {listed(words)} tell{'s' * (len(words) == 1)} series apart, name the "
            "--group."
        )
    numbers = guess.numbers()
    owners = list(zip(*(map(str, cells[name].all) for name in guess.get("group") or ()), strict=True))
    numbers = [name for name in numbers if not only_counts(cells[name], owners)] or numbers
    numbers = [name for name in numbers if not is_flag(name, cells[name])] or numbers
    usual = guess.usual("target", numbers)
    # A column that is usually the target, or one of all, is not passed over for a cell.
    sooner = _USUAL["target"][: _USUAL["target"].index(usual.lower())] if usual else ()
    if not guess.get("target") and (odd := guess.odd_one("number", lambda name: not usual or name.lower() in sooner)):
        raise DataError(f"{table.source}: {odd}; fix it, or name what to forecast with --target.")
    guess.guess("target", (usual,) if usual else tuple(numbers))
    if not guess.get("target"):
        texts = (cell for name in reversed(guess.free("text")) for cell in cells[name].all)
        digits = next((str(cell) for cell in texts if re.search(r"\d", str(cell))), None)
        hint = f" {no_number(digits)}." if digits is not None else ""
        raise DataError(f"{table.source} has no column of numbers to forecast; there are {listed(table.names)}.{hint}")
    return guess.columns()


def _unrolled(guess: _Guess) -> tuple[str, ...]:
    """The column of years or days and those of their parts (all months, say), which are unrolled."""
    if guess.layout or {"time", "target", "features", "known_future", "static"} & guess.chosen.keys():
        return ()
    found = parts_of(guess.free("number", "empty"))
    whole = found and whole_of(guess.table, guess.cells, found[1], _USUAL["time"])
    if not found or not whole or whole in found[0]:
        return ()
    unroll(guess.table, whole, found[0])
    return (whole, *found[0])


def _joined(guess: _Guess) -> tuple[str, ...]:
    """A column of days and one of times of day, which together are the times; joins them."""
    if guess.layout == "wide" or "time" in guess.chosen:
        return ()
    days, clocks = day_and_clock({name: guess.cells[name] for name in guess.free("text", "time")})
    if not days or not clocks or guess.cells[days].differ:
        return ()
    guess.table.join(days, clocks)
    return (days, clocks)


def _spread_over(guess: _Guess) -> list[str]:
    """Columns over which times are spread, a year and a month, say; rows are then read in the order of the file."""
    if guess.get("time") or guess.free("time"):
        return []
    spread, freq = units_of({name: guess.cells[name] for name in guess.free("number", "text")})
    if len(spread) < 2:
        return []
    guess.notes.append(
        f"times are spread over {listed(spread)}: rows are read in the order they lie; a column of whole dates puts "
        "them in order."
    )
    guess.aside |= {*spread}
    guess.table.frequency = guess.table.frequency or freq
    return spread


def _channels(guess: _Guess) -> dict[str, list[str]] | None:
    """The channels of a table whose rows are series, with the columns of each; None if its rows are rather steps."""
    cells = guess.cells
    if lists := [name for name in guess.free("list") if cells[name].numeric_lists]:
        return {name: [name] for name in lists}
    if guess.get("time"):
        return None
    # A column with a cell that is not a number is refused where it is read.
    odd = [name for name in guess.free("text") if (cells[name].odd or ("",))[0] == "number"]
    channels: dict[str, list[str]] = {}
    for name in [*guess.free("number", "empty"), *odd]:
        if (label := step_label(name)) is not None:
            channels.setdefault(label[0], []).append(name)
    channels = {stem: names for stem, names in channels.items() if len(names) >= 3}
    if not channels or guess.layout == "wide":
        return channels or None
    if guess.usual("time", guess.free("number", "time")) or any(cells[name].grow for name in guess.free("time")):
        return None
    longest = max(channels.values(), key=len)
    dated = are_dates([label[1] for label in map(step_label, longest) if label is not None])
    texts = guess.free("text")
    named = any(cells[name].differ for name in texts) or guess.usual("group", texts)
    few_rows = len(cells[longest[0]].all) < len(longest) >= 12
    return channels if dated or (named and len(longest) >= 6) or few_rows else None


def _of_wide(guess: _Guess, channels: dict[str, list[str]] | None, static: Any) -> tuple[Columns, list[str]]:
    source, cells = guess.table.source, guess.cells
    if guess.get("time"):
        raise OptionError("--time is for a table whose rows are steps; this one has a row per series (--layout wide).")
    if channels is None:
        raise DataError(
            f"{source}: --layout wide needs columns of steps whose names end in a number or a date (v1, v2, … or "
            f"2024-01, 2024-02, …), or columns of lists; there are {listed(guess.table.names)}."
        )
    if guess.get("known_future"):
        raise OptionError(
            "--known-future is for a table whose rows are steps: one with a row per series has no rows to come."
        )
    for role in {"target", "features"} & guess.chosen.keys():
        guess.chosen[role] = _channels_named(guess, role, channels)
    words = guess.free("text")
    names = [name for name in words if cells[name].differ and len(cells[name].present) == len(cells[name].all)]
    names += [name for name in guess.free("number") if name.lower() in _COUNTERS and cells[name].differ]
    if names:
        guess.guess("group", (names[0],))
    elif words and not guess.repeats(words):  # a country and its province, say
        guess.guess("group", tuple(words))
    guess.chosen |= {} if static is None else {"static": static}
    guess.named("static")
    free = [name for name in channels if name not in guess.chosen.get("features", ())]
    usual = guess.usual("target", free)
    guess.guess("target", (usual,) if usual is not None else tuple(free))
    if not guess.get("target"):
        raise DataError(f"{source} has no numbers to forecast apart from the --features.")
    target = guess.get("target")[0]
    steps = channels[target]
    what = "a list each" if steps == [target] else f"{len(steps)} steps from {steps[0]!r} to {steps[-1]!r}"
    note = f"layout: wide, a row is a series, {what} (a guess; --layout long reads a row as a step)"
    guess.guessed["layout"] = "wide"
    columns, notes = guess.columns()
    return columns, notes if guess.layout else [note, *notes]


def _channels_named(guess: _Guess, role: str, channels: dict[str, list[str]]) -> tuple[str, ...]:
    """The channels that a user named, by what their columns begin with or by patterns of these."""
    value = guess.chosen[role]
    found: list[str] = []
    for one in [one.strip() for one in value.split(",")] if isinstance(value, str) else map(str, value):
        matches = [stem for stem, names in channels.items() if one == stem or fnmatch.filter([stem, *names], one)]
        if not matches:
            raise OptionError(
                f"--{role} {one!r}: {guess.table.source} has no such columns of steps; there are "
                f"{listed(list(channels))}."
            )
        found += matches
    return tuple(dict.fromkeys(found))


# --- To classify, tag and regress -------------------------------------------------------------------------------------


def _of_labels(guess: _Guess, labelled: bool) -> tuple[Columns, list[str]]:
    table = guess.table
    of_number = guess.predicts is Predicts.NUMBER
    guess.named("text", "target" if of_number else "label", "group", "time")
    guess.named("features", patterns=False)
    (_guess_number if of_number else _guess_label)(guess, labelled)
    named = guess.repeated(guess.usual("group", guess.free("text", "number")))
    guess.guess("group", named if named and not of_number else _grouped_steps(guess, named))
    if guess.get("group"):
        guess.guess("time", guess.usual_time())
    elif "time" in guess.chosen:
        raise OptionError("--time puts the steps of a sequence in order; name the --group of rows that are its steps.")
    guess.named("features", patterns=True)
    if not guess.get("features") and "text" not in guess.chosen:
        _guess_inputs(guess)
    if not guess.get("text") and not guess.get("features"):
        raise DataError(
            f"{table.source}: nothing is left to read; name a --text column or --features "
            f"(there are {listed(table.names)})."
        )
    columns, notes = guess.columns()
    if columns.text and columns.features:
        raise OptionError("--text and --features exclude one another: a network reads words or numbers.")
    if columns.categories and not columns.group:
        notes.append("columns differ in kind, so a row is read as one step with a channel for each column.")
    return columns, notes


def _guess_label(guess: _Guess, labelled: bool) -> None:
    """Which column has the labels; DataError if they are needed and none looks like one."""
    table, cells = guess.table, guess.cells
    label = guess.usual("label", guess.free("text", "number", "list"), lambda name: cells[name].could_be_labels)
    if label is None and begins_with_class(cells):
        label = "column 1"
        guess.guess(
            "features", tuple(table.names[1:]) if not {"features", "group", "label"} & guess.chosen.keys() else ()
        )
    if label is None and labelled and "label" not in guess.chosen:
        label = _few_values(guess)
    guess.guess("label", label)
    if labelled and not guess.get("label"):
        amounts = guess.usual("label", guess.free("number"))
        what = "no column looks like a label" if amounts is None else f"{amounts!r} has amounts, not labels"
        other = "" if amounts is None else ", or predict it with --task regress"
        raise DataError(f"{table.source}: {what}; name one with --label{other} (there are {listed(table.names)}).")


def _guess_number(guess: _Guess, labelled: bool) -> None:
    """Which column has the number to predict: by its name, else the last one."""
    numbers, source = guess.numbers(), guess.table.source
    likely = [name for name in numbers if name.lower() not in _USUAL["time"]] or numbers
    usual = guess.usual("target", likely) or guess.usual("label", likely) or next(reversed(likely), None)
    guess.guess("target", (usual,) if usual is not None and labelled else ())
    found = guess.get("target") or ()
    if len(found) > 1:
        raise OptionError(f"--target names {len(found)} columns, {listed(found)}; the number to predict is one.")
    if labelled and not found:
        raise DataError(f"{source} has no column of numbers to predict; name one with --target.")


def _guess_inputs(guess: _Guess) -> None:
    """What is read: the text, lists of numbers, or columns of numbers."""
    cells, numbers = guess.cells, guess.numbers()
    lists = [name for name in guess.free("list") if cells[name].numeric_lists]
    texts = [name for name in guess.free("text", "list") if name not in lists]
    text = guess.usual("text", texts)
    if text is None and texts and not numbers and not lists:
        text = max(texts, key=lambda name: sum(len(str(cell)) for cell in cells[name].all))
    if text is not None:
        guess.guess("text", text)
    elif lists:
        numbered = [name for name in lists if re.fullmatch(r".*?\d+", name)]
        stems = {re.sub(r"\d+$", "", name) for name in numbered}
        usual = guess.usual("features", lists)
        # channel_1, channel_2, …: the channels of one sequence
        channels = numbered if usual is None and len(stems) == 1 and len(numbered) == len(lists) else ()
        guess.guess("features", tuple(channels) or (usual or lists[0],))
    else:
        guess.guess("features", (*numbers, *_few_texts(guess)) if numbers else ())
        odd = guess.odd_one("number", lambda name: name.lower() not in _COUNTERS) if numbers else None
        if odd is not None:
            guess.notes.append(f"{odd}: the column is left out (fix the cell, or name it with --features).")


def _few_texts(guess: _Guess) -> list[str]:
    """Columns of text with few values, each in many rows that are steps: categories."""
    found = []
    for name in guess.free("text") if guess.get("group") else ():
        cells = guess.cells[name]
        values = len(set(map(str, cells.present)))
        if 2 <= values <= min(_CATEGORIES, len(cells.all) // 5) and cells.odd is None:
            found.append(name)
    return found


def _grouped_steps(guess: _Guess, found: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that name sequences where rows are steps: the same times repeat, once in each sequence.

    A label for each sequence must be the same in all of its rows.
    """
    if "group" in guess.chosen or "list" in guess.kinds.values():
        return ()
    time = guess.chosen.get("time") or guess.usual_time()
    named, found = bool(found), found or guess.repeated(guess.usual("machine", guess.free("text", "number")))
    if time is not None and not named and not guess.get("text"):
        guess.guessed["time"] = time
        found = guess.telling_apart() or found
        del guess.guessed["time"]
    label = guess.get("label") or next(iter(guess.get("target") or ()), None)
    if not found or guess.predicts is Predicts.STEP_LABELS or label is None:
        return found
    if not guess.get("features") and not {*guess.free("text", "number", "empty")} - {*found, time}:
        return ()  # nothing would be left to read: these are what is to be read
    keys, text = ", ".join(map(guess.table.text, found)), guess.table.text(label)
    if guess.table.database.execute(f"SELECT 1 FROM cells GROUP BY {keys} HAVING count(DISTINCT {text}) > 1 LIMIT 1"):
        what, step = "labels", "For a label per step, --task tag"
        if guess.predicts is Predicts.NUMBER:
            what, step = "numbers", "To forecast them, --task forecast"
        guess.notes.append(
            f"rows of the same {listed(found)} have different {what}: each row is a sequence by "
            f"itself, and rows of the same {listed(found)} are held out together. {step} --group {','.join(found)}."
        )
        guess.split = found
        guess.aside |= {*found, *filter(None, [time])}
        return ()
    return found


def _few_values(guess: _Guess) -> str | None:
    """The last column whose values repeat the way labels do."""
    return next((name for name in reversed(guess.free("text", "number")) if guess.cells[name].repeat), None)
