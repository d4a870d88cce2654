# SPDX-License-Identifier: Apache-2.0
"""Loading tiles into the two weight planes in turn."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig

from .payloads import TileUnit

__all__ = ["TileLoader"]


class TileLoader(wiring.Component):
    """Writes tiles into the planes of the array as soon as these are free, and says which plane is to be
    used.

    A plane is free again ``reload`` cycles after ``release``, when the wave of the last row has passed so
    far that the wave of new weights cannot overtake it. ``loaded`` is set from the cycle after the last
    unit of a tile was written until the tile is released.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    reload : :class:`int`
        Cycles from the last row of a tile to the first write into its plane.

    Members
    -------
    tiles : ``In(stream.Signature(TileUnit(config)))``
        Tiles.
    load : ``Out(1)``
        Write ``tile`` into plane ``load_plane`` of the array.
    load_plane : ``Out(1)``
        See ``load``.
    unit : ``Out(range(tile_units))``
        Which unit of its tile it is.
    tile : ``Out(TileUnit(config))``
        Unit of the tile.
    loaded : ``Out(1)``
        The tile in ``use_plane`` is complete.
    use_plane : ``Out(1)``
        Plane of the next row.
    release : ``In(1)``
        That row is the last one of its tile.
    """

    def __init__(self, config: AcceleratorConfig, reload: int):
        self.config = config
        self.reload = reload
        super().__init__(
            {
                "tiles": In(stream.Signature(TileUnit(config))),
                "load": Out(1),
                "load_plane": Out(1),
                "unit": Out(range(max(2, config.tile_units))),
                "tile": Out(TileUnit(config)),
                "loaded": Out(1),
                "use_plane": Out(1),
                "release": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        occupied, complete = Signal(2), Signal(2)
        last = (self.unit == self.config.tile_units - 1) | self.tiles.payload.ends
        freed = self.release
        # The release takes effect one cycle late by itself.
        for cycle in range(max(0, self.reload - 1)):
            following = Signal(name=f"freed_{cycle + 1}")
            m.d.sync += following.eq(freed)
            freed = following
        free_plane = Signal()
        m.d.comb += [
            self.tiles.ready.eq(~occupied.bit_select(self.load_plane, 1)),
            self.load.eq(self.tiles.valid & self.tiles.ready),
            self.tile.eq(self.tiles.payload),
        ]
        if self.config.registered:
            # From what it follows from: it decides on whether rows move on.
            following = self.use_plane ^ self.release
            completes = self.load & last & (self.load_plane == following)
            m.d.sync += self.loaded.eq(complete.bit_select(following, 1) | completes)
        else:
            m.d.comb += self.loaded.eq(complete.bit_select(self.use_plane, 1))
        with m.If(self.load):
            m.d.sync += self.unit.eq(Mux(last, 0, self.unit + 1))
            with m.If(last):
                m.d.sync += [
                    occupied.bit_select(self.load_plane, 1).eq(1),
                    complete.bit_select(self.load_plane, 1).eq(1),
                    self.load_plane.eq(~self.load_plane),
                ]
        with m.If(self.release):
            m.d.sync += [
                complete.bit_select(self.use_plane, 1).eq(0),
                self.use_plane.eq(~self.use_plane),
            ]
        # Tiles are released in the order in which they were loaded.
        with m.If(freed):
            m.d.sync += [occupied.bit_select(free_plane, 1).eq(0), free_plane.eq(~free_plane)]
        return m
