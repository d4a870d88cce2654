# SPDX-License-Identifier: Apache-2.0
"""The register table: the only place where registers are declared.

Hardware, documentation, the C header and the driver's constants are made from it. Offsets never change once
released; new registers go into gaps.
"""

import enum
from dataclasses import dataclass

__all__ = ["COUNTERS", "COUNTER_BASE", "REGISTERS", "Access", "Register", "register"]


class Access(enum.Enum):
    """Who may do what with a register."""

    CONSTANT = "constant"
    """Fixed when the accelerator is built."""
    READ_ONLY = "read only"
    """Written by the hardware."""
    READ_WRITE = "read/write"
    """Written by the host."""
    COMMAND = "command"
    """Every write is an event for the hardware; reads give the last value written."""
    CLEAR = "write 1 to clear"
    """Set by the hardware, cleared by writing ones."""


@dataclass(frozen=True)
class Register:
    """A 32-bit register.

    Parameters
    ----------
    name : :class:`str`
        Upper-case name; also the constant in the C header and in the driver.
    offset : :class:`int`
        Byte offset.
    access : :class:`Access`
        Who may do what.
    doc : :class:`str`
        One or two sentences.
    fields : tuple of (name, lowest bit, width, doc)
        Bit fields, if it has any.
    """

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[tuple[str, int, int, str], ...] = ()

    @property
    def attribute(self) -> str:
        """Name of the hardware's port for this register."""
        return self.name.lower()


C, RO, RW, CMD, W1C = (
    Access.CONSTANT,
    Access.READ_ONLY,
    Access.READ_WRITE,
    Access.COMMAND,
    Access.CLEAR,
)

IDENTITY = 0x4F4E5253
"""The bytes "SRNO" in address order."""

VERSION = 0x0001_0000
"""Major version in the upper half, minor in the lower."""


COUNTERS: tuple[tuple[str, str], ...] = (
    ("cycles", "Clock cycles within steps, from step start to step start."),
    ("steps", "Steps committed."),
    ("tokens", "Tokens written to completion records."),
    ("array_busy", "A row entered the array."),
    ("array_wait_tape", "A row was ready, its weight tile was not."),
    ("array_wait_kv", "A row was ready, its K or V tile was not."),
    ("array_epilogue", "The array waited for room in the results."),
    ("array_serial", "No row to issue: a packet waited for an earlier one."),
    ("array_idle", "No step was running."),
    ("port_weights", "A beat of tape crossed the read port."),
    ("port_kv", "A beat of a KV record crossed the read port."),
    ("port_other", "Another beat crossed the read port."),
    ("port_no_space", "A burst was due, but its buffer had no room for it."),
    ("port_latency", "Bursts were in flight, no beat arrived."),
    ("port_no_request", "Nothing was in flight and nothing was due."),
    ("bytes_weights", "Bytes of tape read, headers and padding included."),
    ("bytes_kv_read", "Bytes of KV records read, unwritten tokens included."),
    ("bytes_kv_write", "Bytes written to KV memory."),
    ("bytes_other", "Other bytes read."),
    ("rows_issued", "Rows that entered the array, N * N multiply-accumulates each; p counts twice."),
)
"""Name and meaning of the 64-bit counters. ``array_*`` and ``port_*`` each add up to the cycles."""

COUNTER_BASE = 0x200
"""Offset of the first counter: counters lie behind all other registers, from a multiple of 256 on."""


def _pair(name: str, offset: int, access: Access, doc: str) -> list[Register]:
    return [
        Register(f"{name}_LO", offset, access, f"{doc} Lower half."),
        Register(f"{name}_HI", offset + 4, access, f"{doc} Upper half."),
    ]


def _counters() -> list[Register]:
    registers = []
    for index, (name, doc) in enumerate(COUNTERS):
        registers += _pair(f"COUNTER_{name.upper()}", COUNTER_BASE + 8 * index, RO, doc)
    return registers


