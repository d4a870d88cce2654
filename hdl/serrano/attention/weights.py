# SPDX-License-Identifier: Apache-2.0
"""Weights between softmax and the array."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later

from .payloads import ItemWeights, WeightBeat, item_row_bits, item_row_count, read_enable, record_slots

__all__ = ["WeightBuffer", "WeightReadPort"]


class WeightReadPort(wiring.Signature):
    """Reads the oldest item's weights, as the reader sees it.

    In a cycle with ``en`` the reader asks; ``data`` has the answer from the next cycle on, until the next
    read. With ``config.registered`` from the second cycle with ``advance`` on, that of ``en`` included.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "advance": Out(1),
                "row": Out(item_row_bits(config)),
                "tile": Out(max(1, ceil_log2(config.group_tiles))),
                "data": In(ItemWeights(config)),
            }
        )


class WeightBuffer(wiring.Component):
    """Keeps the weights of ``lookahead + 2`` items, first in, first out.

    Always ready: K of an item is fed to the array only after V of the item ``lookahead + 1`` before it, so
    that there are never more items than places.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    rows : ``In(range)``
        Rows of an item (count); constant while there are any.
    weights : ``In(stream.Signature(WeightBeat(config)))``
        For each item, row, token tile.
    available : ``Out(1)``
        The oldest item is complete; with ``config.registered`` a cycle later.
    read : ``In(WeightReadPort(config))``
        Reads it.
    release : ``In(1)``
        It is not needed any more, but for what is asked for in this cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "rows": In(item_row_count(config)),
                "weights": In(stream.Signature(WeightBeat(config))),
                "available": Out(1),
                "read": In(WeightReadPort(config)),
                "release": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, beat, read = self.config, self.weights.payload, self.read
        slots = record_slots(config)
        tile_bits = ceil_log2(config.group_tiles)
        m.submodules.memory = memory = OnChipMemory(
            ItemWeights(config),
            slots << (tile_bits + item_row_bits(config)),
            transparent=False,
            collides=False,
        )
        tail, head = Signal(range(slots)), Signal(range(slots))
        complete = Signal(range(slots + 1))
        end = Signal()
        final_row = delayed(
            m, (self.rows - 1)[: len(beat.row)], int(config.registered), enable=Const(1), name="final_row"
        )
        m.d.comb += [
            self.weights.ready.eq(1),
            end.eq(self.weights.valid & (beat.row == final_row) & (beat.tile == config.group_tiles - 1)),
            self.available.eq(complete != 0),
            memory.w_en.eq(self.weights.valid),
            memory.w_addr.eq(Cat(beat.tile[:tile_bits], beat.row, tail)),
            memory.w_data.p.eq(beat.p),
            memory.w_data.shift.eq(beat.shift),
            memory.r_en.eq(read_enable(read, registered=config.registered)),
            memory.r_addr.eq(
                delayed(
                    m,
                    Cat(read.tile[:tile_bits], read.row, head),
                    int(config.registered),
                    enable=read.advance,
                    name="r_addr",
                )
            ),
            read.data.eq(memory.r_data),
        ]
        whole = later(m, end, registered=config.registered, name="whole")
        m.d.sync += complete.eq(complete + whole - self.release)
        for pointer, move in ((tail, end), (head, self.release)):
            with m.If(move):
                m.d.sync += pointer.eq(Mux(pointer == slots - 1, 0, pointer + 1))
        return m
