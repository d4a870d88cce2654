# SPDX-License-Identifier: Apache-2.0
"""Payloads that several blocks share."""

from amaranth import *
from amaranth.lib import data, enum
from amaranth.utils import ceil_log2

from .config import AcceleratorConfig

__all__ = [
    "EpilogueBeat",
    "Half",
    "PackedScale",
    "ReadRequest",
    "RowTag",
    "Scale",
    "accumulator_depth",
    "tag_bits",
]

ACCUMULATOR_BITS = 40
"""Width of an accumulator; projections and scores use the low 32 bits of it."""


class PackedScale(data.Struct):
    """A stored scale: 16 bits, see section 2 of ``docs/numerics.md``."""

    fraction: unsigned(10)
    exponent: unsigned(6)
    """Biased by 40."""


class Scale(data.Struct):
    """A scale of value ``mantissa * 2 ** (exponent - 15)``, ``mantissa`` in ``[2**15, 2**16)``."""

    mantissa: unsigned(16)
    exponent: signed(8)


class Half(enum.Enum, shape=unsigned(2)):
    """How a row's sums enter the accumulator."""

    WHOLE = 0
    """Added as they are."""
    HIGH = 1
    """Kept, times 256, for the LOW row that follows at once; nothing is accumulated yet."""
    LOW = 2
    """Added together with the kept HIGH sums."""


def accumulator_depth(config: AcceleratorConfig) -> int:
    """Accumulators per column: attention outputs, then scores; projections use the first ``rows_max``."""
    rows = config.attention_rows_max
    return max(config.rows_max, rows * (config.head_chunks_max + config.group_tiles))


class RowTag(data.StructLayout):
    """What happens to the sums of one row at the bottom edge of the array.

    ``address`` selects the accumulator; ``first`` starts it from zero; otherwise it is first divided by
    ``2 ** shift`` (rounding half up); ``emit`` sends the new value to the results; ``half`` says how the
    sums enter.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "address": ceil_log2(accumulator_depth(config)),
                "first": 1,
                "emit": 1,
                "shift": 6,
                "half": Half,
            }
        )


class EpilogueBeat(data.StructLayout):
    """``lanes`` adjacent linear outputs of one row, in Q16.

    ``column`` is the output channel of lane 0 (a multiple of ``lanes``); ``last`` marks the last beat of a
    packet.
    """

    def __init__(self, config: AcceleratorConfig):
        columns = max(config.vocab_max, 2 * config.ffn_max, config.dim_max + 2 * config.kv_width_max)
        super().__init__(
            {
                "values": data.ArrayLayout(signed(32), config.lanes),
                "kmeans": data.ArrayLayout(signed(16), config.lanes),
                "row": ceil_log2(config.rows_max),
                "column": ceil_log2(columns + config.n),
                "last": 1,
            }
        )


def tag_bits(config: AcceleratorConfig) -> int:
    """Width of what a request to the memory is marked with: the number of a sequence."""
    return max(1, ceil_log2(config.sequences_max))


class ReadRequest(data.StructLayout):
    """A run of memory to be read: ``bytes`` is a multiple of the port width, and so is ``address``.

    ``tag`` comes back with a fault: the sequence whose data it is, 0 where it is nobody's.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"address": config.address_bits, "bytes": 32, "tag": tag_bits(config)})
