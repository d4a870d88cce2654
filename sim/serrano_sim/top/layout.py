# SPDX-License-Identifier: Apache-2.0
"""What lies where in memory, and the bytes of rings and prompts: docs/rings.md."""

import dataclasses
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serrano_host.tape import BLOCK_SIZE, DESCRIPTOR_BYTES, Descriptor

from ..memory.handle import AxiMemory

__all__ = ["Completion", "MemoryLayout", "Request", "blocks_of", "kv_noise"]

PAGE = 4096
NO_TOKEN = 0xFFFFFFFF
NO_SEQUENCE = 0xFFFF
CANCELLED = 4
_ENTRY = struct.Struct("<IIQIIIII28x")
_FLAGS_OFFSET = 28
_RECORD = struct.Struct("<IIBBHI")
ENTRY_BYTES, RECORD_BYTES = _ENTRY.size, _RECORD.size
_ENTRY_FIELDS = ("id", "tenant", "prompt", "prompt_tokens", "max_new", "eos", "flags", "sequence")


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def blocks_of(tokens: int) -> int:
    """KV blocks that a sequence of so many tokens takes."""
    return -(-tokens // BLOCK_SIZE)


@dataclass(frozen=True)
class Request:
    """A prompt and how many tokens are wanted behind it.

    Parameters
    ----------
    prompt : sequence of :class:`int`
        Token ids.
    max_new : :class:`int`
        Tokens wanted.
    eos : :class:`int` or ``None``
        Token that ends the generation as well.
    tenant : :class:`int`
        Owner.
    adopt, keep : :class:`bool`
        Whether the request goes on in a sequence that the host has opened, and whether that stays open.
    cancelled : :class:`bool`
        Whether it is cancelled before it is submitted.
    sequence : :class:`int`
        The sequence to adopt.
    fields : mapping of :class:`str` to :class:`int`
        Values for fields of the ring entry instead of those that follow from the above, to make bad ones.
    """

    prompt: tuple[int, ...]
    max_new: int
    eos: int | None = None
    tenant: int = 0
    adopt: bool = False
    keep: bool = False
    cancelled: bool = False
    sequence: int = 0
    fields: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "prompt", tuple(int(token) for token in self.prompt))
        for name in self.fields:
            if name not in _ENTRY_FIELDS:
                raise ValueError(f"A ring entry's field is one of {', '.join(_ENTRY_FIELDS)}, not {name!r}")

    @property
    def tokens(self) -> int:
        """Tokens that blocks are needed for."""
        return len(self.prompt) + self.max_new

    def entry(self, identity: int, prompt_address: int) -> bytes:
        """The 64 bytes of the ring entry."""
        values = {
            "id": identity,
            "tenant": self.tenant,
            "prompt": prompt_address,
            "prompt_tokens": len(self.prompt),
            "max_new": self.max_new,
            "eos": NO_TOKEN if self.eos is None else self.eos,
            "flags": self.adopt | self.keep << 1 | self.cancelled * CANCELLED,
            "sequence": self.sequence,
        }
        values |= self.fields
        return _ENTRY.pack(*(values[name] for name in _ENTRY_FIELDS))


@dataclass(frozen=True)
class Completion:
    """A completion record. What is ``None`` it does not have."""

    id: int
    token: int | None
    status: int
    ended: bool
    number: int
    sequence: int | None = None

    @classmethod
    def unpack(cls, raw: bytes) -> "Completion":
        """Reads the 16 bytes of a record."""
        identity, token, status, flags, sequence, number = _RECORD.unpack(raw)
        return cls(
            identity,
            token if flags & 1 else None,
            status,
            bool(flags & 2),
            number,
            None if sequence == NO_SEQUENCE else sequence,
        )

    def pack(self) -> bytes:
        """The 16 bytes of the record."""
        flags = (self.token is not None) | self.ended << 1
        sequence = NO_SEQUENCE if self.sequence is None else self.sequence
        return _RECORD.pack(self.id, self.token or 0, self.status, flags, sequence, self.number)


