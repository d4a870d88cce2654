# SPDX-License-Identifier: Apache-2.0
"""Payloads of the attention blocks.

An *item* is one softmax group of one KV head: up to 16 tokens. A *row* of an item is one query token together
with one of the ``group`` query heads that share the KV head: row ``r`` belongs to token ``r // group``. A
field that is said to be a count holds the number itself.
"""

from typing import Any

from amaranth import *
from amaranth.lib import data
from amaranth.utils import ceil_log2, exact_log2

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS, PackedScale, Scale
from serrano.stream.pipeline import delayed
from serrano.vector.arithmetic import times

__all__ = [
    "AttendCommand",
    "Final",
    "GroupMaxima",
    "Item",
    "ItemWeights",
    "NormalizeCommand",
    "Operation",
    "RowTotal",
    "ScoreBeat",
    "SoftmaxItem",
    "TokenWeight",
    "WeightBeat",
    "added_product",
    "chunk_count",
    "item_row_bits",
    "item_row_count",
    "kv_words",
    "query_words",
    "read_enable",
    "record_slots",
    "results_layout",
    "serial_bits",
    "told_ahead",
    "two_step_product",
    "word_address",
]

MAXIMUM_BITS = 21
"""Width of ``m`` and ``X``. They are kept plus 2**20, so that they compare as unsigned numbers and 0, which
no value reaches, stands for "none"."""

BIAS = 1 << (MAXIMUM_BITS - 1)
"""What maxima are given to be unsigned."""


def item_row_bits(config: AcceleratorConfig) -> int:
    """Width of the index of an item's row."""
    return max(1, ceil_log2(config.attention_rows_max))


def item_row_count(config: AcceleratorConfig) -> range:
    """Shape of a count of an item's rows."""
    return range(config.attention_rows_max + 1)


def results_layout(config: AcceleratorConfig) -> data.ArrayLayout:
    """What leaves the array for one row."""
    return data.ArrayLayout(signed(ACCUMULATOR_BITS), config.n)


def record_slots(config: AcceleratorConfig) -> int:
    """Records that are kept at a time, and items whose weights are: more than K runs ahead of V."""
    return config.lookahead + 2


def serial_bits(config: AcceleratorConfig) -> int:
    """Width of the serial number of a record, which tells those kept at a time apart."""
    return (record_slots(config) + 1).bit_length()


