# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as the error registers report it."""

from amaranth.lib import enum

__all__ = ["FaultCode"]


class FaultCode(enum.Enum, shape=8):
    """Code of a fault. Values are part of the register interface: they are added to, never changed."""

    NONE = 0x00
    BUS_SLVERR = 0x01
    """The memory answered SLVERR."""
    BUS_DECERR = 0x02
    """The memory answered DECERR."""
    WATCHDOG = 0x03
    """A step made no progress for the time set."""

    DESCRIPTOR_MAGIC = 0x10
    """No tape at the tape address."""
    DESCRIPTOR_VERSION = 0x11
    """The tape has another major version."""
    DESCRIPTOR_CRC = 0x12
    """The model descriptor is corrupt."""
    DESCRIPTOR_GEOMETRY = 0x13
    """The tape was compiled for another array size, alignment, group or block size."""
    DESCRIPTOR_LIMIT = 0x14
    """A dimension of the model exceeds a buffer of this accelerator."""

    PACKET_OPCODE = 0x20
    """Unknown opcode, or one that does not belong where it stands."""
    PACKET_INDEX = 0x21
    """Not the packet that was expected."""
    PACKET_LENGTH = 0x22
    """The payload's length does not follow from opcode, k and n_out."""
    PACKET_DIMENSION = 0x23
    """k or n_out exceeds a buffer or contradicts the model descriptor."""
    PACKET_CRC = 0x24
    """Header or payload is corrupt."""

    KV_COMMAND = 0x30
    """The KV controller refused a command; the status is in the fault's detail."""
    KV_MAP = 0x31
    """A KV record was wanted from a block that is not mapped."""

    REQUEST_EMPTY = 0x40
    """The prompt is empty, or no tokens are wanted."""
    REQUEST_LENGTH = 0x41
    """Prompt and new tokens do not fit the context."""
    REQUEST_TOKEN = 0x42
    """A token id is not in the vocabulary."""
    REQUEST_SPACE = 0x43
    """There are not enough KV blocks."""
    REQUEST_ADDRESS = 0x44
    """The prompt's address is not a multiple of 4."""
    REQUEST_RING = 0x45
    """The completion ring is too small for the request."""
    REQUEST_FLAGS = 0x46
    """A flag that means nothing is set."""
    REQUEST_SEQUENCE = 0x47
    """The adopted sequence does not exist, has reserved slots, or has all of the prompt."""
    REQUEST_CHANGED = 0x48
    """The request's sequence was closed or changed by another command."""
    REQUEST_CANCELLED = 0x49
    """The host has cancelled the request."""
