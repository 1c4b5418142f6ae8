"""The whole grid, as ``make bench`` runs it: ``retrograde bench`` with its figures and picture kept in runs/bench.

python -m benchmarks [options of retrograde bench]
"""

import sys
from pathlib import Path

from retrograde.cli import main

out = Path("runs/bench")
out.mkdir(parents=True, exist_ok=True)
main(["bench", "--json", str(out / "bench.json"), "--picture", str(out / "bench.png"), *sys.argv[1:]])
