# SPDX-License-Identifier: Apache-2.0
"""Quantized rows into the array, tile after tile."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.layouts import Half
from serrano.matmul import RowBeat
from serrano.stream import ForwardRegister

from .payloads import FeedCommand, TileReadPort

__all__ = ["RowFeeder"]


class RowFeeder(wiring.Component):
    """Sends rows of the activation buffer through every tile of every block.

    For each block, tile, row: the row's codes for the tile. The accumulator has the row's index; it starts
    with tile 0 and is sent on with the last tile. One row per cycle; a row leaves ``latency`` (1, with
    ``config.registered`` 2) cycles after it was asked for, and the first is asked for in the cycle after the
    command was taken.

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

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = 1 + int(config.registered)
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
        asking = Signal()
        row, tile, block = Signal.like(todo.rows), Signal.like(todo.tiles), Signal.like(todo.blocks)
        final_row, final_tile, final_block = Signal.like(row), Signal.like(tile), Signal.like(block)
        fetch, last_row, last_tile, last_block = (Signal() for _ in range(4))
        rows = self._build_output(m)
        valid, beat = rows.valid, rows.payload
        tag = Signal.like(beat.tag, reset_less=True)
        last = Signal(reset_less=True)
        m.d.comb += [
            self.command.ready.eq(~asking & ~valid & ~self.rows.valid),
            # The buffer's output register is the beat's: it is read when that is free.
            fetch.eq(asking & (~valid | rows.ready)),
            last_tile.eq(tile == final_tile),
            last_block.eq(block == final_block),
            self.read.en.eq(fetch),
            self.read.row.eq(Mux(last_row, todo.last, row)),
            self.read.tile.eq(tile),
            beat.tag.eq(tag),
            beat.last.eq(last),
        ]
        for index in range(self.config.n):
            m.d.comb += beat.operand[index].eq(self.read.data[index])
        m.d.sync += valid.eq(fetch | (valid & ~rows.ready))
        with m.If(self.command.ready & self.command.valid):
            m.d.sync += [
                todo.eq(self.command.payload),
                final_row.eq(self.command.payload.rows - 1),
                final_tile.eq(self.command.payload.tiles - 1),
                final_block.eq(self.command.payload.blocks - 1),
                last_row.eq(self.command.payload.rows == 1),
                asking.eq(1),
                block.eq(0),
            ]
        with m.If(fetch):
            m.d.sync += [
                tag.address.eq(row),
                tag.first.eq(tile == 0),
                tag.emit.eq(last_tile),
                tag.shift.eq(0),
                tag.half.eq(Half.WHOLE),
                last.eq(last_row),
                row.eq(Mux(last_row, 0, row + 1)),
                last_row.eq(Mux(last_row, final_row == 0, row + 1 == final_row)),
            ]
            with m.If(last_row):
                m.d.sync += tile.eq(Mux(last_tile, 0, tile + 1))
                with m.If(last_tile):
                    m.d.sync += [block.eq(block + 1), asking.eq(~last_block)]
        return m

    def _build_output(self, m: Module) -> Any:
        """Where rows leave the buffer."""
        if not self.config.registered:
            return self.rows
        m.submodules.output = output = ForwardRegister(RowBeat(self.config))
        wiring.connect(m, output.o, wiring.flipped(self.rows))
        return output.i
