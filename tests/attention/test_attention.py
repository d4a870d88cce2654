# SPDX-License-Identifier: Apache-2.0
"""The attention unit against the golden model: from codes and records to staged outputs."""

import random

import numpy as np
import pytest

from attention import reference, step
from serrano.attention import Attention
from support.streams import STALLS, collect, send, simulate


def run(config, steps, stall=0.0, seed=0, engine=False, cycles=400_000):
    """Runs steps one after the other, on the real array or on a model of it; checks what is staged."""
    dut = step.AttentionWithEngine(config) if engine else Attention(config)
    rng = random.Random(seed)

    async def feed(ctx):
        for one in steps:
            ctx.set(dut.head_pad, one.command["head_pad"])
            # Codes and scales come without regard to each other; neither may ever wait.
            assert ctx.get(dut.codes.ready) and ctx.get(dut.scales.ready)
            await send(ctx, dut.codes, one.codes)
            await send(ctx, dut.scales, one.scales)
            await send(ctx, dut.command, [one.command])
            await ctx.tick().until(dut.idle)

    drive(config, dut, steps, feed, stall, rng, seed, engine, cycles)


def run_together(config, spans, stall=0.0, seed=0, engine=False, cycles=400_000):
    """Runs steps as the spans of one: codes and scales of all rows first, then a command for each."""
    dut = step.AttentionWithEngine(config) if engine else Attention(config)
    placed, row = [], 0
    for span in spans:
        skip = span.command.get("skip", 0)
        placed.append(step.moved(span, row - skip))
        row += span.command["rows"]
    assert row <= config.rows_max

    async def feed(ctx):
        ctx.set(dut.head_pad, placed[0].command["head_pad"])
        for one in placed:
            await send(ctx, dut.codes, one.codes)
            await send(ctx, dut.scales, one.scales)
        await send(ctx, dut.command, [one.command for one in placed])

    drive(config, dut, placed, feed, stall, random.Random(seed), seed, engine, cycles)


def drive(config, dut, steps, feed, stall, rng, seed, engine, cycles):
    """Gives the records of all steps and checks what is staged."""

    async def gather(ctx):
        for one in steps:
            for record in one.records:
                while not ctx.get(dut.free_records):
                    await ctx.tick()
                for beat in step.record_beats(config, record):
                    while rng.random() < stall:
                        await ctx.tick()
                    ctx.set(dut.records.payload, beat)
                    ctx.set(dut.records.valid, 1)
                    # Once a slot was free, the whole record is taken without a pause.
                    assert ctx.get(dut.records.ready)
                    await ctx.tick()
                    ctx.set(dut.records.valid, 0)

    async def take(ctx):
        for one in steps:
            beats = await collect(
                ctx, dut.staged, step.beat_count(config, one), stall, rng.random(), step.staged_fields
            )
            step.check_staged(config, one, beats)

    model = [] if engine else step.ArrayModel(config, dut, seed, stall).benches
    simulate(dut, feed, gather, take, background=model, cycles=cycles)


CASES_4 = [
    # kv_heads, group, head_dim, committed, rows
    (2, 1, 8, 0, 1),
    (1, 4, 8, 5, 1),
    (2, 1, 6, 16, 3),
    (1, 1, 2, 37, 3),
    (3, 2, 4, 15, 2),
]


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("case", CASES_4, ids=str)
def test_n4(case, stall):
    config = reference.small(4, 2, attention_rows_max=8, head_dim_max=16, kv_width_max=32)
    rng = np.random.default_rng(sum(case))
    run(config, [step.make(rng, config, *case)], stall)


@pytest.mark.parametrize("stall", STALLS)
def test_n8(stall):
    """A load path as wide as one vector, and a port of two bytes."""
    config = reference.small(8, 2, attention_rows_max=8, head_dim_max=16, kv_width_max=32)
    rng = np.random.default_rng(8)
    run(config, [step.make(rng, config, 1, 2, 12, 18, 2), step.make(rng, config, 2, 1, 4, 3, 1)], stall)


