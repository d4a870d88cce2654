# SPDX-License-Identifier: Apache-2.0
"""Scheduler: whole requests against a model of the KV controller and of the steps."""

import struct
from dataclasses import dataclass, field

import pytest
from amaranth import Module
from amaranth.lib import wiring

from serrano.bus import ReadArbiter, ReadClient
from serrano.config import preset
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode, Status
from serrano.schedule.scheduler import Scheduler
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate

CONFIG = preset("tiny")
PROMPT = 0x400
VOCAB = 50
CONTEXT = 20


@dataclass
class World:
    """What surrounds the scheduler, and what it saw."""

    refuse: dict[Opcode, Status] = field(default_factory=dict)
    fail: list[tuple[FaultCode, bool] | None] = field(default_factory=list)
    """For each step in turn: how it fails, or None."""
    kv: list[tuple[Opcode, int, int]] = field(default_factory=list)
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    """(position, token, sample)"""

    def token(self, position: int) -> int:
        """The token sampled at a position."""
        return (7 * position + 3) % VOCAB


def serve(world: World, requests: list[dict], count: int, stall: float = 0.0) -> list[tuple]:
    """Hand in ``requests`` and collect ``count`` completions."""
    dut, arbiter = Scheduler(CONFIG), ReadArbiter(CONFIG, [ReadClient("prompt", 1, 2)])
    m = Module()
    m.submodules.dut = dut
    m.submodules.arbiter = arbiter
    wiring.connect(m, dut.memory, arbiter.ports[0])
    memory = AXIMemory(4096, 4, stall)
    struct.pack_into("<16I", memory.data, PROMPT, *range(10, 20), VOCAB, *range(5))
    memory.read_errors = {0x800: 2}
    result = []

    async def host(ctx) -> None:
        ctx.set(dut.model, {"vocab": VOCAB, "context": CONTEXT})
        ctx.set(dut.ring_size, 8)
        ctx.set(dut.ring_free, 8)
        await send(ctx, dut.requests, [{"request": r, "error": r.get("id") == 99} for r in requests])

    async def completions(ctx) -> None:
        result.extend(
            await collect(
                ctx,
                dut.completions,
                count,
                stall,
                2,
                lambda p: (p.id, p.token, FaultCode(p.status), p.has_token, p.ended),
            )
        )
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.busy)

    async def controller(ctx) -> None:
        while True:
            (command,) = await collect(ctx, dut.kv.commands, 1, stall, 4, lambda p: p)
            opcode = Opcode(command.opcode)
            world.kv.append((opcode, command.tenant, command.arg0))
            status = world.refuse.get(opcode, Status.OK)
            await send(ctx, dut.kv.responses, [{"status": status}], stall, 5)

    async def steps(ctx) -> None:
        failures = iter(world.fail)
        while True:
            (span,) = await collect(ctx, dut.span, 1, stall, 9, lambda p: p)
            (step,) = await collect(ctx, dut.step, 1, stall, 6, lambda p: p)
            (row,) = await collect(ctx, dut.embed, 1, stall, 7, lambda p: p)
            assert (step.rows, span.row, span.rows) == (1, 0, 1) and row.position == span.position
            assert row.sequence == span.sequence
            world.steps.append((span.position, row.token, step.sampled))
            failure = next(failures, None)
            if failure:
                ctx.set(dut.code, failure[0])
                ctx.set(dut.retry, failure[1])
                ctx.set(dut.failed, 1)
                await ctx.tick()
                ctx.set(dut.failed, 0)
                continue
            if step.sampled:
                await send(ctx, dut.tokens, [{"row": 0, "token": world.token(span.position)}], stall, 8)
            ctx.set(dut.done, 1)
            await ctx.tick()
            ctx.set(dut.done, 0)

    async def memory_port(ctx) -> None:
        await memory.serve_reads(ctx, arbiter.axi)

    simulate(m, host, completions, background=[controller, steps, memory_port])
    return result


def request(**changes: int) -> dict:
    return {
        "id": 5,
        "tenant": 3,
        "prompt": PROMPT,
        "prompt_tokens": 3,
        "max_new": 4,
        "eos": 0xFFFFFFFF,
    } | changes


