# SPDX-License-Identifier: Apache-2.0
"""Changing the width of a stream of bytes."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ByteWord", "Gearbox"]


class ByteWord(data.StructLayout):
    """``count`` bytes, lowest first; ``last`` marks the last word of a run."""

    def __init__(self, count: int):
        super().__init__({"bytes": 8 * count, "last": 1})


class Gearbox(wiring.Component):
    """Turns words of ``i_bytes`` bytes into words of ``o_bytes`` bytes, lowest bytes first.

    Goes on without pause: the wider side moves once in as many cycles as its width asks for. A run is a whole
    number of words of both sides.

    Parameters
    ----------
    i_bytes, o_bytes : :class:`int`
        Widths; the larger is a multiple of the smaller.

    Members
    -------
    i : ``In(stream.Signature(ByteWord(i_bytes)))``
        Input.
    o : ``Out(stream.Signature(ByteWord(o_bytes)))``
        Output.

    Raises
    ------
    ValueError
        If neither width is a multiple of the other.
    """

    def __init__(self, i_bytes: int, o_bytes: int):
        if max(i_bytes, o_bytes) % min(i_bytes, o_bytes):
            raise ValueError(f"Widths must divide one another, not {i_bytes!r} and {o_bytes!r}")
        self.i_bytes = i_bytes
        self.o_bytes = o_bytes
        super().__init__(
            {
                "i": In(stream.Signature(ByteWord(i_bytes))),
                "o": Out(stream.Signature(ByteWord(o_bytes))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        if self.i_bytes <= self.o_bytes:
            self._build_widen(m, self.o_bytes // self.i_bytes)
        else:
            self._build_narrow(m, self.i_bytes // self.o_bytes)
        return m

    def _build_widen(self, m: Module, ratio: int) -> None:
        phase = Signal(range(max(2, ratio)))
        complete = phase == ratio - 1
        following = Cat(self.o.payload.bytes, self.i.payload.bytes)[8 * self.i_bytes :]
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                self.o.payload.bytes.eq(following),
                self.o.payload.last.eq(self.i.payload.last),
                self.o.valid.eq(complete),
                phase.eq(Mux(complete, 0, phase + 1)),
            ]

    def _build_narrow(self, m: Module, ratio: int) -> None:
        left = Signal(range(ratio + 1))
        word = Signal.like(self.i.payload)
        m.d.comb += [
            self.o.valid.eq(left != 0),
            self.o.payload.bytes.eq(word.bytes),
            self.o.payload.last.eq(word.last & (left == 1)),
            self.i.ready.eq((left == 0) | ((left == 1) & self.o.ready)),
        ]
        with m.If(self.i.ready):
            m.d.sync += [word.eq(self.i.payload), left.eq(Mux(self.i.valid, ratio, 0))]
        with m.Elif(self.o.ready):
            m.d.sync += [word.bytes.eq(word.bytes >> (8 * self.o_bytes)), left.eq(left - 1)]
