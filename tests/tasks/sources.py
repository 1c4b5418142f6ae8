"""Small tables, texts and arrays of many kinds, with the options that they are read with."""

# ruff: noqa: E501  # a table is a line

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

Source = tuple[str, str | bytes, dict[str, Any]]  # the name of the file, what is in it, options
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "two",
    "dogs",
    "near",
    "some",
    "old",
    "red",
    "barn",
    "while",
    "it",
    "rained",
    "all",
    "day",
    "long",
]


def wave(steps: int, period: float = 7, slope: float = 0.1, noise: float = 0.3) -> list[float]:
    return [round(math.sin(t * math.tau / period) + slope * t + noise * math.sin(t * t), 3) for t in range(steps)]


def table(head: str, rows: Sequence[Sequence[Any]], mark: str = ",") -> str:
    lines = [mark.join(map(str, row)) for row in rows]
    return "\n".join([head] * bool(head) + lines) + "\n"


def times(count: int, form: str = "%Y-%m-%d", start: str = "2024-01-25", hours: float = 24.0) -> list[str]:
    first = datetime.fromisoformat(start)
    return [(first + timedelta(hours=hours * n)).strftime(form) for n in range(count)]


def sentence(n: int, count: int) -> str:
    return " ".join(WORDS[(n * n + 3 * k * (n % 4 + 1)) % len(WORDS)] for k in range(count))


