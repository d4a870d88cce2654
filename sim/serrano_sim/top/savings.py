# SPDX-License-Identifier: Apache-2.0
"""What the second of two prompts with a common prefix was spared: docs/simulation.md."""

from collections.abc import Callable
from typing import Any

from .compare import Agreement, Verdict
from .prefix import ALONE, SECOND, PrefixPlan
from .simulate import JobResult

__all__ = ["counters_before", "first_token_cycles", "savings"]


def counters_before(result: JobResult, phase: int) -> dict[str, int]:
    """The counters when a phase began. LOAD, before the first one, sets them to zero."""
    if phase == 0:
        return dict.fromkeys(result.phases[0].registers, 0)
    return dict(result.phases[phase - 1].registers)


def first_token_cycles(result: JobResult, phase: int) -> int | None:
    """Cycles from the doorbell to the first record with a token; ``None`` if there was none."""
    found = result.phases[phase]
    cycles = [cycle for cycle, record in found.completions if record.token is not None]
    return cycles[0] - found.begin if cycles else None


def savings(
    result: JobResult, verdict: Verdict, plan: PrefixPlan, agreement: Agreement, model: Any
) -> dict[str, Any]:
    """The part ``prefix`` of the report: the second request with the first one's blocks against alone.

    Parameters
    ----------
    result, verdict, plan
        The run, its comparison with the golden model, and what was to be done.
    agreement : :class:`~serrano_sim.top.compare.Agreement`
        The comparison of both runs of the second prompt.
    model : object
        With the fields of a tape's descriptor.
    """

    def written(phase: int) -> int:
        name = "bytes_kv_write"
        appended = result.phases[phase].registers[name] - counters_before(result, phase)[name]
        return appended + (copied * block if phase == SECOND else 0)

    def pair(measure: Callable[[int], int | None]) -> dict[str, int | None]:
        with_blocks, alone = measure(SECOND), measure(ALONE)
        missing = with_blocks is None or alone is None
        return {
            "shared": with_blocks,
            "alone": alone,
            "saved": None if missing else alone - with_blocks,
        }

    def steps(request: int) -> int | None:
        return len(verdict.steps[request]) if request < len(verdict.steps) else None

    def allocated(request: int) -> int | None:
        admission = verdict.admissions[request] if request < len(verdict.admissions) else None
        return None if admission is None else len(admission.allocated)

    admission = verdict.admissions[SECOND] if len(verdict.admissions) > SECOND else None
    shared, copied = (len(admission.shared), len(admission.copied)) if admission else (0, 0)
    block = result.job.layout.block_bytes
    token = model.layers * model.kv_heads * (2 * model.head_dim + 4)
    return {
        "method": plan.method.value,
        "common_tokens": plan.common,
        "reused_tokens": plan.reused,
        "blocks_shared": shared,
        "blocks_copied": copied,
        "blocks_allocated": pair(allocated),
        "memory_saved_bytes": shared * block,
        "kv_bytes_not_computed": plan.reused * token,
        "kv_bytes_copied": copied * block,
        "kv_bytes_written": pair(written),
        "steps": pair(steps),
        "cycles": pair(lambda phase: result.phases[phase].end - result.phases[phase].begin),
        "cycles_to_first_token": pair(lambda phase: first_token_cycles(result, phase)),
        "host_commands": len(result.job.phases[SECOND].commands),
        "host_command_cycles": result.phases[SECOND].command_cycles,
        "answers_compared": verdict.answers_compared,
        "positions_compared": agreement.positions,
        "elements_equal": agreement.elements,
        "logits_equal": agreement.logits,
    }
