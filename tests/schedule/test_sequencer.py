# SPDX-License-Identifier: Apache-2.0
"""Sequencer: the commands that the packets of a golden tape lead to, and what it waits for."""

import dataclasses
from functools import cache

import pytest

from serrano.config import preset
from serrano.schedule.sequencer import Route, Sequencer
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import Opcode, Tape, read_tape
from support.streams import STALLS, collect, send, simulate

CONFIG = dataclasses.replace(preset("tiny"), rows_max=8)
N = CONFIG.n
DIM, FFN, LAYERS, HEADS, KV_HEADS, VOCAB = 44, 46, 2, 4, 2, 33
PAD = 8


ATTEND = ("row", "skip", "rows", "final", "committed", "kv_heads", "group", "head_dim", "head_pad")


@cache
def tape() -> Tape:
    model = random_model(
        1, dim=DIM, ffn=FFN, layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, head_dim=6, vocab=VOCAB
    )
    return read_tape(write_tape(model, N, CONFIG.tape_align))


def model_info() -> dict:
    fields = tape().fields
    names = ("dim", "ffn", "heads", "kv_heads", "head_dim", "head_pad", "vocab", "program_offset")
    info = {name: fields[name] for name in names}
    info |= {name: fields[name] for name in ("head_offset", "end_offset", "program_end")}
    return info | {"group": HEADS // KV_HEADS}


def up(value: int) -> int:
    return -(-value // N)


Spans = list[tuple[int, int, int]]
"""Sequence, rows, position of each."""


def run(spans: Spans, sampled: int, stall: float, config=CONFIG) -> tuple[list[tuple], list[tuple[int, int]]]:
    """Execute one step with units that do nothing but take their time; return the commands and the runs."""
    dut = Sequencer(config)
    sample, rows = sampled > 0, sum(count for _, count, _ in spans)
    log: list[tuple] = []
    runs: list[tuple[int, int]] = []
    packets = [p for p in tape().packets if sample or not 15 <= p.index <= 17]
    assert [p.opcode for p in packets][-1] == Opcode.END

    async def pulse(ctx, signal, delay: int = 5) -> None:
        await ctx.tick().repeat(delay)
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)

    def unit(name: str, fields: tuple[str, ...], *ends: str):
        async def bench(ctx) -> None:
            while True:
                port = getattr(dut, name)
                (values,) = await collect(
                    ctx, port, 1, stall, len(log), lambda p: tuple(getattr(p, field) for field in fields)
                )
                log.append((name, *values))
                for end in ends:
                    await pulse(ctx, getattr(dut, end))

        return bench

    async def projection(ctx) -> None:
        while True:
            (values,) = await collect(
                ctx, dut.dequantize, 1, stall, len(log), lambda p: (p.rows, p.last, p.blocks)
            )
            route = Route(ctx.get(dut.route))
            log.append(("dequantize", route, *values))
            if route is Route.RESIDUAL:
                ctx.set(dut.residual_idle, 0)
                await pulse(ctx, dut.beat_last)
                await ctx.tick().repeat(4)
                ctx.set(dut.residual_idle, 1)
            elif route is Route.GATE_UP:
                await pulse(ctx, dut.staged_last)
            elif route is Route.LOGITS:
                await pulse(ctx, dut.beat_last)

    async def memory(ctx) -> None:
        for _ in range(1 if sample else 2):
            runs.extend(await collect(ctx, dut.runs, 1, stall, 1, lambda p: (p.address, p.bytes)))

    async def control(ctx) -> None:
        ctx.set(dut.model, model_info())
        ctx.set(dut.tape, 0x10000)
        ctx.set(dut.residual_idle, 1)
        ctx.set(dut.staging_idle, 1)
        ctx.set(dut.sampled, 1)
        row = 0
        for sequence, count, position in spans:
            span = {"sequence": sequence, "row": row, "rows": count, "position": position}
            await send(ctx, dut.span, [span], stall, row)
            row += count
        await send(ctx, dut.step, [{"rows": rows, "sampled": sampled, "last": rows - 1}])
        await ctx.tick().repeat(20)
        ctx.set(dut.embedded, 1)
        ctx.set(dut.writes_pending, 1)
        for packet in packets:
            flags = int(packet.opcode == Opcode.MATMUL and packet.n_out == VOCAB)
            header = {"opcode": int(packet.opcode), "flags": flags, "index": packet.index}
            header |= {"k": packet.k, "n_out": packet.n_out, "layer": packet.layer}
            await send(ctx, dut.packets, [header], stall, 9)
        for ready in ("writes_pending", "checked"):
            await ctx.tick().repeat(10)
            assert not ctx.get(dut.done)
            assert ctx.get(dut.packet) == packets[-1].index
            ctx.set(getattr(dut, ready), 0 if ready == "writes_pending" else len(packets))
        while not ctx.get(dut.done):
            await ctx.tick()

    units = [
        unit("feed", ("rows", "last", "tiles", "blocks")),
        unit("heads", ("rows", "kv_heads", "heads", "head_pad"), "head_last"),
        unit("argmax", ("rows", "vocab")),
        unit("quantize", ("staging", "norm", "rows", "length"), "quantized"),
        unit("attend", ATTEND, "staged_last"),
        unit("append", ("record",)),
        unit("gather", ("seq", "record", "first", "count")),
    ]
    simulate(dut, memory, control, background=[*units, projection])
    return log, runs


def parts_of(spans: Spans) -> list[tuple[int, int, int, int, int]]:
    """Sequence, first row, rows before, rows, position of what attention takes at a time."""
    found, row = [], 0
    most = CONFIG.attention_rows_max // (HEADS // KV_HEADS)
    for sequence, count, position in spans:
        found += [(sequence, row, skip, min(most, count - skip), position) for skip in range(0, count, most)]
        row += count
    return found


def expected_commands(spans: Spans, sampled: int) -> list[tuple]:
    width, qkv = HEADS * PAD, (2 * KV_HEADS + HEADS) * PAD
    rows = sum(count for _, count, _ in spans)
    parts = parts_of(spans)
    commands: list[tuple] = []

    def projection(route: Route, k: int, n_out: int, *others: tuple, count: int = rows) -> None:
        commands.append(("feed", count, rows - 1, up(k), up(n_out)))
        commands.append(("dequantize", route, count, rows - 1, up(n_out)))
        commands.extend(others)

    def norm() -> None:
        commands.append(("quantize", 0, 1, rows, DIM))

    for layer in range(LAYERS):
        norm()
        append = ("append", layer * KV_HEADS)
        projection(Route.HEADS, DIM, qkv, ("heads", rows, KV_HEADS, HEADS, PAD), append)
        for sequence, _, _, _, position in parts:
            if position:
                records = range(layer * KV_HEADS, (layer + 1) * KV_HEADS)
                commands += [("gather", sequence, record, 0, position) for record in records]
        for index, (_, row, skip, count, position) in enumerate(parts):
            final = int(index == len(parts) - 1)
            shape = (KV_HEADS, HEADS // KV_HEADS, 6, PAD)
            commands.append(("attend", row, skip, count, final, position, *shape))
        commands.append(("quantize", 1, 0, rows, width))
        projection(Route.RESIDUAL, width, DIM)
        norm()
        projection(Route.GATE_UP, DIM, 2 * FFN)
        commands.append(("quantize", 1, 0, rows, FFN))
        projection(Route.RESIDUAL, FFN, DIM)
    if sampled:
        norm()
        projection(Route.LOGITS, DIM, VOCAB, ("argmax", sampled, VOCAB), count=sampled)
    return commands


SPANS = {
    "first": [(0, 1, 0)],
    "later": [(2, 1, 21)],
    "mixed": [(1, 1, 30), (3, 1, 0), (0, 6, 17)],
}


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("sampled", [0, 1, 3])
@pytest.mark.parametrize("registered", [False, True])
def test_commands(spans: Spans, sampled: int, stall: float, registered: bool) -> None:
    sampled = min(sampled, len(spans))
    sample = sampled > 0
    log, runs = run(spans, sampled, stall, dataclasses.replace(CONFIG, registered=registered))
    fields = tape().fields
    start, end = 0x10000 + fields["program_offset"], 0x10000 + fields["program_end"]
    if sample:
        assert runs == [(start, end - start)]
    else:
        tail = 0x10000 + fields["end_offset"]
        assert runs == [(start, 0x10000 + fields["head_offset"] - start), (tail, end - tail)]

    def by_unit(commands: list[tuple]) -> dict[str, list[tuple]]:
        units: dict[str, list[tuple]] = {}
        for name, *values in commands:
            units.setdefault(name, []).append(tuple(values))
        return units

    assert by_unit(log) == by_unit(expected_commands(spans, sampled))
    # The quantizations show that packets are executed one after another.
    order = [entry for entry in log if entry[0] in ("quantize", "feed", "attend")]
    assert order == [c for c in expected_commands(spans, sampled) if c[0] in ("quantize", "feed", "attend")]
