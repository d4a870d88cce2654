# SPDX-License-Identifier: Apache-2.0
"""Recovery: order of stop, silence and flush; the record; the watchdog."""

import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano.schedule.recovery import FLUSH_CYCLES, Recovery
from support.streams import simulate

KV_READER, TAPE_CLIENT, EMBED_CLIENT = range(3)
KV_WRITER = 0


@pytest.fixture(params=["tiny", "ulx3s"])
def dut(request) -> Recovery:
    return Recovery(preset(request.param), (TAPE_CLIENT, EMBED_CLIENT), KV_READER, KV_WRITER)


async def settle(ctx, dut: Recovery) -> None:
    """With registers, what has come is seen a cycle later."""
    if dut.config.registered:
        await ctx.tick()


def flush_cycles(dut: Recovery) -> int:
    """So long, with registers, the port is to be idle before, and the data path is reset."""
    return FLUSH_CYCLES * (1 + dut.config.registered)


async def fail(ctx, dut: Recovery, port: str, fault: dict, **others: dict) -> None:
    faults = {port: fault, **others}
    for name, value in faults.items():
        ctx.set(getattr(dut, name), {**value, "valid": 1})
    await ctx.tick()
    for name in faults:
        ctx.set(getattr(dut, name), {})
    # And what it was is kept another cycle later.
    await settle(ctx, dut)
    await settle(ctx, dut)


@pytest.mark.parametrize(
    ("port", "fault", "code", "retry"),
    [
        ("read", {"client": KV_READER, "address": 0x123, "tag": 3}, FaultCode.BUS_SLVERR, 0),
        ("read", {"client": 3, "address": 0x123}, FaultCode.BUS_SLVERR, 0),
        ("read", {"client": EMBED_CLIENT, "address": 0x123}, FaultCode.BUS_SLVERR, 1),
        ("write", {"client": KV_WRITER, "address": 0x123, "tag": 1}, FaultCode.BUS_SLVERR, 0),
        ("read", {"client": TAPE_CLIENT, "address": 0x123, "decode": 1}, FaultCode.BUS_DECERR, 1),
        ("write", {"client": 1, "address": 0x123}, FaultCode.BUS_SLVERR, 0),
        ("tape", {"code": FaultCode.PACKET_CRC, "index": 4}, FaultCode.PACKET_CRC, 1),
        ("execution", {"code": FaultCode.KV_MAP, "index": 5, "detail": 3}, FaultCode.KV_MAP, 0),
    ],
)
def test_a_step_is_given_up(dut: Recovery, port: str, fault: dict, code: FaultCode, retry: int) -> None:
    async def bench(ctx) -> None:
        ctx.set(dut.running, 1)
        ctx.set(dut.packet, 9)
        ctx.set(dut.sequence, 2)
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.stop)
        await fail(ctx, dut, port, fault)
        await settle(ctx, dut)
        for _ in range(10):
            assert ctx.get(dut.stop) and not ctx.get(dut.flush)
            await ctx.tick()
        cycles = flush_cycles(dut)
        if dut.config.registered:
            # Silence that does not last does not count.
            ctx.set(dut.idle, 1)
            await ctx.tick().repeat(cycles - 1)
            ctx.set(dut.idle, 0)
            for _ in range(cycles):
                assert ctx.get(dut.stop) and not ctx.get(dut.flush)
                await ctx.tick()
        ctx.set(dut.idle, 1)
        silent = cycles + 2 if dut.config.registered else 1
        for _ in range(silent):
            assert ctx.get(dut.stop) and not ctx.get(dut.flush)
            await ctx.tick()
        # With registers the data path is still being reset in the two cycles behind.
        late = dut.config.registered
        for cycle in range(cycles):
            assert ctx.get(dut.flush) and ctx.get(dut.stop)
            assert ctx.get(dut.failed) == (cycle == cycles - 1 - 2 * late)
            await ctx.tick()
        assert FaultCode(ctx.get(dut.code)) == code and ctx.get(dut.retry) == retry
        assert not ctx.get(dut.stop) and not ctx.get(dut.flush) and not ctx.get(dut.failed)
        record = ctx.get(dut.record)
        assert FaultCode(record.code) == code
        assert record.packet == fault.get("index", 9)
        assert record.address == fault.get("address", 0)
        own = fault.get("tag")
        assert ctx.get(dut.own) == (own is not None)
        assert (record.sequence, record.count) == (2 if own is None else own, 1)
        if own is not None:
            assert ctx.get(dut.own_sequence) == own
        assert record.detail == fault.get("detail", fault.get("client", 0) | (port == "write") << 7)

    simulate(dut, bench)


