# SPDX-License-Identifier: Apache-2.0
"""A first-in first-out buffer between two streams."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.primitives.memory import OnChipMemory

__all__ = ["StreamFIFO"]


class StreamFIFO(wiring.Component):
    """Keeps up to ``depth`` payloads, in order, in an on-chip memory.

    Takes one payload per cycle and, unless ``paused``, gives one. A payload that enters an empty buffer
    leaves two cycles later (``latency`` 2). ``ready`` does not depend on the output, nor ``valid`` on the
    input.

    Parameters
    ----------
    shape : :class:`~amaranth.hdl.ShapeLike`
        Shape of the payload.
    depth : :class:`int`
        Capacity, at least 2.
    paused : :class:`bool`
        Give a payload in every other cycle at most: nothing goes from the output's ``ready`` to the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
        Input.
    o : ``Out(stream.Signature(shape))``
        Output.
    level : ``Out(range(depth + 1))``
        Payloads inside, the one at the output included.

    Raises
    ------
    ValueError
        If ``depth`` is below 2.
    """

    latency = 2

    def __init__(self, shape: Any, depth: int, *, paused: bool = False):
        if depth < 2:
            raise ValueError(f"Depth must be at least 2, not {depth!r}")
        self.shape = shape
        self.depth = depth
        self.paused = paused
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # The memory's output register is the last place of the buffer. No place is fetched and written at
        # once: it is either free or not.
        m.submodules.memory = memory = OnChipMemory(self.shape, self.depth, transparent=False, collides=False)
        pointer = ceil_log2(self.depth)
        head, tail = Signal(pointer), Signal(pointer)
        stored = Signal(range(self.depth + 1))
        # What is asked of the two counters is kept beside them.
        some, full = Signal(), Signal()

        def following(index: Signal) -> Value:
            if self.depth == 1 << pointer:
                return index + 1
            return Mux(index == self.depth - 1, 0, index + 1)

        write, fetch, leave, pause = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~full),
            write.eq(self.i.valid & self.i.ready),
            leave.eq(self.o.valid & self.o.ready),
            fetch.eq(some & (~self.o.valid | self.o.ready) & ~pause),
            pause.eq(self.o.valid if self.paused else 0),
            memory.w_en.eq(write),
            memory.w_addr.eq(tail),
            memory.w_data.eq(self.i.payload),
            memory.r_en.eq(fetch),
            memory.r_addr.eq(head),
            self.o.payload.eq(memory.r_data),
        ]
        m.d.sync += [
            stored.eq(stored + write - fetch),
            some.eq(write | Mux(fetch, stored != 1, some)),
            full.eq(~leave & (full | (write & (self.level == self.depth - 1)))),
            self.level.eq(self.level + write - leave),
            self.o.valid.eq(fetch | (self.o.valid & ~self.o.ready)),
        ]
        with m.If(write):
            m.d.sync += tail.eq(following(tail))
        with m.If(fetch):
            m.d.sync += head.eq(following(head))
        return m
