# SPDX-License-Identifier: Apache-2.0
"""What admission does to blocks, on the accelerator's Verilog: a request that is refused changes nothing.

The comparison leads the golden block manager through the same requests. Which blocks the requests behind
have, and in which order, shows in the bytes of KV memory and in the answers to the host's commands.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano_sim.golden.block_manager import Opcode, Stat
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.top.compare import check
from serrano_sim.top.job import KVCommand, Phase
from serrano_sim.top.layout import MemoryLayout, Request
from serrano_sim.top.simulate import JobResult, run_job

CONFIG = preset("tiny")
MODEL = random_model(4, dim=24, ffn=22, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=41, context=64)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
PROMPT = tuple((7 * token * token + 3) % 41 for token in range(40))
LOOK = (
    *(KVCommand(Opcode.STAT, 0, 0, kind) for kind in (Stat.POOL_USED, Stat.POOL_ENDS)),
    *(KVCommand(Opcode.STAT, sequence, 0, Stat.SEQUENCE_TABLE) for sequence in (0, 1)),
)


def run(folder: Path, phases: list[Phase], kv_blocks: int) -> JobResult:
    requests = [request for phase in phases for request in phase.requests]
    layout = MemoryLayout.plan(TAPE, requests, kv_blocks=kv_blocks)
    return run_job(CONFIG, TAPE, requests, folder, layout=layout, phases=phases)


def statuses(result: JobResult, phase: int) -> list[FaultCode]:
    """Of a phase's requests, in turn."""
    return [FaultCode(record.status) for _, record in result.phases[phase].completions if record.ended]


@pytest.mark.parametrize("keep", [False, True])
def test_too_few_blocks_for_one(keep: bool, tmp_path: Path) -> None:
    """Refused its blocks, with KEEP too, the sequence is closed; the next request has blocks 1, 2 and 3."""
    large, good = Request(PROMPT[:30], 30, keep=keep), Request(PROMPT[:32], 3)
    phases = [Phase(load=True, requests=(large,)), Phase(commands=LOOK, requests=(good,))]
    result = run(tmp_path, [*phases, Phase(commands=LOOK)], 4)
    assert statuses(result, 0) == [FaultCode.REQUEST_SPACE] and statuses(result, 1) == [FaultCode.NONE]
    verdict = check(result, MODEL)
    assert verdict.errors == [] and verdict.bit_exact
    assert verdict.admissions[0] is None and verdict.admissions[1].table == (1, 2, 3)
    assert verdict.answers_compared == 2 * len(LOOK)
    assert result.phases[-1].registers["KV_USED"] == 0


def test_too_few_blocks_for_one_that_adopts(tmp_path: Path) -> None:
    """Its last block is shared; what was refused has not made the copy, the request behind does."""
    first = Request(PROMPT[:20], 2, keep=True)
    large = Request(PROMPT[:30], 30, adopt=True, keep=True, sequence=1)
    good = replace(large, max_new=2, keep=False)
    strange = Request(PROMPT[:30], 2, fields={"sequence": 1})
    phases = [
        Phase(load=True, requests=(first,)),
        Phase(
            commands=(
                KVCommand(Opcode.OPEN, 1, 0),
                KVCommand(Opcode.FORK, 0, 0, 1),
                KVCommand(Opcode.TRIM, 1, 0, 19),
            ),
            requests=(large, strange),
        ),
        Phase(commands=LOOK, requests=(good,)),
        Phase(commands=(*LOOK, KVCommand(Opcode.FREE, 0, 0))),
    ]
    # Two blocks are kept, two are left; the large one needs a copy and two more.
    result = run(tmp_path, phases, 5)
    assert statuses(result, 1) == [FaultCode.REQUEST_SPACE, FaultCode.REQUEST_SEQUENCE]
    assert statuses(result, 2) == [FaultCode.NONE]
    verdict = check(result, MODEL)
    assert verdict.errors == [] and verdict.bit_exact
    assert verdict.admissions[1:3] == [None, None]
    admission = verdict.admissions[3]
    assert (admission.table, admission.length) == ((1, 3), 19)
    assert (admission.shared, admission.copied, admission.allocated) == ((1,), (3,), (3,))
    assert verdict.answers_compared == 3 + 2 * len(LOOK) + 1
    assert result.phases[-1].registers["KV_USED"] == 0
