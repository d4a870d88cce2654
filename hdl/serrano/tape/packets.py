# SPDX-License-Identifier: Apache-2.0
"""Packets of the tape, as ``docs/tape.md`` defines them."""

from amaranth import *
from amaranth.lib import data, enum

from serrano.config import AcceleratorConfig
from serrano.layouts import PackedScale

__all__ = ["HEADER_BYTES", "BlockScales", "Header", "Opcode", "PayloadUnit"]

HEADER_BYTES = 32
"""Bytes of a header that mean something; it occupies ``tape_align`` bytes."""


class Opcode(enum.Enum, shape=8):
    """Macro-operations."""

    EMBED = 0x01
    NORM = 0x02
    QKV = 0x03
    ATTEND = 0x04
    MATMUL = 0x05
    GATE_UP = 0x06
    SAMPLE = 0x07
    END = 0x0F


WITH_PAYLOAD = (Opcode.QKV, Opcode.MATMUL, Opcode.GATE_UP)
"""Opcodes whose packets carry weight blocks."""


class Header(data.Struct):
    """The first 32 bytes of a packet."""

    opcode: unsigned(8)
    flags: unsigned(8)
    layer: unsigned(16)
    k: unsigned(32)
    n_out: unsigned(32)
    payload_bytes: unsigned(32)
    index: unsigned(32)
    reserved: unsigned(64)
    crc: unsigned(32)


class PayloadUnit(data.StructLayout):
    """``load_bytes`` bytes of a payload; ``last`` marks the last unit of a packet."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"bytes": data.ArrayLayout(unsigned(8), config.load_bytes), "last": 1})


class BlockScales(data.StructLayout):
    """Scales of a block's output channels, and in QKV blocks with k channels their means, else zero."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "scales": data.ArrayLayout(PackedScale, config.n),
                "kmeans": data.ArrayLayout(signed(16), config.n),
            }
        )
