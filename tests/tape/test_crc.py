# SPDX-License-Identifier: Apache-2.0
"""The parallel CRC equals zlib's."""

import random
import zlib

import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.tape.crc import crc32_step
from support.streams import simulate


class Accumulator(wiring.Component):
    """A CRC register that takes ``width`` bytes per cycle."""

    def __init__(self, width: int):
        self.width = width
        super().__init__({"content": In(8 * width), "crc": Out(32, init=0xFFFFFFFF)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.crc.eq(crc32_step(self.crc, self.content, self.width))
        return m


@pytest.mark.parametrize("width", [1, 2, 4, 12, 16, 64])
def test_equals_zlib(width: int) -> None:
    dut = Accumulator(width)
    content = random.Random(width).randbytes(width * 9)

    async def bench(ctx) -> None:
        for i in range(0, len(content), width):
            ctx.set(dut.content, int.from_bytes(content[i : i + width], "little"))
            await ctx.tick()
            assert ~ctx.get(dut.crc) & 0xFFFFFFFF == zlib.crc32(content[: i + width])

    simulate(dut, bench)
