# SPDX-License-Identifier: Apache-2.0
"""Sum of squares and the scale of RMSNorm against the golden model."""

import random

import numpy as np
import pytest

from serrano.vector.norm import NormScale, SquareSum
from serrano_sim.golden import quantize, tables
from serrano_sim.golden.fixed import rhu
from serrano_sim.golden.scale import Scale, mul, normalized
from support.pipelines import run_stretch
from support.streams import STALLS, simulate
from support.vectors import INT32_MAX, packed_input, q16_rows, scale_pair, scales


@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("registered", [False, True])
def test_square_sum(lanes: int, stall: float, registered: bool) -> None:
    rng = random.Random(1)
    dut = SquareSum(lanes, registered=registered)
    vectors = [
        np.array([rng.randint(-(1 << 16), 1 << 16) for _ in range(lanes * k)]) for k in (1, 3, 1, 1, 9)
    ]
    # The lower half of the sum carries.
    vectors.append(np.full(4 * lanes, -(1 << 16)))
    vectors.append(np.array([rng.randint(1 << 15, 1 << 16) for _ in range(lanes * 20)]))
    ends, sums, cycle = [], [], 0

    async def bench(ctx) -> None:
        nonlocal cycle

        async def tick(last: bool = False) -> None:
            nonlocal cycle
            if last:
                ends.append(cycle)
            await ctx.tick()
            cycle += 1
            if ctx.get(dut.done):
                sums.append((ctx.get(dut.total), cycle))

        for vector in vectors:
            words = vector.reshape(-1, lanes).tolist()
            for index, word in enumerate(words):
                while rng.random() < stall:
                    await tick()
                last = index == len(words) - 1
                ctx.set(dut.values, word)
                ctx.set(dut.last, last)
                ctx.set(dut.valid, 1)
                await tick(last)
                ctx.set(dut.valid, 0)
        for _ in range(dut.latency + 1):
            await tick()

    simulate(dut, bench)
    assert sums == [(int((v * v).sum()), end + dut.latency) for v, end in zip(vectors, ends, strict=True)]


def case(row: np.ndarray, eps: Scale) -> tuple[dict, tuple[int, int]]:
    """Operands for a row, and the golden scale."""
    norm = quantize.normalize(row)
    _, wanted = quantize.rms_norm(row, eps)
    operands = {
        "squares": int((norm.v * norm.v).sum()),
        "factors": {"position": int(norm.n) + 15, "top": int(norm.a), "factor": 0, "zero": 0},
        "eps": packed_input(eps),
    }
    return operands, (int(wanted.m), int(wanted.e))


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_scale(stall: float, registered: bool) -> None:
    rng = random.Random(2)
    cases = []
    for length in (1, 7, 64, 333, 2048):
        rows = q16_rows(rng, 40, length)
        rows = rows[rows.any(axis=1)]
        for row in rows:
            eps = scales(rng, 1, *rng.choice([(-40, 23), (-20, -5), (-40, -40), (23, 23)]))[0]
            cases.append(case(row, eps))
    # All at the limit: the largest sum; one least element under the largest and least eps.
    cases.append(case(np.full(2048, INT32_MAX), scales(rng, 1, 23, 23)[0]))
    cases.append(case(np.array([1]), scales(rng, 1, 23, 23)[0]))
    cases.append(case(np.array([1]), scales(rng, 1, -40, -40)[0]))
    results = run_stretch(
        NormScale(registered=registered), [operands for operands, _ in cases], ["scale"], stall
    )
    assert [scale_pair(s) for (s,) in results] == [wanted for _, wanted in cases]


@pytest.mark.parametrize("registered", [False, True])
def test_limit_of_eps(registered: bool) -> None:
    """A unit more or less of eps' shows where it decides a rounding: at either side of the limit of t."""
    squares = (1 << 30) + (1 << 14) + (1 << 13) - 1
    operands, wanted = [], []
    for exponent in range(-8, 4):
        eps = Scale(65504, exponent)
        factors = {"position": 31, "top": 1 << 15, "factor": 0, "zero": 0}
        operands.append({"squares": squares, "factors": factors, "eps": packed_input(eps)})
        r = tables.rsqrt(rhu(squares + quantize.rms_eps(eps, 16), 14))
        scale = mul(Scale(1 << 15, 15), normalized(r, -16))
        wanted.append((int(scale.m), int(scale.e)))
    results = run_stretch(NormScale(registered=registered), operands, ["scale"], 0.0)
    assert [scale_pair(s) for (s,) in results] == wanted
    assert len(set(wanted)) > 1
