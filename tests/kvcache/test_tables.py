# SPDX-License-Identifier: Apache-2.0
"""SequenceTables: state, entries, and every outcome of a look-up."""

import dataclasses
import random

import pytest

from serrano.config import AcceleratorConfig
from serrano.kvcache import Status
from serrano.kvcache.tables import SequenceTables
from serrano_sim.kv_commands import SMALL
from support.streams import simulate

REGISTERED = dataclasses.replace(SMALL, registered=True)
BOTH = pytest.mark.parametrize("config", [SMALL, REGISTERED], ids=["plain", "registered"])


async def pulse(ctx, signal) -> None:
    """One cycle with ``signal`` set."""
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)
    await ctx.tick().repeat(2)


async def open_sequence(ctx, dut, seq: int, **state) -> None:
    ctx.set(dut.w_seq, seq)
    ctx.set(dut.w_open, 1)
    ctx.set(dut.w_state, state)
    await pulse(ctx, dut.w_en)


async def own(ctx, dut, seq: int, index: int, block: int, tenant: int) -> None:
    ctx.set(dut.entry_seq, seq)
    ctx.set(dut.entry_index, index)
    ctx.set(dut.entry_w_block, block)
    ctx.set(dut.owner_block, block)
    ctx.set(dut.owner_tenant, tenant)
    ctx.set(dut.owner_en, 1)
    await pulse(ctx, dut.entry_w_en)
    ctx.set(dut.owner_en, 0)


async def look_up(ctx, dut, port, seq: int, index: int) -> tuple[Status, int]:
    ctx.set(port.request.payload, {"seq": seq, "index": index})
    ctx.set(port.request.valid, 1)
    await ctx.tick().until(port.request.ready)
    ctx.set(port.request.valid, 0)
    for _ in range(dut.latency - 1):
        assert not ctx.get(port.response.valid)
        await ctx.tick()
    response = ctx.get(port.response)
    assert response.valid
    return response.status, response.block


@BOTH
def test_committed_tokens_of_a_block(config: AcceleratorConfig) -> None:
    dut = SequenceTables(config)

    async def bench(ctx) -> None:
        port = dut.ports[0]
        for index in range(3):
            await own(ctx, dut, 0, index, index + 1, 0)
        for length in (0, 1, 15, 16, 17, 40, 48):
            await open_sequence(ctx, dut, 0, entries=3, length=length, reserved=80 - length)
            for index in range(3):
                assert await look_up(ctx, dut, port, 0, index) == (Status.OK, index + 1)
                assert ctx.get(port.response.tokens) == min(16, max(0, length - 16 * index))

    simulate(dut, bench)


@BOTH
@pytest.mark.parametrize("ports", [1, 2, 3])
def test_every_outcome(config: AcceleratorConfig, ports: int) -> None:
    dut = SequenceTables(config, ports)
    assert dut.latency == (6 if config.registered else 3)

    async def bench(ctx) -> None:
        port = dut.ports[ports - 1]
        assert (await look_up(ctx, dut, port, 1, 0))[0] == Status.BAD_SEQ
        await own(ctx, dut, 1, 0, 0, 7)
        await own(ctx, dut, 1, 1, 5, 7)
        await own(ctx, dut, 1, 2, 6, 8)
        await own(ctx, dut, 1, 3, 9, 7)
        assert (await look_up(ctx, dut, port, 1, 1))[0] == Status.BAD_SEQ
        await open_sequence(ctx, dut, 1, tenant=7, entries=3, first=1)
        assert (await look_up(ctx, dut, port, 1, 0))[0] == Status.NOT_MAPPED
        assert await look_up(ctx, dut, port, 1, 1) == (Status.OK, 5)
        # The block has gone to somebody else.
        assert (await look_up(ctx, dut, port, 1, 2))[0] == Status.TENANT
        assert (await look_up(ctx, dut, port, 1, 3))[0] == Status.OUT_OF_RANGE
        await open_sequence(ctx, dut, 1, tenant=8, entries=4, first=0)
        assert (await look_up(ctx, dut, port, 1, 0))[0] == Status.NOT_MAPPED
        assert (await look_up(ctx, dut, port, 1, 1))[0] == Status.TENANT
        assert await look_up(ctx, dut, port, 1, 2) == (Status.OK, 6)
        await pulse(ctx, dut.clear)
        assert (await look_up(ctx, dut, port, 1, 2))[0] == Status.BAD_SEQ

    simulate(dut, bench)


