# SPDX-License-Identifier: Apache-2.0
"""Quantized rows on their way into the array."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory

from .arithmetic import times
from .payloads import CodesBeat, TileReadPort

__all__ = ["ActivationBuffer"]


class ActivationBuffer(wiring.Component):
    """Keeps ``[rows_max, input_max]`` codes; takes ``lanes`` of them per cycle and gives ``n``.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    codes : ``In(stream.Signature(CodesBeat(config)))``
        Codes to be kept; always ready. They may be read in the next cycle, not in the same one.
    read : ``In(TileReadPort(config))``
        Read port.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({"codes": In(stream.Signature(CodesBeat(config))), "read": In(TileReadPort(config))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        tiles, slices = config.input_max // config.n, config.n // config.lanes
        m.submodules.memory = memory = OnChipMemory(
            data.ArrayLayout(signed(8), config.n),
            max(2, config.rows_max * tiles),
            transparent=False,
            collides=False,
            granularity=config.lanes,
        )
        beat = self.codes.payload
        part = beat.column[ceil_log2(config.lanes) : ceil_log2(config.n)]
        tile = beat.column[ceil_log2(config.n) :]
        m.d.comb += [
            self.codes.ready.eq(1),
            memory.w_addr.eq((times(beat.row, tiles) + tile)[: len(memory.w_addr)]),
            Value.cast(memory.w_data).eq(Value.cast(beat.codes).replicate(slices)),
            memory.r_en.eq(self.read.en),
            memory.r_addr.eq((times(self.read.row, tiles) + self.read.tile)[: len(memory.r_addr)]),
            self.read.data.eq(memory.r_data),
        ]
        with m.If(self.codes.valid):
            m.d.comb += memory.w_en.eq(1 << part)
        return m
