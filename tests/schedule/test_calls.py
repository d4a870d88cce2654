# SPDX-License-Identifier: Apache-2.0
"""Commands from state machines to the KV controller, and several machines at one port."""

import dataclasses

import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.config import preset
from serrano.kvcache.commands import Opcode, Status
from serrano.kvcache.payloads import KVPort
from serrano.schedule.calls import kv_call, share_kv
from support.streams import STALLS, collect, send, simulate


class Caller(wiring.Component):
    """Gives ``ALLOC`` and, if that is refused, ``FREE``."""

    start: In(1)
    sequence: In(16)
    kv: Out(KVPort())
    aux: Out(32)
    done: Out(1)

    def elaborate(self, platform):
        m = Module()
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.next = "ALLOC"
            with kv_call(m, self.kv, "ALLOC", Opcode.ALLOC, self.sequence, Const(3), 40) as answer:
                m.d.sync += self.aux.eq(answer.aux)
                m.next = "DONE"
                with m.If(answer.status != Status.OK):
                    m.next = "FREE"
            with kv_call(m, self.kv, "FREE", Opcode.FREE, self.sequence, Const(3)):
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_calls(stall: float, registered: bool) -> None:
    m = Module()
    callers = [Caller(), Caller()]
    outer = KVPort().create()
    for index, caller in enumerate(callers):
        m.submodules[f"caller_{index}"] = caller
    share_kv(
        m,
        dataclasses.replace(preset("tiny"), registered=registered),
        outer,
        [caller.kv for caller in callers],
    )
    given = []

    async def bench(ctx) -> None:
        for number, caller in enumerate([*callers, *callers]):
            ctx.set(caller.sequence, number)
            ctx.set(caller.start, 1)
            await ctx.tick()
            ctx.set(caller.start, 0)
            await ctx.tick().until(caller.done)
            assert ctx.get(caller.aux) == 100 + number

    async def controller(ctx) -> None:
        while True:
            (command,) = await collect(ctx, outer.commands, 1, stall, 1, lambda p: p)
            given.append((Opcode(command.opcode), command.seq, command.tenant, command.arg0))
            status = Status.NO_SPACE if command.seq == 2 else Status.OK
            await send(ctx, outer.responses, [{"status": status, "aux": 100 + command.seq}], stall, 2)

    simulate(m, bench, background=[controller])
    assert given == [
        (Opcode.ALLOC, 0, 3, 40),
        (Opcode.ALLOC, 1, 3, 40),
        (Opcode.ALLOC, 2, 3, 40),
        (Opcode.FREE, 2, 3, 0),
        (Opcode.ALLOC, 3, 3, 40),
    ]
