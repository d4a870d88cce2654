# SPDX-License-Identifier: Apache-2.0
"""From the payload of a packet to scales and weight tiles."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.matmul import TileUnit
from serrano.stream.slices import later
from serrano.tape.packets import BlockScales, PayloadUnit

__all__ = ["UnpackCommand", "Unpacker"]


class UnpackCommand(data.StructLayout):
    """Shape of a payload: ``blocks`` blocks of ``tiles`` tiles; the first ``kmean_blocks`` have k means."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"blocks": 32, "tiles": range(config.input_max // config.n + 1), "kmean_blocks": 16})


class Unpacker(wiring.Component):
    """Takes weight blocks apart: scales, k means where there are any, then tiles, to be loaded by row.

    One payload unit per cycle; with ``config.registered`` each waits until a tile's could be taken, and the
    scales before it have been. The padding behind the last block is dropped. A payload that ends too early
    or goes on for longer than padding can sets ``fault``, until reset.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature(UnpackCommand(config)))``
        Shape of the next payload; at least one block and one tile.
    payload : ``In(stream.Signature(PayloadUnit(config)))``
        The payload.
    scales : ``Out(stream.Signature(BlockScales(config)))``
        One for each block, before its tiles.
    tiles : ``Out(stream.Signature(TileUnit(config)))``
        The units of all tiles.
    fault : ``Out(1)``
        The payload's length does not fit the command.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(stream.Signature(UnpackCommand(config))),
                "payload": In(stream.Signature(PayloadUnit(config))),
                "scales": Out(stream.Signature(BlockScales(config))),
                "tiles": Out(stream.Signature(TileUnit(config))),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        header_units = 2 * config.n // config.load_bytes
        todo = Signal(UnpackCommand(config))
        unit = Signal(range(max(2, header_units, config.tile_units)))
        tile = Signal.like(todo.tiles)
        spare = Signal(range(config.tape_align // config.load_bytes + 1))
        content = Value.cast(self.payload.payload.bytes)
        taken, last = Signal(), Signal()
        # What follows from the command and from what is left of it is kept beside it.
        final_tile, final_block, has_kmeans = Signal(), Signal(), Signal()
        # Of the tiles to come in a block this is the number, and ``final_tile`` says that it is one.
        single_tile, working = Signal(), Signal()
        gathered = Signal(16 * config.n, reset_less=True)
        following = Signal(16 * config.n)
        # With registers it is the same for all units, so that it is known early: the tiles can be taken, and
        # the last scales have been.
        registered = config.registered
        scales_free = ~self.scales.valid | (self.scales.ready & int(not registered))
        going = working & self.tiles.ready & scales_free
        m.d.comb += [
            taken.eq(self.payload.valid & self.payload.ready),
            last.eq(self.payload.payload.last),
            following.eq(Cat(gathered, content)[8 * config.load_bytes :]),
            self.tiles.payload.vectors.eq(content),
        ]
        with m.If(self.scales.ready):
            m.d.sync += self.scales.valid.eq(0)
        with m.If(taken):
            m.d.sync += [gathered.eq(following), unit.eq(unit + 1)]

        if registered:
            m.d.comb += self.payload.ready.eq(going)

        def ready(otherwise: Any) -> list[Any]:
            return [] if registered else [self.payload.ready.eq(otherwise)]

        block_ended = Signal()
        self._build_counts(m, todo, block_ended, final_block, has_kmeans)

        def end_of_block() -> None:
            m.d.comb += block_ended.eq(1)
            with m.If(~final_block):
                m.d.sync += self.fault.eq(self.fault | last)
                m.next = "SCALES"
            with m.Elif(last):
                idle()
            with m.Else():
                m.next = "PADDING"

        def idle() -> None:
            m.d.sync += working.eq(0)
            m.next = "IDLE"

        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += [unit.eq(0), spare.eq(0), todo.eq(self.command.payload)]
                m.d.sync += [
                    single_tile.eq(self.command.payload.tiles == 1),
                    working.eq(self.command.valid),
                    final_block.eq(self.command.payload.blocks == 1),
                    has_kmeans.eq(self.command.payload.kmean_blocks != 0),
                ]
                with m.If(self.command.valid):
                    m.next = "SCALES"
            whole = taken & (unit == header_units - 1)
            self._build_scales(m, ready, taken, whole, unit, following, has_kmeans, scales_free)
            with m.State("TILES"):
                m.d.comb += [
                    self.tiles.valid.eq(self.payload.valid & (scales_free | int(not registered))),
                    *ready(self.tiles.ready),
                ]
                with m.If(taken):
                    with m.If(unit == config.tile_units - 1):
                        m.d.sync += [unit.eq(0), tile.eq(tile - 1), final_tile.eq(tile == 2)]
                        with m.If(final_tile):
                            end_of_block()
                        with m.Else():
                            m.d.sync += self.fault.eq(self.fault | last)
                    with m.Else():
                        m.d.sync += self.fault.eq(self.fault | last)
            with m.State("PADDING"):
                m.d.comb += ready(1)
                with m.If(taken):
                    m.d.sync += spare.eq(spare + 1)
                    with m.If(spare == config.tape_align // config.load_bytes - 1):
                        m.d.sync += self.fault.eq(1)
                    with m.Elif(last):
                        idle()
        with m.If(fsm.ongoing("SCALES")):
            m.d.sync += [tile.eq(todo.tiles), final_tile.eq(single_tile)]
        return m

    def _build_counts(
        self, m: Module, todo: Any, block_ended: Signal, final_block: Signal, has_kmeans: Signal
    ) -> None:
        """Counts blocks: with registers a cycle after the end of each, soon enough for scales of two units.

        A command that comes then wins.
        """
        of_units = 2 * self.config.n > self.config.load_bytes
        counts = later(m, block_ended, registered=self.config.registered and of_units, name="counts")
        with m.If(counts):
            m.d.sync += [todo.blocks.eq(todo.blocks - 1), final_block.eq(todo.blocks == 2)]
            with m.If(has_kmeans):
                m.d.sync += todo.kmean_blocks.eq(todo.kmean_blocks - 1)
                m.d.sync += has_kmeans.eq(todo.kmean_blocks != 1)

    def _build_scales(
        self,
        m: Module,
        ready: Any,
        taken: Signal,
        whole: Value,
        unit: Signal,
        following: Signal,
        has_kmeans: Signal,
        scales_free: Value,
    ) -> None:
        """The states that gather a block's scales and k means; with ``whole`` their last unit is taken."""
        with m.State("SCALES"):
            m.d.comb += ready(scales_free)
            # The last ones to come are right, whatever has come before.
            with m.If(scales_free):
                m.d.sync += [
                    Value.cast(self.scales.payload.scales).eq(following),
                    Value.cast(self.scales.payload.kmeans).eq(0),
                ]
            with m.If(taken):
                m.d.sync += self.fault.eq(self.fault | self.payload.payload.last)
            with m.If(whole):
                m.d.sync += [unit.eq(0), self.scales.valid.eq(~has_kmeans)]
                m.next = "TILES"
                with m.If(has_kmeans):
                    m.next = "KMEANS"
        with m.State("KMEANS"):
            m.d.comb += ready(1)
            m.d.sync += Value.cast(self.scales.payload.kmeans).eq(following)
            with m.If(taken):
                m.d.sync += self.fault.eq(self.fault | self.payload.payload.last)
            with m.If(whole):
                m.d.sync += [unit.eq(0), self.scales.valid.eq(1)]
                m.next = "TILES"
