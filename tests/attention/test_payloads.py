# SPDX-License-Identifier: Apache-2.0
"""Sizes and encodings of the attention payloads."""

import dataclasses

import pytest
from amaranth import *

from attention import reference
from serrano.attention import payloads
from serrano.config import PRESETS
from support.streams import simulate


@pytest.mark.parametrize("name", PRESETS)
def test_fields_hold_the_limits(name):
    config = PRESETS[name]
    command = payloads.AttendCommand(config)
    limits = {
        "row": config.rows_max - 1,
        "skip": config.rows_max - 1,
        "rows": config.rows_max,
        "kv_heads": config.heads_max,
        "group": config.attention_rows_max,
        "head_dim": config.head_dim_max,
        "head_pad": config.head_dim_max,
        "committed": config.context_max - 1,
        "final": 1,
    }
    assert set(limits) == {field for field, _ in command}
    for field, limit in limits.items():
        assert limit < 1 << Shape.cast(command[field].shape).width, field
    base = Shape.cast(payloads.Item(config)["base"].shape)
    assert base.signed and config.context_max + 16 < 1 << (base.width - 1)
    # A record not begun, the one that comes, and all others in the ring have serials of their own.
    assert 1 << payloads.serial_bits(config) >= payloads.record_slots(config) + 2


def test_words_of_a_token():
    config = reference.small(16, 8, dim_max=128, kv_width_max=64, heads_max=64)
    # Heads of 8 channels take a word of 16 each.
    assert (payloads.query_words(config), payloads.kv_words(config)) == (16, 8)
    few = dataclasses.replace(config, heads_max=4)
    assert (payloads.query_words(few), payloads.kv_words(few)) == (8, 4)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (4, 5), (6, 8)])
def test_products_by_additions(a, b):
    """All products of small numbers, at once and in two steps."""
    one, other = Signal(a), Signal(b)
    product, stepped = Signal(a + b), Signal(a + b)
    m = Module()
    m.d.comb += product.eq(payloads.added_product(one, other))
    m.d.comb += stepped.eq(payloads.two_step_product(m, one, other, name="product"))

    async def bench(ctx):
        for x in range(0, 1 << a, 1 + (a > 4)):
            for y in range(0, 1 << b, 1 + 2 * (b > 5)):
                ctx.set(one, x)
                ctx.set(other, y)
                assert ctx.get(product) == x * y
                await ctx.tick()
                assert ctx.get(stepped) == x * y

    simulate(m, bench)


def test_negative_fields_survive():
    """Signed fields keep their sign from one view to another."""
    config = reference.small(16, 8)
    dut = Module()
    item, copy = Signal(payloads.Item(config)), Signal(payloads.Item(config))
    final, other = Signal(payloads.Final), Signal(payloads.Final)
    dut.d.sync += [copy.eq(item), other.eq(final)]

    async def bench(ctx):
        ctx.set(item.base, -15)
        ctx.set(final.shift, -16)
        await ctx.tick()
        assert (ctx.get(copy.base), ctx.get(other.shift)) == (-15, -16)

    simulate(dut, bench)
