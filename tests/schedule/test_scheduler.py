# SPDX-License-Identifier: Apache-2.0
"""Scheduler: whole requests against a model of the KV controller and of the steps."""

import copy
import dataclasses
import struct
import sys
from dataclasses import dataclass, field
from typing import NamedTuple

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

CONFIG = dataclasses.replace(preset("tiny"), sequences_max=4)


@pytest.fixture(autouse=True, params=[False, True], ids=["plain", "registered"])
def config(request, monkeypatch):
    """Every test runs with and without registers."""
    changed = dataclasses.replace(CONFIG, registered=request.param)
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", changed)


PROMPT = 0x400
VOCAB = 50
CONTEXT = 20


class Row(NamedTuple):
    """A row of a step."""

    row: int
    sequence: int
    token: int
    position: int


@dataclass
class World:
    """What surrounds the scheduler, and what it saw."""

    refuse: dict[Opcode, Status] = field(default_factory=dict)
    fail: list[dict | None] = field(default_factory=list)
    """For each step in turn: with what it fails (code, retry, own, fault_sequence), or None."""
    kv: list[tuple[Opcode, int, int]] = field(default_factory=list)
    steps: list[list[Row]] = field(default_factory=list)
    """The rows of each step."""
    sampled: list[int] = field(default_factory=list)
    """How many rows of each step were sampled."""
    manager: BlockManager = field(default_factory=lambda: BlockManager(40, 40, CONFIG.sequences_max, 16))
    """Answers the commands."""
    between: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Commands of the host, given when so many commands of the scheduler have been answered."""
    cancel: dict[int, int] = field(default_factory=dict)
    """Numbers of requests that the host cancels during a step, by the step."""
    locked: list[tuple[Opcode, int]] = field(default_factory=list)
    """What was locked when a command was answered."""
    events: list[tuple] = field(default_factory=list)
    """(name, sequence, number, code) of admissions and ends."""
    ring: int = 64
    """Records of the completion ring."""

    def token(self, sequence: int, position: int) -> int:
        """The token sampled at a position of a sequence."""
        return (7 * position + 3 + 11 * sequence) % VOCAB

    @property
    def rows(self) -> list[Row]:
        """All rows that were executed."""
        return [row for step in self.steps for row in step]


def sampled_rows(step, count: int) -> list[int]:
    return [*range(step.sampled - 1), step.last] if count else []


def serve(world: World, requests: list[dict], stall: float = 0.0) -> list[tuple]:
    """Hand in ``requests`` and collect completions until each has ended."""
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
        ctx.set(dut.ring_size, world.ring)
        ctx.set(dut.ring_free, world.ring)
        entries = [
            {"request": r, "error": r.get("id") == 99, "number": number} for number, r in enumerate(requests)
        ]
        await send(ctx, dut.requests, entries)

    def record(p) -> tuple:
        return p.id, p.token, FaultCode(p.status), p.has_token, p.ended

    async def completions(ctx) -> None:
        written = 0
        while sum(record[4] for record in result) < len(requests):
            result.extend(await collect(ctx, dut.completions, 1, stall, 2 + len(result), record))
            written += 1
            if len([1 for name, *_ in world.events if name == "begin"]) == sum(r[4] for r in result):
                # The host consumes records when nothing is served.
                written = 0
            ctx.set(dut.ring_free, world.ring - written)
        await ctx.tick().repeat(60)
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

    spans = []

    async def watch_spans(ctx) -> None:
        while True:
            spans.extend(await collect(ctx, dut.span, 1, stall, 9, lambda p: p))

    async def watch_events(ctx) -> None:
        async for _, _, admitted, ended in ctx.tick().sample(dut.admitted, dut.ended):
            for name, event in (("begin", admitted), ("end", ended)):
                if event.valid:
                    sequence = event.sequence if event.has_sequence else None
                    world.events.append((name, sequence, event.number, FaultCode(event.code)))

    async def steps(ctx) -> None:
        failures = iter(world.fail)
        while True:
            (step,) = await collect(ctx, dut.step, 1, stall, 6, lambda p: p)
            rows = await collect(
                ctx, dut.embed, step.rows, stall, 7, lambda p: Row(p.row, p.sequence, p.token, p.position)
            )
            expected = [
                (span.row + index, span.sequence, span.position + index)
                for span in spans
                for index in range(span.rows)
            ]
            assert [(row.row, row.sequence, row.position) for row in rows] == expected
            assert [row.row for row in rows] == list(range(step.rows)) and step.rows <= CONFIG.rows_max
            assert ctx.get(dut.sequence) == spans[0].sequence
            assert ctx.get(dut.locked) == sum(1 << span.sequence for span in spans)
            spans.clear()
            world.steps.append(rows)
            world.sampled.append(step.sampled)
            if (number := world.cancel.get(len(world.steps) - 1)) is not None:
                ctx.set(dut.cancel_number, number)
                ctx.set(dut.cancel_write, 1)
                await ctx.tick()
                ctx.set(dut.cancel_write, 0)
                await ctx.tick().repeat(20)
            if failure := next(failures, None):
                for name, value in {"retry": 0, "own": 0, "fault_sequence": 0, **failure}.items():
                    ctx.set(getattr(dut, name), value)
                ctx.set(dut.failed, 1)
                await ctx.tick()
                ctx.set(dut.failed, 0)
                continue
            for place, row in enumerate(sampled_rows(step, step.sampled)):
                token = world.token(rows[row].sequence, rows[row].position)
                await send(ctx, dut.tokens, [{"row": place, "token": token}], stall, 8)
            ctx.set(dut.done, 1)
            await ctx.tick()
            ctx.set(dut.done, 0)

    async def memory_port(ctx) -> None:
        await memory.serve_reads(ctx, arbiter.axi)

    background = [controller, steps, memory_port, watch_spans, watch_events]
    simulate(m, host, completions, background=background, cycles=6000)
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


def positions(world: World) -> list[list[int]]:
    """The positions of each step."""
    return [[row.position for row in step] for step in world.steps]


def tokens_of(got: list[tuple], identity: int) -> list[int]:
    """The tokens of a request that ended well."""
    records = [record for record in got if record[0] == identity]
    assert [record[2:] for record in records] == [
        (FaultCode.NONE, 1, int(index == len(records) - 1)) for index in range(len(records))
    ]
    return [record[1] for record in records]


@pytest.mark.parametrize("stall", STALLS)
def test_a_request_runs_to_its_limit(stall: float) -> None:
    world = World()
    got = serve(world, [request()], stall)
    tokens = [world.token(0, position) for position in (2, 3, 4, 5)]
    assert got == [(5, t, FaultCode.NONE, 1, int(i == 3)) for i, t in enumerate(tokens)]
    assert positions(world) == [[0, 1, 2], [3], [4], [5]] and world.sampled == [1] * 4
    assert [row.token for row in world.rows] == [10, 11, 12, *tokens[:3]]
    assert world.kv[:2] == [(Opcode.OPEN, 3, 0), (Opcode.ALLOC, 3, 7)]
    rows = [3, 1, 1, 1]
    pairs = [(opcode, 3, count) for count in rows for opcode in (Opcode.APPEND, Opcode.COMMIT)]
    assert world.kv[2:-1] == pairs
    assert world.kv[-1][:2] == (Opcode.FREE, 3)
    assert world.manager.used == 0
    # The host may change the sequence between two steps, and before and behind them.
    assert {locked for opcode, locked in world.locked if opcode is Opcode.COMMIT} == {1}
    assert {locked for opcode, locked in world.locked if opcode in (Opcode.ALLOC, Opcode.FREE)} == {0}
    assert world.events == [("begin", 0, 0, FaultCode.NONE), ("end", 0, 0, FaultCode.NONE)]


def test_a_long_prompt_goes_through_in_chunks() -> None:
    world = World()
    got = serve(world, [request(prompt_tokens=10, max_new=2)])
    assert positions(world) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10]]
    assert world.sampled == [0, 0, 1, 1]
    assert tokens_of(got, 5) == [world.token(0, 9), world.token(0, 10)]


def test_end_of_sequence() -> None:
    world = World()
    second = world.token(0, 3)
    got = serve(world, [request(eos=second)])
    assert tokens_of(got, 5) == [world.token(0, 2), second]
    assert [opcode for opcode, _, _ in world.kv].count(Opcode.FREE) == 1


@pytest.mark.parametrize("stall", STALLS)
def test_requests_share_steps(stall: float) -> None:
    """Decode rows first, then a chunk; sequences join and leave between two steps."""
    world = World()
    got = serve(world, [request(id=1), request(id=2, prompt_tokens=6, max_new=2), request(id=3)], stall)
    for identity, length, count, sequence in ((1, 3, 4, 0), (2, 6, 2, 1), (3, 3, 4, 2)):
        expected = [world.token(sequence, length - 1 + index) for index in range(count)]
        assert tokens_of(got, identity) == expected
    rows = [[(row.sequence, row.position) for row in step] for step in world.steps]
    if not stall:
        assert rows[:4] == [
            [(0, 0), (0, 1), (0, 2)],
            [(0, 3), (1, 0), (1, 1), (1, 2)],
            [(0, 4), (1, 3), (1, 4), (1, 5)],
            [(0, 5), (1, 6), (2, 0), (2, 1)],
        ]
        assert world.sampled[:4] == [1, 1, 2, 2]
    # Every position of every sequence once, in order.
    for sequence, fed in ((0, 6), (1, 7), (2, 6)):
        assert [r.position for r in world.rows if r.sequence == sequence] == list(range(fed))
    assert world.manager.used == 0


def test_sequences_take_turns_and_a_prompt_is_not_starved() -> None:
    world = World()
    requests = [request(id=index, prompt_tokens=2, max_new=9) for index in range(4)]
    got = serve(world, [*requests, request(id=9, max_new=1)])
    assert all(len(tokens_of(got, index)) == 9 for index in range(4))
    # As long as a prompt waits it has a row.
    assert [len(step) for step in world.steps[:5]] == [2, 3, 4, 4, 4]
    assert [step[-1].position for step in world.steps[:4]] == [1, 1, 1, 0]
    assert world.sampled[:5] == [1, 2, 3, 3, 4]


def test_the_last_token_of_a_prompt_joins_those_who_decode() -> None:
    world = World()
    requests = [request(id=index, prompt_tokens=1, max_new=3) for index in range(4)]
    got = serve(world, requests)
    assert all(len(tokens_of(got, index)) == 3 for index in range(4))
    joins = [sum(row.position == 0 for row in step) for step in world.steps]
    assert sum(joins) == 4 and max(joins) > 1
    assert world.sampled == [len(step) for step in world.steps]


@pytest.mark.parametrize(
    ("world", "tokens", "most"),
    [
        (World(), 2, CONFIG.sequences_max),
        # Two blocks each, of which there are five; eight records and one.
        (World(manager=BlockManager(6, 40, CONFIG.sequences_max, 16)), 10, 2),
        (World(ring=18), 2, 2),
    ],
    ids=["sequences", "blocks", "records"],
)
def test_a_request_waits_until_there_is_room(world: World, tokens: int, most: int) -> None:
    world = copy.deepcopy(world)
    requests = [request(id=index, prompt_tokens=tokens, max_new=8) for index in range(6)]
    got = serve(world, requests)
    assert [len(tokens_of(got, index)) for index in range(6)] == [8] * 6
    served = [0]
    for name, *_ in world.events:
        served.append(served[-1] + (1 if name == "begin" else -1))
    assert max(served) == most
    assert [number for name, _, number, _ in world.events if name == "begin"] == list(range(6))
    assert world.manager.used == 0


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (request(prompt_tokens=0), FaultCode.REQUEST_EMPTY),
        (request(max_new=0), FaultCode.REQUEST_EMPTY),
        (request(prompt_tokens=17), FaultCode.REQUEST_LENGTH),
        (request(prompt_tokens=0xFFFFFFFF), FaultCode.REQUEST_LENGTH),
        (request(prompt=PROMPT + 2), FaultCode.REQUEST_ADDRESS),
        (request(max_new=9), FaultCode.REQUEST_RING),
        (request(prompt=PROMPT + 40), FaultCode.REQUEST_TOKEN),
        (request(prompt=0x800), FaultCode.BUS_SLVERR),
        (request(id=99), FaultCode.BUS_SLVERR),
        (request(flags={"unknown": 1}), FaultCode.REQUEST_FLAGS),
        (request(flags={"cancelled": 1}), FaultCode.REQUEST_CANCELLED),
        (request(flags={"adopt": 1}, sequence=4), FaultCode.REQUEST_SEQUENCE),
        (request(flags={"adopt": 1}, sequence=1 << 16), FaultCode.REQUEST_SEQUENCE),
        (request(sequence=1), FaultCode.REQUEST_SEQUENCE),
        (request(flags={"keep": 1}, prompt_tokens=0), FaultCode.REQUEST_EMPTY),
        # Nobody has opened it.
        (request(flags={"adopt": 1}, sequence=2), FaultCode.KV_COMMAND),
        # A request is using it.
        (request(flags={"adopt": 1}, sequence=0), FaultCode.REQUEST_SEQUENCE),
    ],
)
def test_a_bad_request_disturbs_nobody(bad: dict, code: FaultCode) -> None:
    world = World(ring=9)
    good = request(id=6, max_new=3)
    got = serve(world, [good, bad, request(id=7, max_new=1)])
    assert [record for record in got if record[0] == bad["id"]] == [(bad["id"], 0, code, 0, 1)]
    assert tokens_of(got, 6) == [world.token(0, position) for position in (2, 3, 4)]
    assert len(tokens_of(got, 7)) == 1
    opcodes = [opcode for opcode, _, _ in world.kv]
    assert opcodes.count(Opcode.OPEN) == opcodes.count(Opcode.FREE)
    assert world.manager.used == 0


@pytest.mark.parametrize(
    ("opcode", "status", "code"),
    [
        (Opcode.OPEN, Status.SEQ_BUSY, FaultCode.KV_COMMAND),
        (Opcode.OPEN, Status.BAD_SEQ, FaultCode.KV_COMMAND),
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
    assert serve(world, [request()]) == [(5, 0, code, 0, 1)]
    opcodes = [opcode for opcode, _, _ in world.kv]
    assert opcodes.count(Opcode.FREE) == (opcode is not Opcode.OPEN)
    assert world.manager.used == 0 and not world.manager.sequences


TAPE = {"code": FaultCode.PACKET_CRC, "retry": 1}
PORT = {"code": FaultCode.BUS_DECERR}


def test_a_tape_fault_is_tried_once_more() -> None:
    world = World(fail=[None, TAPE])
    got = serve(world, [request(max_new=2)])
    assert tokens_of(got, 5) == [world.token(0, 2), world.token(0, 3)]
    assert positions(world) == [[0, 1, 2], [3], [3]]
    assert [opcode for opcode, _, _ in world.kv].count(Opcode.ABORT) == 1


@pytest.mark.parametrize("failures", [[None, TAPE, TAPE], [None, PORT]])
def test_a_fault_that_stays_ends_all_of_the_step(failures: list) -> None:
    """Request 3 is admitted behind a step that failed, or waits for its turn."""
    world = World(fail=failures)
    requests = [request(id=1), request(id=2), request(id=3, prompt_tokens=2, max_new=1)]
    got = serve(world, requests)
    code = failures[-1]["code"]
    # The prompt of request 1 is behind it when the fault comes, that of request 2 is in the step.
    assert got == [
        (1, world.token(0, 2), FaultCode.NONE, 1, 0),
        (1, 0, code, 0, 1),
        (2, 0, code, 0, 1),
        (3, world.token(2, 1), FaultCode.NONE, 1, 1),
    ]
    assert world.manager.used == 0 and not world.manager.sequences


def test_a_fault_of_one_sequence_ends_its_request_alone() -> None:
    world = World(fail=[None, None, {**PORT, "own": 1, "fault_sequence": 1}])
    got = serve(world, [request(id=1), request(id=2)])
    assert tokens_of(got, 1) == [world.token(0, position) for position in (2, 3, 4, 5)]
    assert [record for record in got if record[0] == 2] == [
        (2, world.token(1, 2), FaultCode.NONE, 1, 0),
        (2, 0, FaultCode.BUS_DECERR, 0, 1),
    ]
    # The row of the other one is done again.
    failed, again = world.steps[2:4]
    assert [row for row in failed if row.sequence == 0] == again
    assert world.manager.used == 0


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("number", range(4))
def test_cancelling(step: int, number: int) -> None:
    """A request that runs, waits for its prompt's turn, waits for admission, or is over."""
    world = World(cancel={step: number}, manager=BlockManager(4, 4, CONFIG.sequences_max, 16))
    requests = [request(id=index, prompt_tokens=6, max_new=3) for index in range(4)]
    got = serve(world, requests)
    ends = {n: code for name, _, n, code in world.events if name == "end"}
    assert set(ends) == {0, 1, 2, 3}
    others = [index for index in range(4) if index != number]
    assert all(ends[index] is FaultCode.NONE and len(tokens_of(got, index)) == 3 for index in others)
    mine = [record for record in got if record[0] == number]
    if ends[number] is FaultCode.NONE:
        assert len(tokens_of(got, number)) == 3
    else:
        assert ends[number] is FaultCode.REQUEST_CANCELLED
        assert mine[-1] == (number, 0, FaultCode.REQUEST_CANCELLED, 0, 1)
        assert all(record[2:] == (FaultCode.NONE, 1, 0) for record in mine[:-1])
    assert world.manager.used == 0 and not world.manager.sequences


