# SPDX-License-Identifier: Apache-2.0
"""A controller in Amaranth's simulator: its commands, its moves, and its state beside the golden model's."""

import dataclasses

from serrano.kvcache import Controller, Opcode, Stat
from serrano.kvcache.payloads import MoveKind
from serrano_sim.golden.block_manager import Kind, Move
from serrano_sim.kv_commands import check_invariants, manager, snapshot
from support.streams import simulate

FIELDS = ("opcode", "seq", "tenant", "arg0", "arg1")
KINDS = {MoveKind.COPY: Kind.COPY, MoveKind.ZERO: Kind.SCRUB, MoveKind.GATHER: Kind.GATHER}


async def start(ctx, dut, blocks: int) -> None:
    """Start over with this many blocks, also after the initialization that follows reset."""
    ctx.set(dut.blocks, blocks)
    await ctx.tick().until(~dut.initializing)
    ctx.set(dut.initialize, 1)
    await ctx.tick()
    ctx.set(dut.initialize, 0)
    assert ctx.get(dut.initializing)
    await ctx.tick().until(~dut.initializing)


async def execute(ctx, port, command: tuple, tag: int = 0) -> tuple[int, int, int]:
    """Status, aux and cycles of a command on a port."""
    ctx.set(port.commands.payload, {"tag": tag, **dict(zip(FIELDS, map(int, command), strict=True))})
    ctx.set(port.commands.valid, 1)
    await ctx.tick().until(port.commands.ready)
    ctx.set(port.commands.valid, 0)
    ctx.set(port.responses.ready, 1)
    cycles = 1
    while not ctx.get(port.responses.valid):
        await ctx.tick()
        cycles += 1
    response = ctx.get(port.responses.payload)
    await ctx.tick()
    ctx.set(port.responses.ready, 0)
    assert response.tag == tag
    return response.status.value, response.aux, cycles


async def compare_state(ctx, port, golden) -> None:
    answers = {}
    for command in snapshot(golden):
        _, seq, _, kind, index = command
        status, aux, _ = await execute(ctx, port, command)
        assert (status, aux) == golden.execute(*command), command
        answers[kind, seq if kind >= Stat.SEQUENCE_OWNER.value else 0, index] = status, aux
    check_invariants(answers, golden.limit, golden.entries)


def memory(dut, refuses=lambda move: False, log: list | None = None, delay: int = 3):
    """What executes the moves of a controller, some of which are refused."""

    async def bench(ctx) -> None:
        port = dut.moves
        while True:
            ctx.set(port.command.ready, 1)
            valid, asked = False, None
            while not valid:
                *_, valid, asked = await ctx.tick().sample(port.command.valid, port.command.payload)
            ctx.set(port.command.ready, 0)
            move = move_of(asked)
            if log is not None:
                log.append(move)
            await ctx.tick().repeat(delay)
            ctx.set(port.response.valid, 1)
            ctx.set(port.response.payload.error, refuses(move))
            ready = False
            while not ready:
                *_, ready = await ctx.tick().sample(port.response.ready)
            ctx.set(port.response.valid, 0)

    return bench


def move_of(asked) -> Move:
    """The golden model's move: what a kind does not speak of is 0."""
    kind = KINDS[asked.kind]
    if kind is Kind.SCRUB:
        return Move(kind, destination=asked.destination)
    fields = {"source": asked.source, "low": asked.low, "high": asked.high}
    if kind is Kind.COPY:
        return Move(kind, destination=asked.destination, **fields)
    return Move(kind, record=asked.record, index=asked.index, **fields)


def pair_maker(registered: bool):
    """Makes pairs of controllers with or without registers, in whatever configuration."""

    def make(config, *values, **widths):
        return Pair(dataclasses.replace(config, registered=registered), *values, **widths)

    return make


class Pair:
    """A controller and its golden model, which get the same commands."""

    def __init__(self, config, blocks: int, records: int = 4, refuses=lambda move: False, **widths: int):
        self.config, self.blocks, self.records = config, blocks, records
        self.dut = Controller(config, **widths)
        self.golden = manager(config, blocks, **widths)
        self.golden.records = records
        self.asked: list[Move] = []
        self.expected: list[Move] = []
        self.refuses = refuses
        self.golden.mover = self._move

    def _move(self, move: Move) -> bool:
        self.expected.append(move)
        return not self.refuses(move)

    async def do(self, ctx, opcode: Opcode, seq: int = 0, tenant: int = 0, arg0: int = 0, arg1: int = 0):
        """Give a command to both; its status, aux and cycles."""
        command = (opcode.value, seq, tenant, arg0, arg1)
        status, aux, cycles = await execute(ctx, self.dut.host, command)
        assert (status, aux) == self.golden.execute(*command), (opcode, seq, arg0, arg1)
        assert self.asked == self.expected
        return status, aux, cycles

    def run(self, steps) -> None:
        """Simulate ``steps(ctx)``; then the whole states are the same."""

        async def bench(ctx) -> None:
            ctx.set(self.dut.records, self.records)
            await start(ctx, self.dut, self.blocks)
            self.golden.initialize(self.blocks)
            await steps(ctx)
            await compare_state(ctx, self.dut.host, self.golden)

        background = [memory(self.dut, self.refuses, self.asked)]
        simulate(self.dut, bench, background=background, cycles=200_000)
