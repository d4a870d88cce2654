# SPDX-License-Identifier: Apache-2.0
"""The order of items and operations."""

import pytest

from attention import reference
from serrano.attention.order import ItemIterator, ItemOrder
from support.streams import STALLS, collect, simulate


def command(kv_heads, committed, rows):
    return {
        "rows": rows,
        "kv_heads": kv_heads,
        "group": 1,
        "head_dim": 8,
        "head_pad": 8,
        "committed": committed,
    }


def items_of(config, commands):
    """Items of each command, as the contract says."""
    serial, every = 0, []
    for one in commands:
        groups = -(-(one["committed"] + one["rows"]) // 16)
        items = []
        for head in range(one["kv_heads"]):
            for group in range(groups):
                memory = 16 * group < one["committed"]
                last = group == groups - 1
                items.append(
                    {
                        "head": head,
                        "query": head * one["group"],
                        "base": one["committed"] - 16 * group,
                        "committed": min(max(one["committed"] - 16 * group, 0), 16),
                        "tokens": min(one["committed"] + one["rows"] - 16 * group, 16),
                        "first": group == 0,
                        "last": last,
                        "final": last and head == one["kv_heads"] - 1,
                        "memory": memory,
                        "slot": serial % (config.lookahead + 2),
                        "serial": serial,
                    }
                )
                serial += memory
        every.append(items)
    return every


def fields(item):
    names = ("head", "query", "base", "committed", "tokens", "first", "last", "final", "memory")
    return {name: getattr(item, name) for name in names}


def matches(config, got, want):
    assert fields(got) == {name: want[name] for name in fields(got)}
    if want["memory"]:
        assert got.slot == want["slot"]
        assert got.serial == want["serial"] % (1 << len(format(config.lookahead + 3, "b")))


COMMANDS = [command(2, 0, 1), command(3, 16, 1), command(1, 95, 4), command(2, 15, 1), command(1, 33, 16)]


async def begin(ctx, dut, config, one):
    """The command, then ``start``: with registers two cycles later."""
    ctx.set(dut.command, one)
    if config.registered:
        await ctx.tick().repeat(2)
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("lookahead", [1, 2, 4])
def test_iterator(lookahead, registered):
    config = reference.small(16, 8, lookahead=lookahead, registered=registered)
    dut = ItemIterator(config)

    async def bench(ctx):
        for one, items in zip(COMMANDS, items_of(config, COMMANDS), strict=True):
            assert not ctx.get(dut.valid)
            await begin(ctx, dut, config, one)
            for want in items:
                assert ctx.get(dut.valid)
                matches(config, ctx.get(dut.item), want)
                await ctx.tick()
                matches(config, ctx.get(dut.item), want)
                ctx.set(dut.step, 1)
                await ctx.tick()
                ctx.set(dut.step, 0)

    simulate(dut, bench)


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("lookahead", [1, 4])
def test_order(lookahead, registered, stall):
    config = reference.small(4, 2, lookahead=lookahead, rows_max=16, registered=registered)
    dut = ItemOrder(config)

    async def bench(ctx):
        for one, items in zip(COMMANDS, items_of(config, COMMANDS), strict=True):
            order = [(0, index) for index in range(min(lookahead, len(items)))]
            for index in range(lookahead, len(items)):
                order += [(0, index), (1, index - lookahead)]
            order += [(1, index) for index in range(max(0, len(items) - lookahead), len(items))]
            await begin(ctx, dut, config, one)
            for (values, index), got in zip(
                order, await collect(ctx, dut.operations, len(order), stall), strict=True
            ):
                assert got.values == values
                matches(config, got.item, items[index])
            assert not ctx.get(dut.operations.valid)

    simulate(dut, bench)
