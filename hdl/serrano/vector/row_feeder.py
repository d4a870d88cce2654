# SPDX-License-Identifier: Apache-2.0
"""Quantized rows into the array, tile after tile."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.layouts import Half
from serrano.matmul import RowBeat

from .payloads import FeedCommand, TileReadPort

__all__ = ["RowFeeder"]


class RowFeeder(wiring.Component):
    """Sends rows of the activation buffer through every tile of every block.

    For each block, tile, row: the row's codes for the tile. The accumulator has the row's index; it starts
    with tile 0 and is sent on with the last tile. One row per cycle; a row leaves ``latency`` (1) cycle after
    it was asked for, and the first is asked for in the cycle after the command was taken.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature(FeedCommand(config)))``
        Shape of the projection; taken when the last row of the one before has left.
    read : ``Out(TileReadPort(config))``
        Reads the activation buffer.
    rows : ``Out(stream.Signature(RowBeat(config)))``
        Rows; ``last`` with the last row of each tile.
    """

    latency = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(stream.Signature(FeedCommand(config))),
                "read": Out(TileReadPort(config)),
                "rows": Out(stream.Signature(RowBeat(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        todo = Signal(FeedCommand(self.config))
        asking, valid = Signal(), Signal()
        row, tile, block = Signal.like(todo.rows), Signal.like(todo.tiles), Signal.like(todo.blocks)
        fetch, last_row, last_tile, last_block = (Signal() for _ in range(4))
        beat = self.rows.payload
        tag = Signal.like(beat.tag, reset_less=True)
        last = Signal(reset_less=True)
        m.d.comb += [
            self.command.ready.eq(~asking & ~valid),
            # The buffer's output register is the beat's: it is read when that is free.
            fetch.eq(asking & (~valid | self.rows.ready)),
            last_row.eq(row == todo.rows - 1),
            last_tile.eq(tile == todo.tiles - 1),
            last_block.eq(block == todo.blocks - 1),
            self.read.en.eq(fetch),
            self.read.row.eq(Mux(last_row, todo.last, row)),
            self.read.tile.eq(tile),
            self.rows.valid.eq(valid),
            beat.tag.eq(tag),
            beat.last.eq(last),
        ]
        for index in range(self.config.n):
            m.d.comb += beat.operand[index].eq(self.read.data[index])
        m.d.sync += valid.eq(fetch | (valid & ~self.rows.ready))
        with m.If(self.command.ready & self.command.valid):
            m.d.sync += [todo.eq(self.command.payload), asking.eq(1), block.eq(0)]
        with m.If(fetch):
            m.d.sync += [
                tag.address.eq(row),
                tag.first.eq(tile == 0),
                tag.emit.eq(last_tile),
                tag.shift.eq(0),
                tag.half.eq(Half.WHOLE),
                last.eq(last_row),
                row.eq(Mux(last_row, 0, row + 1)),
            ]
            with m.If(last_row):
                m.d.sync += tile.eq(Mux(last_tile, 0, tile + 1))
                with m.If(last_tile):
                    m.d.sync += [block.eq(block + 1), asking.eq(~last_block)]
        return m