@pytest.mark.parametrize("stall", STALLS)
def test_a_request_runs_to_its_limit(stall: float) -> None:
    world = World()
    got = serve(world, [request()], 4, stall)
    tokens = [world.token(position) for position in (2, 3, 4, 5)]
    assert got == [(5, t, FaultCode.NONE, 1, int(i == 3)) for i, t in enumerate(tokens)]
    inputs = [10, 11, 12, *tokens[:3]]
    assert world.steps == [(p, t, int(p >= 2)) for p, t in enumerate(inputs)]
    assert world.kv[:2] == [(Opcode.OPEN, 3, 0), (Opcode.ALLOC, 3, 7)]
    assert world.kv[2:-1] == [(Opcode.APPEND, 3, 1), (Opcode.COMMIT, 3, 1)] * 6
    assert world.kv[-1] == (Opcode.FREE, 3, 0)


def test_end_of_sequence_and_the_next_request() -> None:
    world = World()
    second = world.token(3)
    got = serve(world, [request(eos=second), request(id=6, max_new=1)], 3)
    assert got == [
        (5, world.token(2), FaultCode.NONE, 1, 0),
        (5, second, FaultCode.NONE, 1, 1),
        (6, world.token(2), FaultCode.NONE, 1, 1),
    ]
    assert [opcode for opcode, _, _ in world.kv].count(Opcode.FREE) == 2


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (request(prompt_tokens=0), FaultCode.REQUEST_EMPTY),
        (request(max_new=0), FaultCode.REQUEST_EMPTY),
        (request(prompt_tokens=17), FaultCode.REQUEST_LENGTH),
        (request(prompt_tokens=0xFFFFFFFF), FaultCode.REQUEST_LENGTH),
        (request(prompt=PROMPT + 2), FaultCode.REQUEST_ADDRESS),
        (request(max_new=8), FaultCode.REQUEST_RING),
        (request(prompt=PROMPT + 40), FaultCode.REQUEST_TOKEN),
        (request(prompt=0x800), FaultCode.BUS_SLVERR),
        (request(id=99), FaultCode.BUS_SLVERR),
    ],
)
def test_a_bad_request_disturbs_nobody(bad: dict, code: FaultCode) -> None:
    world = World()
    got = serve(world, [bad, request(id=6, max_new=1)], 2)
    assert got == [(bad["id"], 0, code, 0, 1), (6, world.token(2), FaultCode.NONE, 1, 1)]
    opcodes = [opcode for opcode, _, _ in world.kv]
    assert opcodes.count(Opcode.OPEN) == opcodes.count(Opcode.FREE)


@pytest.mark.parametrize(
    ("opcode", "status", "code"),
    [
        (Opcode.OPEN, Status.SEQ_BUSY, FaultCode.KV_COMMAND),
        (Opcode.ALLOC, Status.NO_SPACE, FaultCode.REQUEST_SPACE),
        (Opcode.ALLOC, Status.NEVER_FITS, FaultCode.REQUEST_SPACE),
        (Opcode.ALLOC, Status.TENANT, FaultCode.KV_COMMAND),
        (Opcode.APPEND, Status.NO_SPACE, FaultCode.KV_COMMAND),
        (Opcode.COMMIT, Status.NOT_RESERVED, FaultCode.KV_COMMAND),
    ],
)
def test_refusals_of_the_kv_controller(opcode: Opcode, status: Status, code: FaultCode) -> None:
    world = World(refuse={opcode: status})
    assert serve(world, [request()], 1) == [(5, 0, code, 0, 1)]
    opcodes = [opcode for opcode, _, _ in world.kv]
    assert opcodes.count(Opcode.FREE) == (opcode is not Opcode.OPEN)
    assert opcodes.count(Opcode.ABORT) == (opcode is Opcode.COMMIT)


def test_a_tape_fault_is_tried_once_more() -> None:
    world = World(fail=[None, (FaultCode.PACKET_CRC, True)])
    got = serve(world, [request(max_new=1)], 1)
    assert got == [(5, world.token(2), FaultCode.NONE, 1, 1)]
    assert [position for position, _, _ in world.steps] == [0, 1, 1, 2]
    assert [opcode for opcode, _, _ in world.kv].count(Opcode.ABORT) == 1


@pytest.mark.parametrize("failures", [[(FaultCode.PACKET_CRC, True)] * 2, [(FaultCode.BUS_DECERR, False)]])
def test_a_fault_that_stays_ends_its_request_alone(failures: list) -> None:
    world = World(fail=failures)
    got = serve(world, [request(), request(id=6, max_new=1)], 2)
    assert got == [(5, 0, failures[0][0], 0, 1), (6, world.token(2), FaultCode.NONE, 1, 1)]
    opcodes = [opcode for opcode, _, _ in world.kv]
    assert opcodes.count(Opcode.OPEN) == opcodes.count(Opcode.FREE) == 2
    assert opcodes.count(Opcode.APPEND) == opcodes.count(Opcode.COMMIT) + opcodes.count(Opcode.ABORT)
