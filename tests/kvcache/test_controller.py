# SPDX-License-Identifier: Apache-2.0
"""Controller: every response and the whole state against the golden block manager; cycles per command."""

import dataclasses
import itertools
import random
from collections import Counter

import pytest

from kvcache.control import FIELDS, compare_state, execute, memory, start
from serrano.kvcache import Controller, Opcode, Stat, Status
from serrano_sim.golden import block_manager
from serrano_sim.kv_commands import SMALL, manager, random_command
from support.streams import STALLS, simulate


def test_the_golden_model_has_the_same_numbers() -> None:
    for ours, golden in (
        (Opcode, block_manager.Opcode),
        (Status, block_manager.Status),
        (Stat, block_manager.Stat),
    ):
        assert {ours[entry.name].value: entry.name for entry in golden} == {
            entry.value: entry.name for entry in golden
        }
        assert len(ours) == len(golden)


@pytest.mark.parametrize(
    ("blocks", "registered"), [(12, False), (9, False), (4, False), (9, True), (4, True)]
)
def test_random_commands(blocks: int, registered: bool) -> None:
    dut = Controller(dataclasses.replace(SMALL, registered=registered), reference_bits=2)
    golden = manager(SMALL, blocks, reference_bits=2)
    golden.records = 3
    golden.mover = lambda move: not refused(move)
    seen: Counter = Counter()

    async def bench(ctx) -> None:
        rng = random.Random(f"kv {blocks}")
        ctx.set(dut.records, golden.records)
        await start(ctx, dut, blocks)
        golden.initialize(blocks)
        for number in range(500 if registered else 1500):
            if number == (400 if registered else 1000):
                await start(ctx, dut, blocks)
                golden.initialize(blocks)
            port = rng.choice((dut.host, dut.steps))
            command = random_command(rng, golden, [0, 1, 2])
            status, aux, _ = await execute(ctx, port, command, number % 256)
            wanted = golden.execute(*command)
            assert (status, aux) == wanted, (number, command)
            seen[command[0], status] += 1
            assert ctx.get(dut.used) == golden.used
            assert ctx.get(dut.peak) == golden.peak
            if rng.random() < 0.03:
                await compare_state(ctx, port, golden)
        # Nothing leaks.
        for seq in range(3):
            await execute(ctx, dut.host, (Opcode.FREE.value, seq, golden_tenant(golden, seq), 0, 0))
            golden.execute(Opcode.FREE.value, seq, golden_tenant(golden, seq))
        await compare_state(ctx, dut.host, golden)
        assert ctx.get(dut.used) == 0

    simulate(dut, bench, background=[memory(dut, refused)], cycles=1_000_000)
    assert len({opcode for opcode, _ in seen} & {opcode.value for opcode in Opcode}) == len(Opcode)
    if registered:
        return
    # What is rare comes up in the bench on the Verilog, which is faster.
    rare = {
        Status.NO_SPACE,
        Status.BUS_ERROR,
        Status.REF_OVERFLOW,
        Status.NEVER_FITS,
        Status.ALREADY,
        Status.STALE_GEN,
    }
    assert {Status(status) for _, status in seen} >= set(Status) - rare - {Status.NOT_MAPPED}


def refused(move) -> bool:
    """The memory's answer depends on the move alone, so that the golden model knows it."""
    return (move.source + 3 * move.destination + move.record + move.index) % 5 == 0


def golden_tenant(golden, seq: int) -> int:
    return golden.sequences[seq].tenant if seq in golden.sequences else 0


