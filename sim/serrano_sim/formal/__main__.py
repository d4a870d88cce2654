# SPDX-License-Identifier: Apache-2.0
"""Proves the invariants: ``python -m serrano_sim.formal``; see ``docs/formal.md``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .properties import PROOFS
from .runner import report, run_all, tasks_of, tools_missing, write

ROOT = Path(__file__).resolve().parents[3]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 if everything holds and every broken variant is caught."""
    parser = argparse.ArgumentParser(prog="serrano_sim.formal", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="one proof, or one check of it: PROOF.CHECK")
    parser.add_argument("--json", type=Path, metavar="FILE", help="report (build/reports/formal.json)")
    parser.add_argument("--jobs", type=int, default=2, help="solvers at the same time")
    parser.add_argument("--list", action="store_true", help="name the proofs and their checks")
    options = parser.parse_args(arguments)
    if options.list:
        for proof in PROOFS:
            print(f"{proof.name}: {proof.unit}, {proof.method.value}, {proof.depth} cycles")
            for check, statement in proof.checks.items():
                print(f"  {proof.name}.{check}: {statement}")
        return 0
    missing = tools_missing(Path(sys.executable).parent)
    if missing:
        print(f"formal: not installed: {', '.join(missing)}; `make formal` installs what it needs")
        return 1
    try:
        tasks = tasks_of(PROOFS, options.only)
    except ValueError as error:
        print(f"formal: {error}")
        return 1
    began = time.monotonic()
    results = run_all(tasks, ROOT / "build" / "formal", options.jobs, lambda line: print(line, flush=True))
    content = report(results)
    content["seconds"] = round(time.monotonic() - began, 1)
    # A part of the proofs must not pass for all of them.
    default = "formal.json" if options.only is None else "formal-part.json"
    path = options.json or ROOT / "build" / "reports" / default
    write(path, content)
    print(
        f"formal: {content['proved']} properties proved, {content['bounded']} to a bound, "
        f"{content['failed']} not; {content['broken_variants_caught']} of "
        f"{content['broken_variants']} broken variants caught; {content['seconds']} s; {path}"
    )
    return 0 if content["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