@pytest.mark.parametrize(
    "case",
    [(1, 1, 8, 5, 1), (1, 8, 8, 37, 1), (2, 4, 48, 16, 1), (1, 1, 64, 37, 3), (1, 2, 18, 21, 3)],
    ids=str,
)
def test_n16(case):
    config = reference.small(16, 8, attention_rows_max=8, dim_max=384, kv_width_max=96)
    rng = np.random.default_rng(sum(case))
    run(config, [step.make(rng, config, *case)], 0.3)


@pytest.mark.parametrize("case", [(1, 2, 8, 37, 1), (1, 1, 48, 16, 3), (1, 2, 64, 5, 1)], ids=str)
def test_n32(case):
    """A group is half a tile."""
    config = reference.small(32, 16, attention_rows_max=8, dim_max=384, kv_width_max=96)
    run(config, [step.make(np.random.default_rng(sum(case)), config, *case)], 0.3)


@pytest.mark.parametrize("stall", STALLS)
def test_on_the_array(stall):
    """Several steps in a row on the real array, of different shapes; the ring of records goes round."""
    config = reference.small(4, 2, attention_rows_max=8, head_dim_max=16, kv_width_max=32, lookahead=2)
    rng = np.random.default_rng(9)
    shapes = [(2, 2, 8, 35, 1), (1, 1, 6, 80, 2), (1, 8, 2, 17, 1), (2, 1, 16, 14, 4), (2, 1, 4, 0, 1)]
    run(config, [step.make(rng, config, *shape) for shape in shapes], stall, engine=True)


def test_on_the_array_n16():
    config = reference.small(16, 8, attention_rows_max=8, head_dim_max=32, kv_width_max=32)
    rng = np.random.default_rng(10)
    run(config, [step.make(rng, config, 1, 4, 24, 19, 2)], engine=True)


@pytest.mark.parametrize("lookahead", [1, 4])
def test_many_short_heads(lookahead):
    """Heads of one item each: K runs ahead over several heads, and so do their finals."""
    config = reference.small(4, 2, attention_rows_max=2, head_dim_max=4, kv_width_max=64, lookahead=lookahead)
    rng = np.random.default_rng(11)
    run(config, [step.make(rng, config, 12, 1, 4, 9, 2)], 0.5)


@pytest.mark.parametrize(
    ("s_q", "s_kv"), [((-80, -79), (-40, -39)), ((20, 28), (12, 24)), ((-30, -4), (-30, 20))]
)
def test_extreme_scales(s_q, s_kv):
    config = reference.small(4, 2, attention_rows_max=4, head_dim_max=8, kv_width_max=16)
    rng = np.random.default_rng(12)
    run(config, [step.make(rng, config, 1, 2, 8, 38, 2, s_q, s_kv)])


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("engine", [False, True])
def test_several_sequences(stall, engine):
    """Rows of several sequences in one step: single ones, and chunks that begin inside of a group."""
    config = reference.small(4, 2, rows_max=8, attention_rows_max=8, head_dim_max=8, kv_width_max=16)
    rng = np.random.default_rng(13)
    shapes = [(2, 2, 6, 35, 1), (2, 2, 6, 0, 1), (2, 2, 6, 14, 4), (2, 2, 6, 16, 1), (2, 2, 6, 47, 1)]
    run_together(config, [step.make(rng, config, *shape) for shape in shapes], stall, engine=engine)


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("committed", "parts"), [(13, (2, 3)), (0, (1, 1, 1)), (31, (3, 1)), (16, (2, 2, 1))]
)
def test_chunk_in_parts(stall, committed, parts):
    """A chunk with too many rows for one command: later parts attend to the rows of earlier ones."""
    config = reference.small(4, 2, rows_max=8, attention_rows_max=6, head_dim_max=8, kv_width_max=16)
    rng = np.random.default_rng(14)
    whole = step.make(rng, config, 2, 2, 6, committed, sum(parts))
    run_together(config, [step.make(rng, config, 2, 2, 6, 5, 2), *step.divided(whole, parts)], stall)
