# SPDX-License-Identifier: Apache-2.0
"""Gearbox: bytes in order at any pair of widths, and the rate."""

import random
import re

import pytest

from serrano.stream import Gearbox
from support.streams import STALLS, collect, send, simulate


@pytest.mark.parametrize(("i_bytes", "o_bytes"), [(2, 16), (16, 2), (4, 4), (1, 4), (16, 8)])
@pytest.mark.parametrize("stall", STALLS)
def test_bytes_in_order(i_bytes: int, o_bytes: int, stall: float) -> None:
    dut = Gearbox(i_bytes, o_bytes)
    content = random.Random(1).randbytes(16 * 24)
    words_in = [content[i : i + i_bytes] for i in range(0, len(content), i_bytes)]
    items = [
        {"bytes": int.from_bytes(word, "little"), "last": (k + 1) * i_bytes % 128 == 0}
        for k, word in enumerate(words_in)
    ]

    async def feed(ctx) -> None:
        await send(ctx, dut.i, items, stall, 1)

    async def drain(ctx) -> None:
        words = await collect(
            ctx,
            dut.o,
            len(content) // o_bytes,
            stall,
            2,
            lambda p: (p.bytes.to_bytes(o_bytes, "little"), p.last),
        )
        assert b"".join(word for word, _ in words) == content
        assert [k for k, (_, last) in enumerate(words) if last] == [
            k for k in range(len(words)) if (k + 1) * o_bytes % 128 == 0
        ]

    simulate(dut, feed, drain)


@pytest.mark.parametrize(("i_bytes", "o_bytes"), [(2, 8), (8, 2)])
def test_rate(i_bytes: int, o_bytes: int) -> None:
    dut = Gearbox(i_bytes, o_bytes)
    moved = {"i": 0, "o": 0}

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for _ in range(42):
            moved["i"] += ctx.get(dut.i.ready)
            moved["o"] += ctx.get(dut.o.valid)
            await ctx.tick()

    simulate(dut, bench)
    assert moved["i" if i_bytes < o_bytes else "o"] >= 41


def test_refused() -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('Widths must divide one another, not 4 and 6')}$"):
        Gearbox(4, 6)
