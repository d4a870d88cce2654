# SPDX-License-Identifier: Apache-2.0
"""Quantized rows on their way into the array."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory

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
        tile_bits, slices = ceil_log2(config.input_max // config.n), config.n // config.lanes
        m.submodules.memory = memory = OnChipMemory(
            data.ArrayLayout(signed(8), config.n),
            # A row begins where its number is the upper part of the address: there is nothing to add.
            max(2, 1 << (ceil_log2(config.rows_max) + tile_bits)),
            transparent=False,
            collides=False,
            granularity=config.lanes,
        )
        beat = self.codes.payload
        part = beat.column[ceil_log2(config.lanes) : ceil_log2(config.n)]
        tile = beat.column[ceil_log2(config.n) :][:tile_bits]
        m.d.comb += [
            self.codes.ready.eq(1),
            memory.w_addr.eq(Cat(tile, beat.row)),
            Value.cast(memory.w_data).eq(Value.cast(beat.codes).replicate(slices)),
            memory.r_en.eq(self.read.en),
            memory.r_addr.eq(Cat(self.read.tile[:tile_bits], self.read.row)),
            self.read.data.eq(memory.r_data),
        ]
        with m.If(self.codes.valid):
            m.d.comb += memory.w_en.eq(1 << part)
        return m
