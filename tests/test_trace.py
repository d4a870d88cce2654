# SPDX-License-Identifier: Apache-2.0
"""Tracer: every kind of beat, as docs/trace.md has it, and what goes before what."""

import dataclasses
import random

import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano.trace import TraceKind, Tracer
from serrano.vector.payloads import HeadKind
from support.streams import simulate

CONFIG = dataclasses.replace(preset("ulx3s"), registered=False)
VALUES = [-(1 << 31), 5]


def shown(ctx, dut: Tracer) -> tuple:
    beat = ctx.get(dut.beat)
    assert ctx.get(dut.valid)
    return TraceKind(beat.kind), beat.packet, beat.row, beat.column, list(beat.values)


@pytest.mark.parametrize(
    ("port", "event", "expected"),
    [
        ("residual", {"values": VALUES, "row": 3, "column": 8}, (TraceKind.RESIDUAL, 7, 3, 8, VALUES)),
        ("codes", {"codes": [-128, 127], "row": 1, "column": 2}, (TraceKind.CODES, 7, 1, 2, [-128, 127])),
        ("logits", {"values": VALUES, "row": 0, "column": 99}, (TraceKind.LOGITS, 7, 0, 99, VALUES)),
        ("token", {"row": 2, "token": 77, "value": -9}, (TraceKind.TOKEN, 7, 2, 0, [77, -9])),
        (
            "heads",
            {"kind": HeadKind.K, "head": 1, "column": 4, "codes": [-1, 1], "row": 1},
            (TraceKind.HEADS, 7, 1, 20, [-1, 1]),
        ),
        (
            "heads",
            {"kind": HeadKind.V, "head": 1, "column": 4, "codes": [-1, 1], "row": 1},
            (TraceKind.HEADS, 7, 1, 52, [-1, 1]),
        ),
        (
            "heads",
            {"kind": HeadKind.Q, "head": 3, "column": 4, "codes": [-1, 1], "row": 1},
            (TraceKind.HEADS, 7, 1, 116, [-1, 1]),
        ),
    ],
)
def test_results(port: str, event: dict, expected: tuple) -> None:
    dut = Tracer(CONFIG)

    async def bench(ctx) -> None:
        ctx.set(dut.model, {"kv_heads": 2, "head_pad": 16})
        ctx.set(dut.packet, 7)
        ctx.set(getattr(dut, port), {"valid": 1, "beat": event})
        await ctx.tick()
        assert shown(ctx, dut) == expected
        ctx.set(getattr(dut, port), {})
        await ctx.tick()
        assert not ctx.get(dut.valid)

    simulate(dut, bench)


def test_events_and_counters() -> None:
    dut = Tracer(CONFIG)

    async def bench(ctx) -> None:
        ctx.set(dut.packet, 9)
        ctx.set(dut.step, {"rows": 12, "sampled": 3})
        ctx.set(dut.counters.payload, {"index": 6, "value": (5 << 32) | 0xFFFFFFFE})
        ctx.set(dut.counters.valid, 1)
        ctx.set(dut.begin, 1)
        assert not ctx.get(dut.counters.ready)
        await ctx.tick()
        assert shown(ctx, dut) == (TraceKind.BEGIN, 9, 0, 0, [12, 3])
        ctx.set(dut.begin, 0)
        ctx.set(dut.committed, 1)
        await ctx.tick()
        assert shown(ctx, dut) == (TraceKind.COMMIT, 9, 0, 0, [12, 0])
        ctx.set(dut.committed, 0)
        assert ctx.get(dut.counters.ready)
        await ctx.tick()
        assert shown(ctx, dut) == (TraceKind.COUNTER, 9, 0, 6, [-2, 5])
        ctx.set(dut.fault, {"valid": 1, "code": FaultCode.PACKET_CRC, "packet": 12})
        await ctx.tick()
        assert shown(ctx, dut) == (TraceKind.FAULT, 9, 0, 0, [FaultCode.PACKET_CRC.value, 12])

    simulate(dut, bench)


