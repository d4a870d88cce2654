# SPDX-License-Identifier: Apache-2.0
"""A register slice in front of which much waits for one word."""

from typing import Any

from amaranth import *

from .register import StreamSlice

__all__ = ["PromptRegister"]


class PromptRegister(StreamSlice):
    """As a :class:`~serrano.stream.StreamRegister`, its ``i.ready`` a register of its own.

    For an ``i.ready`` that enables all registers of a pipeline: what chooses the payload need not reach them.

    Parameters
    ----------
    shape : :class:`~amaranth.hdl.ShapeLike`
        Shape of the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
        Input.
    o : ``Out(stream.Signature(shape))``
        Output.
    """

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        payload = Signal(self.shape, name="held", reset_less=True)
        spare = Signal(self.shape, reset_less=True)
        # Always the opposite of each other.
        spare_valid, ready = Signal(), Signal(init=1)
        m.d.comb += [self.i.ready.eq(ready), self.o.payload.eq(payload)]
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [
                self.o.valid.eq(self.i.valid | spare_valid),
                payload.eq(Mux(spare_valid, Value.cast(spare), Value.cast(self.i.payload))),
                spare_valid.eq(0),
                ready.eq(1),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += [spare_valid.eq(1), ready.eq(0)]
        # Whether it is wanted shows late in the cycle, so it is taken in any case.
        with m.If(ready):
            m.d.sync += spare.eq(self.i.payload)
        return m