@pytest.mark.parametrize(("stall", "registered"), [*((stall, False) for stall in STALLS), (0.5, True)])
def test_two_requesters_at_the_same_time(stall: float, registered: bool) -> None:
    """The order of execution is that in which responses appear; it is fair, and each port's own is kept."""
    dut = Controller(dataclasses.replace(SMALL, registered=registered))
    golden = manager(SMALL, 12)
    golden.records = 3
    golden.mover = lambda move: not refused(move)
    commands = {}
    order: list[str] = []

    def requester(name: str, seqs: list[int]):
        port = getattr(dut, name)
        rng = random.Random(f"{name} {stall}")
        guess = manager(SMALL, 12)
        commands[name] = [random_command(rng, guess, seqs) for _ in range(200)]
        for command in commands[name]:
            guess.execute(*command)

        async def send(ctx) -> None:
            await ctx.tick().until(~dut.initializing)
            for tag, command in enumerate(commands[name]):
                while rng.random() < stall:
                    await ctx.tick()
                ctx.set(port.commands.payload, {"tag": tag, **dict(zip(FIELDS, command, strict=True))})
                ctx.set(port.commands.valid, 1)
                await ctx.tick().until(port.commands.ready)
                ctx.set(port.commands.valid, 0)

        async def receive(ctx) -> None:
            slow = random.Random(f"{name} slow")
            for tag, command in enumerate(commands[name]):
                await ctx.tick().until(port.responses.valid)
                response = ctx.get(port.responses.payload)
                # This response is the newest, whoever takes it when.
                order.append(name)
                wanted = golden.execute(*command)
                assert (response.tag, response.status.value, response.aux) == (tag, *wanted), (name, tag)
                while slow.random() < stall:
                    await ctx.tick()
                    assert ctx.get(port.responses.payload) == response
                ctx.set(port.responses.ready, 1)
                await ctx.tick()
                ctx.set(port.responses.ready, 0)

        return send, receive

    async def pool(ctx) -> None:
        ctx.set(dut.blocks, 12)
        ctx.set(dut.records, 3)

    benches = [pool, *requester("host", [0, 1]), *requester("steps", [1, 2])]
    simulate(dut, *benches, background=[memory(dut, refused)], cycles=200_000)
    assert len(order) == 400
    if not stall:
        # While both want something, they take turns.
        assert all(one != other for one, other in itertools.pairwise(order[:390]))


