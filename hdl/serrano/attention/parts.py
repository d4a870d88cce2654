# SPDX-License-Identifier: Apache-2.0
"""A row's results, some channels per cycle."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PartBeat", "ResultParts"]


class PartBeat(data.StructLayout):
    """``count`` channels of ``bits`` bits each, and a ``tag`` that accompanies them."""

    def __init__(self, count: int, bits: int, tag: Any):
        super().__init__({"channels": data.ArrayLayout(signed(bits), count), "tag": tag})


class ResultParts(wiring.Component):
    """Gives the channels of results part by part: ``lanes`` of them, those of part ``p`` from ``p * lanes``.

    Combinational; a result is taken with its last part. With ``registered`` it is kept in a register, a cycle
    later, that moves on from part to part; ``i.ready`` and ``taken`` are registers, which say a cycle ahead
    that the kept result ends, or begins: so the next one follows without a pause.

    Parameters
    ----------
    count : :class:`int`
        Channels of a result.
    lanes : :class:`int`
        Channels of a part, which divide ``count``.
    bits : :class:`int`
        Width of a channel.
    tag : :class:`~amaranth.hdl.ShapeLike`
        Shape of what accompanies a result.
    registered : :class:`bool`
        Keep the result.

    Members
    -------
    i : ``In(stream.Signature(PartBeat(count, bits, tag)))``
        Results.
    half : ``In(1)``
        Of the present result only the first half is wanted; constant from its first part to its last.
    go : ``In(1)``
        The present part may be taken. With ``registered``, the first part of a result may be taken in the
        cycle after this one, if there is a result then; its other parts follow in any case.
    valid : ``Out(1)``
        There is a part.
    taken : ``Out(1)``
        It is taken.
    values : ``Out(ArrayLayout(signed(bits), lanes))``
        Its channels.
    tag : ``Out(tag)``
        What accompanies its result.
    part : ``Out(range)``
        Its index.
    last : ``Out(1)``
        It is the result's last one that is wanted.

    Raises
    ------
    ValueError
        If ``lanes`` does not divide ``count``.
    """

    def __init__(self, count: int, lanes: int, bits: int, tag: Any, *, registered: bool = False):
        if count % lanes:
            raise ValueError(f"Lanes must divide the channels, {count}, not {lanes!r}")
        self.count = count
        self.lanes = lanes
        self.registered = registered
        super().__init__(
            {
                "i": In(stream.Signature(PartBeat(count, bits, tag))),
                "half": In(1),
                "go": In(1),
                "valid": Out(1),
                "taken": Out(1),
                "values": Out(data.ArrayLayout(signed(bits), lanes)),
                "tag": Out(tag),
                "part": Out(range(count // lanes)),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        parts, i = self.count // self.lanes, self.i.payload

        def ends(before: int) -> Value:
            """So many parts before the last one."""
            half = self.half & (self.part == parts // 2 - 1 - before) if parts // 2 > before else Const(0)
            return half | (self.part == parts - 1 - before if parts > before else Const(0))

        m.d.comb += self.last.eq(ends(0))
        with m.If(self.taken):
            m.d.sync += self.part.eq(Mux(self.last, 0, self.part + 1))
        if not self.registered:
            m.d.comb += [
                self.valid.eq(self.i.valid),
                self.taken.eq(self.valid & self.go),
                self.i.ready.eq(self.taken & self.last),
                self.tag.eq(i.tag),
            ]
            for lane in range(self.lanes):
                channels = Array(i.channels[k] for k in range(lane, self.count, self.lanes))
                m.d.comb += self.values[lane].eq(channels[self.part])
            return m
        self._build_register(m, self.last, ends(1))
        return m

    def _build_register(self, m: Module, last: Value, next_is_last: Value) -> None:
        i, i_valid, bits = self.i.payload, self.i.valid, len(Value.cast(self.values))
        kept = Signal(len(Value.cast(i.channels)), reset_less=True)
        tag = Signal.like(self.tag, reset_less=True)
        ready, ready_next, taken_next = Signal(init=1), Signal(), Signal()
        # For the many that keep the result: its opposite, and whether they move.
        keeps, moves = Signal(), Signal(init=1)
        m.d.comb += [
            self.i.ready.eq(ready),
            Value.cast(self.values).eq(kept[:bits]),
            self.tag.eq(tag),
            # While it is ready, nothing but the last part is there, which is being taken.
            ready_next.eq(Mux(ready & i_valid, 0, Mux(self.taken, last | next_is_last, ready))),
            taken_next.eq((self.taken & ~last) | (self.go & Mux(ready, i_valid, self.valid & ~self.taken))),
        ]
        m.d.sync += [
            ready.eq(ready_next),
            self.taken.eq(taken_next),
            keeps.eq(~ready_next),
            moves.eq(ready_next | taken_next),
            self.valid.eq((ready & i_valid) | (self.valid & ~(self.taken & last))),
        ]
        with m.If(moves):
            m.d.sync += kept.eq(Mux(keeps, Cat(kept[bits:], kept[-bits:]), Value.cast(i.channels)))
        with m.If(~keeps):
            m.d.sync += tag.eq(i.tag)
