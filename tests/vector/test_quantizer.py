# SPDX-License-Identifier: Apache-2.0
"""The quantizer's parts against the golden model: factors, lanes, and vectors from memory."""

import random

import numpy as np
import pytest
from amaranth import *

from serrano.vector.quantizer import LaneQuantizer, QuantizerFactors, VectorQuantizer, vector_scale
from serrano_sim.golden import quantize, tables
from serrano_sim.golden.fixed import msb, rhu
from support.pipelines import run_stretch
from support.streams import STALLS, collect, send, simulate
from support.vectors import BASE, CONFIGS, INT32_MAX, INT32_MIN, q16_rows, scale_pair


def factors_of(maxima: np.ndarray) -> list[tuple]:
    """(p, a, c, zero) as in the golden model."""
    norm = quantize.normalize(np.asarray(maxima)[:, None])
    factor = rhu(127 * tables.recip(norm.a), 7)
    return [
        (int(n) + 15, int(a), int(c), int(z))
        for n, a, c, z in zip(norm.n, norm.a, factor, norm.zero, strict=True)
    ]


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_factors(stall: float, registered: bool) -> None:
    rng = random.Random(1)
    maxima = [1, 2, 3, 1 << 15, (1 << 16) - 1, (1 << 17) - 1, INT32_MAX, 1 << 31, 65504, 65505, 65535 << 10]
    maxima += [rng.randint(1, 1 << rng.randint(0, 31)) for _ in range(200)] + [0]
    results = run_stretch(
        QuantizerFactors(registered=registered), [{"maximum": a} for a in maxima], ["factors"], stall
    )
    found = [(f.position, f.top, f.factor, f.zero) for (f,) in results]
    assert found[:-1] == factors_of(maxima[:-1])
    assert (1 << 16) in [top for _, top, _, _ in found]
    assert found[-1][-1] == 1


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_lanes(stall: float, registered: bool) -> None:
    rng = random.Random(2)
    operands, wanted = [], []
    for row in q16_rows(rng, 100, 4):
        row = row if row.any() else np.array([1 << 32, -(1 << 32) + 1, 5, -7]) >> 1
        ((p, _, c, _),) = factors_of([int(np.abs(row).max())])
        operands.append({"values": row.tolist(), "position": p, "factor": c})
        wanted.append(quantize.quantize(row)[0].tolist())
    results = run_stretch(LaneQuantizer(4, registered=registered), operands, ["codes"], stall)
    assert [list(codes) for (codes,) in results] == wanted


@pytest.mark.parametrize("registered", [False, True])
def test_normalized(registered: bool) -> None:
    row = np.array([INT32_MIN, INT32_MAX, -(1 << 15), (1 << 15) - 1])
    dut = LaneQuantizer(4, registered=registered)
    norm = quantize.normalize(row)
    assert int(msb(1 << 31)) == 31

    async def bench(ctx) -> None:
        ctx.set(dut.enable, 1)
        ctx.set(dut.values, row.tolist())
        ctx.set(dut.position, 31)
        for _ in range(dut.normalized_latency):
            await ctx.tick()
        assert list(ctx.get(dut.normalized)) == norm.v.tolist()

    simulate(dut, bench)


class Bench:
    """Vectors of several lengths in a memory that the bench plays."""

    def __init__(self, config, lengths: list[int]):
        rng = random.Random(3)
        self.config = config
        self.words = max(lengths)
        self.dut = VectorQuantizer(config, self.words, unsigned(6))
        self.vectors = [q16_rows(rng, 4, n * config.lanes)[k % 4] for k, n in enumerate(lengths)]

    def jobs(self) -> list[dict]:
        return [
            {"maximum": int(np.abs(v).max()), "words": len(v) // self.config.lanes, "tag": k}
            for k, v in enumerate(self.vectors)
        ]

    async def memory(self, ctx) -> None:
        lanes, dut = self.config.lanes, self.dut
        stages = [[0] * lanes] * (dut.read_latency - 1)
        while True:
            _, _, advance, en, word, tag = await ctx.tick().sample(
                dut.r_advance, dut.r_en, dut.r_word, dut.r_tag
            )
            if advance:
                stages[1:] = stages[:-1]
            if en:
                stages[0] = self.vectors[tag][word * lanes :][:lanes].tolist()
            ctx.set(dut.r_data, stages[-1])

    def wanted(self) -> list[tuple]:
        beats = []
        for k, vector in enumerate(self.vectors):
            codes, _ = quantize.quantize(vector)
            words = codes.reshape(-1, self.config.lanes).tolist()
            beats += [(c, w, k, int(w == len(words) - 1)) for w, c in enumerate(words)]
        return beats


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_vectors(config, stall: float) -> None:
    bench = Bench(config, [1, 3, 7, 2, 1, 1, 5, 4, 3, 8, 1, 2])
    dut = bench.dut
    normalized, tops = [], {}

    async def feed(ctx) -> None:
        await send(ctx, dut.jobs, bench.jobs(), stall, 1)

    async def drain(ctx) -> None:
        def convert(beat):
            if beat.last:
                tops[beat.tag] = beat.factors.top, beat.factors.zero
            return list(beat.codes), beat.word, beat.tag, beat.last

        wanted = bench.wanted()
        assert await collect(ctx, dut.beats, len(wanted), stall, 2, convert) == wanted

    async def watch(ctx) -> None:
        ports = dut.normalized_valid, dut.normalized, dut.normalized_tag, dut.normalized_last
        while True:
            _, _, valid, values, tag, last = await ctx.tick().sample(*ports)
            if valid:
                normalized.append((tag, list(values), last))

    simulate(dut, feed, drain, background=[bench.memory, watch])
    lanes = config.lanes
    norms = [quantize.normalize(v) for v in bench.vectors]
    assert normalized == [
        (k, norm.v[at : at + lanes].tolist(), int(at + lanes == len(norm.v)))
        for k, norm in enumerate(norms)
        for at in range(0, len(norm.v), lanes)
    ]
    for k, norm in enumerate(norms):
        assert tops[k][1] == norm.zero
        assert norm.zero or tops[k][0] == norm.a


def test_latency_and_rate() -> None:
    bench = Bench(BASE, [2, 2, 2, 2])
    dut, seen = bench.dut, []

    async def feed(ctx) -> None:
        await send(ctx, dut.jobs, bench.jobs())

    async def drain(ctx) -> None:
        ctx.set(dut.beats.ready, 1)
        for _ in range(dut.latency + 9):
            seen.append(ctx.get(dut.beats.valid))
            await ctx.tick()

    simulate(dut, feed, drain, background=[bench.memory])
    assert seen == [0] * dut.latency + [1] * 8 + [0]


@pytest.mark.parametrize("registered", [False, True])
def test_scale(registered: bool) -> None:
    vectors = q16_rows(random.Random(4), 64, 5)
    vectors[0], vectors[1] = 0, [1, 0, -1, 0, 0]
    maxima = np.abs(vectors).max(axis=1)
    dut = QuantizerFactors(registered=registered)
    found = []

    async def bench(ctx) -> None:
        ctx.set(dut.enable, 1)
        for a in maxima:
            ctx.set(dut.maximum, int(a))
            for _ in range(dut.latency):
                await ctx.tick()
            found.append(scale_pair(ctx.get(vector_scale(dut.factors))))

    simulate(dut, bench)
    _, scale = quantize.quantize(vectors)
    assert found == list(zip(scale.m.tolist(), scale.e.tolist(), strict=True))
