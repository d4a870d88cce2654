# SPDX-License-Identifier: Apache-2.0
"""Numbers of the KV controller's commands, statuses and statistics.

They are part of the register interface: added to, never changed. ``docs/blocks/kvcache.md`` explains them.
"""

from amaranth.lib import enum

__all__ = ["UNLOCKED", "WITHOUT_SEQUENCE", "Opcode", "Stat", "Status"]


class Opcode(enum.Enum, shape=8):
    """What a command does."""

    OPEN = 1
    """Open a sequence with an empty table."""
    ALLOC = 2
    """Allocate blocks for the sequence's next tokens."""
    APPEND = 3
    """Reserve the slots of the sequence's next tokens."""
    COMMIT = 4
    """Reserved tokens are written: the length advances."""
    ABORT = 5
    """Drop the reservation."""
    SEAL = 6
    """Make a full block immutable and shareable."""
    SHARE = 7
    """Put a sealed block at the table's end."""
    FORK = 8
    """Share all blocks with an empty sequence."""
    TRIM = 9
    """Drop tokens at the end."""
    SLIDE = 10
    """Drop whole blocks at the start."""
    FREE = 11
    """Close a sequence and release its blocks."""
    TRANSLATE = 12
    """Look up the slot of a token."""
    GATHER = 13
    """Stream the records of a range of tokens."""
    EVICT = 14
    """Forget what a free block holds."""
    SCRUB = 15
    """Overwrite a free block with zeros."""
    RESET_POOL = 16
    """Forget what all blocks hold."""
    STAT = 17
    """Read a piece of the state."""


WITHOUT_SEQUENCE = (Opcode.EVICT, Opcode.SCRUB, Opcode.RESET_POOL, Opcode.STAT)
"""Opcodes that need no open sequence."""

UNLOCKED = (Opcode.TRANSLATE, *WITHOUT_SEQUENCE)
"""Opcodes that need not wait for the end of a step."""


class Status(enum.Enum, shape=8):
    """How a command ended. After any status but OK the state is what it was before the command."""

    OK = 0
    BAD_CMD = 1
    """No such command."""
    BAD_SEQ = 2
    """No such sequence, or it is not open."""
    TENANT = 3
    """The sequence, or a block, belongs to another tenant."""
    SEQ_BUSY = 4
    """The sequence is open already; for FORK, it has blocks, or its source has reserved slots."""
    ZERO_LEN = 5
    """No tokens are wanted."""
    TABLE_FULL = 6
    """The block table has too few entries."""
    NEVER_FITS = 7
    """The pool is too small, however many blocks become free."""
    NO_SPACE = 8
    """Too few blocks are free now."""
    NOT_RESERVED = 9
    """Fewer tokens are reserved."""
    BUS_ERROR = 10
    """The memory reported an error."""
    OUT_OF_RANGE = 11
    """There is no such token, block, entry or statistic."""
    NOT_FULL = 12
    """The block may still get tokens."""
    NOT_WRITTEN = 13
    """The block's data has not arrived."""
    ALREADY = 14
    """The block is sealed."""
    UNALIGNED = 15
    """The sequence does not end at a block's end."""
    NULL_BLOCK = 16
    """Block 0 is nobody's, nor is one beyond the pool."""
    NOT_SEALED = 17
    """The block is not shareable."""
    STALE_GEN = 18
    """The block has been used for something else since."""
    REF_OVERFLOW = 19
    """The block is shared too often."""
    BAD_LEN = 20
    """The length lies outside the sequence."""
    NOT_MAPPED = 21
    """The table's entry is NULL."""
    IN_USE = 22
    """The block is referenced."""


class Stat(enum.Enum, shape=8):
    """What STAT reads; ``arg0`` of the command."""

    POOL_BLOCKS = 0
    """Blocks in use of the pool, NULL included."""
    POOL_USED = 1
    """Blocks that sequences hold."""
    POOL_PEAK = 2
    """Most blocks held at a time."""
    POOL_ENDS = 3
    """First block of the free list, and in bits 31:16 the last one."""
    BLOCK_STATE = 8
    """References, bits 15:8 tenant, bits 23:16 tokens written, bit 24 sealed."""
    BLOCK_GENERATION = 9
    """Generation."""
    BLOCK_LINKS = 10
    """Following block of the free list, and in bits 31:16 the one before; 0 for none."""
    SEQUENCE_OWNER = 16
    """Tenant, bit 8 whether it is open."""
    SEQUENCE_LENGTH = 17
    """Committed tokens."""
    SEQUENCE_RESERVED = 18
    """Reserved tokens."""
    SEQUENCE_TABLE = 19
    """Table entries in use, and in bits 31:16 the index of the first one that is not NULL."""
    SEQUENCE_ENTRY = 20
    """Block in table entry ``arg1``."""
