# SPDX-License-Identifier: Apache-2.0
"""Payloads of the array engine."""

from amaranth import *
from amaranth.lib import data

from serrano.config import AcceleratorConfig
from serrano.layouts import RowTag

__all__ = ["RowBeat", "TileUnit"]


class TileUnit(data.StructLayout):
    """``load_vectors`` adjacent rows of a tile, or columns of it with ``by_column``.

    With ``ends`` nothing more of the tile comes, and its other vectors stay what they were.

    Raises
    ------
    ValueError
        If the load path is wider than a tile.
    """

    def __init__(self, config: AcceleratorConfig):
        if not config.tile_units:
            raise ValueError(
                f"The load path must carry at most the {config.n} vectors of a tile, "
                f"not {config.load_vectors!r}"
            )
        vector = data.ArrayLayout(signed(8), config.n)
        super().__init__(
            {"vectors": data.ArrayLayout(vector, config.load_vectors), "by_column": 1, "ends": 1}
        )


class RowBeat(data.StructLayout):
    """A row of operands, what becomes of its sums, and whether it is the last row of its tile."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"operand": data.ArrayLayout(signed(9), config.n), "tag": RowTag(config), "last": 1})