REGISTERS: tuple[Register, ...] = (
    Register("ID", 0x000, C, 'Identity: the bytes "SRNO".'),
    Register(
        "VERSION",
        0x004,
        C,
        "Version of the register interface.",
        (("MINOR", 0, 16, "additions"), ("MAJOR", 16, 16, "incompatible changes")),
    ),
    Register(
        "GEOMETRY",
        0x008,
        C,
        "Geometry.",
        (
            ("N", 0, 8, "array size"),
            ("PORT_BYTES", 8, 8, "width of the memory port"),
            ("LOAD_BYTES", 16, 8, "width of the load path"),
            ("LANES", 24, 8, "epilogue lanes"),
        ),
    ),
    Register("TAPE_ALIGN", 0x00C, C, "Alignment that a tape must be compiled for."),
    Register("ROWS_MAX", 0x010, C, "Rows in a step."),
    Register("DIM_MAX", 0x014, C, "Largest model dimension."),
    Register("FFN_MAX", 0x018, C, "Largest FFN dimension."),
    Register("HEADS_MAX", 0x01C, C, "Most query heads."),
    Register("KV_WIDTH_MAX", 0x020, C, "Largest kv_heads * head_pad."),
    Register("HEAD_DIM_MAX", 0x024, C, "Largest padded head dimension."),
    Register("VOCAB_MAX", 0x028, C, "Largest vocabulary."),
    Register("CONTEXT_MAX", 0x02C, C, "Longest sequence."),
    Register("BLOCKS_MAX", 0x030, C, "Most KV blocks, NULL included."),
    Register("SEQUENCES_MAX", 0x034, C, "Sequences open at a time."),
    Register("ATTENTION_ROWS_MAX", 0x038, C, "Rows of an attention item."),
    Register(
        "CONTROL",
        0x080,
        CMD,
        "Commands.",
        (
            ("LOAD", 0, 1, "read and check the descriptor of the tape at TAPE_ADDRESS; resets the KV pool"),
            ("SNAPSHOT", 1, 1, "copy all counters at once into the COUNTER registers"),
            ("CLEAR_COUNTERS", 2, 1, "set all counters to zero"),
        ),
    ),
    Register(
        "STATUS",
        0x084,
        RO,
        "State.",
        (
            ("BUSY", 0, 1, "a request is being served or a command carried out"),
            ("LOADED", 1, 1, "a model is loaded"),
        ),
    ),
    Register(
        "IRQ",
        0x088,
        W1C,
        "Pending interrupts.",
        (
            ("COMPLETION", 0, 1, "a request ended"),
            ("FAULT", 1, 1, "a fault was recorded"),
            ("LOADED", 2, 1, "a LOAD ended, with or without a fault"),
        ),
    ),
    Register("IRQ_ENABLE", 0x08C, RW, "Interrupts that raise the interrupt line, bits as in IRQ."),
    *_pair("TAPE_ADDRESS", 0x090, RW, "Address of the tape, a multiple of 4096."),
    *_pair("KV_ADDRESS", 0x098, RW, "Address of KV block 0, a multiple of 4096."),
    Register("KV_BLOCKS", 0x0A0, RW, "KV blocks in use, NULL included; taken over by LOAD."),
    Register("WATCHDOG", 0x0A4, RW, "Cycles without progress after which a step is given up; 0: never."),
    *_pair("SUBMIT_ADDRESS", 0x0A8, RW, "Address of the submission ring, a multiple of 64."),
    Register("SUBMIT_SIZE", 0x0B0, RW, "Entries of the submission ring, a power of two."),
    Register("SUBMIT_TAIL", 0x0B4, CMD, "Doorbell: entries submitted so far, modulo 2^32."),
    Register("SUBMIT_HEAD", 0x0B8, RO, "Entries taken so far, modulo 2^32."),
    *_pair("COMPLETE_ADDRESS", 0x0C0, RW, "Address of the completion ring, a multiple of 64."),
    Register("COMPLETE_SIZE", 0x0C8, RW, "Entries of the completion ring, a power of two."),
    Register("COMPLETE_TAIL", 0x0CC, RO, "Completion records written so far, modulo 2^32."),
    Register("COMPLETE_HEAD", 0x0D0, RW, "Completion records that the host has consumed, modulo 2^32."),
    Register("FAULT_CODE", 0x0E0, RO, "Code of the first fault since FAULT_CLEAR; 0: none."),
    Register("FAULT_PACKET", 0x0E4, RO, "Index of the packet that was executing, or that was found wrong."),
    Register("FAULT_SEQUENCE", 0x0E8, RO, "Sequence of the step."),
    Register("FAULT_DETAIL", 0x0EC, RO, "Client of the memory port, status of the KV controller."),
    *_pair("FAULT_ADDRESS", 0x0F0, RO, "Address of the burst that failed."),
    Register("FAULT_COUNT", 0x0F8, RO, "Faults since FAULT_CLEAR."),
    Register("FAULT_CLEAR", 0x0FC, CMD, "Any write: forget the faults."),
    Register(
        "KV_COMMAND",
        0x100,
        CMD,
        "Issues a command to the KV controller with the arguments below.",
        (("OPCODE", 0, 8, "see docs/blocks/kvcache.md"), ("SEQUENCE", 8, 16, ""), ("TENANT", 24, 8, "")),
    ),
    Register("KV_ARGUMENT0", 0x104, RW, "First argument."),
    Register("KV_ARGUMENT1", 0x108, RW, "Second argument."),
    Register(
        "KV_RESPONSE",
        0x10C,
        RO,
        "Last response.",
        (("STATUS", 0, 8, ""), ("VALID", 31, 1, "the last command has been answered")),
    ),
    Register("KV_AUX", 0x110, RO, "Auxiliary value of the last response."),
    Register("KV_USED", 0x114, RO, "KV blocks in use."),
    Register("KV_PEAK", 0x118, RO, "Most KV blocks in use since LOAD."),
    *_pair("KV_BUFFER", 0x120, RW, "Where GATHER writes records, a multiple of 64."),
    Register(
        "CANCEL", 0x128, CMD, "Cancels the request with this number, flagged in its entry: docs/rings.md."
    ),
    Register("CANCEL_BUSY", 0x12C, RO, "1: the request cancelled last is still being looked for."),
    *_counters(),
)
"""All registers, in address order."""


def register(name: str) -> Register:
    """Return the register called ``name``.

    Raises
    ------
    KeyError
        If there is no such register.
    """
    for entry in REGISTERS:
        if entry.name == name:
            return entry
    raise KeyError(f"no register is called {name!r}")
