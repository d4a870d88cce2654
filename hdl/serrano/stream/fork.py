# SPDX-License-Identifier: Apache-2.0
"""One stream to several consumers."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Fork"]


class Fork(wiring.Component):
    """Gives every payload to each of ``count`` outputs, which take it independently of one another.

    The input is ready in the cycle in which the last output takes its payload, so that the slowest sets
    the pace; without stalls one payload passes per cycle, without latency.

    Parameters
    ----------
    shape : :class:`~amaranth.hdl.ShapeLike`
        Shape of the payload.
    count : :class:`int`
        Number of outputs.

    Members
    -------
    i : ``In(stream.Signature(shape))``
        Input.
    o : ``Out(stream.Signature(shape)).array(count)``
        Outputs.
    """

    latency = 0

    def __init__(self, shape: Any, count: int):
        self.count = count
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)).array(count)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        taken = Signal(self.count)
        finished = Const(1)
        for index in range(self.count):
            output = self.o[index]
            m.d.comb += [
                output.valid.eq(self.i.valid & ~taken[index]),
                output.payload.eq(self.i.payload),
            ]
            finished = finished & (taken[index] | output.ready)
            with m.If(self.i.valid):
                m.d.sync += taken[index].eq((taken[index] | output.ready) & ~self.i.ready)
        m.d.comb += self.i.ready.eq(finished)
        return m
