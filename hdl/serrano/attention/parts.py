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

    Combinational; a result is taken with its last part. With ``registered`` its parts come a cycle later, out
    of a register that moves on from part to part; a result is taken with its first part, and ``i.ready`` and
    ``taken`` are registers. The next result follows without a pause, if it is there with the last part.

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
        There is a part; with ``registered`` the same as ``taken``.
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

        if self.registered and parts > 1:
            # Told by the part before it, but for the half of two parts, which is the first one.
            final = Signal()
            with m.If(self.taken):
                m.d.sync += final.eq(ends(1) & ~self.last)
            m.d.comb += self.last.eq(final | (self.half & ~final if parts == 2 else 0))
        else:
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
        self._build_register(m, ends(1))
        return m

    def _build_register(self, m: Module, next_is_last: Value) -> None:
        i, parts = self.i.payload, self.count // self.lanes
        kept = [Signal(len(Value.cast(self.values)), name=f"kept_{k}", reset_less=True) for k in range(parts)]
        tag = Signal.like(self.tag, reset_less=True)
        ready, begin, goes_on = Signal(), Signal(), Signal()
        # Each part's register has its own sign that it takes what comes, or else what the next part's holds,
        # as long as that is wanted. So none of them needs an enable. That more parts follow is kept apart, as
        # the opposite: the signs are used where the registers are.
        comes = Signal(parts - 1, init=(1 << parts - 1) - 1)
        follows = Signal(parts - 1)
        following = Mux(begin, Const(~0, parts - 1), Mux(goes_on & ~next_is_last, follows >> 1, 0))
        m.d.comb += [
            self.i.ready.eq(ready),
            Value.cast(self.values).eq(kept[0]),
            self.tag.eq(tag),
            self.valid.eq(self.taken),
            begin.eq(self.go & self.i.valid & ~ready & ~goes_on),
        ]
        m.d.sync += [
            ready.eq(begin),
            self.taken.eq(begin | goes_on),
            follows.eq(following),
            comes.eq(~following),
        ]
        # The half of two parts is known too late for that.
        half = self.half if parts == 2 else Const(0)
        m.d.comb += goes_on.eq(follows[0] & ~half if parts > 1 else 0)
        channels = Value.cast(i.channels)
        for k, register in enumerate(kept):
            coming = channels.word_select(k, len(register))
            shifted = Mux(comes[k] | half, coming, kept[k + 1]) if k + 1 < parts else coming
            m.d.sync += register.eq(shifted)
        with m.If(comes[0] | half if parts > 1 else 1):
            m.d.sync += tag.eq(i.tag)