def test_a_fault_waits_for_events() -> None:
    """Of two in a row, and of what comes with them, nothing is lost."""
    dut = Tracer(CONFIG)

    async def bench(ctx) -> None:
        code = FaultCode.REQUEST_EMPTY
        ctx.set(dut.ended, {"valid": 1, "number": 3, "code": code})
        ctx.set(dut.fault, {"valid": 1, "code": code, "packet": 1})
        await ctx.tick()
        assert shown(ctx, dut)[0] is TraceKind.END
        ctx.set(dut.ended, {})
        ctx.set(dut.fault, {"valid": 1, "code": FaultCode.WATCHDOG, "packet": 2})
        ctx.set(dut.token, {"valid": 1, "beat": {"row": 1, "token": 5, "value": 6}})
        await ctx.tick()
        assert shown(ctx, dut) == (TraceKind.FAULT, 0, 0, 0, [code.value, 1])
        ctx.set(dut.fault, {})
        ctx.set(dut.token, {})
        ctx.set(dut.admitted, {"valid": 1, "sequence": 2, "number": 4})
        await ctx.tick()
        assert shown(ctx, dut)[0] is TraceKind.ADMIT
        ctx.set(dut.admitted, {})
        await ctx.tick()
        assert shown(ctx, dut) == (TraceKind.FAULT, 0, 0, 0, [FaultCode.WATCHDOG.value, 2])
        await ctx.tick()
        assert shown(ctx, dut) == (TraceKind.TOKEN, 0, 1, 0, [5, 6])

    simulate(dut, bench)


@pytest.mark.parametrize("second", range(1, 12))
def test_results_around_faults(second: int) -> None:
    """A fault of a completion record comes while a step runs, and stops nothing of it."""
    dut = Tracer(CONFIG)
    faults = {2: FaultCode.BUS_SLVERR, 2 + second: FaultCode.BUS_DECERR}
    results = [*range(9), *range(12, 16)]
    found, codes = [], []

    async def bench(ctx) -> None:
        for cycle in range(24):
            ctx.set(dut.residual, {"valid": cycle in results, "beat": {"column": cycle}})
            ctx.set(dut.fault, {"valid": cycle in faults, "code": faults.get(cycle, 0)})
            await ctx.tick()
            if ctx.get(dut.valid):
                kind, _, _, column, values = shown(ctx, dut)
                if kind is TraceKind.FAULT:
                    codes.append(FaultCode(values[0]))
                else:
                    found.append(column)

    simulate(dut, bench)
    assert found == results and codes == list(faults.values())


def signed(value: int) -> int:
    return value - (value >> 31 << 32)


@pytest.mark.parametrize("number", [5, 0xFFFFFFFE])
def test_requests_and_their_sequences(number: int) -> None:
    """Each goes before a result that comes in the same cycle and before counters."""
    dut = Tracer(CONFIG)
    code = FaultCode.REQUEST_CANCELLED
    ended = {"valid": 1, "sequence": 31, "number": number, "code": code}
    events = [
        (
            "span",
            {"valid": 1, "beat": {"sequence": 17, "row": 3, "rows": 16, "position": 2047}},
            (TraceKind.SPAN, 0, 3, 2047, [17 | 16 << 16, signed(number)]),
        ),
        (
            "admitted",
            {"valid": 1, "has_sequence": 1, "sequence": 31, "number": number},
            (TraceKind.ADMIT, 0, 0, 0, [31, signed(number)]),
        ),
        (
            "ended",
            ended | {"has_sequence": 1},
            (TraceKind.END, 0, 0, 0, [31 | code.value << 16, signed(number)]),
        ),
        ("ended", ended, (TraceKind.END, 0, 0, 0, [0xFFFF | code.value << 16, signed(number)])),
    ]

    async def bench(ctx) -> None:
        ctx.set(dut.number, number)
        ctx.set(dut.counters.valid, 1)
        for port, value, expected in events:
            ctx.set(getattr(dut, port), value)
            await ctx.tick()
            assert shown(ctx, dut) == expected
            ctx.set(getattr(dut, port), {})
            assert ctx.get(dut.counters.ready)
            await ctx.tick()

    simulate(dut, bench)


def test_registers_delay_and_change_nothing() -> None:
    """The same events, a cycle later."""
    beats = []
    for config in (CONFIG, preset("ulx3s")):
        dut = Tracer(config)
        rng, seen = random.Random(21), []

        async def bench(ctx, dut=dut, rng=rng, seen=seen) -> None:
            ctx.set(dut.counters.payload, {"index": 6, "value": 5})
            ctx.set(dut.counters.valid, 1)
            await ctx.tick().repeat(3)
            for _ in range(400):
                for name in ("begin", "committed"):
                    ctx.set(getattr(dut, name), rng.random() < 0.1)
                for name, field in (("span", "sequence"), ("token", "token")):
                    event = {"valid": rng.random() < 0.2, "beat": {field: rng.randrange(4)}}
                    ctx.set(getattr(dut, name), event)
                ctx.set(dut.fault, {"valid": rng.random() < 0.05, "packet": rng.randrange(100)})
                ctx.set(dut.step, {"rows": rng.randrange(16)})
                ctx.set(dut.packet, rng.randrange(100))
                await ctx.tick()
                seen.append((ctx.get(dut.valid), ctx.get(dut.beat.as_value())))

        simulate(dut, bench)
        beats.append(seen)
    plain, registered = beats
    assert len({beat for _, beat in plain}) > 100
    assert registered[3:] == plain[1:-2]
