# SPDX-License-Identifier: Apache-2.0
"""A bench for stretches of a pipeline: registers that load with ``enable`` and a declared ``latency``."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from .streams import simulate


def run_stretch(
    dut: Any, operands: Sequence[Mapping[str, Any]], outputs: Sequence[str], stall: float, seed: int = 0
) -> list[tuple]:
    """Feed ``operands`` (port name to value), one set per enabled cycle; return the outputs, each set taken
    ``latency`` enabled cycles later.

    In a share ``stall`` of the cycles, enable is off and the operands are others, which must not matter.
    """
    rng = random.Random(f"stretch {seed}")
    results = []

    async def bench(ctx: Any) -> None:
        for step in range(len(operands) + dut.latency):
            while rng.random() < stall:
                ctx.set(dut.enable, 0)
                for port, value in rng.choice(operands).items():
                    ctx.set(getattr(dut, port), value)
                await ctx.tick()
            ctx.set(dut.enable, 1)
            if step < len(operands):
                for port, value in operands[step].items():
                    ctx.set(getattr(dut, port), value)
            if step >= dut.latency:
                results.append(tuple(ctx.get(getattr(dut, port)) for port in outputs))
            await ctx.tick()

    simulate(dut, bench)
    return results
