# SPDX-License-Identifier: Apache-2.0
"""The tables of ``docs/formal.md``, from the proofs' data."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .proofs import Method, Proof

__all__ = ["invariant_rows", "proof_rows", "property_rows"]

METHODS = {Method.INDUCTION: "induction", Method.COMMAND: "one command", Method.BOUNDED: "bounded"}

INVARIANTS = range(1, 12)


def numbers(statement: str) -> list[int]:
    """Invariants that a statement begins with: ``4, 7: …`` or ``1 to 5, 7: …``."""
    head, colon, _ = statement.partition(":")
    if not colon or not re.fullmatch(r"[\d, to]+", head):
        return []
    found: list[int] = []
    for part in head.split(","):
        first, _, last = part.partition(" to ")
        found += range(int(first), int(last or first) + 1)
    return found


def proof_rows(proofs: Iterable[Proof]) -> list[str]:
    """A row for each proof."""
    rows = []
    for proof in proofs:
        depths = sorted({proof.cycles(case) for case in proof.cases})
        cycles = str(depths[0]) if len(depths) == 1 else f"{depths[0]} to {depths[-1]}"
        what = f"{proof.unit}: {proof.configuration}"
        rows.append(f"| `{proof.name}` | {what} | {METHODS[proof.method]}, {cycles} | {proof.assumptions} |")
    return rows


def invariant_rows(proofs: Iterable[Proof]) -> list[str]:
    """A row for each invariant, with the properties that speak of it."""
    named = [
        (f"`{proof.name}.{check}`", numbers(statement))
        for proof in proofs
        for check, statement in proof.checks.items()
    ]
    return [
        f"| {number} | {', '.join(name for name, spoken_of in named if number in spoken_of)} |"
        for number in INVARIANTS
    ]


def property_rows(proofs: Iterable[Proof]) -> list[str]:
    """A row for each property, with the errors that it has to find."""
    rows = []
    for proof in proofs:
        for check, statement in proof.checks.items():
            variants = [
                f"`{variant.name}`{f' ({variant.case})' if variant.case else ''}: {variant.what}"
                for variant in proof.broken
                if variant.check == check
            ]
            rows.append(f"| `{proof.name}.{check}` | {statement} | {'; '.join(variants)} |")
    return rows
