# SPDX-License-Identifier: Apache-2.0
"""What other targets measure: random commands, recordings, proofs."""

import json

from .figure import Figure, Result, Scope, State

__all__ = ["run_formal"]


def run_formal(scope: Scope) -> Result:
    """What ``make formal`` has left in ``build/reports/formal.json``."""
    file = scope.reports / "formal.json"
    if not file.exists():
        keys = dict.fromkeys(("proved", "bounded", "broken_variants_caught"))
        note = "not run: make formal"
        return Result([Figure("formal", "", "", State.NOT_RUN, note)], {"formal": {**keys, "state": note}})
    report = json.loads(file.read_text())
    return Result([], {"formal": report}, {})
