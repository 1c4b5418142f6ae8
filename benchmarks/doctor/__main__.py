"""python -m benchmarks.doctor: train the cases, verify them, and score the doctor and its peers on them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from . import table
from .case import Case
from .cases import CASES
from .run import Outcome, rules_hash, run

HERE = Path(__file__).parent
QUICK = 5  # with --quick: every so many cases


def read(path: Path) -> dict[tuple[str, int], Outcome]:
    """The outcomes of a results file; of several lines of a run, the last, and a line cut short is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[outcome.name, outcome.seed] = outcome
    return found


def outcomes(
    jobs: list[tuple[Case, int]], known: dict[tuple[str, int], Outcome], cache: Path, processes: int, prove: bool
) -> Iterator[Outcome]:
    """The outcomes as they are finished."""
    rules = rules_hash()
    tasks = [(case, seed, known.get((case.name, seed)), cache, rules, prove) for case, seed in jobs]
    if processes == 1:
        yield from (run(*one) for one in tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, *one) for one in tasks]):
            yield done.result()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every fifth case only")
    parser.add_argument("--only", help="cases with these words in their names")
    parser.add_argument("--half", choices=["open", "held out"], help="only this half of the cases")
    parser.add_argument("--seeds", type=int, default=1, help="trainings per case")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--prove", action="store_true", help="try the first prescription of the sick cases")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--cache", type=Path, default=Path("runs/doctor"), help="trained networks, to examine again")
    parser.add_argument("--misses", action="store_true", help="list what was missed in the open half")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md, and tidy the results file")
    options = parser.parse_args(arguments)
    cases = [c for c in CASES[:: QUICK if options.quick else 1] if not options.only or options.only in c.name]
    if options.half:
        cases = [c for c in cases if c.held_out == (options.half == "held out")]
    jobs = [(case, seed) for case in cases for seed in range(options.seeds)]
    known, before, began = read(options.results), read(options.results), time.perf_counter()
    for done, outcome in enumerate(outcomes(jobs, known, options.cache, options.processes, options.prove), 1):
        if outcome != before.get((outcome.name, outcome.seed)):
            with options.results.open("a", encoding="utf-8") as file:
                file.write(outcome.as_line() + "\n")
        known[outcome.name, outcome.seed] = outcome
        left = (time.perf_counter() - began) / done * (len(jobs) - done)
        print(f"{done}/{len(jobs)} {outcome.name} [{outcome.seed}]; {left / 60:.0f} min left", flush=True)
    pairs = [(case, known[case.name, seed]) for case, seed in jobs]
    print(table.report(pairs))
    if options.misses:
        print(table.misses([(c, o) for c, o in pairs if not c.held_out]))
    if options.write:
        ordered = [o.as_line() for c in CASES for (name, _), o in sorted(known.items()) if name == c.name]
        options.results.write_text("\n".join(ordered) + "\n", encoding="utf-8")
        table.write(pairs, HERE / "README.md")


if __name__ == "__main__":
    main()