@dataclass(frozen=True, kw_only=True)
class MemoryLayout:
    """Addresses of everything that host and accelerator share. The page at ``base`` stays empty.

    Parameters
    ----------
    base : :class:`int`
        Where the used part of the memory begins, a multiple of 4096.
    submit_address, submit_size, complete_address, complete_size : :class:`int`
        The rings; sizes in entries.
    prompts : tuple of :class:`int`
        Address of each request's prompt.
    tape_address, tape_bytes : :class:`int`
        The tape.
    kv_address, kv_blocks, block_bytes : :class:`int`
        KV memory; blocks with the NULL block.
    size : :class:`int`
        Size of the memory.
    buffer_address, buffer_bytes : :class:`int`
        Where the KV command GATHER writes to.
    """

    base: int
    submit_address: int
    submit_size: int
    complete_address: int
    complete_size: int
    prompts: tuple[int, ...]
    tape_address: int
    tape_bytes: int
    kv_address: int
    kv_blocks: int
    block_bytes: int
    size: int
    buffer_address: int = 0
    buffer_bytes: int = 0

    @classmethod
    def plan(
        cls,
        tape: bytes,
        requests: Sequence[Request],
        *,
        kv_blocks: int | None = None,
        submit_size: int | None = None,
        complete_size: int | None = None,
        buffer_bytes: int = 0,
        base: int = 0,
    ) -> "MemoryLayout":
        """Finds places for a tape and the requests of a job.

        Parameters
        ----------
        tape : :class:`bytes`
            The image.
        requests : sequence of :class:`Request`
            All requests of the job.
        kv_blocks : :class:`int`
            Blocks, NULL included; without it just enough for the longest request.
        submit_size, complete_size : :class:`int`
            Entries of the rings; without them enough for all requests.
        buffer_bytes : :class:`int`
            Size of the buffer for GATHER.
        base : :class:`int`
            Where to begin.

        Raises
        ------
        ValueError
            If a size or the base is wrong.
        """
        if base < 0 or base % PAGE:
            raise ValueError(f"Base must be a multiple of {PAGE}, not {base!r}")
        if kv_blocks is None:
            kv_blocks = 1 + max((blocks_of(request.tokens) for request in requests), default=1)
        if submit_size is None:
            submit_size = _power_of_two(max(2, len(requests)))
        if complete_size is None:
            complete_size = _power_of_two(max(2, sum(request.max_new + 1 for request in requests)))
        for name, value in (("submit_size", submit_size), ("complete_size", complete_size)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"Field {name!r} must be a power of two, not {value!r}")
        descriptor = Descriptor.unpack(bytes(tape[:DESCRIPTOR_BYTES]))
        submit = base + PAGE
        complete = submit + _pages(submit_size * ENTRY_BYTES)
        at = complete + _pages(complete_size * RECORD_BYTES)
        prompts = []
        for request in requests:
            prompts.append(at)
            at += -(-4 * max(1, len(request.prompt)) // 64) * 64
        tape_address = _pages(at)
        kv_address = tape_address + _pages(len(tape))
        buffer_address = kv_address + _pages(kv_blocks * descriptor.block_bytes)
        return cls(
            base=base,
            submit_address=submit,
            submit_size=submit_size,
            complete_address=complete,
            complete_size=complete_size,
            prompts=tuple(prompts),
            tape_address=tape_address,
            tape_bytes=len(tape),
            kv_address=kv_address,
            kv_blocks=kv_blocks,
            block_bytes=descriptor.block_bytes,
            size=buffer_address + _pages(buffer_bytes),
            buffer_address=buffer_address,
            buffer_bytes=buffer_bytes,
        )

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV memory, the NULL block included."""
        return self.kv_blocks * self.block_bytes

    def fill(self, memory: AxiMemory, tape: bytes, requests: Sequence[Request]) -> None:
        """Puts tape and prompts into memory, and into KV memory what nobody wrote: see :func:`kv_noise`."""
        memory.write(self.tape_address, tape)
        for address, request in zip(self.prompts, requests, strict=True):
            # A bad token id may be anything that 32 bits hold.
            memory.write(address, np.array(request.prompt, dtype=np.uint32).astype("<u4"))
        memory.write(self.kv_address, kv_noise(self.kv_bytes))

    def submit(self, memory: AxiMemory, number: int, request: Request, prompt: int) -> None:
        """Writes ring entry ``number``, counted from 0 since reset; the number is the request's id."""
        address = self.submit_address + number % self.submit_size * ENTRY_BYTES
        memory.write(address, request.entry(number, prompt))

    def cancel(self, memory: AxiMemory, number: int) -> None:
        """Sets the flag that cancels the request of ring entry ``number``."""
        address = self.submit_address + number % self.submit_size * ENTRY_BYTES + _FLAGS_OFFSET
        memory.write(address, bytes([memory.read(address, 1)[0] | CANCELLED]))

    def completion(self, memory: AxiMemory, number: int) -> Completion | None:
        """Completion record ``number``, counted from 1 since reset, if it has been written."""
        address = self.complete_address + (number - 1) % self.complete_size * RECORD_BYTES
        record = Completion.unpack(memory.read(address, RECORD_BYTES))
        return record if record.number == number % 2**32 else None

    def kv(self, memory: AxiMemory) -> np.ndarray:
        """KV memory as [blocks, block_bytes]."""
        return memory.array(self.kv_address, np.uint8, (self.kv_blocks, self.block_bytes))

    def to_json(self) -> dict[str, Any]:
        """For a job file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "MemoryLayout":
        """From a job file."""
        return cls(**{**values, "prompts": tuple(values["prompts"])})


def kv_noise(size: int) -> np.ndarray:
    """What KV memory holds before anything is written: always the same bytes, and hardly any zeros.

    Whoever reads an unwritten token gets a wrong result, and whoever writes where nothing belongs is seen.
    """
    return np.random.default_rng(0x5E44).integers(1, 256, size, dtype=np.uint8)
