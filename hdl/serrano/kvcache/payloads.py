# SPDX-License-Identifier: Apache-2.0
"""Payloads and ports of the KV blocks.

A block's *index* is its place in a sequence's table, its *number* its place in memory. A *slot* is a token's
place in its block.
"""

from typing import Any

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from serrano.config import GROUP_TOKENS, AcceleratorConfig

from .commands import Status

__all__ = [
    "BLOCK_SIZE",
    "GENERATION_BITS",
    "REFERENCE_BITS",
    "SLOT_BITS",
    "AppendCommand",
    "BlockState",
    "GatherCommand",
    "KVCommand",
    "KVGeometry",
    "KVPort",
    "KVResponse",
    "MoveCommand",
    "MoveKind",
    "MovePort",
    "Place",
    "RecordBeat",
    "SequenceState",
    "TranslatePort",
    "TranslateRequest",
    "Translation",
    "block_bits",
    "entry_bits",
    "last_shift",
    "record_bytes",
    "record_length_bits",
    "sequence_bits",
    "token_count",
]

BLOCK_SIZE = GROUP_TOKENS
"""Tokens in a block."""

SLOT_BITS = exact_log2(BLOCK_SIZE)

GENERATION_BITS = 32
REFERENCE_BITS = 8
TENANT_BITS = 8
RECORD_BITS = 16
"""Width of the index of a record within a block."""


def block_bits(config: AcceleratorConfig) -> int:
    """Width of a block's number.

    Raises
    ------
    ValueError
        If it is above 16, which is what STAT has room for.
    """
    if config.blocks_max > 1 << 16:
        raise ValueError(f"blocks_max must be at most 65536, not {config.blocks_max!r}")
    return ceil_log2(config.blocks_max)


def sequence_bits(config: AcceleratorConfig) -> int:
    """Width of a sequence's number."""
    return max(1, ceil_log2(config.sequences_max))


def entry_bits(config: AcceleratorConfig) -> int:
    """Width of a block's index.

    Raises
    ------
    ValueError
        If a number of entries has more than 16 bits, which is what STAT has room for.
    """
    if config.table_entries >= 1 << 16:
        raise ValueError(
            f"context_max must be at most {BLOCK_SIZE * 65535} for the KV tables, not {config.context_max!r}"
        )
    return max(1, ceil_log2(config.table_entries))


def token_count(config: AcceleratorConfig) -> range:
    """Shape of a number of tokens of a sequence."""
    return range(config.context_max + 1)


def record_length_bits(config: AcceleratorConfig) -> int:
    """Width of the number of bytes of a record."""
    return (BLOCK_SIZE * (2 * config.head_dim_max + 4)).bit_length()


def record_bytes(head_dim: Value) -> Value:
    """Bytes of a record: 16 times two scales of 2 bytes and two vectors of ``head_dim``."""
    return (head_dim << (SLOT_BITS + 1)) + 4 * BLOCK_SIZE


def last_shift(config: AcceleratorConfig, head_dim: Value) -> Value:
    """Binary logarithm of the width of a head's last chunk: of ``n``, or of the bytes beyond full chunks."""
    bits = exact_log2(config.n)
    shift: Any = Const(bits, range(bits + 1))
    for bit in reversed(range(bits)):
        shift = Mux(head_dim[bit], bit, shift)
    return shift


class KVCommand(data.Struct):
    """A command. ``tag`` comes back with its response; what the arguments mean depends on the opcode."""

    tag: unsigned(8)
    opcode: unsigned(8)
    seq: unsigned(16)
    tenant: unsigned(TENANT_BITS)
    arg0: unsigned(32)
    arg1: unsigned(32)


class KVResponse(data.Struct):
    """The response to the command with this ``tag``. ``aux`` is 0 unless the status is OK."""

    tag: unsigned(8)
    status: Status
    aux: unsigned(32)


class KVPort(wiring.Signature):
    """A requester's port: each command gets exactly one response, in order."""

    def __init__(self):
        super().__init__(
            {
                "commands": Out(stream.Signature(KVCommand)),
                "responses": In(stream.Signature(KVResponse)),
            }
        )


