# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501
"""Registers, counters and fault codes.

Made from `hdl/serrano/csr/table.py` by `python -m serrano.csr.document python`; do not edit.
"""

from enum import IntEnum

# fmt: off


class Register(IntEnum):
    """Offset of each register in bytes."""

    ID = 0x000
    VERSION = 0x004
    GEOMETRY = 0x008
    TAPE_ALIGN = 0x00C
    ROWS_MAX = 0x010
    DIM_MAX = 0x014
    FFN_MAX = 0x018
    HEADS_MAX = 0x01C
    KV_WIDTH_MAX = 0x020
    HEAD_DIM_MAX = 0x024
    VOCAB_MAX = 0x028
    CONTEXT_MAX = 0x02C
    BLOCKS_MAX = 0x030
    SEQUENCES_MAX = 0x034
    ATTENTION_ROWS_MAX = 0x038
    CONTROL = 0x080
    STATUS = 0x084
    IRQ = 0x088
    IRQ_ENABLE = 0x08C
    TAPE_ADDRESS_LO = 0x090
    TAPE_ADDRESS_HI = 0x094
    KV_ADDRESS_LO = 0x098
    KV_ADDRESS_HI = 0x09C
    KV_BLOCKS = 0x0A0
    WATCHDOG = 0x0A4
    SUBMIT_ADDRESS_LO = 0x0A8
    SUBMIT_ADDRESS_HI = 0x0AC
    SUBMIT_SIZE = 0x0B0
    SUBMIT_TAIL = 0x0B4
    SUBMIT_HEAD = 0x0B8
    COMPLETE_ADDRESS_LO = 0x0C0
    COMPLETE_ADDRESS_HI = 0x0C4
    COMPLETE_SIZE = 0x0C8
    COMPLETE_TAIL = 0x0CC
    COMPLETE_HEAD = 0x0D0
    FAULT_CODE = 0x0E0
    FAULT_PACKET = 0x0E4
    FAULT_SEQUENCE = 0x0E8
    FAULT_DETAIL = 0x0EC
    FAULT_ADDRESS_LO = 0x0F0
    FAULT_ADDRESS_HI = 0x0F4
    FAULT_COUNT = 0x0F8
    FAULT_CLEAR = 0x0FC
    KV_COMMAND = 0x100
    KV_ARGUMENT0 = 0x104
    KV_ARGUMENT1 = 0x108
    KV_RESPONSE = 0x10C
    KV_AUX = 0x110
    KV_USED = 0x114
    KV_PEAK = 0x118
    KV_BUFFER_LO = 0x120
    KV_BUFFER_HI = 0x124
    CANCEL = 0x128
    CANCEL_BUSY = 0x12C
    COUNTER_CYCLES_LO = 0x200
    COUNTER_CYCLES_HI = 0x204
    COUNTER_STEPS_LO = 0x208
    COUNTER_STEPS_HI = 0x20C
    COUNTER_TOKENS_LO = 0x210
    COUNTER_TOKENS_HI = 0x214
    COUNTER_ARRAY_BUSY_LO = 0x218
    COUNTER_ARRAY_BUSY_HI = 0x21C
    COUNTER_ARRAY_WAIT_TAPE_LO = 0x220
    COUNTER_ARRAY_WAIT_TAPE_HI = 0x224
    COUNTER_ARRAY_WAIT_KV_LO = 0x228
    COUNTER_ARRAY_WAIT_KV_HI = 0x22C
    COUNTER_ARRAY_EPILOGUE_LO = 0x230
    COUNTER_ARRAY_EPILOGUE_HI = 0x234
    COUNTER_ARRAY_SERIAL_LO = 0x238
    COUNTER_ARRAY_SERIAL_HI = 0x23C
    COUNTER_ARRAY_IDLE_LO = 0x240
    COUNTER_ARRAY_IDLE_HI = 0x244
    COUNTER_PORT_WEIGHTS_LO = 0x248
    COUNTER_PORT_WEIGHTS_HI = 0x24C
    COUNTER_PORT_KV_LO = 0x250
    COUNTER_PORT_KV_HI = 0x254
    COUNTER_PORT_OTHER_LO = 0x258
    COUNTER_PORT_OTHER_HI = 0x25C
    COUNTER_PORT_NO_SPACE_LO = 0x260
    COUNTER_PORT_NO_SPACE_HI = 0x264
    COUNTER_PORT_LATENCY_LO = 0x268
    COUNTER_PORT_LATENCY_HI = 0x26C
    COUNTER_PORT_NO_REQUEST_LO = 0x270
    COUNTER_PORT_NO_REQUEST_HI = 0x274
    COUNTER_BYTES_WEIGHTS_LO = 0x278
    COUNTER_BYTES_WEIGHTS_HI = 0x27C
    COUNTER_BYTES_KV_READ_LO = 0x280
    COUNTER_BYTES_KV_READ_HI = 0x284
    COUNTER_BYTES_KV_WRITE_LO = 0x288
    COUNTER_BYTES_KV_WRITE_HI = 0x28C
    COUNTER_BYTES_OTHER_LO = 0x290
    COUNTER_BYTES_OTHER_HI = 0x294
    COUNTER_ROWS_ISSUED_LO = 0x298
    COUNTER_ROWS_ISSUED_HI = 0x29C


