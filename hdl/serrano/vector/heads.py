# SPDX-License-Identifier: Apache-2.0
"""QKV outputs to quantized heads: section 6 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from serrano.config import AcceleratorConfig
from serrano.layouts import EpilogueBeat

from .head_order import HeadOrder
from .head_quantizer import HeadQuantizer
from .payloads import HeadCodes, HeadScale, HeadsCommand, RopeWrite
from .rope import Rotator

__all__ = ["Heads"]


class Heads(wiring.Component):
    """Rotates q and k, takes k's mean off, quantizes each head of each row.

    Composed of :class:`HeadOrder`, :class:`Rotator` and :class:`HeadQuantizer`. ``latency`` is that from the
    last beat of a head of a row to its first codes.

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
        self.latency = int(config.registered) + Rotator.latency_of(config) + HeadQuantizer.latency_of(config)
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
        connect(m, flipped(self.beats), order.beats)
        connect(m, flipped(self.rope), rotator.rope)
        connect(m, order.placed, rotator.i)
        connect(m, rotator.o, quantizer.beats)
        connect(m, quantizer.codes, flipped(self.codes))
        connect(m, quantizer.scales, flipped(self.scales))
        m.d.comb += [
            quantizer.score.eq(order.score),
            order.finished.eq(self.scales.valid & self.scales.ready & self.scales.payload.last),
        ]
        return m
