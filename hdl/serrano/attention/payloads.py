# SPDX-License-Identifier: Apache-2.0
"""Payloads of the attention blocks.

An *item* is one softmax group of one KV head: up to 16 tokens. A *row* of an item is one query token together
with one of the ``group`` query heads that share the KV head: row ``r`` belongs to token ``r // group``. A
field that is said to be a count holds the number itself.
"""

from amaranth import *
from amaranth.lib import data
from amaranth.utils import ceil_log2

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS, PackedScale, Scale

__all__ = [
    "Final",
    "GroupMaxima",
    "NormalizeCommand",
    "RowTotal",
    "ScoreBeat",
    "SoftmaxItem",
    "TokenWeight",
    "WeightBeat",
    "item_row_bits",
    "item_row_count",
    "results_layout",
]

MAXIMUM_BITS = 21
"""Width of ``m`` and ``X``. They are kept plus 2**20, so that they compare as unsigned numbers and 0, which
no value reaches, stands for "none"."""


def item_row_bits(config: AcceleratorConfig) -> int:
    """Width of the index of an item's row."""
    return max(1, ceil_log2(config.attention_rows_max))


def item_row_count(config: AcceleratorConfig) -> range:
    """Shape of a count of an item's rows."""
    return range(config.attention_rows_max + 1)


def results_layout(config: AcceleratorConfig) -> data.ArrayLayout:
    """What leaves the array for one row."""
    return data.ArrayLayout(signed(ACCUMULATOR_BITS), config.n)


class SoftmaxItem(data.Struct):
    """What softmax has to know of an item.

    ``first`` and ``last`` say that it is the first or last one of its head. The first ``count + r // group``
    tokens, limited to 0 .. 16, are valid for row ``r``.
    """

    k_scales: data.ArrayLayout(PackedScale, GROUP_TOKENS)
    v_scales: data.ArrayLayout(PackedScale, GROUP_TOKENS)
    first: unsigned(1)
    last: unsigned(1)
    count: signed(17)


class ScoreBeat(data.StructLayout):
    """Scores of a row for one token tile: sums of products of codes, and the row's scale."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"sums": results_layout(config), "scale": Scale})


class TokenWeight(data.Struct):
    """What exp2 gives for a token, before any maximum is known.

    ``mantissa`` and ``exponent`` are M and i of section 7, ``weight`` is U, ``offset`` is ``y - i``.
    """

    mantissa: unsigned(17)
    exponent: signed(20)
    weight: unsigned(17)
    offset: signed(7)
    valid: unsigned(1)


class GroupMaxima(data.Struct):
    """Largest ``ceil(z)`` and largest ``x``, both plus 2**20; 0 stands for none."""

    m: unsigned(MAXIMUM_BITS)
    x: unsigned(MAXIMUM_BITS)


class WeightBeat(data.StructLayout):
    """The streamed weights P of a row for the ``n`` tokens of tile ``tile``.

    ``shift`` is what the row's outputs are divided by, as a power of two, before they take the item; in the
    item that is ``first`` they start from zero instead.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "p": data.ArrayLayout(unsigned(16), config.n),
                "tile": max(1, ceil_log2(config.group_tiles)),
                "row": item_row_bits(config),
                "shift": 6,
                "first": 1,
                "last": 1,
            }
        )


class RowTotal(data.Struct):
    """A row's denominator l after its last item, and ``m - X``."""

    total: unsigned(40)
    difference: signed(MAXIMUM_BITS + 1)


class Final(data.Struct):
    """What a row's outputs are multiplied by: ``reciprocal * 2**-shift``; ``shift`` is -16 .. 63."""

    reciprocal: unsigned(17)
    shift: signed(8)


class NormalizeCommand(data.StructLayout):
    """Outputs of one KV head: ``rows`` (count) rows of ``group`` (count) query heads per token.

    Row 0 goes to row ``row`` of the staging buffer, its channels to ``column`` and on; each further query
    head ``head_pad`` channels behind. ``last`` says that the command's last beat is the last of its packet.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "rows": item_row_count(config),
                "group": item_row_count(config),
                "head_pad": range(config.head_dim_max + 1),
                "row": ceil_log2(config.rows_max),
                "column": ceil_log2(config.input_max),
                "last": 1,
            }
        )
