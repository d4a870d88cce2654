# SPDX-License-Identifier: Apache-2.0
"""The FFN's activation, from pairs of linear outputs to staged codes."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.layouts import EpilogueBeat
from serrano.stream.delay import DelayLine
from serrano.stream.pipeline import PipelineControl

from .h16 import H16Encoder
from .payloads import StagedBeat
from .silu import SiluUp

__all__ = ["GateUp"]


class GateUp(wiring.Component):
    """SiLU of the even lanes times the odd lanes, as h16 codes: section 8 of ``docs/numerics.md``.

    One beat per cycle; a beat of ``lanes`` outputs becomes a half beat of ``lanes / 2`` codes, ``latency``
    (19, with ``config.registered`` 35) cycles later. With one lane the gate waits for its up, and both become
    a whole beat of one code.

    With ``config.registered`` the pipeline never stops.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    beats : ``In(stream.Signature(EpilogueBeat(config)))``
        Gate (even lanes) and up (odd lanes), Q16.
    staged : ``Out(stream.Signature(StagedBeat(config)))``
        Half beats; ``column`` is the channel of the first code, half the input's. With ``config.registered``
        they must be taken at once.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = SiluUp.latency_of(config.registered) + H16Encoder.latency_of(config.registered)
        super().__init__(
            {
                "beats": In(stream.Signature(EpilogueBeat(config))),
                "staged": Out(stream.Signature(StagedBeat(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.control = control = PipelineControl(self.latency)
        i, o = self.beats.payload, self.staged.payload
        lanes = self.config.lanes
        place = Cat(i.last, i.row, i.column[1:][: len(o.column)])
        values = [i.values[lane] for lane in range(lanes)]
        paired = Const(1)
        if lanes == 1:
            paired, gate = i.column[0], Signal(signed(32), reset_less=True)
            with m.If(self.beats.valid & ~paired):
                m.d.sync += gate.eq(values[0])
            values.insert(0, gate)
        m.submodules.places = places = DelayLine(unsigned(len(place)), self.latency)
        m.d.comb += [
            control.i_valid.eq(self.beats.valid & paired),
            self.beats.ready.eq(control.i_ready | ~paired),
            self.staged.valid.eq(control.o_valid),
            control.o_ready.eq(1 if self.config.registered else self.staged.ready),
            places.enable.eq(control.advance),
            places.i.eq(place),
            Cat(o.last, o.row, o.column).eq(places.o),
            o.half.eq(lanes > 1),
        ]
        for pair in range(len(values) // 2):
            m.submodules[f"silu_{pair}"] = silu = SiluUp(registered=self.config.registered)
            m.submodules[f"encoder_{pair}"] = encoder = H16Encoder(registered=self.config.registered)
            m.d.comb += [
                silu.enable.eq(control.advance),
                silu.gate.eq(values[2 * pair]),
                silu.up.eq(values[2 * pair + 1]),
                encoder.enable.eq(control.advance),
                encoder.value.eq(silu.result),
                o.codes[pair].eq(encoder.code),
            ]
        return m