def forecasts() -> Iterator[tuple[str, Source]]:
    y, t = wave(60), times(60)
    yield "days", ("days.csv", table("day,sales", list(zip(t, y, strict=True))), {})
    lacking = [row for n, row in enumerate(zip(t, y, strict=True)) if n not in (5, 6, 17, 40)]
    for gaps in ("fill", "split", "error"):
        yield f"gaps, {gaps}", ("gaps.csv", table("day,sales", lacking), {"gaps": gaps, "horizon": 3, "context": 6})
    twice = [*zip(t, y, strict=True), (t[3], 99.0), (t[9], -5.0), (t[9], 3.5)]
    for keep in ("error", "first", "last", "mean"):
        yield f"twice, {keep}", ("twice.csv", table("day,sales", twice), {"duplicates": keep, "horizon": 3})
    forms = {
        "%d.%m.%Y": 24,
        "%m/%d/%Y": 24,
        "%Y-%m-%d %H:%M": 1,
        "%Y-%m-%dT%H:%M:%SZ": 0.25,
        "%d-%b-%y": 24,
        "%Y%m%d": 24,
    }
    for form, hours in forms.items():
        rows = list(zip(times(60, form, hours=hours), y, strict=True))
        yield f"dates {form}", ("dates.csv", table("when;y", rows, ";"), {"horizon": 4})
    months = [(f"{2018 + n // 12}-{n % 12 + 1:02}", v) for n, v in enumerate(wave(60, 12))]
    yield "months", ("months.csv", table("month,y", months), {})
    yield (
        "quarters",
        ("q.csv", table("q,y", [(f"{2001 + n // 4}Q{n % 4 + 1}", v) for n, v in enumerate(wave(48, 4))]), {}),
    )
    yield "years", ("years.csv", table("year,y", [(1950 + n, v) for n, v in enumerate(wave(50, 11))]), {"season": 5})
    yield "weeks", ("weeks.csv", table("w,y", list(zip(times(60, hours=168), y, strict=True))), {"horizon": 2})
    work = [row for row in zip(times(90), wave(90, 5), strict=True) if datetime.fromisoformat(row[0]).weekday() < 5]
    yield "workdays", ("work.csv", table("date,close", work), {"freq": "workdays"})
    epoch = [(1_700_000_000 + 3600 * n, v) for n, v in enumerate(wave(100, 24))]
    yield "seconds", ("epoch.csv", table("timestamp,y", epoch), {"horizon": 6})
    yield "milliseconds", ("epoch.csv", table("timestamp,y", [(1000 * a, b) for a, b in epoch]), {"horizon": 6})
    yield "irregular", ("odd.csv", table("t,y", [(round(n**1.5, 2), v) for n, v in enumerate(y)]), {"horizon": 2})
    yield "no times", ("plain.csv", "\n".join(map(str, y)), {"season": 7})
    yield "comma", ("comma.csv", table("t;y", [(n, str(v).replace(".", ",")) for n, v in enumerate(y)], ";"), {})
    yield "thousands", ("big.csv", table("t\ty", [(n, f'"{1000 * v + 5e4:,.2f}"') for n, v in enumerate(y)], "\t"), {})
    stores = [(s, d, round(v * (1 + k) + k, 3)) for k, s in enumerate("cab") for d, v in zip(t[k:], y, strict=False)]
    stores = stores[::2] + stores[1::2]
    yield "stores", ("stores.csv", table("store,date,sold", stores), {"horizon": 5})
    more = [
        (s, d, v, int(datetime.fromisoformat(d).weekday() > 4), round(math.cos(n), 2), ["north", "south"][s == "a"], 7 * (s == "b"))
        for n, (s, d, v) in enumerate(stores)
    ]  # fmt: skip
    head = "store,date,sold,promotion,heat,region,size"
    known = {"horizon": 4, "known_future": "promotion", "static": "region,size", "features": "heat", "target": "sold"}
    yield "covariates", ("stores.csv", table(head, more), known)
    yield "covariates guessed", ("stores.csv", table(head, more), {"horizon": 4})
    yield "quantiles", ("stores.csv", table(head, more), {"quantiles": "0.1,0.5,0.9", "target": "sold"})
    yield "two targets", ("stores.csv", table(head, more), {"target": "sold,heat", "horizon": 2})
    yield "by itself", ("days.csv", table("day,sales", list(zip(t, y, strict=True))), {"strategy": "autoregressive"})
    yield "origins", ("days.csv", table("day,sales", list(zip(t, y, strict=True))), {"backtest": 3, "horizon": 3})
    yield (
        "test part",
        ("days.csv", table("day,sales", list(zip(t, y, strict=True))), {"test_fraction": 0.2, "horizon": 3}),
    )
    columns = ",".join(["id", "kind", *times(16)])
    wide = [(name, "xy"[k % 2], *wave(16, 5 + k)) for k, name in enumerate(["one", "two", "three", "four"])]
    yield "wide", ("wide.csv", table(columns, wide), {"horizon": 3})
    yield "wide with kinds", ("wide.csv", table(columns, wide), {"static": "kind", "layout": "wide", "horizon": 3})
    numbered = ",".join(["id", *(f"V{n + 1}" for n in range(16))])
    yield "wide by number", ("m4.csv", table(numbered, [(n, *wave(16, 4 + n)) for n in range(5)]), {"horizon": 3})
    holes = [(name, "x", *("" if n in (2, 11) else v for n, v in enumerate(wave(16)))) for name in "abc"]
    yield "wide with holes", ("wide.csv", table(columns, holes), {"horizon": 3})
    yield "missing numbers", ("na.csv", table("t,y", [(n, "" if n % 13 == 4 else v) for n, v in enumerate(y)]), {})
    yield "bad cell", ("bad.csv", table("t,y", [(n, "n/q" if n == 17 else v) for n, v in enumerate(y)]), {})
    yield "constant", ("flat.csv", table("t,y", [(n, 5) for n in range(40)]), {"horizon": 3})
    yield "short", ("short.csv", table("t,y", [(n, n) for n in range(7)]), {})
    tsf = "@relation r\n@attribute series_name string\n@attribute start_timestamp date\n@frequency daily\n@horizon 4\n"
    tsf += "@missing false\n@equallength false\n@data\n"
    tsf += "".join(f"T{k}:2020-01-0{k + 1} 00-00-00:{','.join(map(str, wave(30 + k)))}\n" for k in range(3))
    yield "tsf", ("some.tsf", tsf, {})
    lines = [json.dumps({"at": d, "of": {"y": v, "z": -v}, "note": None}) for d, v in zip(t, y, strict=True)]
    yield "nested", ("nested.jsonl", "\n".join(lines), {"target": "of.y", "horizon": 3})
    held = io.BytesIO()
    np.save(held, np.array([y, y[::-1]]).T)
    yield "array", ("two.npy", held.getvalue(), {"horizon": 3})


