# SPDX-License-Identifier: Apache-2.0
"""Requesters: turns, order, and what has to wait."""

import dataclasses
import random

import pytest

from serrano.kvcache import Opcode, Status
from serrano.kvcache.commands import UNLOCKED
from serrano.kvcache.requesters import Requesters, argument_bits, sequence_bits
from serrano_sim.kv_commands import SMALL
from support.streams import STALLS, collect, send, simulate

COUNT = 60


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_one_response_each_in_order(stall: float, registered: bool) -> None:
    dut = Requesters(dataclasses.replace(SMALL, registered=registered))
    served = []

    def client(index: int):
        port = (dut.host, dut.steps)[index]

        async def ask(ctx) -> None:
            items = [
                {"tag": tag, "opcode": Opcode.OPEN, "seq": index, "arg1": 100 * index + tag}
                for tag in range(COUNT)
            ]
            await send(ctx, port.commands, items, stall, index)

        async def receive(ctx) -> None:
            got = await collect(ctx, port.responses, COUNT, stall, index, lambda p: (p.tag, p.status, p.aux))
            assert got == [(tag, Status.NO_SPACE, 2 * (100 * index + tag)) for tag in range(COUNT)]

        return ask, receive

    async def work(ctx) -> None:
        rng = random.Random(9)
        while True:
            if not ctx.get(dut.offered):
                await ctx.tick()
                continue
            command = ctx.get(dut.command)
            ctx.set(dut.take, 1)
            await ctx.tick()
            ctx.set(dut.take, 0)
            served.append(command.seq)
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.status, Status.NO_SPACE)
            ctx.set(dut.aux, 2 * command.arg1)
            ctx.set(dut.respond, 1)
            await ctx.tick()
            ctx.set(dut.respond, 0)
            for _ in range(3 * registered):
                await ctx.tick()

    simulate(dut, *client(0), *client(1), background=[work])
    assert sorted(served) == [0] * COUNT + [1] * COUNT
    if not stall:
        assert served[: 2 * COUNT - 4] == [served[0], 1 - served[0]] * (COUNT - 2)


def test_a_response_that_is_not_taken_holds_up_its_requester_only() -> None:
    dut = Requesters(SMALL)

    async def bench(ctx) -> None:
        for port in (dut.host, dut.steps):
            ctx.set(port.commands.payload, {"opcode": Opcode.STAT, "arg0": 10 + (port is dut.steps)})
            ctx.set(port.commands.valid, 1)
        ctx.set(dut.steps.responses.ready, 1)
        seen = []
        for _ in range(40):
            ctx.set(dut.take, ctx.get(dut.offered))
            if ctx.get(dut.offered):
                seen.append(ctx.get(dut.command.arg0))
            taken = ctx.get(dut.offered)
            await ctx.tick()
            ctx.set(dut.take, 0)
            ctx.set(dut.respond, taken)
            await ctx.tick()
            ctx.set(dut.respond, 0)
        assert seen.count(10) == 1
        assert seen.count(11) >= 10

    simulate(dut, bench)


@pytest.mark.parametrize("opcode", list(Opcode))
def test_locked_sequences(opcode: Opcode) -> None:
    dut = Requesters(SMALL)

    async def bench(ctx) -> None:
        ctx.set(dut.locked, 0b101)
        for port, seq, offered in (
            (dut.host, 0, opcode in UNLOCKED),
            (dut.host, 1, True),
            (dut.host, 3, True),
            (dut.host, 4096, True),
            (dut.steps, 2, True),
        ):
            ctx.set(port.commands.payload, {"opcode": opcode, "seq": seq, "arg0": 1})
            ctx.set(port.commands.valid, 1)
            await ctx.tick()
            ctx.set(port.commands.valid, 0)
            assert ctx.get(dut.offered) == offered
            ctx.set(dut.locked, 0)
            assert ctx.get(dut.offered)
            assert ctx.get(dut.command.seq) == min(seq, SMALL.sequences_max)
            ctx.set(dut.take, 1)
            await ctx.tick()
            ctx.set(dut.take, 0)
            ctx.set(dut.locked, 0b101)

    simulate(dut, bench)


@pytest.mark.parametrize(
    ("destination", "offered"), [(0, False), (1, True), (2, False), (3, True), (1 << 31, True)]
)
def test_a_locked_destination_of_fork(destination: int, offered: bool) -> None:
    dut = Requesters(SMALL)

    async def bench(ctx) -> None:
        ctx.set(dut.locked, 0b101)
        ctx.set(dut.host.commands.payload, {"opcode": Opcode.FORK, "seq": 1, "arg0": destination})
        ctx.set(dut.host.commands.valid, 1)
        await ctx.tick()
        assert ctx.get(dut.offered) == offered

    simulate(dut, bench)


@pytest.mark.parametrize(("field", "bits"), [("seq", sequence_bits(SMALL)), ("arg0", argument_bits(SMALL))])
def test_what_is_too_large_stays_too_large(field: str, bits: int) -> None:
    dut = Requesters(SMALL)
    top = 1 << bits
    assert top > SMALL.sequences_max

    async def bench(ctx) -> None:
        for value in (0, 1, SMALL.sequences_max, top - 2, top - 1, top, 3 * top, (1 << 16) - 1):
            await send(ctx, dut.host.commands, [{"tag": 1, "opcode": Opcode.OPEN, field: value}])
            await ctx.tick().until(dut.offered)
            assert getattr(ctx.get(dut.command), field) == min(value, top - 1)
            ctx.set(dut.take, 1)
            await ctx.tick()
            ctx.set(dut.take, 0)
            ctx.set(dut.respond, 1)
            await ctx.tick()
            ctx.set(dut.respond, 0)
            await collect(ctx, dut.host.responses, 1, 0, 1, lambda p: p.tag)

    simulate(dut, bench)
