# SPDX-License-Identifier: Apache-2.0
"""Payloads and ports between the vector blocks and their neighbours.

A ``row`` is an index below ``rows_max``, a ``column`` a channel; a field that is said to be a count holds the
number itself.
"""

from typing import Any

from amaranth import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import EpilogueBeat, PackedScale, Scale

__all__ = [
    "ArgmaxCommand",
    "CodesBeat",
    "DequantizeCommand",
    "FeedCommand",
    "HeadBeat",
    "HeadCodes",
    "HeadKind",
    "HeadScale",
    "HeadTag",
    "HeadsCommand",
    "QuantizeCommand",
    "RopeWrite",
    "StagedBeat",
    "TileReadPort",
    "Token",
    "WordReadPort",
    "WrittenBeat",
    "row_bits",
    "row_count",
]


def row_bits(config: AcceleratorConfig) -> int:
    """Width of the index of a row."""
    return ceil_log2(config.rows_max)


def row_count(config: AcceleratorConfig) -> range:
    """Shape of a count of rows."""
    return range(config.rows_max + 1)


class HeadKind(enum.Enum, shape=unsigned(2)):
    """What a head of the QKV projection is."""

    K = 0
    V = 1
    Q = 2


class DequantizeCommand(data.StructLayout):
    """Results of ``blocks`` (count) blocks of ``n`` channels, each of ``rows`` (count) rows.

    The last row is row ``last`` of the step, the others are its first ones; see :class:`FeedCommand`.
    """

    def __init__(self, config: AcceleratorConfig):
        columns = EpilogueBeat(config)["column"].shape
        super().__init__(
            {
                "rows": row_count(config),
                "last": row_bits(config),
                "blocks": unsigned(columns - ceil_log2(config.n) + 1),
            }
        )


class StagedBeat(data.StructLayout):
    """h16 codes of adjacent channels of one row, the first at ``column``.

    With ``half`` there are ``lanes / 2`` of them, in the lower half of ``codes``, and ``column`` is a
    multiple of that; otherwise there are ``lanes``. One lane has no halves. ``last`` marks the last beat of a
    packet.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "codes": data.ArrayLayout(16, config.lanes),
                "half": 1,
                "row": row_bits(config),
                "column": ceil_log2(config.input_max),
                "last": 1,
            }
        )


class WrittenBeat(data.StructLayout):
    """What was written to the residual: ``lanes`` values of ``row`` from ``column`` on."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "values": data.ArrayLayout(signed(32), config.lanes),
                "row": row_bits(config),
                "column": ceil_log2(config.dim_max),
                "last": 1,
            }
        )


class QuantizeCommand(data.StructLayout):
    """Quantize ``rows`` (count) rows of ``length`` (count) elements.

    They come from the staging buffer if ``staging`` is set, else from the residual. With ``norm`` the scale
    is that of RMSNorm, and ``eps`` the packed scale of eps times the dimension.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "staging": 1,
                "norm": 1,
                "rows": row_count(config),
                "length": range(config.input_max + 1),
                "eps": PackedScale,
            }
        )


class CodesBeat(data.StructLayout):
    """``lanes`` adjacent codes of a quantized row, the first at ``column``; ``last`` ends a command."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "codes": data.ArrayLayout(signed(8), config.lanes),
                "row": row_bits(config),
                "column": ceil_log2(config.input_max),
                "last": 1,
            }
        )


class FeedCommand(data.StructLayout):
    """Feed ``rows`` rows through ``tiles`` tiles for each of ``blocks`` blocks (counts).

    The last of them is row ``last`` of the step, the others are its first ones. From here on it has the index
    that follows theirs.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "rows": row_count(config),
                "last": row_bits(config),
                "tiles": range(config.input_max // config.n + 1),
                "blocks": DequantizeCommand(config)["blocks"].shape,
            }
        )


class HeadsCommand(data.StructLayout):
    """A QKV packet of ``rows`` rows: ``kv_heads`` k heads, as many v heads, ``heads`` q heads (counts).

    ``head_pad`` is the padded head dimension; ``score`` is the constant that q's scales are multiplied by.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "rows": row_count(config),
                "kv_heads": range(config.heads_max + 1),
                "heads": range(config.heads_max + 1),
                "head_pad": range(config.head_dim_max + 1),
                "score": Scale,
            }
        )


