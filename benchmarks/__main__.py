"""`python -m benchmarks [--quick]`: measure everything, write results.json and README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import listing, operating, report
from benchmarks.heartbeat import Gaps, compile_library
from benchmarks.processes import running_target

HERE = Path(__file__).parent


def progress(text: str) -> None:
    """Say what is being measured."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, then write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, 4 and 100 threads: does it work at all?")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to (default: benchmarks/)")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = compile_library(folder)
        if not library:
            progress("no C compiler: the pause of the other threads is not measured")
        control = Gaps.create(folder / "control", len(os.sched_getaffinity(0)))
        with running_target(0, library=library, gaps=control):
            results = {
                "quick": arguments.quick,
                "rounds": rounds,
                "machine": report.machine(),
                "listing": listing.measure(rounds, arguments.quick, progress),
                "waiting": listing.measure(rounds, arguments.quick, progress, behind_lock=True),
                "operating": operating.measure(rounds, arguments.quick, folder, library, control, progress),
            }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.output / "README.md").write_text(report.write(results))
    progress(f"written: {arguments.output / 'README.md'}")


if __name__ == "__main__":
    main()