# Masks of fields, REGISTER_FIELD.
VERSION_MINOR = 0x0000FFFF
VERSION_MAJOR = 0xFFFF0000
GEOMETRY_N = 0x000000FF
GEOMETRY_PORT_BYTES = 0x0000FF00
GEOMETRY_LOAD_BYTES = 0x00FF0000
GEOMETRY_LANES = 0xFF000000
CONTROL_LOAD = 0x00000001
CONTROL_SNAPSHOT = 0x00000002
CONTROL_CLEAR_COUNTERS = 0x00000004
STATUS_BUSY = 0x00000001
STATUS_LOADED = 0x00000002
IRQ_COMPLETION = 0x00000001
IRQ_FAULT = 0x00000002
IRQ_LOADED = 0x00000004
KV_COMMAND_OPCODE = 0x000000FF
KV_COMMAND_SEQUENCE = 0x00FFFF00
KV_COMMAND_TENANT = 0xFF000000
KV_RESPONSE_STATUS = 0x000000FF
KV_RESPONSE_VALID = 0x80000000

COUNTER_BASE = 0x200
COUNTERS = (
    "cycles",
    "steps",
    "tokens",
    "array_busy",
    "array_wait_tape",
    "array_wait_kv",
    "array_epilogue",
    "array_serial",
    "array_idle",
    "port_weights",
    "port_kv",
    "port_other",
    "port_no_space",
    "port_latency",
    "port_no_request",
    "bytes_weights",
    "bytes_kv_read",
    "bytes_kv_write",
    "bytes_other",
    "rows_issued",
)


class FaultCode(IntEnum):
    """Why something failed."""

    NONE = 0x00
    BUS_SLVERR = 0x01
    BUS_DECERR = 0x02
    WATCHDOG = 0x03
    DESCRIPTOR_MAGIC = 0x10
    DESCRIPTOR_VERSION = 0x11
    DESCRIPTOR_CRC = 0x12
    DESCRIPTOR_GEOMETRY = 0x13
    DESCRIPTOR_LIMIT = 0x14
    PACKET_OPCODE = 0x20
    PACKET_INDEX = 0x21
    PACKET_LENGTH = 0x22
    PACKET_DIMENSION = 0x23
    PACKET_CRC = 0x24
    KV_COMMAND = 0x30
    KV_MAP = 0x31
    REQUEST_EMPTY = 0x40
    REQUEST_LENGTH = 0x41
    REQUEST_TOKEN = 0x42
    REQUEST_SPACE = 0x43
    REQUEST_ADDRESS = 0x44
    REQUEST_RING = 0x45
    REQUEST_FLAGS = 0x46
    REQUEST_SEQUENCE = 0x47
    REQUEST_CHANGED = 0x48
    REQUEST_CANCELLED = 0x49


FAULT_TEXTS = {
    FaultCode.NONE: "no fault",
    FaultCode.BUS_SLVERR: "the memory answered SLVERR",
    FaultCode.BUS_DECERR: "the memory answered DECERR",
    FaultCode.WATCHDOG: "a step made no progress for WATCHDOG cycles",
    FaultCode.DESCRIPTOR_MAGIC: "there is no tape at TAPE_ADDRESS",
    FaultCode.DESCRIPTOR_VERSION: "the tape has another major version",
    FaultCode.DESCRIPTOR_CRC: "the model descriptor is corrupt",
    FaultCode.DESCRIPTOR_GEOMETRY: "the tape was compiled for another array size, alignment, group or block size",
    FaultCode.DESCRIPTOR_LIMIT: "a dimension of the model exceeds a buffer of this accelerator",
    FaultCode.PACKET_OPCODE: "a packet's opcode is unknown",
    FaultCode.PACKET_INDEX: "a packet is not the one that was expected",
    FaultCode.PACKET_LENGTH: "a payload's length does not follow from opcode, k and n_out",
    FaultCode.PACKET_DIMENSION: "k or n_out contradicts the model descriptor",
    FaultCode.PACKET_CRC: "a packet is corrupt",
    FaultCode.KV_COMMAND: "the KV controller refused a command; its status is in FAULT_DETAIL",
    FaultCode.KV_MAP: "a KV record was wanted from a block that is not mapped",
    FaultCode.REQUEST_EMPTY: "a prompt is empty, or no tokens are wanted",
    FaultCode.REQUEST_LENGTH: "prompt and new tokens exceed the context",
    FaultCode.REQUEST_TOKEN: "a token id is not in the vocabulary",
    FaultCode.REQUEST_SPACE: "there are not enough KV blocks",
    FaultCode.REQUEST_ADDRESS: "the prompt's address is not a multiple of 4",
    FaultCode.REQUEST_RING: "the completion ring is too small for the request",
    FaultCode.REQUEST_FLAGS: "a flag that means nothing is set",
    FaultCode.REQUEST_SEQUENCE: "the adopted sequence is missing, in use, has reserved slots, or all of the prompt",
    FaultCode.REQUEST_CHANGED: "the sequence of a request was closed or changed by another command between two steps",
    FaultCode.REQUEST_CANCELLED: "the host has cancelled the request",
}
