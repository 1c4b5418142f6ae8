"""Dates as people write them, turned into numbers that grow with time.

DuckDB parses them; this module turns other notations into those that DuckDB knows.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .database import evaluated, literal, trimmed

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_FOREIGN = {  # German, French, Spanish, Italian, Portuguese, Dutch; what the English pattern does not know
    "jan": "januari?|jänner|janvier|janv|enero|ene|gennaio|gen|janeiro",
    "feb": "februari?|f[ée]vrier|f[ée]vr?|febrero|febbraio|fevereiro",
    "mar": "märz|maerz|mär|mrz|mars|marzo|março|maart|mrt",
    "apr": "avril|avr|abril|abr|aprile",
    "may": "mai|mayo|maggio|mag|maio|mei",
    "jun": "juni|juin|junio|giugno|giu|junho",
    "jul": "juli|juillet|juil|julio|luglio|lug|julho",
    "aug": "ao[ûu]t|agosto|ago|augustus",
    "sep": "septembre|sep?tiembre|settembre|set|setembro",
    "oct": "oktober|okt|octobre|octubre|ottobre|ott|outubro|out",
    "nov": "novembre|noviembre|novembro",
    "dec": "dezember|dez|d[ée]cembre|déc|diciembre|dic|dicembre|dezembro",
}
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    rf"|nov(?:ember)?|dec(?:ember)?|{'|'.join(_FOREIGN.values())})\.?"
)
_DATE = re.compile(
    r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? +)?(?:"
    r"\d{1,4}[-/.]\d{1,2}(?:[-/.]\d{1,4})?\b"  # 2004-03-01 and all that follows; 01/03/2004; 1.3.04; 2004-03
    r"|\d{1,2}[-/.]\d{4}$"  # 03/2004
    r"|\d{4}[-_ ]?w\d{1,2}(?:-[1-7])?$"  # 2004-W11
    r"|\d{4}年\d{1,2}月(?:\d{1,2}日|$)"  # 2004年3月1日, 2004年3月
    r"|\d{4}[-_ :/]?(?:q[1-4]|m\d{1,2})$"  # 2004Q1, 2004M11
    r"|(?:q[1-4]|[1-4]q)[-_ /']?(?:\d{4}|\d{2})$"  # Q1 2004, 1Q04
    rf"|{_MONTH}[-_ ]?(?:\d{{4}}|\d{{2}})$"  # Mar 2004
    rf"|{_MONTH}[-_ /]?\d{{1,2}}(?:st|nd|rd|th)?[-_ ,/].*\d{{2}}"  # Mar 1, 2004; Mar 1 10:00:00 2004
    rf"|\d{{1,2}}(?:st|nd|rd|th)?[-_ /.]*{_MONTH}[-_ ,/.]*\d{{2,4}}\b"  # 1 March 2004; 01-Mar-04
    rf"|\d{{4}}[-_ /]?{_MONTH}(?:[-_ /]?\d{{1,2}}\b|$))",  # 2004-Mar-01
    re.IGNORECASE,
)
_NUMBERED = r"^(\d{1,2})([-/.])(\d{1,2})[-/.](\d{4}|\d{2})(\D.*)?$"  # 1/3/2004, 01.03.04 10:30
ZONE = r":\d\d(?:\.\d+)? ?([zZ]|UTC|GMT|[-+]\d\d:?(?:\d\d)?)$"  # of a time of day that states it
MONTH_AND_YEAR = r"^(0?[1-9]|1[0-2])([-/.])(1[5-9]|20)\d\d$"
"""Pattern of a month such as 03/2004; with a point only where a month of the column has a leading zero."""
_WEEK = re.compile(r"\d{4}[-_ ]?w\d{1,2}", re.IGNORECASE)
_QUARTER = re.compile(r"\d{4}[-_ :/]?q[1-4]|q[1-4][-_ /']\d{4}|[1-4]q[-_ /']?\d{4}", re.IGNORECASE)
EPOCHS = {"epoch s": 1.0, "epoch ms": 1e3, "epoch us": 1e6, "epoch ns": 1e9}
YEARS = {"years by months": 12, "years by quarters": 4}
"""Forms of years as decimal numbers, 1949.083 for February; with the parts of a year."""
EXCEL = "excel"
"""Form of days as Excel counts them, see `retrograde.data.excel`."""
_EXCEL_1970 = 25569
_EPOCH_RANGE = (631152000, 4102444800)  # 1990 to 2100, in seconds


def looks_like_date(cell: Any) -> bool:
    """Whether a cell is written as dates are.

    Examples
    --------
    >>> [looks_like_date(cell) for cell in ("2004-03-01T10:00Z", "Mar 1 2004", "1.3.04", "2004年3月", "may be")]
    [True, True, True, True, False]
    """
    return _DATE.match(str(cell).strip()) is not None


def month_of(name: str) -> int | None:
    """The month that a word names, from 1 for January, None where it names none.

    Examples
    --------
    >>> month_of("Mar"), month_of("dezember"), month_of("mark")
    (3, 12, None)
    """
    name = name.lower()
    if not re.fullmatch(_MONTH, name):
        return None
    foreign = (month for month, names in _FOREIGN.items() if re.fullmatch(names, name.rstrip(".")))
    return _MONTHS.split("|").index(next(foreign, name[:3])) + 1


# --- The expressions of SQL -------------------------------------------------------------------------------------------


def iso_sql(cell: str, form: str) -> str:
    """A date of a form, see `date_form`, rewritten as ISO 8601 has it; a cell that has another form stays as it is."""
    text = trimmed(cell)
    if form in ("%Y%m%d", "%Y%m"):
        pattern, digits = (
            (r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3") if form == "%Y%m%d" else (r"^(\d{4})(\d\d)$", r"\1-\2")
        )
        return f"regexp_replace({text}, '{pattern}', '{digits}')"
    if not form or form in EPOCHS:
        return cell
    if form == EXCEL:
        moment = f"make_timestamp(CAST({moment_sql(cell, form)} AS BIGINT) * 1000000)"
        return f"regexp_replace(strftime({moment}, '%Y-%m-%d %H:%M:%S'), ' 00:00:00$', '')"
    if form in YEARS:
        parts = YEARS[form]
        part = f"CAST(round(TRY_CAST({cell} AS DOUBLE) * {parts}) AS BIGINT)"
        return f"printf('%04d-%02d-01', {part} // {parts}, {part} % {parts} * {12 // parts} + 1)"
    if not re.fullmatch(r"%(d[-/.]%m|m[-/.]%d)[-/.]%[yY]", form):
        found = f"strftime(try_strptime({text}, {literal(form)}), '%Y-%m-%d %H:%M:%S.%f')"
        return f"coalesce(regexp_replace({found}, '( 00:00:00)?\\.0+$', ''), {text})"

    day, month = r"(\d{1,2})", r"(0?[1-9]|1[0-2])"
    first, second, order = (day, month, r"\2-\1") if form.startswith("%d") else (month, day, r"\1-\2")
    # Two digits of a year as POSIX reads them.
    for year, century in ((r"(\d{4})", ""), (r"(69|[7-9]\d)", "19"), (r"(\d\d)", "20")):
        pattern = rf"^{first}[-/.]{second}[-/.]{year}(\D.*)?$"
        text = f"regexp_replace({text}, '{pattern}', '{century}\\3-{order}\\4')"
    for pattern, replacement in ((r"^(\d{4})-(\d)-", r"\1-0\2-"), (r"^(\d{4}-\d\d)-(\d)(\D|$)", r"\1-0\2\3")):
        text = f"regexp_replace({text}, '{pattern}', '{replacement}')"
    return text


def moment_sql(cell: str, form: str = "", numeric: bool = False) -> str:
    """A cell of text as a number that grows with time: seconds since 1970 (UTC) for a date, NULL where it is none.

    numeric: whether the column holds plain numbers, which are taken as they are.
    """
    if form in EPOCHS:
        return f"TRY_CAST({cell} AS DOUBLE) / {EPOCHS[form]}"
    if form == EXCEL:  # to the second: fractions of a day are not exact
        return f"round((TRY_CAST(replace({cell}, ',', '.') AS DOUBLE) - {_EXCEL_1970}) * 86400)"
    if numeric:
        return f"TRY_CAST({cell} AS DOUBLE)"
    rules = [  # one after the other, on lower case; \b is not used with what may be at the end of ``T``
        (r" \[yr\d{4}\]$", ""),  # as the World Bank writes years
        (r"^(\d{4})年(\d{1,2})月(\d{1,2})日", r"\1-\2-\3 "),
        (r"^(\d{4})年(\d{1,2})月$", r"\1-\2"),
        (r"^(mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? +", ""),
        (r"(\d)(st|nd|rd|th)\b", r"\1"),
        (rf"({_MONTHS})[a-z]*\.?", r" \1 "),
        (r"^(\d{4})$", r"\1-1-1"),
        (r"^(\d{4})[-_ :/]?m(\d{1,2})$", r"\1-\2-1"),
        (r"^(?:q([1-4])|([1-4])q)[-_ /'']?(\d{4})$", r"\3q\1\2"),
        (r"^(?:q([1-4])|([1-4])q)[-_ /'']?(69|[7-9]\d)$", r"19\3q\1\2"),
        (r"^(?:q([1-4])|([1-4])q)[-_ /'']?(\d\d)$", r"20\3q\1\2"),
        (r"^(\d{4})[-/.](\d{1,2})$", r"\1-\2-1"),
        (r"^(\d{1,2})[-/.](\d{4})$", r"\2-\1-1"),
        (r"^(\d{4})[-_ ]?w(\d)(-\d)?$", r"\1-w0\2\3"),
        (r"^(\d{4})[-_ ]?w(\d\d)$", r"\1-w\2-1"),
        (r"^(\d{4})[-_ ]?w(\d\d-\d)$", r"\1-w\2"),
        (r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(t(\d))?", r"\1-\2-\3 \5"),
        (r" *z$", "+00"),
    ]
    english = "s"
    for month, names in _FOREIGN.items():
        english = f"regexp_replace({english}, '(^|[^a-zà-ÿ])({names})([^a-zà-ÿ]|$)', '\\1{month}\\3')"
    foreign = f"regexp_matches(s, '{'|'.join(_FOREIGN.values())}')"
    text = f"lower({trimmed(iso_sql(cell, form))})"
    text = f"list_transform([{text}], lambda s: CASE WHEN {foreign} THEN {english} ELSE s END)[1]"
    for pattern, replacement in rules:
        text = f"regexp_replace({text}, '{pattern}', '{replacement}')"
    plain = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?$"
    written = trimmed(iso_sql(cell, form))
    fast = f"WHEN regexp_matches({written}, '{plain}') THEN epoch(TRY_CAST({written} AS TIMESTAMP)) "
    whole, text = f"trim({text})", "t"  # computed once for each cell
    # Names of months stand between single spaces, whatever marks were around them.
    named = f"trim(regexp_replace({text}, '[-_ ,/]+|\\.(\\D|$)', ' ', 'g'))"
    dates = ("%d %b %y", "%b %d %y", "%d %b %Y", "%b %d %Y", "%Y %b %d")
    clocks = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %H:%M:%S %z", " %I:%M %p", " %I:%M:%S %p")
    forms = [date + clock for clock in clocks for date in dates]
    forms += ["%b %d %H:%M:%S %Y", "%b %y", "%b %Y", "%Y %b"]
    listed = "[" + ", ".join(map(literal, forms)) + "]"
    afternoon = "['%Y-%m-%d %I:%M %p', '%Y-%m-%d %I:%M:%S %p']"
    slow = (
        f"CASE WHEN regexp_matches({text}, '^\\d{{4}}[-_ :/]?q[1-4]$') THEN epoch(make_timestamp("
        f"CAST({text}[1:4] AS BIGINT), 3 * CAST(right({text}, 1) AS BIGINT) - 2, 1, 0, 0, 0.0)) "
        f"WHEN regexp_matches({text}, '^\\d{{4}}-w\\d\\d-\\d$') THEN epoch(try_strptime({text}, '%G-w%V-%u')) "
        f"WHEN regexp_matches({text}, '{_MONTHS}') THEN epoch(try_strptime({named}, {listed})) "
        f"WHEN regexp_matches({text}, '[ap]m$') THEN epoch(try_strptime({text}, {afternoon})) "
        # Digits of a day that comes first would be taken for a year.
        f"WHEN regexp_matches({text}, '^\\d{{4}}-') THEN epoch(TRY_CAST({text} AS TIMESTAMPTZ)) END"
    )
    return (
        f"CASE WHEN NOT regexp_matches({cell}, '\\d') THEN NULL {fast}"
        f"ELSE list_transform([{whole}], lambda t: {slow})[1] END"
    )


def date_form(values: Sequence[Any]) -> str:
    """Form of dates that leave open which number is the day and which the month; an empty string for other dates.

    A number above 12 is a day, and so is one that is always 1 (unless the time of day changes). Where there is neither,
    the dates are read so that they are in order, then so that they are more evenly spaced; where that decides nothing,
    those with dots have the day first and others the month.

    Returns
    -------
    str
        As ``strftime`` has it; ``epoch s``, ``epoch ms``, ``epoch us`` or ``epoch ns`` for counts since 1970;
        one of `YEARS`.

    Examples
    --------
    >>> date_form(["01/03/2004", "15/03/2004"]), date_form(["20040331", "20040401", "20040402"])
    ('%d/%m/%Y', '%Y%m%d')
    """
    cells = [str(value).strip() for value in values if value is not None]

    return form_of("c", lambda *expressions: list(evaluated(cells, *expressions)[0]))


def form_of(cell: str, ask: Callable[..., list[Any]]) -> str:
    """`date_form` of a column of text, by all of its cells.

    cell: expression of the cells, NULL where one is empty.
    ask: from aggregates of SQL to their values.
    """

    def count(pattern: str) -> str:
        return f"count_if(regexp_matches({cell}, '{pattern}'))"

    def part(number: int) -> str:
        return f"TRY_CAST(regexp_extract({cell}, '{_NUMBERED}', {number}) AS INTEGER)"

    number = f"TRY_CAST({cell} AS DOUBLE)"
    total, numbered, eights, sixes, low, high, whole, months, padded, mark = ask(
        f"count({cell})", count(_NUMBERED), count(r"^\d{8}$"), count(r"^\d{6}$"), f"min({number})", f"max({number})",
        f"count_if({number} = floor({number}))", count(MONTH_AND_YEAR), count(r"^0"),
        f"max(regexp_extract({cell}, '{MONTH_AND_YEAR}', 2))",
    )  # fmt: skip
    if total > 2 and total == months and (padded or mark != "."):
        return f"%m{mark}%Y"
    if total > 2 and total in (eights, sixes):
        form = "%Y%m%d" if eights == total else "%Y%m"
        days = moment_sql(iso_sql(cell, form))
        (parsed,) = ask(f"count({days})")
        if (
            parsed == total
            and (low, high) >= (180001, 180001)
            and 1800 <= int(str(int(low))[:4]) <= int(str(int(high))[:4]) <= 2100
        ):
            if form == "%Y%m%d":
                return form
            # Six digits could count anything: they are months if they step over the end of a year.
            (codes,) = ask(f"list_sort(list_distinct(list(CAST({number} AS BIGINT))))")
            steps = np.diff(np.array(codes, dtype=np.int64))
            if 89 in steps and (steps <= 89).all():
                return form
    if total > 2 and whole == total:
        for form, unit in EPOCHS.items():
            if _EPOCH_RANGE[0] * unit <= low and high <= _EPOCH_RANGE[1] * unit:
                return form
    years = total > 2 and low is not None and whole < total and low >= 1500 and high <= 2200
    if years and (form := _years(number, ask)):
        return form
    if not numbered or numbered < 0.9 * total:
        return ""
    big_a, big_b, ones_a, ones_b, clocks, gap, width = ask(
        *(f"count_if({part(number)} > 12)" for number in (1, 3)),
        *(f"count_if({part(number)} <> 1)" for number in (1, 3)),
        f"count(DISTINCT regexp_extract({cell}, '{_NUMBERED}', 5))",
        f"any_value(nullif(regexp_extract({cell}, '{_NUMBERED}', 2), ''))",
        f"max(length(regexp_extract({cell}, '{_NUMBERED}', 4)))",
    )
    year = "%Y" if width == 4 else "%y"
    month_first, day_first = f"%m{gap}%d{gap}{year}", f"%d{gap}%m{gap}{year}"
    if big_a != big_b:
        return day_first if big_a > big_b else month_first
    if (ones_a == 0) != (ones_b == 0) and total > 1 and clocks < 2:
        return day_first if ones_a == 0 else month_first
    ordered, uneven = {}, {}
    for form in (month_first, day_first):
        (found,) = ask(f"list({moment_sql(cell, form)})")
        when = np.array([one for one in found or () if one is not None], dtype=np.float64)
        apart = np.diff(np.unique(when))
        ordered[form] = abs(float(np.sign(np.diff(when)).mean())) if len(apart) else 0.0
        uneven[form] = float(apart.std() / apart.mean()) if len(apart) > 1 else 0.0
    # Few rows go back in time where series come one after the other; half of them do where they come in no order.
    if max(ordered.values()) > 0.7 and abs(ordered[month_first] - ordered[day_first]) > 0.1:
        return max(ordered, key=ordered.__getitem__)
    if uneven[month_first] == uneven[day_first]:
        return day_first if gap == "." else month_first
    return min(uneven, key=uneven.__getitem__)


def _years(number: str, ask: Callable[..., list[Any]]) -> str:
    """Which of `YEARS` numbers are; an empty string if none. They lie close together on whole parts of years."""
    for form, parts in sorted(YEARS.items(), key=lambda one: one[1]):
        part = f"{number} * {parts}"
        off, different, span, cells = ask(
            f"max(abs({part} - round({part})))", f"count(DISTINCT round({part}))",
            f"max(round({part})) - min(round({part})) + 1", f"count(DISTINCT {number})",
        )  # fmt: skip
        if off < 0.005 * parts and different == cells and different > span / 2 and span > parts:
            return form
    return ""


# --- Lists of cells ---------------------------------------------------------------------------------------------------


def as_iso(values: Sequence[Any], form: str) -> list[Any]:
    """Dates of a form, see `date_form`, in ISO 8601; other cells stay as they are.

    Examples
    --------
    >>> as_iso(["1/3/04 10:30", "soon"], "%d/%m/%y"), as_iso(["1600000000"], "epoch s")
    (['2004-03-01 10:30', 'soon'], ['2020-09-13T12:26:40'])
    """
    if form in EPOCHS:
        seconds = moments(values, form)
        return [str(np.datetime64(int(one * 1000), "ms")).removesuffix(".000") for one in seconds]
    return [row[0] for row in evaluated(values, iso_sql("c", form))] if form else list(values)


def as_written(times: Sequence[Any], form: str, like: Sequence[Any] = ()) -> list[Any]:
    """Undo `as_iso` for dates without a time of day, and for counts since 1970.

    like: the cells before these, as the table writes them: quarters go on as quarters.

    Examples
    --------
    >>> as_written(["2004-03", "2004-04"], "%Y%m"), as_written([7, 8], "")
    (['200403', '200404'], [7, 8])
    >>> as_written(["2024-01-01", "2024-01-02T12:00:00"], "excel")
    [45292, 45293.5]
    >>> as_written(["1991-04-01"], "", ["Q4 1990", "Q1 1991"]), as_written(["2021-01-04"], "", ["2020-W52", "2020-W53"])
    (['Q2 1991'], ['2021-W01'])
    """
    if form in EPOCHS:
        return [int(one * EPOCHS[form]) for one in moments(times)]
    if form == EXCEL:
        days = (round(float(one) / 86400 + _EXCEL_1970, 6) for one in moments(times, ""))
        return [int(one) if one.is_integer() else one for one in days]
    if form in YEARS and all(isinstance(one, str) for one in times):
        return [round(int(one[:4]) + (int(one[5:7]) - 1) / 12, 4) for one in times]
    if like and all(_QUARTER.fullmatch(str(one).strip()) for one in like):
        return [_quarter(one, str(like[-1])) for one in times]
    if like and all(_WEEK.fullmatch(str(one).strip()) for one in like):
        return [_week(one, str(like[-1]).strip()) for one in times]
    if not form or not all(isinstance(one, str) and len(one) <= 10 for one in times):
        return list(times)
    return [datetime.date.fromisoformat(one if len(one) == 10 else f"{one}-01").strftime(form) for one in times]


def _quarter(date: str, like: str) -> str:
    """The quarter of a date in ISO 8601, written as another one is."""
    parts = {4: date[:4], 1: str((int(date[5:7]) + 2) // 3)}
    return re.sub(r"\d{4}|[1-4](?=[Qq])|(?<=[Qq])[1-4]", lambda found: parts[len(found[0])], like)


def _week(date: str, like: str) -> str:
    """The week of a date in ISO 8601, written as another one is."""
    year, week, _ = datetime.date.fromisoformat(date).isocalendar()
    return f"{year}{like[4 : len(like.rstrip('0123456789'))]}{week:02}"


def moments(values: Sequence[Any], form: str | None = None) -> NDArray[np.float64]:
    """Cells of a time column as numbers that grow with time: numbers unchanged, dates in seconds since 1970 (UTC).

    Raises ValueError if one is neither; its place is the exception's second argument.
    """
    if len(values) and all(isinstance(value, np.datetime64) for value in values):
        instants = np.array(values, dtype="datetime64[ms]")
        return np.where(np.isnat(instants), np.nan, instants.astype(np.int64) / 1000)
    form = date_form(values) if form is None else form
    if not form or form in EPOCHS:
        try:
            return np.array(values, dtype=np.float64) / EPOCHS.get(form, 1.0)
        except (TypeError, ValueError):
            pass
    found = np.array(evaluated(values, moment_sql("c", form)), dtype=np.float64).reshape(-1)
    if np.isnan(found).any():
        raise ValueError("no time", int(np.argmax(np.isnan(found))))
    return found
