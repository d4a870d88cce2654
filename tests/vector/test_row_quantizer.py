# SPDX-License-Identifier: Apache-2.0
"""RowQuantizer on rows of both sources, with and without norm, equal to the golden model."""

import random

import numpy as np
import pytest

from serrano.vector.row_quantizer import RowQuantizer
from serrano_sim.golden.quantize import quantize, rms_norm
from serrano_sim.golden.silu import h16_decode, h16_encode
from support.streams import STALLS, collect, send, simulate
from support.vectors import BASE, CONFIGS, NARROW, packed_input, q16, q16_rows, scale_pair, scales


class Bench:
    """Plays both source memories, each full to its padding with what must not matter."""

    def __init__(self, config):
        self.config = config
        self.dut = RowQuantizer(config)
        self.rng = random.Random(1)
        self.residual = np.array(q16(self.rng, config.rows_max * config.dim_max)).reshape(config.rows_max, -1)
        self.staged = np.zeros((config.rows_max, config.input_max), dtype=np.int64)
        self.seen: list[dict] = []

    async def memory(self, ctx) -> None:
        lanes, dut = self.config.lanes, self.dut
        ports = [p for port in (dut.residual, dut.staged) for p in (port.en, port.row, port.word)]
        while True:
            _, _, *now = await ctx.tick().sample(*ports)
            for port, source, (en, row, word) in (
                (dut.residual, self.residual, now[:3]),
                (dut.staged, self.staged, now[3:]),
            ):
                # Also asked for, and for nothing: words that only the longer buffer has, rows to come.
                if en and row < len(source) and word * lanes < source.shape[1]:
                    ctx.set(port.data, source[row, word * lanes :][:lanes].tolist())

    def fill(self, ctx, staging: bool, rows: int, length: int) -> np.ndarray:
        """New rows of ``length``; returns their values."""
        values = q16_rows(self.rng, rows, length)
        if staging:
            codes = h16_encode(values)
            self.staged[:] = np.array([self.rng.getrandbits(14) for _ in range(self.staged.size)]).reshape(
                self.staged.shape
            )
            self.staged[:rows, :length] = codes
            for row in range(rows):
                ctx.set(self.dut.staged_maxima[row], int((codes[row] & 0x7FFF).max()))
            return h16_decode(codes)
        self.residual[:rows, :length] = values
        for row in range(rows):
            ctx.set(self.dut.residual_maxima[row], int(np.abs(values[row]).max()))
        return values

    async def run(self, ctx, staging: bool, norm: bool, rows: int, length: int, stall: float, cycles=None):
        config, dut = self.config, self.dut
        x = self.fill(ctx, staging, rows, length)
        eps = scales(self.rng, 1, -30, 0)[0]
        codes, scale = rms_norm(x, eps) if norm else quantize(x)
        padded = np.zeros((rows, -(-length // config.n) * config.n), dtype=np.int64)
        padded[:, :length] = codes
        wanted = [
            (
                padded[r, c : c + config.lanes].tolist(),
                r,
                c,
                int(r == rows - 1 and c + config.lanes == padded.shape[1]),
            )
            for r in range(rows)
            for c in range(0, padded.shape[1], config.lanes)
        ]
        command = {"staging": staging, "norm": norm, "rows": rows, "length": length, "eps": packed_input(eps)}
        before = [scale_pair(s) for s in ctx.get(dut.row_scales)]
        await send(ctx, dut.command, [command])
        found = await collect(
            ctx, dut.codes, len(wanted), stall, length, lambda b: (list(b.codes), b.row, b.column, b.last)
        )
        assert found == wanted
        if not ctx.get(dut.done):
            await ctx.tick().until(dut.done)
            # The tick that ends `done` has passed.
        after = [scale_pair(s) for s in ctx.get(dut.row_scales)]
        assert after[:rows] == list(zip(scale.m.tolist(), scale.e.tolist(), strict=True))
        assert after[rows:] == before[rows:]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_rows(config, stall: float) -> None:
    bench = Bench(config)

    async def run(ctx) -> None:
        # Full buffers, one row, lengths that are no multiples of n or lanes, a single element.
        for norm, rows, length in [
            (True, config.rows_max, config.dim_max),
            (True, 1, config.dim_max - config.n + 3),
            (True, 3, 1),
            (False, 2, config.dim_max - 1),
        ]:
            await bench.run(ctx, False, norm, rows, length, stall)
        for rows, length in [
            (config.rows_max, config.input_max - config.n - 4),
            (1, config.input_max),
            (config.rows_max - 1, 12),
        ]:
            await bench.run(ctx, True, False, rows, length, stall)

    simulate(bench.dut, run, background=[bench.memory])


def test_ffn_172() -> None:
    bench = Bench(BASE)

    async def run(ctx) -> None:
        await bench.run(ctx, True, False, BASE.rows_max, 172, 0.0)

    simulate(bench.dut, run, background=[bench.memory])


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("config", "length"), [(BASE, 96), (NARROW, 40)], ids=lambda value: str(value)[:4])
def test_latency_and_rate(config, length: int, norm: bool) -> None:
    bench = Bench(config)
    dut, rows = bench.dut, 4
    beats, final = rows * length // config.lanes, (rows - 1, length // config.lanes - 1)
    valid, scale_cycle, done_cycle = [], [], []

    async def run(ctx) -> None:
        bench.fill(ctx, False, rows, length)
        ctx.set(dut.residual_maxima[rows - 1], 5 << 20)
        eps = packed_input(scales(bench.rng, 1, -30, 0)[0])
        ctx.set(dut.codes.ready, 1)
        await send(ctx, dut.command, [{"norm": norm, "rows": rows, "length": length, "eps": eps}])
        before = scale_pair(ctx.get(dut.row_scales[rows - 1]))
        reads = []
        for cycle in range(dut.latency + beats + 30):
            # This is cycle 1 after the command's.
            valid.append(ctx.get(dut.codes.valid))
            if ctx.get(dut.residual.en) and (ctx.get(dut.residual.row), ctx.get(dut.residual.word)) == final:
                reads.append(cycle)
            if ctx.get(dut.done):
                done_cycle.append(cycle)
            if not scale_cycle and scale_pair(ctx.get(dut.row_scales[rows - 1])) != before:
                scale_cycle.append(cycle - reads[-1])
            await ctx.tick()

    simulate(dut, run, background=[bench.memory])
    first = dut.latency - 1
    # With registers a cycle passes between two rows.
    expected = [0] * first + ([1] * (beats // rows) + [0] * int(config.registered)) * rows
    assert valid == expected + [0] * (len(valid) - len(expected))
    assert scale_cycle == [dut.scale_latency]
    assert len(done_cycle) == 1
