# SPDX-License-Identifier: Apache-2.0
"""The order of items, and of the array's operations on them."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.stream.pipeline import delayed
from serrano.stream.slices import sliced
from serrano.vector.arithmetic import limit as limited

from .payloads import AttendCommand, Item, Operation, record_slots

__all__ = ["ItemIterator", "ItemOrder"]


class ItemIterator(wiring.Component):
    """Goes through the items of a command: head after head, groups in ascending order.

    Serial numbers and slots of records go on from one command to the next. With ``config.registered`` what
    follows an item is found in its first cycle: there is another one before the next ``step``.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(AttendCommand(config))``
        The command; constant from ``start``, with ``config.registered`` from two cycles before, until the
        last item.
    start : ``In(1)``
        Begin with the first item.
    step : ``In(1)``
        Go on to the next item.
    valid : ``Out(1)``
        There is an item.
    item : ``Out(Item(config))``
        It.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(AttendCommand(config)),
                "start": In(1),
                "step": In(1),
                "valid": Out(1),
                "item": Out(Item(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        item, command = self.item, self.command
        head, base = Signal.like(item.head), Signal.like(item.base)
        query = Signal.like(item.query)
        slot, serial = Signal.like(item.slot), Signal.like(item.serial)
        # Kept beside the base, so that no sum is on the way of an item.
        first, last, memory = Signal(), Signal(), Signal()
        committed, tokens = Signal.like(item.committed), Signal.like(item.tokens)
        late = {"cycles": int(self.config.registered), "enable": Const(1)}
        begins = self.start | item.last
        following = []
        # What follows is `less` below a register: what is asked of it is asked of that, without a difference.
        for value, less in ((command.committed, 0), (base, GROUP_TOKENS)):
            start, known = Signal.like(base), Signal.like(item.committed)
            rows = delayed(m, command.skip + command.rows - less, name="rows", **late)
            # The value from which on the step's tokens end in the group.
            limit = delayed(m, GROUP_TOKENS + less - command.skip - command.rows, name="limit", **late)
            within = value <= limit
            m.d.comb += [
                start.eq(value - less),
                known.eq(limited(value, less, less + GROUP_TOKENS) - less),
            ]
            count = Mux(within, value + rows, GROUP_TOKENS)[: len(tokens)]
            item_after = Cat(start, within, value > less, known, count)
            following.append(delayed(m, item_after, name="following", **late))
        m.d.comb += [
            item.head.eq(head),
            item.base.eq(base),
            item.query.eq(query),
            item.committed.eq(committed),
            item.tokens.eq(tokens),
            item.first.eq(first),
            item.last.eq(last),
            item.final.eq(item.last & (head == command.kv_heads - 1)),
            item.memory.eq(memory),
            item.slot.eq(slot),
            item.serial.eq(serial),
        ]
        with m.If(self.start | self.step):
            m.d.sync += [
                Cat(base, last, memory, committed, tokens).eq(Mux(begins, *following)),
                first.eq(begins),
            ]
        with m.If(self.start):
            m.d.sync += [self.valid.eq(1), head.eq(0), query.eq(0)]
        with m.Elif(self.step):
            with m.If(item.last):
                m.d.sync += [head.eq(head + 1), query.eq(query + command.group)]
            with m.If(item.final):
                m.d.sync += self.valid.eq(0)
            with m.If(item.memory):
                last_slot = slot == record_slots(self.config) - 1
                m.d.sync += [serial.eq(serial + 1), slot.eq(Mux(last_slot, 0, slot + 1))]
        return m


class ItemOrder(wiring.Component):
    """K and V of all items, in the order in which the array takes them.

    K runs ahead of V by ``A = lookahead`` items: K(0) .. K(A - 1), then K(i) and V(i - A) in turn, then the
    remaining V. Whoever follows the order has an instance of its own. With ``config.registered`` an operation
    is found a cycle before it is offered, one in every other cycle.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(AttendCommand(config))``
        The command; constant from ``start``, with ``config.registered`` from two cycles before, until the
        last operation.
    start : ``In(1)``
        Begin.
    operations : ``Out(stream.Signature(Operation(config)))``
        The operations.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(AttendCommand(config)),
                "start": In(1),
                "operations": Out(stream.Signature(Operation(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.keys = keys = ItemIterator(self.config)
        m.submodules.values = values = ItemIterator(self.config)
        config = self.config
        operations = stream.Signature(Operation(config)).create(path=("ahead",))
        connect(
            m,
            sliced(m, "ahead", operations, registered=config.registered),
            flipped(self.operations),
        )
        lead = Signal(range(config.lookahead + 2))
        taken, turn, rests = Signal(), Signal(), Signal()
        if config.registered:
            m.d.sync += rests.eq(taken | self.start)
        for iterator in (keys, values):
            m.d.comb += [iterator.command.eq(self.command), iterator.start.eq(self.start)]
        m.d.comb += [
            turn.eq((lead == config.lookahead + 1) | ~keys.valid),
            operations.valid.eq(values.valid & ~rests),
            operations.payload.values.eq(turn),
            operations.payload.item.eq(Mux(turn, Value.cast(values.item), Value.cast(keys.item))),
            taken.eq(operations.valid & operations.ready),
            keys.step.eq(taken & ~turn),
            values.step.eq(taken & turn),
        ]
        m.d.sync += lead.eq(lead + keys.step - values.step)
        return m