def test_look_ups_one_per_cycle() -> None:
    """Random look-ups on both ports while commands run: each answer is what held when it was asked."""
    dut = Controller(SMALL)
    golden = manager(SMALL, 12)
    latency = dut.translate_latency
    assert latency <= 4
    taken = Counter()

    async def bench(ctx) -> None:
        await start(ctx, dut, 12)
        for seq, tokens in ((0, 70), (1, 16), (2, 33)):
            for command in (
                (Opcode.OPEN.value, seq, seq, 0, 0),
                (Opcode.ALLOC.value, seq, seq, tokens, 0),
                (Opcode.APPEND.value, seq, seq, tokens // 2, 0),
            ):
                golden.execute(*command)
                await execute(ctx, dut.host, command)
        await execute(ctx, dut.host, (Opcode.FREE.value, 1, 1, 0, 0))
        golden.execute(Opcode.FREE.value, 1, 1)
        rng = random.Random(5)
        expected: list[list] = []
        for cycle in range(600):
            if cycle == 300:
                ctx.set(dut.host.commands.payload, {"opcode": Opcode.STAT, "arg0": Stat.SEQUENCE_ENTRY})
                ctx.set(dut.host.commands.valid, 1)
                ctx.set(dut.host.responses.ready, 1)
            wishes = []
            for port in dut.translate:
                wish = (rng.randrange(3), rng.randrange(7)) if rng.random() < 0.7 else None
                wishes.append(wish)
                ctx.set(port.request.valid, wish is not None)
                if wish:
                    ctx.set(port.request.payload, {"seq": wish[0], "index": wish[1] % 8})
            answers = []
            for number, (port, wish) in enumerate(zip(dut.translate, wishes, strict=True)):
                go = wish is not None and ctx.get(port.request.ready)
                answers.append(translation(golden, *wish) if go else None)
                taken[number, cycle >= 300] += go
            if cycle < 300:
                assert any(answers) == any(wish is not None for wish in wishes)
            expected.append(answers)
            if cycle >= latency:
                for port, answer in zip(dut.translate, expected[cycle - latency], strict=True):
                    response = ctx.get(port.response)
                    assert response.valid == (answer is not None)
                    if answer:
                        assert response.status == answer[0]
                        assert answer[0] != Status.OK or response.block == answer[1]
            await ctx.tick()

    simulate(dut, bench)
    assert min(taken.values()) > 20


def translation(golden, seq: int, index: int) -> tuple[Status, int]:
    if seq not in golden.sequences:
        return Status.BAD_SEQ, 0
    table = golden.sequences[seq].table
    return (Status.OK, table[index]) if index < len(table) else (Status.OUT_OF_RANGE, 0)


def test_look_ups_see_a_command_as_a_whole() -> None:
    """An allocation's blocks show when it has ended, a closed sequence at once."""
    dut = Controller(SMALL)

    async def bench(ctx) -> None:
        await start(ctx, dut, 12)
        await execute(ctx, dut.steps, (Opcode.OPEN.value, 2, 9, 0, 0))
        for command, states in (
            ((Opcode.ALLOC.value, 2, 9, 80, 0), [Status.OUT_OF_RANGE, Status.OK]),
            ((Opcode.FREE.value, 2, 9, 0, 0), [Status.OK, Status.BAD_SEQ]),
        ):
            port = dut.translate[1]
            ctx.set(dut.steps.commands.payload, dict(zip(FIELDS, command, strict=True)))
            ctx.set(dut.steps.commands.valid, 1)
            ctx.set(dut.steps.responses.ready, 1)
            got = []
            for cycle in range(50):
                ctx.set(port.request.valid, 1)
                ctx.set(port.request.payload, {"seq": 2, "index": 0})
                await ctx.tick()
                ctx.set(dut.steps.commands.valid, 0)
                if ctx.get(port.response.valid) and cycle > 3:
                    got.append(ctx.get(port.response.status))
            assert got == sorted(got, key=states.index)
            assert set(got) == set(states)

    simulate(dut, bench)


def test_the_host_waits_for_the_running_step() -> None:
    dut = Controller(SMALL)

    async def bench(ctx) -> None:
        await start(ctx, dut, 12)
        for seq in (0, 1):
            await execute(ctx, dut.host, (Opcode.OPEN.value, seq, 5, 0, 0))
        ctx.set(dut.locked, 0b010)
        # Another sequence, a command that only reads, and a sequence that does not exist.
        for command in (
            (Opcode.ALLOC.value, 0, 5, 1, 0),
            (Opcode.STAT.value, 1, 5, Stat.SEQUENCE_OWNER.value, 0),
            (Opcode.TRANSLATE.value, 1, 5, 0, 0),
            (Opcode.FREE.value, 4097, 5, 0, 0),
        ):
            assert (await execute(ctx, dut.host, command))[2] <= 8
        ctx.set(dut.host.commands.payload, {"opcode": Opcode.FREE, "seq": 1, "tenant": 5})
        ctx.set(dut.host.commands.valid, 1)
        await ctx.tick().until(dut.host.commands.ready)
        ctx.set(dut.host.commands.valid, 0)
        for _ in range(5):
            assert (await execute(ctx, dut.steps, (Opcode.APPEND.value, 1, 5, 3, 0)))[0] == 0
            assert not ctx.get(dut.host.responses.valid)
        ctx.set(dut.locked, 0)
        await ctx.tick().repeat(10)
        assert ctx.get(dut.host.responses.valid)
        assert (await execute(ctx, dut.steps, (Opcode.APPEND.value, 1, 5, 3, 0)))[0] == Status.BAD_SEQ.value

    simulate(dut, bench)


@pytest.mark.parametrize(("blocks", "size"), [(0, 1), (1, 1), (2, 2), (12, 12), (13, 12), (1 << 31, 12)])
def test_size_of_the_pool(blocks: int, size: int) -> None:
    dut = Controller(SMALL)
    golden = manager(SMALL, size)

    async def bench(ctx) -> None:
        # The first initialization follows reset by itself.
        ctx.set(dut.blocks, blocks)
        await ctx.tick().until(~dut.initializing)
        await compare_state(ctx, dut.host, golden)
        for _ in range(2):
            for command in ((Opcode.OPEN.value, 0, 1, 0, 0), (Opcode.ALLOC.value, 0, 1, 80, 0)):
                assert (await execute(ctx, dut.host, command))[:2] == golden.execute(*command)
            await compare_state(ctx, dut.host, golden)
            await start(ctx, dut, blocks)
            golden.initialize(blocks)
            await compare_state(ctx, dut.host, golden)

    simulate(dut, bench)


def test_generations_do_not_wrap() -> None:
    dut = Controller(SMALL, generation_bits=3)
    golden = manager(SMALL, 3, generation_bits=3)

    async def bench(ctx) -> None:
        ctx.set(dut.blocks, 3)
        await ctx.tick().until(~dut.initializing)
        for _ in range(9):
            for command in (
                (Opcode.OPEN.value, 0, 1, 0, 0),
                (Opcode.ALLOC.value, 0, 1, 17, 0),
                (Opcode.FREE.value, 0, 1, 0, 0),
            ):
                assert (await execute(ctx, dut.host, command))[:2] == golden.execute(*command)
            await compare_state(ctx, dut.host, golden)
        assert golden.states[1].generation == 7

    simulate(dut, bench)


def test_misuse() -> None:
    with pytest.raises(ValueError, match=r"^blocks_max must be at most 65536, not 65537$"):
        Controller(dataclasses.replace(SMALL, blocks_max=65537))
    with pytest.raises(ValueError, match=r"^Generations must have 1 to 32 bits, not 33$"):
        Controller(SMALL, generation_bits=33)
    with pytest.raises(ValueError, match=r"^Number of look-up ports must be at least 1, not 0$"):
        Controller(SMALL, translate_ports=0)
    with pytest.raises(
        ValueError, match=r"^context_max must be at most 1048560 for the KV tables, not 1048576$"
    ):
        Controller(dataclasses.replace(SMALL, context_max=1 << 20))