def labelled() -> Iterator[tuple[str, Source]]:
    review = [(sentence(n, 4 + n % 5) + " good" * (n % 2), ["bad", "good"][n % 2]) for n in range(40)]
    yield "reviews", ("r.csv", table("review,sentiment", review), {"task": "classify"})
    texts = {"tokens": "char", "max_length": 9, "lowercase": False, "class_weights": "balanced", "min_count": 2}
    rare = [(text.title(), label if n % 8 else "rare") for n, (text, label) in enumerate(review)]
    yield "letters", ("r.tsv", table("text\tlabel", rare, "\t"), {"task": "classify", **texts})
    yield "pairs", ("r.csv", table("text,label", review), {"task": "classify", "tokens": "bpe", "vocab_size": 300})
    yield "no header", ("r.csv", table("", review), {"task": "classify"})
    yield "one label", ("r.csv", table("text,label", [(text, "a") for text, _ in review]), {"task": "classify"})
    yield "no label", ("r.csv", table("text,label", [(a, "" if n % 9 == 0 else b) for n, (a, b) in enumerate(review)]), {"task": "classify"})  # fmt: skip
    rows = [("ab"[n % 2], *wave(12, 4 + n % 2 * 3, 0, 0.1 * (n % 5))) for n in range(40)]
    numbers = table("kind," + ",".join(f"t{k}" for k in range(12)), rows)
    yield "rows of numbers", ("w.csv", numbers, {"task": "classify", "mixup": 0.3})
    lists = [
        json.dumps({"x": row[1 : 6 + n % 4], "y": row[2 : 7 + n % 4], "label": row[0]}) for n, row in enumerate(rows)
    ]
    yield "lists", ("l.jsonl", "\n".join(lists), {"task": "classify", "pooling": "mean", "cell": "rnn"})
    steps = [(f"m{m}", k, round(math.sin(m + k), 3), (m * k) % 7, ["red", "blue"][k % 2], ("ok", "worn")[m % 2])
             for k in range(6) for m in range(24)]  # fmt: skip
    machines = table("machine,second,heat,load,lamp,state", steps)
    yield (
        "machines",
        ("machines.csv", machines, {"task": "classify", "validation_fraction": 0.25, "test_fraction": 0.2}),
    )
    yield (
        "machines, two columns",
        ("machines.csv", machines, {"task": "classify", "features": "heat,lamp", "label": "state"}),
    )
    tags = [(s, WORDS[(s * s + k) % 20], "NV"[k % 2] if k % 5 else "X") for s in range(20) for k in range(3 + s % 4)]
    yield "tags", ("tags.csv", table("sentence,word,tag", tags), {"task": "tag", "group": "sentence"})
    conll = "".join(
        "\n".join(f"{WORDS[(s + k) % 20]} {'B-PER' if k == 1 else 'I-PER' if k == 2 and s % 2 else 'O'}" for k in range(3 + s % 4))
        + "\n\n" for s in range(20)
    )  # fmt: skip
    yield "conll", ("some.conll", conll, {"task": "tag"})
    sided = [json.dumps({"tokens": sentence(n, 5).split(), "tags": list("ABABA")}) for n in range(20)]
    yield "tag lists", ("t.jsonl", "\n".join(sided), {"task": "tag", "bidirectional": False})
    marked = [
        (f"s{m}", k, round(math.sin(m + k), 3), "up" if math.cos(m + k) > 0 else "down")
        for m in range(20)
        for k in range(5)
    ]
    yield "tag numbers", ("n.csv", table("series,t,x,move", marked), {"task": "tag", "label": "move"})
    sums = [(round(sum(row[1:4]), 3), *row[1:]) for row in rows]
    yield (
        "sums",
        ("s.csv", table("total," + ",".join(f"x{k}" for k in range(12)), sums), {"task": "regress", "target": "total"}),
    )
    yield "sums by quantiles", ("s.csv", table("total," + ",".join(f"x{k}" for k in range(12)), sums), {"task": "regress", "target": "total", "quantiles": "0.2,0.5"})  # fmt: skip
    stars = [(text, len(text) / 10) for text, _ in review]
    yield "stars", ("s.csv", table("text,stars", stars), {"task": "regress", "target": "stars", "pooling": "mean"})
    worn = table("machine,second,heat,left", [(m, k, h, 50 - int(m[1:])) for m, k, h, *_ in steps])
    yield "left", ("left.csv", worn, {"task": "regress", "target": "left", "group": "machine"})
    ts = "@problemName p\n@univariate true\n@classLabel true a b\n@data\n"
    ts += "".join(f"{','.join(map(str, row[1:]))}:{row[0]}\n" for row in rows)
    yield "ts", ("p.ts", ts, {"task": "classify"})
    arff = "@relation p\n" + "".join(f"@attribute a{k} numeric\n" for k in range(12)) + "@attribute c {a,b}\n@data\n"
    yield (
        "arff",
        ("p.arff", arff + "".join(f"{','.join(map(str, row[1:]))},{row[0]}\n" for row in rows), {"task": "classify"}),
    )
    held = io.BytesIO()
    values = np.array([row[1:] for row in rows])[:, :, None]
    np.savez(held, x=values, y=np.array([row[0] for row in rows]), lengths=5 + np.arange(40) % 8)
    yield "arrays", ("a.npz", held.getvalue(), {"task": "classify"})
    yield "packed", ("r.csv.gz", gzip.compress(table("text,label", review).encode(), mtime=0), {"task": "classify"})
    yield (
        "latin",
        ("r.csv", table("text,label", [(a + " é", b) for a, b in review]).encode("latin-1"), {"task": "classify"}),
    )
    yield "no such column", ("r.csv", table("text,label", review), {"task": "classify", "label": "mood"})
    yield "numbers for words", ("r.csv", table("text,label", review), {"task": "classify", "features": "text"})


