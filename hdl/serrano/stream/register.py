# SPDX-License-Identifier: Apache-2.0
"""Register slices between two streams."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ForwardRegister", "HalfRegister", "PromptRegister", "StreamRegister", "StreamSlice"]


class StreamSlice(wiring.Component):
    """What passes payloads on unchanged, ``latency`` cycles later at the earliest: the ports of a slice.

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

    latency = 1

    def __init__(self, shape: Any):
        self.shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})


class ForwardRegister(StreamSlice):
    """Passes payloads on, one per cycle; ``valid`` and ``payload`` are registered (``latency`` 1).

    ``ready`` is not. There is nothing but a register in the payload's way: for what comes late in its cycle,
    as out of a memory.

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
        m.d.comb += [self.i.ready.eq(self.o.ready | ~self.o.valid), self.o.payload.eq(payload)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), payload.eq(self.i.payload)]
        return m


class HalfRegister(StreamSlice):
    """Cuts every combinational path between two streams, at half the rate.

    Passes a payload on in every other cycle; ``valid``, ``payload`` and ``ready`` are registered (``latency``
    1). For wide payloads that are not taken more often: it has one place, and the payload loads whenever that
    is free, with no logic around it.

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
        # The opposite of `valid`, for the payload's many bits.
        free, following = Signal(init=1), Signal()
        m.d.comb += [
            self.i.ready.eq(free),
            self.o.payload.eq(payload),
            following.eq(Mux(self.o.valid, ~self.o.ready, self.i.valid)),
        ]
        m.d.sync += [self.o.valid.eq(following), free.eq(~following)]
        with m.If(free):
            m.d.sync += payload.eq(self.i.payload)
        return m


class StreamRegister(StreamSlice):
    """Cuts every combinational path between two streams.

    Passes payloads on, one per cycle; ``valid``, ``payload`` and ``ready`` are registered (``latency`` 1).

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
        spare_valid, following, loads = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(self._ready(m, spare_valid, following)),
            self.o.payload.eq(payload),
            loads.eq(self.o.ready | ~self.o.valid),
            # Not a choice of zero, which would become a reset of the flip-flop.
            following.eq((self.i.valid | spare_valid) & ~loads),
        ]
        m.d.sync += spare_valid.eq(following)
        with m.If(loads):
            m.d.sync += [
                self.o.valid.eq(self.i.valid | spare_valid),
                payload.eq(Mux(spare_valid, Value.cast(spare), Value.cast(self.i.payload))),
            ]
        # Whether it is wanted shows late in the cycle, so it is taken in any case.
        with m.If(self.i.ready):
            m.d.sync += spare.eq(self.i.payload)
        return m

    def _ready(self, m: Module, spare_valid: Signal, following: Signal) -> Value:
        """Whether the spare place is free; ``following`` says whether it is taken in the next cycle."""
        return ~spare_valid


class PromptRegister(StreamRegister):
    """As a :class:`StreamRegister`, ``i.ready`` a register of its own.

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

    def _ready(self, m: Module, spare_valid: Signal, following: Signal) -> Value:
        ready = Signal(init=1)
        m.d.sync += ready.eq(~following)
        return ready