def prepared(world: World, sequence: int, tokens: int, tenant: int = 3) -> None:
    """A sequence that the host has opened, with tokens in it."""
    for opcode, argument in ((Opcode.OPEN, 0), (Opcode.APPEND, tokens), (Opcode.COMMIT, tokens)):
        assert world.manager.execute(opcode.value, sequence, tenant, argument)[0] == 0


@pytest.mark.parametrize("keep", [0, 1])
def test_an_adopted_sequence_goes_on_behind_its_tokens(keep: int) -> None:
    world = World()
    prepared(world, 2, 2)
    adopted = request(flags={"adopt": 1, "keep": keep}, sequence=2, max_new=2)
    got = serve(world, [adopted, request(id=6, max_new=1)])
    assert tokens_of(got, 5) == [world.token(2, 2), world.token(2, 3)]
    assert tokens_of(got, 6) == [world.token(0, 2)]
    rows = [row[1:] for row in world.rows if row.sequence == 2]
    assert rows == [(2, 12, 2), (2, world.token(2, 2), 3)]
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
    assert serve(world, [wanted]) == [(5, 0, code, 0, 1)]
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
    assert serve(world, [wanted]) == [(5, 0, FaultCode.REQUEST_SPACE, 0, 1)]
    assert not world.manager.sequences and world.manager.used == 0


