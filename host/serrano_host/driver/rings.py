# SPDX-License-Identifier: Apache-2.0
"""The bytes of the rings (docs/rings.md), and what lies where in memory."""

import struct
from dataclasses import dataclass
from enum import IntFlag

from serrano_host.errors import DriverError, RequestError
from serrano_host.tape import Descriptor, power_of_two, round_up

from .transport import words

__all__ = ["Arena", "Completion", "Entry", "Flags", "MemoryMap", "memory_needed"]

PAGE = 4096
WORD = 0xFFFFFFFF
NO_TOKEN = WORD
NO_SEQUENCE = 0xFFFF
_ENTRY = struct.Struct("<IIQIIIII28x")
_RECORD = struct.Struct("<IIBBHI")
ENTRY_BYTES, RECORD_BYTES = _ENTRY.size, _RECORD.size
FLAGS_OFFSET = 28
PROMPT_ALIGN = 64


class Flags(IntFlag):
    """Flags of a submission entry."""

    ADOPT = 1
    KEEP = 2
    CANCELLED = 4


@dataclass(frozen=True)
class Entry:
    """An entry of the submission ring."""

    id: int
    tenant: int
    prompt: int
    prompt_tokens: int
    max_new: int
    eos: int | None
    flags: Flags
    sequence: int

    def pack(self) -> bytes:
        """Its 64 bytes.

        Raises
        ------
        RequestError
            If a value has no place in its field.
        """
        eos = NO_TOKEN if self.eos is None else self.eos
        values = vars(self) | {"eos": eos}
        for name, value in values.items():
            if not 0 <= value <= (WORD << 32 | WORD if name == "prompt" else WORD):
                raise RequestError(f"{name} must fit an unsigned word, not {value}")
        return _ENTRY.pack(*(int(value) for value in values.values()))

    @classmethod
    def unpack(cls, raw: bytes) -> "Entry":
        """From its 64 bytes."""
        *front, eos, flags, sequence = _ENTRY.unpack(raw)
        return cls(*front, None if eos == NO_TOKEN else eos, Flags(flags), sequence)


@dataclass(frozen=True)
class Completion:
    """A record of the completion ring."""

    id: int
    token: int | None
    status: int
    ended: bool
    sequence: int
    number: int

    def pack(self) -> bytes:
        """Its 16 bytes."""
        flags = (self.token is not None) | self.ended << 1
        return _RECORD.pack(self.id, self.token or 0, self.status, flags, self.sequence, self.number)

    @classmethod
    def unpack(cls, raw: bytes) -> "Completion":
        """From its 16 bytes."""
        identity, token, status, flags, sequence, number = _RECORD.unpack(raw)
        return cls(identity, token if flags & 1 else None, status, bool(flags & 2), sequence, number)


def prompt_bytes(tokens: int) -> int:
    """Room that a prompt of so many tokens takes."""
    return round_up(4 * max(1, tokens), PROMPT_ALIGN)


class Arena:
    """Room for prompts: the first gap that is large enough.

    Parameters
    ----------
    address, size : int
        Where it is.
    """

    def __init__(self, address: int, size: int):
        self.address, self.size = address, size
        self._taken: dict[int, int] = {}

    def take(self, tokens: int) -> int | None:
        """An address for a prompt, or ``None`` if there is no room now.

        Raises
        ------
        RequestError
            If there never is.
        """
        size, at = prompt_bytes(tokens), self.address
        if size > self.size:
            raise RequestError(f"a prompt of {tokens} tokens does not fit {self.size} bytes for prompts")
        for start in sorted(self._taken):
            if start - at >= size:
                break
            at = start + self._taken[start]
        if at + size > self.address + self.size:
            return None
        self._taken[at] = size
        return at

    def free(self, address: int) -> None:
        """Give room back."""
        del self._taken[address]


@dataclass(frozen=True)
class MemoryMap:
    """Addresses of everything that host and accelerator share. The first page stays empty."""

    submit_address: int
    submit_size: int
    complete_address: int
    complete_size: int
    prompts_address: int
    prompts_bytes: int
    tape_address: int
    kv_address: int
    kv_blocks: int
    buffer_address: int
    size: int

    @classmethod
    def plan(
        cls,
        descriptor: Descriptor,
        *,
        kv_blocks: int,
        submit_size: int = 64,
        complete_size: int = 1024,
        prompts_bytes: int | None = None,
        memory_bytes: int | None = None,
    ) -> "MemoryMap":
        """Find places.

        Parameters
        ----------
        descriptor : Descriptor
            Of the tape.
        kv_blocks : int
            KV blocks wanted at most, the NULL block included.
        submit_size, complete_size : int
            Entries of the rings, powers of two.
        prompts_bytes : int, optional
            Room for prompts; without it, enough for 32 of the model's context.
        memory_bytes : int, optional
            What there is; KV blocks are left out until it is enough.

        Raises
        ------
        DriverError
            If a size is wrong, or memory does not suffice for one sequence of one block.
        """
        for name, value in (("submit_size", submit_size), ("complete_size", complete_size)):
            if not (power_of_two(value) and value >= 2):
                raise DriverError(f"{name} must be a power of two of at least 2, not {value}")
        if prompts_bytes is None:
            prompts_bytes = 32 * prompt_bytes(descriptor.context)
        complete = PAGE + round_up(submit_size * ENTRY_BYTES, PAGE)
        prompts = complete + round_up(complete_size * RECORD_BYTES, PAGE)
        tape = prompts + round_up(prompts_bytes, PAGE)
        kv = tape + round_up(descriptor.image_bytes, PAGE)
        # The buffer of the KV command GATHER holds one block.
        buffer_bytes = round_up(descriptor.block_bytes, PAGE)
        if memory_bytes is not None:
            kv_blocks = min(kv_blocks, (memory_bytes - kv - buffer_bytes - PAGE) // descriptor.block_bytes)
        if kv_blocks < 2:
            needed = kv + 2 * descriptor.block_bytes + buffer_bytes + PAGE
            raise DriverError(f"memory has {memory_bytes:,} bytes, {needed:,} are needed for this tape")
        buffer = kv + round_up(kv_blocks * descriptor.block_bytes, PAGE)
        return cls(
            submit_address=PAGE,
            submit_size=submit_size,
            complete_address=complete,
            complete_size=complete_size,
            prompts_address=prompts,
            prompts_bytes=prompts_bytes,
            tape_address=tape,
            kv_address=kv,
            kv_blocks=kv_blocks,
            buffer_address=buffer,
            size=buffer + buffer_bytes,
        )

    def empty_completions(self) -> bytes:
        """A completion ring in which no record can be taken for a new one."""
        # The number of the record at place i is i + 1 modulo the ring's size; here it is i.
        return b"".join(words([0, 0, 0, place]) for place in range(self.complete_size))

    def entry_address(self, number: int) -> int:
        """Where entry ``number`` of the submission ring is, counted from 0."""
        return self.submit_address + number % self.submit_size * ENTRY_BYTES

    def record_address(self, number: int) -> int:
        """Where record ``number`` of the completion ring is, counted from 1."""
        return self.complete_address + (number - 1) % self.complete_size * RECORD_BYTES


def memory_needed(descriptor: Descriptor, kv_blocks: int, **sizes: int) -> int:
    """Memory for a tape with so many KV blocks; sizes as for :meth:`MemoryMap.plan`."""
    return MemoryMap.plan(descriptor, kv_blocks=kv_blocks, **sizes).size + PAGE
