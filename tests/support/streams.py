# SPDX-License-Identifier: Apache-2.0
"""Drivers for streams in Amaranth's simulator, with seeded random stalls."""

import random
from collections.abc import Callable, Iterable
from typing import Any

from amaranth.sim import Simulator

STALLS = (0.0, 0.5)
"""Stall probabilities that every stream bench runs with."""


async def send(ctx: Any, port: Any, items: Iterable[Any], stall: float = 0.0, seed: int = 0) -> None:
    """Send ``items`` into the input stream ``port``; before each, wait a random number of cycles."""
    rng = random.Random(f"send {seed}")
    for item in items:
        while rng.random() < stall:
            await ctx.tick()
        ctx.set(port.payload, item)
        ctx.set(port.valid, 1)
        while not (await ctx.tick().sample(port.ready))[2]:
            pass
        ctx.set(port.valid, 0)


async def collect(
    ctx: Any,
    port: Any,
    count: int,
    stall: float = 0.0,
    seed: int = 0,
    convert: Callable[[Any], Any] = lambda payload: payload,
) -> list[Any]:
    """Take ``count`` payloads from the output stream ``port``, each passed through ``convert``."""
    rng = random.Random(f"collect {seed}")
    taken = []
    while len(taken) < count:
        while rng.random() < stall:
            await ctx.tick()
        ctx.set(port.ready, 1)
        valid = False
        while not valid:
            _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
        ctx.set(port.ready, 0)
        taken.append(convert(payload))
    return taken


def simulate(
    dut: Any,
    *benches: Callable[[Any], Any],
    background: Iterable[Callable[[Any], Any]] = (),
    cycles: int = 100_000,
) -> None:
    """Run ``benches`` (async functions of a context) on ``dut`` until all have ended.

    ``background`` benches serve the others and need not end.

    Raises
    ------
    TimeoutError
        If they have not ended after ``cycles`` clock cycles.
    """
    sim = Simulator(dut)
    sim.add_clock(1e-6)

    async def watchdog(ctx: Any) -> None:
        await ctx.delay(cycles * 1e-6)
        raise TimeoutError(f"the benches still run after {cycles} cycles")

    for bench in benches:
        sim.add_testbench(bench)
    for bench in (*background, watchdog):
        sim.add_testbench(bench, background=True)
    sim.run()
