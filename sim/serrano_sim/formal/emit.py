# SPDX-License-Identifier: Apache-2.0
"""Writes the RTLIL of one proof, or of one of its broken variants.

A process of its own for each, as a broken variant of a module lasts as long as the process.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Collection, Sequence
from pathlib import Path

from . import patch
from .proofs import Method, Proof
from .properties import PROOFS

__all__ = ["find", "make"]


def find(name: str) -> Proof:
    """The proof of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    for proof in PROOFS:
        if proof.name == name:
            return proof
    raise ValueError(f"There is no proof {name!r}, but {', '.join(proof.name for proof in PROOFS)}")


def make(proof: Proof, case: str, only: Collection[str] | None = None) -> tuple[str, list[str], list[str]]:
    """The RTLIL, and the names of all checks and covers, whether they are in it or not."""
    from .bench import Bench

    module, _, function = proof.bench.partition(":")
    build = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    bench = Bench(only)
    if len(inspect.signature(build).parameters) > 1:
        build(bench, case)
    else:
        build(bench)
    text = bench.rtlil(any_state=proof.method is Method.COMMAND)
    return text, bench.names, bench.covered


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proof")
    parser.add_argument("file", type=Path)
    parser.add_argument("--case", default="")
    parser.add_argument("--broken")
    parser.add_argument("--only", action="append")
    options = parser.parse_args(arguments)
    proof = find(options.proof)
    if options.broken:
        (variant,) = [variant for variant in proof.broken if variant.name == options.broken]
        patch.install(variant.edits)
    text, _, _ = make(proof, options.case, options.only)
    options.file.write_text(text)


if __name__ == "__main__":
    main()