def query_words(config: AcceleratorConfig) -> int:
    """Words of ``n`` codes that hold a token's q heads; a head of ``n / 2`` channels takes a whole one."""
    return max(config.dim_max // config.n, min(config.heads_max, 2 * config.dim_max // config.n))


def kv_words(config: AcceleratorConfig) -> int:
    """Words of ``n`` codes that hold the k heads, or the v heads, of a token."""
    return max(config.kv_width_max // config.n, min(config.heads_max, 2 * config.kv_width_max // config.n))


def chunk_count(config: AcceleratorConfig) -> range:
    """Shape of the number of chunks of ``n`` channels of a head."""
    return range(config.head_chunks_max + 1)


def word_address(
    m: Module,
    start: Value,
    words: int,
    head: Value,
    chunks: Value,
    chunk: Value,
    *,
    cycles: int,
    enable: Any,
    name: str,
) -> Value:
    """Address of a head's chunk, ``cycles`` later: ``start * words + head * chunks + chunk``."""
    late = {"cycles": cycles, "enable": enable}
    if not cycles:
        return times(Value.cast(start), words) + (head * chunks + chunk)
    bits = exact_log2(words) if words & (words - 1) == 0 else None
    within = delayed(m, (added_product(head, chunks) + chunk)[:bits], name=f"{name}_within", **late)
    start = delayed(m, Value.cast(start), name=f"{name}_start", **late)
    # A row is within its words.
    return Cat(within, start) if bits is not None else times(start, words) + within


def added_product(one: Value, other: Value) -> Value:
    """``one * other`` of small unsigned numbers by additions, for it is nearer than a multiplier."""
    terms = ((other & one[bit].replicate(len(other))) << bit for bit in range(len(one)))
    return sum(terms, Const(0, 1))


def two_step_product(m: Module, one: Value, other: Value, *, name: str) -> Value:
    """:func:`added_product` of numbers that do not change, from the second cycle on."""
    half = len(other) // 2
    low, high = (
        delayed(m, added_product(part, one), 1, enable=Const(1), name=f"{name}_{kind}")
        for part, kind in ((other[:half], "low"), (other[half:], "high"))
    )
    return low + (high << half)


def told_ahead(
    m: Module, index: Value, count: Value, *, rests: Value, step: Value, registered: bool, name: str
) -> Signal:
    """Whether ``index`` is the last of ``count``; with ``registered`` out of a register.

    ``index`` goes on with ``step``, from the last one to 0, and is 0 while it ``rests``. With ``registered``
    it rests for a cycle in which the count is already the next one.
    """
    last = Signal(name=name)
    if not registered:
        m.d.comb += last.eq(index == (count - 1)[: len(index)])
        return last
    with m.If(rests):
        m.d.sync += last.eq(count == 1)
    with m.Elif(step):
        m.d.sync += last.eq(Mux(last, count == 1, index + 2 == count))
    return last


def read_enable(read: Any, *, registered: bool) -> Value:
    """When memory is read for a port with ``en`` and ``advance``.

    With ``registered`` that is whenever its reader advances, and what was asked for an advance ago: so the
    memories' own registers can be used behind it.
    """
    return read.advance if registered else read.en


class AttendCommand(data.StructLayout):
    """Attention of ``rows`` (count) tokens of one sequence.

    The sequence has ``committed`` tokens in memory; behind them it has rows of this step, from row ``row``
    on, of which the first ``skip`` are only attended to (another command has attended for them). ``kv_heads``
    KV heads of ``group`` query heads each (counts), of ``head_dim`` channels; the output has ``head_pad``
    channels for each head. ``rows * group`` is at most ``attention_rows_max``. ``final`` is the last command
    of the step's layer.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "row": ceil_log2(config.rows_max),
                "skip": ceil_log2(config.rows_max),
                "rows": range(config.rows_max + 1),
                "kv_heads": range(config.heads_max + 1),
                "group": item_row_count(config),
                "head_dim": range(config.head_dim_max + 1),
                "head_pad": range(config.head_dim_max + 1),
                "committed": range(config.context_max),
                "final": 1,
            }
        )


class Item(data.StructLayout):
    """One group of 16 tokens of one KV head.

    Its first ``base`` tokens are committed (all if there are more than 16), those after them are the step's,
    from the sequence's first row on; with a negative ``base`` its row ``-base`` comes first. ``first`` and
    ``last`` of its head, whose first query head is ``query``; ``final`` if it is the last of the last head,
    too. In the group ``committed`` tokens are committed, and ``tokens`` there are (counts of 0 .. 16). With
    ``memory`` it has a record: number ``serial``, in slot ``slot``.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "head": ceil_log2(config.heads_max),
                "query": ceil_log2(config.heads_max),
                "base": signed(ceil_log2(config.context_max) + 2),
                "committed": range(GROUP_TOKENS + 1),
                "tokens": range(GROUP_TOKENS + 1),
                "first": 1,
                "last": 1,
                "final": 1,
                "memory": 1,
                "slot": ceil_log2(record_slots(config)),
                "serial": serial_bits(config),
            }
        )


class Operation(data.StructLayout):
    """The passes of an item's K through the array, or with ``values`` those of its V."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"values": 1, "item": Item(config)})


class ItemWeights(data.StructLayout):
    """Weights of a row for a token tile, and the shift of the row's outputs."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"p": data.ArrayLayout(unsigned(16), config.n), "shift": 6})


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
