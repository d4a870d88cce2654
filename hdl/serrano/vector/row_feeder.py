# SPDX-License-Identifier: Apache-2.0
"""Quantized rows into the array, tile after tile."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import Half
from serrano.matmul import RowBeat
from serrano.stream import StreamFIFO
from serrano.stream.pipeline import delayed

from .payloads import FeedCommand, TileReadPort

__all__ = ["RowFeeder"]

PLACES = 8
"""Rows that may be under way with registers: more than the cycles from one's leave to the next one's."""


class RowFeeder(wiring.Component):
    """Sends rows of the activation buffer through every tile of every block.

    For each block, tile, row: the row's codes for the tile. The accumulator has the row's index; it starts
    with tile 0 and is sent on with the last tile. One row per cycle; a row leaves ``latency`` (1, with
    ``config.registered`` 5) cycles after it was decided on, the first in the cycle after the command was
    taken. It is asked for at once; with ``config.registered`` a cycle later, and then the way to the buffer
    and out of it never stands still, and rows that are not taken wait in a buffer of their own.

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
        # The address, the memory, its register, and the rows' buffer.
        self.latency = 3 + StreamFIFO.latency if config.registered else 1
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
        row, tile = Signal.like(todo.rows), Signal.like(todo.tiles)
        # The block after the present one.
        block = Signal.like(todo.blocks)
        final_row, final_tile, final_block = Signal.like(row), Signal.like(tile), Signal.like(block)
        fetch, last_row, last_tile, last_block = (Signal() for _ in range(4))
        # What is sent with a row, and where its codes are.
        place = Signal(_Place(self.config))
        may, empty = self._build_way(m, fetch, place)
        m.d.comb += [
            self.command.ready.eq(~asking & empty),
            fetch.eq(asking & may),
            place.sent.address.eq(row),
            place.row.eq(Mux(last_row, todo.last, row)),
            place.tile.eq(tile),
            place.sent.first.eq(tile == 0),
            place.sent.emit.eq(last_tile),
            place.sent.last.eq(last_row),
        ]
        # What is taken before a command comes means nothing.
        with m.If(~asking):
            m.d.sync += [
                todo.eq(self.command.payload),
                final_row.eq(self.command.payload.rows - 1),
                final_tile.eq(self.command.payload.tiles - 1),
                final_block.eq(self.command.payload.blocks - 1),
                last_row.eq(self.command.payload.rows == 1),
                last_tile.eq(self.command.payload.tiles == 1),
                last_block.eq(self.command.payload.blocks == 1),
                asking.eq(self.command.valid & empty),
                block.eq(1),
            ]
        with m.If(fetch):
            m.d.sync += [
                row.eq(Mux(last_row, 0, row + 1)),
                last_row.eq(Mux(last_row, final_row == 0, row + 1 == final_row)),
            ]
            with m.If(last_row):
                m.d.sync += [
                    tile.eq(Mux(last_tile, 0, tile + 1)),
                    last_tile.eq(Mux(last_tile, final_tile == 0, tile + 1 == final_tile)),
                ]
                with m.If(last_tile):
                    m.d.sync += [
                        block.eq(block + 1),
                        last_block.eq(block == final_block),
                        asking.eq(~last_block),
                    ]
        return m

    def _build_way(self, m: Module, fetch: Signal, place: Any) -> tuple[Value, Value]:
        """The way of rows; whether one may set out on it, and whether none is there."""
        if self.config.registered:
            return self._build_long_way(m, fetch, place)
        # The buffer's output register is the beat's: it is read when that is free.
        valid, kept = self.rows.valid, Signal.like(place.sent, name="kept", reset_less=True)
        self._ask(m, fetch, place)
        self._give(m, self.rows.payload, self.read.data, kept)
        m.d.sync += valid.eq(fetch | (valid & ~self.rows.ready))
        with m.If(fetch):
            m.d.sync += kept.eq(place.sent)
        return ~valid | self.rows.ready, ~valid

    def _build_long_way(self, m: Module, fetch: Signal, place: Any) -> tuple[Value, Value]:
        """A register before the buffer, one behind it, and places for all rows that are under way."""
        config = self.config
        stages = Signal(self.latency - StreamFIFO.latency)
        under_way = Signal(range(PLACES + 1))
        m.submodules.places = places = StreamFIFO(_Row(config), PLACES)
        asked = delayed(m, place, 1, enable=1, name="asked")
        codes = delayed(m, self.read.data, 1, enable=1, name="codes")
        found = delayed(m, asked.sent, len(stages) - 1, enable=1, name="found")
        taken = self.rows.valid & self.rows.ready
        may, empty = Signal(init=1), Signal(init=1)
        self._ask(m, Const(1), asked)
        m.d.comb += [
            places.i.valid.eq(stages[-1]),
            places.i.payload.codes.eq(codes),
            places.i.payload.sent.eq(found),
            self.rows.valid.eq(places.o.valid),
            places.o.ready.eq(self.rows.ready),
        ]
        m.d.sync += [
            stages.eq(Cat(fetch, stages)),
            under_way.eq(under_way + fetch - taken),
            # A cycle late, and therefore one short.
            may.eq(under_way < PLACES - 1),
            empty.eq((under_way == 0) & ~fetch),
        ]
        self._give(m, self.rows.payload, places.o.payload.codes, places.o.payload.sent)
        return may, empty

    def _ask(self, m: Module, enable: Value, place: Any) -> None:
        m.d.comb += [self.read.en.eq(enable), self.read.row.eq(place.row), self.read.tile.eq(place.tile)]

    def _give(self, m: Module, beat: Any, codes: Any, sent: Any) -> None:
        m.d.comb += [
            beat.tag.address.eq(sent.address),
            beat.tag.first.eq(sent.first),
            beat.tag.emit.eq(sent.emit),
            beat.tag.shift.eq(0),
            beat.tag.half.eq(Half.WHOLE),
            beat.last.eq(sent.last),
        ]
        for index in range(self.config.n):
            m.d.comb += beat.operand[index].eq(codes[index])


class _Sent(data.StructLayout):
    """What goes with a row's codes."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"address": ceil_log2(config.rows_max), "first": 1, "emit": 1, "last": 1})


class _Place(data.StructLayout):
    """Where a row's codes are, and what goes with them."""

    def __init__(self, config: AcceleratorConfig):
        port = TileReadPort(config).members
        super().__init__({"row": port["row"].shape, "tile": port["tile"].shape, "sent": _Sent(config)})


class _Row(data.StructLayout):
    """A row on its way into the array."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"codes": data.ArrayLayout(signed(8), config.n), "sent": _Sent(config)})