def languages() -> Iterator[tuple[str, Source]]:
    book = "".join(f"{sentence(n, 3 + n % 7).capitalize()}.\n" for n in range(90))
    for tokens in ("char", "word", "bpe"):
        yield f"text by {tokens}", ("book.txt", book, {"tokens": tokens, "bptt": 10, "update_every": 7})
    yield "few words", ("book.txt", book, {"tokens": "word", "vocab_size": 8, "tie": True, "validation_fraction": 0.3})
    yield "rare letters", ("book.txt", book, {"min_count": 40, "bptt": 5})
    yield "short text", ("short.txt", "ab", {})
    yield "texts of a table", ("t.csv", table("text,n", [(sentence(n, 9), n) for n in range(40)]), {"task": "language"})
    for name in ("adding?length=20", "adding?variant=pascanu&length=20", "adding?variant=arsovsky", "adding?length=12", "adding?size=3", "adding?length=x", "subtracting", "adding?variant=arjovsky&length=20",
                 "copy-memory?length=9", "copy-memory?symbols=3&items=2&length=5", "delayed-match-to-sample?stimuli=3&noise=0.1",
                 "latch?length=9", "latch?informative=3&length=12&noise=0.1&signal_noise=0.1&target_noise=0.05", "multiplication?length=20",
                 "multiplication?variant=pascanu&length=20", "parity?length=7&noise=0.1", "temporal-order?length=20",
                 "temporal-order?length=20&symbols=3", "temporal-order?variant=pascanu&length=30", "parity?length=0"):  # fmt: skip
        yield name, (f"builtin:{name}", "", {})


ALL: dict[str, Source] = {
    **{name: (file, text, {"task": "forecast", **options}) for name, (file, text, options) in forecasts()},
    **dict(labelled()),
    **dict(languages()),
}

# Of these everything is recorded; of the others only what is read from them, as they take the same way afterwards.
IN_FULL = {
    *("days", "covariates", "quantiles", "by itself", "wide with kinds", "origins", "hours", "two targets"),
    *("reviews", "letters", "lists", "tags", "tag numbers", "sums", "sums by quantiles", "stars", "machines"),
    *("text by word", "few words", "rows of numbers"),
    *(name for name, (file, *_) in ALL.items() if file.startswith("builtin:")),
}
