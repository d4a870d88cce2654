# SPDX-License-Identifier: Apache-2.0
"""Spans of a step, and the parts in which attention takes them."""

import dataclasses
import random

import pytest

from serrano.config import preset
from serrano.schedule.spans import PartIterator
from support.streams import simulate

CONFIG = dataclasses.replace(preset("tiny"), rows_max=8, attention_rows_max=6)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 6])
def test_parts(group: int, registered: bool) -> None:
    """Every row of every span is in one part, in order; again for each start, and anew after a clear."""
    dut = PartIterator(dataclasses.replace(CONFIG, registered=registered))
    rng = random.Random(group)
    most = CONFIG.attention_rows_max // group

    async def bench(ctx) -> None:
        ctx.set(dut.group, group)
        for counts in ([1], [8], [1, 1, 3], [5, 1, 2], [1] * 8, [4, 4]):
            spans, row = [], 0
            for rows in counts:
                position = rng.randrange(CONFIG.context_max)
                spans.append((rng.randrange(CONFIG.sequences_max), row, rows, position))
                row += rows
            ctx.set(dut.w_en, 1)
            for sequence, first, rows, position in spans:
                ctx.set(dut.w_span, {"sequence": sequence, "row": first, "rows": rows, "position": position})
                await ctx.tick()
            ctx.set(dut.w_en, 0)
            for _ in range(2):
                ctx.set(dut.start, 1)
                await ctx.tick()
                ctx.set(dut.start, 0)
                found = []
                while ctx.get(dut.active):
                    if ctx.get(dut.valid) and rng.random() < 0.5:
                        part = ctx.get(dut.part)
                        span = part.span
                        found.append(
                            (
                                (span.sequence, span.row, span.rows, span.position),
                                part.skip,
                                part.rows,
                                part.final,
                            )
                        )
                        ctx.set(dut.step, 1)
                    await ctx.tick()
                    ctx.set(dut.step, 0)
                wanted = [
                    (span, skip, min(most, span[2] - skip), 0)
                    for span in spans
                    for skip in range(0, span[2], most)
                ]
                wanted[-1] = (*wanted[-1][:3], 1)
                assert found == wanted
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)

    simulate(dut, bench)


def test_without_spans_there_is_nothing() -> None:
    dut = PartIterator(CONFIG)

    async def bench(ctx) -> None:
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for _ in range(5):
            assert not ctx.get(dut.active) and not ctx.get(dut.valid)
            await ctx.tick()

    simulate(dut, bench)
