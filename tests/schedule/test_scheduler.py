# SPDX-License-Identifier: Apache-2.0
"""Scheduler: whole requests against a model of the KV controller and of the steps."""

import copy
import struct
from dataclasses import dataclass, field

import pytest
from amaranth import Module
from amaranth.lib import wiring

from serrano.bus import ReadArbiter, ReadClient
from serrano.config import preset
from serrano.faults import FaultCode
from serrano.kvcache.commands import Opcode, Stat, Status
from serrano.schedule.scheduler import Scheduler
from serrano_sim.golden.block_manager import BlockManager
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
    sequences: list[int] = field(default_factory=list)
    """The sequence of each step."""
    manager: BlockManager = field(default_factory=lambda: BlockManager(12, 12, CONFIG.sequences_max, 16))
    """Answers the commands."""
    between: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Commands of the host, given when so many commands of the scheduler have been answered."""
    locked: list[tuple[Opcode, int]] = field(default_factory=list)
    """What was locked when a command was answered."""

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
        await ctx.tick().repeat(40)
        assert not ctx.get(dut.busy)
        assert not ctx.get(dut.locked)

    async def controller(ctx) -> None:
        while True:
            (command,) = await collect(ctx, dut.kv.commands, 1, stall, 4, lambda p: p)
            opcode = Opcode(command.opcode)
            if len(world.kv) in world.between:
                assert world.manager.execute(*world.between[len(world.kv)])[0] == 0
            world.kv.append((opcode, command.tenant, command.arg0))
            world.locked.append((opcode, ctx.get(dut.locked)))
            arguments = (command.opcode, command.seq, command.tenant, command.arg0)
            if opcode in world.refuse:
                answer = world.refuse[opcode].value, 0
            else:
                answer = world.manager.execute(*arguments)
            await send(ctx, dut.kv.responses, [{"status": answer[0], "aux": answer[1]}], stall, 5)

    async def steps(ctx) -> None:
        failures = iter(world.fail)
        while True:
            (span,) = await collect(ctx, dut.span, 1, stall, 9, lambda p: p)
            (step,) = await collect(ctx, dut.step, 1, stall, 6, lambda p: p)
            (row,) = await collect(ctx, dut.embed, 1, stall, 7, lambda p: p)
            assert (step.rows, span.row, span.rows) == (1, 0, 1) and row.position == span.position
            assert row.sequence == span.sequence
            world.steps.append((span.position, row.token, step.sampled))
            world.sequences.append(span.sequence)
            assert ctx.get(dut.sequence) == span.sequence
            assert ctx.get(dut.locked) == 1 << span.sequence
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
    assert world.kv[-1][:2] == (Opcode.FREE, 3)
    assert world.manager.used == 0 and set(world.sequences) == {0}
    # The host may change the sequence between two steps, and before and behind them.
    assert {locked for opcode, locked in world.locked if opcode is Opcode.COMMIT} == {1}
    assert {locked for opcode, locked in world.locked if opcode in (Opcode.ALLOC, Opcode.FREE)} == {0}


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
        (request(flags={"unknown": 1}), FaultCode.REQUEST_FLAGS),
        (request(flags={"adopt": 1}, sequence=4), FaultCode.REQUEST_SEQUENCE),
        (request(flags={"adopt": 1}, sequence=1 << 16), FaultCode.REQUEST_SEQUENCE),
        (request(sequence=1), FaultCode.REQUEST_SEQUENCE),
        (request(flags={"keep": 1}, prompt_tokens=0), FaultCode.REQUEST_EMPTY),
        # Nobody has opened it.
        (request(flags={"adopt": 1}, sequence=2), FaultCode.KV_COMMAND),
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
        (Opcode.APPEND, Status.NO_SPACE, FaultCode.REQUEST_SPACE),
        (Opcode.APPEND, Status.BUS_ERROR, FaultCode.KV_COMMAND),
        (Opcode.APPEND, Status.BAD_SEQ, FaultCode.REQUEST_CHANGED),
        (Opcode.APPEND, Status.TENANT, FaultCode.REQUEST_CHANGED),
        (Opcode.COMMIT, Status.NOT_RESERVED, FaultCode.KV_COMMAND),
    ],
)
def test_refusals_of_the_kv_controller(opcode: Opcode, status: Status, code: FaultCode) -> None:
    world = World(refuse={opcode: status})
    assert serve(world, [request()], 1) == [(5, 0, code, 0, 1)]
    opcodes = [opcode for opcode, _, _ in world.kv]
    assert opcodes.count(Opcode.FREE) == (opcode is not Opcode.OPEN)
    assert world.manager.used == 0 and not world.manager.sequences


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
    assert world.manager.used == 0


def prepared(world: World, sequence: int, tokens: int, tenant: int = 3) -> None:
    """A sequence that the host has opened, with tokens in it."""
    for opcode, argument in ((Opcode.OPEN, 0), (Opcode.APPEND, tokens), (Opcode.COMMIT, tokens)):
        assert world.manager.execute(opcode.value, sequence, tenant, argument)[0] == 0


@pytest.mark.parametrize("keep", [0, 1])
def test_an_adopted_sequence_goes_on_behind_its_tokens(keep: int) -> None:
    world = World()
    prepared(world, 2, 2)
    adopted = request(flags={"adopt": 1, "keep": keep}, sequence=2, max_new=2)
    got = serve(world, [adopted, request(id=6, max_new=1)], 3)
    assert [record[1] for record in got] == [world.token(2), world.token(3), world.token(2)]
    assert world.steps[:2] == [(2, 12, 1), (3, world.token(2), 1)]
    assert world.sequences == [2, 2, 0, 0, 0]
    # Three tokens of prompt and two new ones, two of them there.
    assert [(opcode, argument) for opcode, _, argument in world.kv[:4]] == [
        (Opcode.APPEND, 0),
        (Opcode.STAT, Stat.SEQUENCE_LENGTH.value),
        (Opcode.APPEND, 3),
        (Opcode.ABORT, 0),
    ]
    assert set(world.manager.sequences) == ({2} if keep else set())
    if keep:
        assert (world.manager.sequences[2].length, world.manager.sequences[2].reserved) == (4, 0)
        assert world.manager.used == 1


TROUBLES = ["tenant", "reserved", "whole prompt", "space", "copy", "changed", "closed", "vocabulary"]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_refused_request_leaves_the_sequence_as_it_was(trouble: str) -> None:
    world, keep = World(), int(trouble in ("space", "tenant", "changed"))
    wanted = request(flags={"adopt": 1, "keep": keep}, sequence=1)
    prepared(world, 1, 3 if trouble == "whole prompt" else 2, 4 if trouble == "tenant" else 3)
    code = FaultCode.REQUEST_SEQUENCE
    if trouble == "tenant":
        code = FaultCode.KV_COMMAND
    elif trouble == "reserved":
        world.manager.execute(Opcode.APPEND.value, 1, 3, 5)
    elif trouble == "space":
        # All but the sequence's own block are taken; it has blocks ahead, but shared ones.
        world.manager = BlockManager(5, 5, CONFIG.sequences_max, 16)
        for arguments in ((Opcode.OPEN, 0, 3, 0), (Opcode.ALLOC, 0, 3, 64), (Opcode.APPEND, 0, 3, 2)):
            assert world.manager.execute(arguments[0].value, *arguments[1:])[0] == 0
        assert world.manager.execute(Opcode.COMMIT.value, 0, 3, 2)[0] == 0
        prepared(world, 1, 0)
        assert world.manager.execute(Opcode.FORK.value, 0, 3, 1)[0] == 0
        code = FaultCode.REQUEST_SPACE
    elif trouble == "copy":
        world.refuse = {Opcode.APPEND: Status.BUS_ERROR}
        code = FaultCode.KV_COMMAND
    elif trouble == "changed":
        # The host has the last word on the length, and gives it late.
        world.between = {2: (Opcode.TRIM.value, 1, 3, 1)}
        code = FaultCode.REQUEST_CHANGED
    elif trouble == "closed":
        world.between = {2: (Opcode.FREE.value, 1, 3)}
        code = FaultCode.KV_COMMAND
    elif trouble == "vocabulary":
        wanted["prompt"] = PROMPT + 4 * 8
        code = FaultCode.REQUEST_TOKEN
    before = copy.deepcopy(world.manager.sequences[1])
    assert serve(world, [wanted], 1) == [(5, 0, code, 0, 1)]
    after = world.manager.sequences.get(1)
    if trouble in ("closed", "vocabulary"):
        # The latter was admitted: the sequence was the request's.
        assert after is None
    elif trouble == "changed":
        assert (after.length, after.reserved) == (1, 0)
    else:
        assert after == before


def test_a_kept_sequence_that_was_not_admitted_is_closed() -> None:
    world = World(manager=BlockManager(2, 2, CONFIG.sequences_max, 16))
    wanted = request(flags={"keep": 1}, prompt_tokens=12, max_new=5)
    assert serve(world, [wanted], 1) == [(5, 0, FaultCode.REQUEST_SPACE, 0, 1)]
    assert not world.manager.sequences and world.manager.used == 0


def test_a_fault_ends_a_kept_sequence_at_its_committed_tokens() -> None:
    world = World(fail=[None, None, (FaultCode.BUS_DECERR, False)])
    assert serve(world, [request(flags={"keep": 1})], 1) == [(5, 0, FaultCode.BUS_DECERR, 0, 1)]
    assert (world.manager.sequences[0].length, world.manager.sequences[0].reserved) == (2, 0)


def test_blocks_that_fork_shared_ahead_are_replaced_at_admission() -> None:
    """Nobody else can take what a later step needs."""
    world = World(manager=BlockManager(6, 6, CONFIG.sequences_max, 16))
    prepared(world, 0, 14)
    assert world.manager.execute(Opcode.ALLOC.value, 0, 3, 6)[0] == 0
    prepared(world, 1, 0)
    assert world.manager.execute(Opcode.FORK.value, 0, 3, 1) == (0, 2)
    # After the first step nothing is free.
    world.between = {6: (Opcode.OPEN.value, 2, 3), 7: (Opcode.ALLOC.value, 2, 3, 16)}
    adopted = request(flags={"adopt": 1, "keep": 1}, sequence=1, prompt_tokens=15, max_new=5)
    got = serve(world, [adopted], 5)
    assert [record[2] for record in got] == [FaultCode.NONE] * 5
    assert world.manager.used == 5
    entries = [world.manager.sequences[number].held for number in (0, 1)]
    assert not set(entries[0]) & set(entries[1])


@pytest.mark.parametrize(
    ("command", "steps"),
    [
        ((Opcode.FREE.value, 0, 3), 2),
        ((Opcode.TRIM.value, 0, 3, 1), 2),
        ((Opcode.APPEND.value, 0, 3, 1), 2),
        # No harm: not the sequence's length, and not its last block.
        ((Opcode.ALLOC.value, 0, 3, 30), 6),
    ],
)
def test_the_host_changes_the_sequence_between_two_steps(command: tuple, steps: int) -> None:
    # OPEN, ALLOC, and two commands in each step.
    world = World(between={6: command})
    got = serve(world, [request(), request(id=6, max_new=1)], 2 if steps == 2 else 5)
    if steps == 2:
        assert got[0] == (5, 0, FaultCode.REQUEST_CHANGED, 0, 1)
    assert got[-1] == (6, world.token(2), FaultCode.NONE, 1, 1)
    assert len(world.steps) == steps + 3
    assert world.manager.used == 0