class BlockState(data.StructLayout):
    """What is known of a block, its links in the free list apart.

    Raises
    ------
    ValueError
        If ``generation_bits`` is not 1 to 32, or ``reference_bits`` not 2 to 8.
    """

    def __init__(self, generation_bits: int = GENERATION_BITS, reference_bits: int = REFERENCE_BITS):
        if not 1 <= generation_bits <= 32:
            raise ValueError(f"Generations must have 1 to 32 bits, not {generation_bits!r}")
        if not 2 <= reference_bits <= REFERENCE_BITS:
            raise ValueError(f"Counts must have 2 to {REFERENCE_BITS} bits, not {reference_bits!r}")
        super().__init__(
            {
                "references": reference_bits,
                "tenant": TENANT_BITS,
                "sealed": 1,
                "written": SLOT_BITS + 1,
                "generation": generation_bits,
            }
        )


class SequenceState(data.StructLayout):
    """What is known of a sequence, its table apart.

    ``length`` tokens are committed, ``reserved`` more have slots; the table has ``entries`` entries, of which
    the first ``first`` are NULL.
    """

    def __init__(self, config: AcceleratorConfig):
        entries = range(config.table_entries + 1)
        super().__init__(
            {
                "tenant": TENANT_BITS,
                "length": token_count(config),
                "reserved": token_count(config),
                "entries": entries,
                "first": entries,
            }
        )


class TranslateRequest(data.StructLayout):
    """Which block is number ``index`` of sequence ``seq``?"""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"seq": sequence_bits(config), "index": entry_bits(config)})


class Translation(data.StructLayout):
    """The answer, in the cycles with ``valid``: ``block`` is meaningful if ``status`` is OK.

    The first ``tokens`` tokens of the block are committed tokens of the sequence. Other statuses are BAD_SEQ,
    OUT_OF_RANGE, NOT_MAPPED and TENANT.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"valid": 1, "block": block_bits(config), "tokens": SLOT_BITS + 1, "status": Status})


class TranslatePort(wiring.Signature):
    """A client's port for look-ups.

    The answers come in order, at least 2 cycles after each request was taken, and cannot be held back: a
    client asks only if it has room for the answer.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "request": Out(stream.Signature(TranslateRequest(config))),
                "response": In(Translation(config)),
            }
        )


class KVGeometry(data.StructLayout):
    """Where KV blocks lie and what they look like: run-time values, constant while anything is under way.

    ``base`` is a multiple of 4096, ``block_bytes`` a multiple of 64; ``head_dim`` is even, and 0 or a power
    of two modulo ``n``; a block has ``records`` records.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "base": config.address_bits,
                "block_bytes": 28,
                "head_dim": range(config.head_dim_max + 1),
                "records": RECORD_BITS + 1,
            }
        )


class GatherCommand(data.StructLayout):
    """Read the records that hold tokens ``first`` to ``first + count - 1`` of a sequence.

    ``record`` is ``layer * kv_heads + head``.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "seq": sequence_bits(config),
                "record": RECORD_BITS,
                "first": ceil_log2(config.context_max),
                "count": token_count(config),
            }
        )


class MoveKind(enum.Enum, shape=2):
    """Why bytes are moved."""

    COPY = 0
    """A block's tokens ``low`` to ``high - 1``, of all records, into another block; zeros for the others."""
    ZERO = 1
    """Zeros into a block."""
    GATHER = 2
    """One record's tokens ``low`` to ``high - 1`` into the host's buffer, zeros for the others."""


class MoveCommand(data.StructLayout):
    """Bytes to be moved; what a kind does not speak of may be anything.

    ``index`` is the place in the host's buffer, counted in records.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "kind": MoveKind,
                "source": block_bits(config),
                "destination": block_bits(config),
                "record": RECORD_BITS,
                "low": SLOT_BITS + 1,
                "high": SLOT_BITS + 1,
                "index": entry_bits(config),
            }
        )


class MovePort(wiring.Signature):
    """The controller's port for moves: each gets one response, before the next one is asked for.

    The response says that all bytes are where they belong; ``error``: the memory reported one.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "command": Out(stream.Signature(MoveCommand(config))),
                "response": In(stream.Signature(data.StructLayout({"error": 1}))),
            }
        )


class RecordBeat(data.StructLayout):
    """A beat of a record; ``last`` ends the record. ``error``: these bytes are not what was stored."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"bytes": data.ArrayLayout(unsigned(8), config.port_bytes), "last": 1, "error": 1})


class Place(data.StructLayout):
    """The token of ``row`` is number ``position`` of sequence ``seq``."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "row": ceil_log2(config.rows_max),
                "seq": sequence_bits(config),
                "position": ceil_log2(config.context_max),
            }
        )


class AppendCommand(data.StructLayout):
    """Append a layer's k and v; ``record`` is ``layer * kv_heads``."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"record": RECORD_BITS})