class RopeWrite(data.StructLayout):
    """One word of the RoPE table of a row: pairs ``word * lanes / 2`` and on, of (cos, sin); with one lane
    the pair ``word``.

    Entries have 15 fraction bits.
    """

    def __init__(self, config: AcceleratorConfig):
        pair = data.StructLayout({"cos": signed(16), "sin": signed(16)})
        super().__init__(
            {
                "pairs": data.ArrayLayout(pair, max(2, config.lanes) // 2),
                "row": row_bits(config),
                "word": ceil_log2(config.head_dim_max // max(2, config.lanes)),
            }
        )


class HeadTag(data.StructLayout):
    """A head of a row. ``head`` counts within its kind."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"kind": HeadKind, "row": row_bits(config), "head": ceil_log2(config.heads_max)})


class HeadBeat(data.StructLayout):
    """``lanes`` adjacent values of a head of a row, in Q16, with their place in the order of a QKV packet.

    ``word`` counts beats within the head. Heads are kept in *units* of one head, or two adjacent ones where a
    block of ``n`` channels holds two; ``half`` is set in the second. ``first`` and ``complete`` mark the
    first and last beat of a head of a row; ``release`` the last beat of a unit, ``last`` that of the packet.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "values": data.ArrayLayout(signed(32), config.lanes),
                "kmeans": data.ArrayLayout(signed(16), config.lanes),
                "tag": HeadTag(config),
                "word": ceil_log2(config.head_dim_max // config.lanes),
                "half": 1,
                "first": 1,
                "complete": 1,
                "release": 1,
                "last": 1,
            }
        )


class HeadCodes(data.StructLayout):
    """``lanes`` adjacent codes of a quantized head, ``column`` being the first one's place within the head.

    ``last`` marks the last codes of a packet.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "kind": HeadKind,
                "row": row_bits(config),
                "head": ceil_log2(config.heads_max),
                "column": ceil_log2(config.head_dim_max),
                "codes": data.ArrayLayout(signed(8), config.lanes),
                "last": 1,
            }
        )


class HeadScale(data.StructLayout):
    """The scale of a quantized head, for q times the score constant; ``last`` marks the last of a packet."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "kind": HeadKind,
                "row": row_bits(config),
                "head": ceil_log2(config.heads_max),
                "scale": Scale,
                "last": 1,
            }
        )


class ArgmaxCommand(data.StructLayout):
    """Logits of ``rows`` (count) rows over a vocabulary of ``vocab`` (count) tokens."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"rows": row_count(config), "vocab": range(config.vocab_max + 1)})


class Token(data.StructLayout):
    """The greedy token of a row, and its logit."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"row": row_bits(config), "token": ceil_log2(config.vocab_max), "value": signed(32)})


class WordReadPort(wiring.Signature):
    """Read port of a buffer of rows, as its reader sees it.

    In a cycle with ``en`` the reader asks for a word (``lanes`` elements) of a row; ``data`` has it from the
    next cycle on, until the next read.
    """

    def __init__(self, config: AcceleratorConfig, element: Any, length: int):
        super().__init__(
            {
                "en": Out(1),
                "row": Out(row_bits(config)),
                "word": Out(ceil_log2(length // config.lanes)),
                "data": In(data.ArrayLayout(element, config.lanes)),
            }
        )


class TileReadPort(wiring.Signature):
    """Read port of the activation buffer, as its reader sees it: the ``n`` codes of a row for one tile.

    In a cycle with ``en`` the reader asks; ``data`` has the codes from the next cycle on, until the next
    read.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "row": Out(row_bits(config)),
                "tile": Out(ceil_log2(config.input_max // config.n)),
                "data": In(data.ArrayLayout(signed(8), config.n)),
            }
        )
