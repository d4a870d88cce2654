# SPDX-License-Identifier: Apache-2.0
"""Payloads of the engine: signs survive, and vector 0 is lowest."""

from serrano.config import preset
from serrano.matmul import RowBeat, TileUnit


def test_tile_unit() -> None:
    layout = TileUnit(preset("base"))
    assert layout.size == 8 * 32 + 2
    unit = layout.const({"vectors": [[-128] * 16, [127] * 16], "by_column": 1})
    assert unit.vectors[0][15] == -128 and unit.vectors[1][0] == 127
    assert unit.as_bits() & 0xFF == 0x80


def test_row_operands_hold_bytes_of_either_sign() -> None:
    row = RowBeat(preset("tiny")).const({"operand": [255, -128, -256, 0], "last": 1})
    assert list(row.operand) == [255, -128, -256, 0]
