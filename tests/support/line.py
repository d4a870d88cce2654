# SPDX-License-Identifier: Apache-2.0
"""A serial line in Amaranth's simulator."""

from typing import Any

__all__ = ["receive_line", "send_line"]


async def send_line(ctx: Any, rx: Any, data: bytes, divisor: int, gap: int = 0) -> None:
    """Send bytes, with so many cycles between them."""
    for byte in data:
        for bit in (0, *(byte >> place & 1 for place in range(8)), 1):
            ctx.set(rx, bit)
            await ctx.tick().repeat(divisor)
        if gap:
            await ctx.tick().repeat(gap)


async def receive_line(ctx: Any, tx: Any, divisor: int, received: bytearray) -> None:
    """Receive bytes for ever; run it as a background testbench."""
    while True:
        if ctx.get(tx):
            await ctx.tick()
            continue
        await ctx.tick().repeat(divisor + divisor // 2)
        byte = 0
        for place in range(8):
            byte |= ctx.get(tx) << place
            await ctx.tick().repeat(divisor)
        assert ctx.get(tx), "no stop bit"
        received.append(byte)
