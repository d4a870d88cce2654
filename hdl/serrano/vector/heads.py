# SPDX-License-Identifier: Apache-2.0
"""QKV outputs to quantized heads: section 6 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from serrano.config import AcceleratorConfig
from serrano.layouts import EpilogueBeat
from serrano.stream import HalfRegister
from serrano.stream.slices import sliced

from .head_order import HeadOrder
from .head_quantizer import SLOTS, HeadQuantizer
from .payloads import HeadBeat, HeadCodes, HeadScale, HeadsCommand, RopeWrite
from .rope import Rotator

__all__ = ["Heads", "UnitGate"]


class UnitGate(wiring.Component):
    """Lets units of heads pass as long as there are slots for them; without latency.

    ``ready`` comes from a register: it falls behind a unit's last beat if no slot is left, and rises in the
    cycle after one was released. What takes the beats is always ready.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    i : ``In(stream.Signature(HeadBeat(config)))``
        Beats; ``release`` marks a unit's last one.
    o : ``Out(stream.Signature(HeadBeat(config)))``
        The same.
    released : ``In(1)``
        A slot is free again.
    """

    latency = 0

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "i": In(stream.Signature(HeadBeat(config))),
                "o": Out(stream.Signature(HeadBeat(config))),
                "released": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        free = Signal(range(SLOTS + 1), init=SLOTS)
        now = Signal.like(free)
        passing = Signal(init=1)
        m.d.comb += [
            self.i.ready.eq(passing),
            self.o.valid.eq(self.i.valid & passing),
            self.o.payload.eq(self.i.payload),
            now.eq(free + self.released - (self.o.valid & self.i.payload.release)),
        ]
        m.d.sync += [free.eq(now), passing.eq(now != 0)]
        return m


class Heads(wiring.Component):
    """Rotates q and k, takes k's mean off, quantizes each head of each row.

    Composed of :class:`HeadOrder`, :class:`Rotator` and :class:`HeadQuantizer`. ``latency`` is that from the
    last beat of a head of a row to its first codes. With ``config.registered`` a unit of heads waits in front
    of the rotator for its slot (:class:`UnitGate`), and the rotator for nothing.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature(HeadsCommand(config)))``
        The next packet; taken when the last scale of the one before has been.
    beats : ``In(stream.Signature(EpilogueBeat(config)))``
        Linear outputs, in the order block, row, slice; the one with ``last`` ends the packet.
    rope : ``In(stream.Signature(RopeWrite(config)))``
        Writes the RoPE tables of rows; always ready, and not to be used for rows of a packet on its way.
    codes : ``Out(stream.Signature(HeadCodes(config)))``
        Codes: for each head, or each two adjacent heads that share a block, each row.
    scales : ``Out(stream.Signature(HeadScale(config)))``
        Scales, in the same order.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = (
            2 * int(config.registered) + Rotator.latency_of(config) + HeadQuantizer.latency_of(config)
        )
        super().__init__(
            {
                "command": In(stream.Signature(HeadsCommand(config))),
                "beats": In(stream.Signature(EpilogueBeat(config))),
                "rope": In(stream.Signature(RopeWrite(config))),
                "codes": Out(stream.Signature(HeadCodes(config))),
                "scales": Out(stream.Signature(HeadScale(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.order = order = HeadOrder(self.config)
        m.submodules.rotator = rotator = Rotator(self.config)
        m.submodules.quantizer = quantizer = HeadQuantizer(self.config)
        connect(m, flipped(self.command), order.command)
        # A beat comes in every other cycle with registers, as the order takes them.
        behind = {"registered": self.config.registered, "kind": HalfRegister}
        connect(m, sliced(m, "beats", flipped(self.beats), **behind), order.beats)
        connect(m, flipped(self.rope), rotator.rope)
        if self.config.registered:
            m.submodules.gate = gate = UnitGate(self.config)
            connect(m, order.placed, gate.i)
            connect(m, gate.o, rotator.i)
            m.d.comb += [
                gate.released.eq(quantizer.released),
                # There is a slot for all that the gate has let pass.
                rotator.o.ready.eq(1),
                quantizer.beats.valid.eq(rotator.o.valid),
                quantizer.beats.payload.eq(rotator.o.payload),
            ]
        else:
            connect(m, order.placed, rotator.i)
            connect(m, rotator.o, quantizer.beats)
        connect(m, quantizer.codes, flipped(self.codes))
        connect(m, quantizer.scales, flipped(self.scales))
        m.d.comb += [
            quantizer.score.eq(order.score),
            order.finished.eq(self.scales.valid & self.scales.ready & self.scales.payload.last),
        ]
        return m