@BOTH
def test_state_of_sequences(config: AcceleratorConfig) -> None:
    dut = SequenceTables(config)

    async def bench(ctx) -> None:
        rng = random.Random(3)
        states: dict[int, dict] = {}
        for _ in range(200):
            seq = rng.randrange(3)
            if rng.random() < 0.3:
                names = {"tenant": 255, "length": 80, "reserved": 80, "entries": 5, "first": 5}
                states[seq] = {name: rng.randint(0, top) for name, top in names.items()}
                await open_sequence(ctx, dut, seq, **states[seq])
            elif rng.random() < 0.2:
                states.pop(seq, None)
                ctx.set(dut.w_seq, seq)
                ctx.set(dut.w_open, 0)
                await pulse(ctx, dut.w_en)
            else:
                ctx.set(dut.r_seq, seq)
                ctx.set(dut.r_en, 1)
                await ctx.tick()
                ctx.set(dut.r_en, 0)
                ctx.set(dut.r_seq, rng.randrange(3))
                for _ in range(dut.read_latency - 1):
                    await ctx.tick()
                assert ctx.get(dut.r_open) == (seq in states)
                got = ctx.get(dut.r_state)
                for name in ("tenant", "length", "reserved", "entries", "first"):
                    assert getattr(got, name) == states.get(seq, {}).get(name, 0)

    simulate(dut, bench)


def test_the_controller_reads_first() -> None:
    dut = SequenceTables(SMALL)

    async def bench(ctx) -> None:
        for index in range(5):
            await own(ctx, dut, 2, index, index + 3, 1)
        port = dut.ports[0]
        ctx.set(port.request.valid, 1)
        for index in range(5):
            ctx.set(dut.entry_index, index)
            ctx.set(dut.entry_r_en, 1)
            assert not ctx.get(port.request.ready)
            await ctx.tick()
            assert ctx.get(dut.entry_block) == index + 3
            assert not ctx.get(port.response.valid)
        ctx.set(dut.entry_r_en, 0)
        assert ctx.get(port.request.ready)

    simulate(dut, bench)


def test_reading_with_registers() -> None:
    """Every fourth cycle the controller reads; look-ups have the others, and their answers are their own."""
    dut = SequenceTables(REGISTERED)
    assert dut.read_latency == 4

    async def bench(ctx) -> None:
        for index in range(5):
            await own(ctx, dut, 2, index, index + 3, 1)
        await open_sequence(ctx, dut, 2, tenant=1, entries=5, length=80)
        port = dut.ports[0]
        ctx.set(port.request.valid, 1)
        ctx.set(dut.entry_seq, 2)
        taken, read, answers = [], [], []
        for cycle in range(60):
            index = cycle // 4 % 5
            ctx.set(dut.entry_index, index)
            ctx.set(dut.entry_r_en, cycle % 4 == 0)
            ctx.set(port.request.payload, {"seq": 2, "index": (cycle + 2) % 5})
            taken.append(ctx.get(port.request.ready))
            answers.append(ctx.get(port.response))
            if cycle >= 4 and cycle % 4 == 0:
                read.append(ctx.get(dut.entry_block) == (index - 1) % 5 + 3)
            await ctx.tick()
        assert all(read)
        assert sum(taken[4:]) == 42
        for cycle, (asked, answer) in enumerate(zip(taken, answers[6:], strict=False)):
            assert answer.valid == asked
            if asked:
                assert (answer.status, answer.block) == (Status.OK, (cycle + 2) % 5 + 3)

    simulate(dut, bench)


def test_misuse() -> None:
    with pytest.raises(ValueError, match=r"^Number of ports must be at least 1, not 0$"):
        SequenceTables(SMALL, 0)
