# SPDX-License-Identifier: Apache-2.0
"""Slots that lie idle because tokens come in blocks of 16, and those that admission sets aside."""

from .arithmetic import BLOCK_SIZE, blocks_of, conversations, waste
from .figure import Result, Scope, equal, told
from .measure import measure

__all__ = ["run"]

TOKENS_MAX = 2048
NEW_MAX = 512


def run(scope: Scope) -> Result:
    """ALLOC of each length in turn on the RTL, and of what admission takes for it."""
    count = 100 if scope.quick else 1000
    drawn = conversations(count, scope.seed, TOKENS_MAX, NEW_MAX)
    lengths = [talk.tokens for talk in drawn]
    admitted = [talk.prompt + NEW_MAX for talk in drawn]
    plan = {"blocks": scope.config.blocks_max, "lengths": [lengths, admitted]}
    measured, _ = measure(scope, "waste", plan)
    held, reserved = measured["held"]
    wanted = [blocks_of(tokens) for tokens in lengths]
    formula, found = waste(lengths, sum(wanted)), waste(lengths, sum(held))
    for_new = waste(lengths, sum(reserved))
    source = f"{count:,} lengths, seed {scope.seed}: {min(lengths)} to {max(lengths)},"
    source += f" {sum(lengths) / count:.1f} on average"
    figures = [
        equal("waste", found, formula, f"{float(found):.4%}", source, bound=f"{float(formula):.4%}"),
        equal("lengths whose blocks differ", sum(a != b for a, b in zip(held, wanted, strict=True)), 0),
        told(
            f"admission for up to {NEW_MAX} new tokens holds",
            f"{sum(reserved):,} blocks instead of {sum(held):,}",
            f"{float(for_new):.1%} of their slots stay empty at these lengths",
        ),
    ]
    details = {
        "seed": scope.seed,
        "lengths": count,
        "tokens": sum(lengths),
        "blocks": sum(held),
        "slots": BLOCK_SIZE * sum(held),
        "waste": float(found),
        "formula": float(formula),
        "exact": found == formula,
        "admission": {"max_new": NEW_MAX, "blocks": sum(reserved), "waste": float(for_new)},
    }
    return Result(figures, {"waste": details}, {}, measured["leaked"])
