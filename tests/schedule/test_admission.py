# SPDX-License-Identifier: Apache-2.0
"""Admission: which request gets which sequence, which waits, which is refused, and that nothing is left."""

import copy
import dataclasses
import sys

import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode, Status
from serrano.schedule.admission import Admission
from serrano_sim.golden.block_manager import BlockManager
from support.streams import collect, send, simulate

CONFIG = dataclasses.replace(preset("tiny"), sequences_max=4)


@pytest.fixture(autouse=True, params=[False, True], ids=["plain", "registered"])
def config(request, monkeypatch):
    """Every test runs with and without registers."""
    changed = dataclasses.replace(CONFIG, registered=request.param)
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", changed)


CONTEXT = 64


def submission(**changes) -> dict:
    request = {"id": 5, "tenant": 3, "prompt": 64, "prompt_tokens": 20, "max_new": 20, "eos": 7}
    return {"request": request | changes, "number": 11}


def decide(manager: BlockManager, wanted: list[dict], active: int = 0, room: int = 100, cancelled: int = 0):
    """Outcomes of one request after another: ("admitted", sequence, position), ("wait",), (code, detail)."""
    dut = Admission(CONFIG)
    found = []

    async def bench(ctx) -> None:
        ctx.set(dut.model, {"context": CONTEXT})
        ctx.set(dut.active, active)
        ctx.set(dut.ring_size, 64)
        ctx.set(dut.ring_room, room)
        ctx.set(dut.cancelled, cancelled)
        for entry in wanted:
            ctx.set(dut.submission, entry)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            decision = ctx.tick().sample(dut.admitted, dut.wait, dut.sequence, dut.slot)
            admitted, wait, sequence, slot = await decision.until(dut.done)
            if admitted:
                assert (slot.id, slot.number, slot.tenant, slot.remaining) == (5, 11, 3, 20)
                found.append(("admitted", sequence, slot.position))
            elif wait:
                found.append(("wait",))
            else:
                found.append((FaultCode(ctx.get(dut.code)), ctx.get(dut.detail)))

    async def controller(ctx) -> None:
        while True:
            (command,) = await collect(ctx, dut.kv.commands, 1, 0.0, 1, lambda p: p)
            status, aux = manager.execute(command.opcode, command.seq, command.tenant, command.arg0)
            # It may be looked at in the cycle before.
            response = {"status": status, "aux": aux}
            ctx.set(dut.kv.responses.payload, response)
            await ctx.tick()
            await send(ctx, dut.kv.responses, [response], 0.0, 2)

    simulate(dut, bench, background=[controller], cycles=5000)
    return found


def pool(blocks: int = 20) -> BlockManager:
    return BlockManager(blocks, 20, CONFIG.sequences_max, 16)


def test_sequences_go_round() -> None:
    manager = pool()
    assert decide(manager, [submission()] * 3) == [("admitted", number, 0) for number in range(3)]
    assert manager.used == 9


def test_sequences_of_others_are_passed_over() -> None:
    manager = pool()
    # Number 0 has a request, number 1 is the host's.
    assert manager.execute(Opcode.OPEN.value, 1, 9)[0] == 0
    assert decide(manager, [submission()], active=1) == [("admitted", 2, 0)]


@pytest.mark.parametrize("active", [0, 1])
def test_what_does_not_fit_waits_only_if_that_can_change(active: int) -> None:
    for manager, status in ((pool(3), Status.NEVER_FITS), (pool(4), Status.NO_SPACE)):
        if status is Status.NO_SPACE:
            for opcode, argument in ((Opcode.OPEN, 0), (Opcode.ALLOC, 16)):
                assert manager.execute(opcode.value, 3, 9, argument)[0] == 0
        before = copy.deepcopy(manager)
        (outcome,) = decide(manager, [submission()], active=active)
        waits = active and status is Status.NO_SPACE
        assert outcome == (("wait",) if waits else (FaultCode.REQUEST_SPACE, status.value))
        assert manager.sequences == before.sequences and list(manager.free) == list(before.free)


def test_no_sequence_is_left() -> None:
    manager = pool()
    assert decide(manager, [submission()], active=0b1111) == [("wait",)]
    for sequence in range(4):
        assert manager.execute(Opcode.OPEN.value, sequence, 9)[0] == 0
    assert decide(manager, [submission()]) == [(FaultCode.KV_COMMAND, Status.SEQ_BUSY.value)]


def test_records_are_waited_for() -> None:
    assert decide(pool(), [submission()], room=20) == [("wait",)]
    assert decide(pool(), [submission()], room=21) == [("admitted", 0, 0)]


def test_cancelled_before_it_began() -> None:
    manager = pool()
    assert decide(manager, [submission()], cancelled=1) == [(FaultCode.REQUEST_CANCELLED, 0)]
    flagged = submission(flags={"cancelled": 1})
    assert decide(manager, [flagged]) == [(FaultCode.REQUEST_CANCELLED, 0)]
    assert not manager.sequences


def test_an_adopted_sequence() -> None:
    manager = pool()
    for opcode, argument in ((Opcode.OPEN, 0), (Opcode.APPEND, 18), (Opcode.COMMIT, 18)):
        assert manager.execute(opcode.value, 2, 3, argument)[0] == 0
    adopted = submission(flags={"adopt": 1}, sequence=2)
    assert decide(manager, [adopted], active=0b100) == [(FaultCode.REQUEST_SEQUENCE, 0)]
    assert decide(manager, [adopted], active=0b001) == [("admitted", 2, 18)]
    assert manager.sequences[2].reserved == 0 and len(manager.sequences[2].table) == 3
