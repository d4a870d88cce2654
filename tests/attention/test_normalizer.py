# SPDX-License-Identifier: Apache-2.0
"""Division by the denominators and staging against the golden model."""

import numpy as np
import pytest

from attention import reference
from serrano.attention.normalizer import Normalizer
from serrano_sim.golden.fixed import rhu_sat32
from serrano_sim.golden.silu import h16_encode
from support.streams import STALLS, collect, send, simulate

TOP = 1 << 39


def head(rng, rows, group, head_pad, row, column, last):
    """A command with random outputs [rows, head_pad] and finals."""
    o = rng.integers(-TOP, TOP, (rows, head_pad)) >> rng.integers(0, 40, (rows, head_pad))
    o[0, : min(4, head_pad)] = [-TOP, TOP - 1, 0, -1][: min(4, head_pad)]
    finals = [(int(rng.integers(1 << 15, (1 << 16) + 1)), int(rng.integers(-16, 64))) for _ in range(rows)]
    finals[0] = (1 << 16, int(rng.choice([-16, 63, 24])))
    command = {"rows": rows, "group": group, "head_pad": head_pad, "row": row, "column": column, "last": last}
    return command, o, finals


def beats_of(config, command, o, finals):
    """What the staging buffer is to receive, in order."""
    n, lanes, pad = config.n, config.lanes, command["head_pad"]
    beats = []
    for chunk in range(-(-pad // n)):
        for row in range(command["rows"]):
            reciprocal, shift = finals[row]
            codes = h16_encode(rhu_sat32(o[row, chunk * n : (chunk + 1) * n] * reciprocal, shift))
            token, member = divmod(row, command["group"])
            for part in range(0, min(n, pad - chunk * n), lanes):
                column = command["column"] + member * pad + chunk * n + part
                beats.append([codes[part : part + lanes].tolist(), command["row"] + token, column, 0])
    beats[-1][-1] = command["last"]
    return [tuple(beat) for beat in beats]


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("n", "lanes"), [(4, 1), (4, 2), (8, 2), (16, 8)])
def test_equals_golden(n, lanes, stall):
    config = reference.small(n, lanes, attention_rows_max=8)
    rng = np.random.default_rng(n)
    shapes = [(1, 1, n), (8, 8, n // 2), (8, 4, 3 * n), (6, 2, n), (3, 1, n // 2), (3, 3, 2 * n), (4, 1, n)]
    heads = [
        head(rng, rows, group, pad, index % 2, index * n, int(index == len(shapes) - 1))
        for index, (rows, group, pad) in enumerate(shapes)
    ]
    dut = Normalizer(config)
    staged = []

    async def feed_commands(ctx):
        assert ctx.get(dut.idle)
        await send(ctx, dut.command, [command for command, _, _ in heads], stall)

    async def feed_results(ctx):
        results = []
        for command, o, _ in heads:
            pad = command["head_pad"]
            for chunk in range(-(-pad // n)):
                for row in range(command["rows"]):
                    word = o[row, chunk * n : (chunk + 1) * n].tolist()
                    # What lies beyond the head is not to be written.
                    results.append(word + [-TOP] * (n - len(word)))
        await send(ctx, dut.results, results, stall, 1)

    async def feed_finals(ctx):
        finals = [{"reciprocal": g, "shift": s} for _, _, finals in heads for g, s in finals]
        await send(ctx, dut.finals, finals, stall, 2)

    async def take(ctx):
        def fields(payload):
            assert not payload.half
            return (list(payload.codes), payload.row, payload.column, payload.last)

        count = sum(len(beats_of(config, *some)) for some in heads)
        assert not ctx.get(dut.staged.valid)
        staged.extend(await collect(ctx, dut.staged, count, stall, 3, convert=fields))
        assert ctx.get(dut.idle)

    simulate(dut, feed_commands, feed_results, feed_finals, take)
    assert staged == [beat for some in heads for beat in beats_of(config, *some)]


def test_finals_never_block():
    """As many finals as lookahead + 2 items have fit; the ring is used again from its start."""
    config = reference.small(4, 2, attention_rows_max=3, lookahead=1)
    rng = np.random.default_rng(5)
    heads = [head(rng, 3, 3, 4, 0, 0, 0) for _ in range(8)]
    dut = Normalizer(config)
    staged = []

    async def feed(ctx):
        given = 0
        finals = [final for _, _, finals in heads for final in finals]
        for index, (command, o, _) in enumerate(heads):
            while given < len(finals) and ctx.get(dut.finals.ready):
                await send(ctx, dut.finals, [{"reciprocal": finals[given][0], "shift": finals[given][1]}])
                given += 1
            assert given == min(len(finals), 9 + 3 * index)
            await send(ctx, dut.command, [command])
            await send(ctx, dut.results, o.tolist(), 0.5, index)

    async def take(ctx):
        def fields(payload):
            return (list(payload.codes), payload.row, payload.column, payload.last)

        staged.extend(await collect(ctx, dut.staged, 3 * 2 * len(heads), convert=fields))

    simulate(dut, feed, take)
    assert staged == [beat for some in heads for beat in beats_of(config, *some)]


@pytest.mark.parametrize(("n", "lanes"), [(4, 1), (4, 2), (16, 8)])
def test_throughput_and_latency(n, lanes):
    config = reference.small(n, lanes, attention_rows_max=8)
    command, o, finals = head(np.random.default_rng(7), 8, 2, 4 * n, 0, 0, 1)
    dut = Normalizer(config)

    async def bench(ctx):
        await send(ctx, dut.finals, [{"reciprocal": g, "shift": s} for g, s in finals])
        await send(ctx, dut.command, [command])
        ctx.set(dut.results.payload, o[0, :n].tolist())
        ctx.set(dut.results.valid, 1)
        ctx.set(dut.staged.ready, 1)
        for _ in range(dut.latency):
            assert not ctx.get(dut.staged.valid)
            await ctx.tick()
        for _ in range(32 * n // lanes):
            assert ctx.get(dut.staged.valid)
            await ctx.tick()
        assert not ctx.get(dut.staged.valid)

    simulate(dut, bench)