def test_the_record_keeps_the_first_and_counts(dut: Recovery) -> None:
    async def bench(ctx) -> None:
        for code in (FaultCode.REQUEST_EMPTY, FaultCode.REQUEST_TOKEN, FaultCode.REQUEST_LENGTH):
            await fail(ctx, dut, "refused", {"code": code})
            await settle(ctx, dut)
            assert not ctx.get(dut.stop)
        assert FaultCode(ctx.get(dut.record.code)) == FaultCode.REQUEST_EMPTY
        assert ctx.get(dut.record.count) == 3
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert FaultCode(ctx.get(dut.record.code)) == FaultCode.NONE
        assert ctx.get(dut.record.count) == 0

    simulate(dut, bench)


def test_watchdog(dut: Recovery) -> None:
    async def bench(ctx) -> None:
        ctx.set(dut.watchdog, 20)
        ctx.set(dut.idle, 1)
        await ctx.tick().repeat(50)
        ctx.set(dut.running, 1)
        for _ in range(5):
            await ctx.tick().repeat(18)
            ctx.set(dut.progress, 1)
            await ctx.tick()
            ctx.set(dut.progress, 0)
        assert ctx.get(dut.record.count) == 0
        await ctx.tick().until(dut.failed)
        assert FaultCode(ctx.get(dut.code)) == FaultCode.WATCHDOG
        assert not ctx.get(dut.retry)

    simulate(dut, bench)


@pytest.mark.parametrize("port", ["read", "write"])
@pytest.mark.parametrize("running", [0, 1])
def test_a_client_apart_is_none_of_the_steps(dut: Recovery, port: str, running: int) -> None:
    async def bench(ctx) -> None:
        ctx.set(dut.running, running)
        ctx.set(dut.packet, 9)
        ctx.set(dut.sequence, 2)
        ctx.set(getattr(dut, port), {"valid": 1, "client": 6, "address": 0x456, "decode": 1, "apart": 1})
        if dut.config.registered:
            await ctx.tick()
            ctx.set(getattr(dut, port), {})
            await ctx.tick()
        recorded = ctx.get(dut.recorded)
        assert recorded.valid and FaultCode(recorded.code) == FaultCode.BUS_DECERR
        await ctx.tick()
        ctx.set(getattr(dut, port), {})
        for _ in range(20):
            assert not ctx.get(dut.recorded.valid) and not ctx.get(dut.stop) and not ctx.get(dut.failed)
            await ctx.tick()
        record = ctx.get(dut.record)
        assert FaultCode(record.code) == FaultCode.BUS_DECERR
        assert (record.packet, record.sequence, record.count) == (0, 0, 1)
        assert (record.detail, record.address) == (6 | (port == "write") << 7, 0x456)

    simulate(dut, bench)


def test_a_client_apart_hides_no_fault_of_the_step(dut: Recovery) -> None:
    apart = {"valid": 1, "client": 6, "address": 0x456, "apart": 1}

    async def bench(ctx) -> None:
        ctx.set(dut.running, 1)
        await settle(ctx, dut)
        await settle(ctx, dut)
        await fail(ctx, dut, "write", {"client": 0, "address": 0x123, "decode": 1}, read=apart)
        # Both are counted, and the step's is the one that is shown.
        record = ctx.get(dut.record)
        assert (FaultCode(record.code), record.address, record.count) == (FaultCode.BUS_DECERR, 0x123, 2)
        await settle(ctx, dut)
        assert ctx.get(dut.stop)
        # More of them while the bus is drained, and while the data path is reset.
        await fail(ctx, dut, "write", apart, read=apart)
        assert ctx.get(dut.record.count) == 4
        ctx.set(dut.idle, 1)
        await ctx.tick().until(dut.flush)
        await fail(ctx, dut, "read", {**apart, "address": 0x789})
        assert ctx.get(dut.record.count) == 5
        # Forgotten, and the next one is the first again, even in the same cycle.
        ctx.set(dut.clear, 1)
        await fail(ctx, dut, "write", {**apart, "address": 0xABC})
        ctx.set(dut.clear, 0)
        record = ctx.get(dut.record)
        assert (FaultCode(record.code), record.address, record.count) == (FaultCode.BUS_SLVERR, 0xABC, 1)
        # The step is given up for its own reason.
        await ctx.tick().until(dut.failed)
        assert FaultCode(ctx.get(dut.code)) == FaultCode.BUS_DECERR

    simulate(dut, bench)
