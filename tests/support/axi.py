# SPDX-License-Identifier: Apache-2.0
"""A behavioural AXI4 memory for Amaranth's simulator. It checks the manager's side of the protocol."""

import random
from collections import deque
from typing import Any

__all__ = ["AXIMemory", "lite_read", "lite_write"]

READ_PAYLOAD = ("araddr", "arlen", "arsize", "arburst", "arid")


class AXIMemory:
    """Memory of ``size`` bytes behind an AXI4 port.

    Parameters
    ----------
    size : :class:`int`
        Bytes.
    latency : :class:`int`
        Cycles from the acceptance of an address to the first beat or the response.
    stall : :class:`float`
        Probability, per cycle and channel, of not being ready or not being valid.
    seed : :class:`int`
        Seed of the stalls.
    """

    def __init__(self, size: int, latency: int = 5, stall: float = 0.0, seed: int = 0):
        self.data = bytearray(size)
        self.latency = latency
        self.stall = stall
        self.rng = random.Random(f"axi {seed}")
        self.read_errors: dict[int, int] = {}
        """Response by address of the beat (2 SLVERR, 3 DECERR)."""
        self.write_errors: dict[int, int] = {}
        self.bursts: list[tuple[int, int]] = []
        """(address, beats) of every read burst."""
        self.writes: list[tuple[int, bytes, int]] = []
        """(address, bytes, strobe) of every write beat."""
        self.max_in_flight = 0

    def _go(self) -> bool:
        return self.rng.random() >= self.stall

    async def serve_reads(self, ctx: Any, axi: Any) -> None:
        """Answer read bursts for ever; run it as a background testbench."""
        width = len(axi.rdata) // 8
        queue: deque = deque()
        cycle = 0
        held = None
        while True:
            ready = self._go()
            ctx.set(axi.arready, ready)
            beat = queue[0] if queue and queue[0][0] <= cycle and (held or self._go()) else None
            ctx.set(axi.rvalid, beat is not None)
            if beat is not None:
                _, address, last = beat
                address %= 1 << 48
                ctx.set(axi.rdata, int.from_bytes(self.data[address : address + width], "little"))
                ctx.set(axi.rresp, self.read_errors.get(address, 0))
                ctx.set(axi.rlast, last)
            now = tuple(ctx.get(getattr(axi, name)) for name in READ_PAYLOAD)
            if ctx.get(axi.arvalid) and ready:
                address, beats = now[0], now[1] + 1
                assert 1 << now[2] == width and now[3] == 1, "only full-width INCR bursts are served"
                assert address % width == 0, f"unaligned burst at {address:#x}"
                assert address // 4096 == (address + beats * width - 1) // 4096, "burst crosses 4 KiB"
                self.bursts.append((address, beats))
                queue.extend(
                    (cycle + self.latency, address + width * i, i == beats - 1) for i in range(beats)
                )
                self.max_in_flight = max(self.max_in_flight, sum(last for _, _, last in queue))
            taken = beat is not None and ctx.get(axi.rready)
            held = beat is not None and not taken
            if taken:
                queue.popleft()
            pending = now if ctx.get(axi.arvalid) and not ready else None
            await ctx.tick()
            cycle += 1
            if pending is not None:
                assert ctx.get(axi.arvalid), "arvalid fell before arready"
                assert pending == tuple(ctx.get(getattr(axi, name)) for name in READ_PAYLOAD), "AR changed"

    async def serve_writes(self, ctx: Any, axi: Any) -> None:
        """Answer single-beat writes for ever; run it as a background testbench."""
        width = len(axi.wdata) // 8
        addresses: deque = deque()
        beats: deque = deque()
        responses: deque = deque()
        cycle = 0
        held = False
        while True:
            aw_ready, w_ready = self._go(), self._go()
            ctx.set(axi.awready, aw_ready)
            ctx.set(axi.wready, w_ready)
            answer = responses[0] if responses and responses[0][0] <= cycle and (held or self._go()) else None
            ctx.set(axi.bvalid, answer is not None)
            ctx.set(axi.bresp, answer[1] if answer else 0)
            if ctx.get(axi.awvalid) and aw_ready:
                assert ctx.get(axi.awlen) == 0 and 1 << ctx.get(axi.awsize) == width
                addresses.append(ctx.get(axi.awaddr))
            if ctx.get(axi.wvalid) and w_ready:
                assert ctx.get(axi.wlast), "a burst of one beat ends with its beat"
                beats.append((ctx.get(axi.wdata), ctx.get(axi.wstrb)))
            if addresses and beats:
                address, (word, strobe) = addresses.popleft(), beats.popleft()
                assert address % width == 0, f"unaligned write at {address:#x}"
                content = word.to_bytes(width, "little")
                self.writes.append((address, content, strobe))
                response = self.write_errors.get(address, 0)
                for i in range(width):
                    if strobe >> i & 1 and not response:
                        self.data[address + i] = content[i]
                responses.append((cycle + self.latency, response))
            taken = answer is not None and ctx.get(axi.bready)
            held = answer is not None and not taken
            if taken:
                responses.popleft()
            await ctx.tick()
            cycle += 1


async def _pause(ctx: Any, rng: random.Random | None) -> None:
    while rng is not None and rng.random() < 0.5:
        await ctx.tick()


async def lite_write(
    ctx: Any, bus: Any, address: int, value: int, strobe: int = 0b1111, rng: random.Random | None = None
) -> None:
    """Write over AXI4-Lite; with ``rng``, after random pauses between the channels."""
    await _pause(ctx, rng)
    ctx.set(bus.awaddr, address)
    ctx.set(bus.awvalid, 1)
    await _pause(ctx, rng)
    ctx.set(bus.wdata, value)
    ctx.set(bus.wstrb, strobe)
    ctx.set(bus.wvalid, 1)
    await ctx.tick().until(bus.awready & bus.wready)
    ctx.set(bus.awvalid, 0)
    ctx.set(bus.wvalid, 0)
    await _pause(ctx, rng)
    ctx.set(bus.bready, 1)
    (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
    ctx.set(bus.bready, 0)
    assert response == 0


async def lite_read(ctx: Any, bus: Any, address: int, rng: random.Random | None = None) -> int:
    """Read over AXI4-Lite; with ``rng``, with random pauses between the channels."""
    await _pause(ctx, rng)
    ctx.set(bus.araddr, address)
    ctx.set(bus.arvalid, 1)
    await ctx.tick().until(bus.arready)
    ctx.set(bus.arvalid, 0)
    await _pause(ctx, rng)
    ctx.set(bus.rready, 1)
    value, response = await ctx.tick().sample(bus.rdata, bus.rresp).until(bus.rvalid)
    ctx.set(bus.rready, 0)
    assert response == 0
    return value
