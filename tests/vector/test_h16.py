# SPDX-License-Identifier: Apache-2.0
"""The h16 format against the golden model."""

import random

import pytest
from amaranth import *

from serrano.vector.h16 import H16Encoder, h16_decode, h16_magnitude
from serrano_sim.golden import silu
from support.pipelines import run_stretch
from support.streams import STALLS, simulate
from support.vectors import INT32_MAX, INT32_MIN, q16


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_encode(stall: float, registered: bool) -> None:
    values = [INT32_MIN, INT32_MAX, 2047, 2048, 4095, -4095, (1 << 20) - 1, *q16(random.Random(1), 300)]
    results = run_stretch(H16Encoder(registered=registered), [{"value": v} for v in values], ["code"], stall)
    assert [r for (r,) in results] == silu.h16_encode(values).tolist()


def test_decode() -> None:
    largest = int(silu.h16_encode(INT32_MIN)) & 0x7FFF
    codes = [0, 1, 1023, 1024, 1025, 2047, 2048, largest, largest | 0x8000]
    codes += [random.Random(2).randint(0, largest) | sign for sign in (0, 0x8000) for _ in range(100)]
    m = Module()
    code, value, size = Signal(16), Signal(signed(34)), Signal(33)
    m.d.comb += [value.eq(h16_decode(code)), size.eq(h16_magnitude(code))]
    m.d.sync += Signal().eq(1)
    found = []

    async def bench(ctx) -> None:
        for item in codes:
            ctx.set(code, item)
            found.append(ctx.get(value))
            assert ctx.get(size) == abs(found[-1])
            await ctx.tick()

    simulate(m, bench)
    assert found == silu.h16_decode(codes).tolist()