def test_a_fault_ends_a_kept_sequence_at_its_committed_tokens() -> None:
    world = World(fail=[None, PORT])
    assert serve(world, [request(flags={"keep": 1})])[-1] == (5, 0, FaultCode.BUS_DECERR, 0, 1)
    assert (world.manager.sequences[0].length, world.manager.sequences[0].reserved) == (3, 0)


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
    got = serve(world, [adopted])
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
        ((Opcode.ALLOC.value, 0, 3, 30), 4),
    ],
)
def test_the_host_changes_the_sequence_between_two_steps(command: tuple, steps: int) -> None:
    # OPEN, ALLOC of two requests, and two commands in each step of the first one alone.
    world = World(between={10: command})
    got = serve(world, [request(), request(id=6, prompt_tokens=9, max_new=1)])
    mine = [record for record in got if record[0] == 5]
    assert len([row for row in world.rows if row.sequence == 0]) == 2 + steps
    if steps == 2:
        assert mine[-1] == (5, 0, FaultCode.REQUEST_CHANGED, 0, 1)
        assert [record[1] for record in mine[:-1]] == [world.token(0, 2), world.token(0, 3)]
    else:
        assert len(tokens_of(got, 5)) == 4
    assert tokens_of(got, 6) == [world.token(1, 8)]
    assert world.manager.used == 0
