# SPDX-License-Identifier: Apache-2.0
"""What `serrano selftest` does: line, memory, registers, a model with a known answer."""

import random
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serrano_host.driver import Device
from serrano_host.driver.registers import Register
from serrano_host.errors import DriverError, TransportError

from .transport import SerialTransport, estimate_seconds
from .vector import EXPECTED, PROMPT, make_tape

__all__ = ["Result", "self_test"]

BLOCK = 2048
BLOCKS = 16
HOLD_SECONDS = 1.0


@dataclass(frozen=True)
class Result:
    """One test: its name, whether it passed, and what there is to say."""

    name: str
    passed: bool
    text: str


def _line(transport: SerialTransport, seed: int, hold: float) -> str:
    """Frames of all lengths, there and back."""
    rng, link = random.Random(seed), transport.link
    size = transport.identity.word_bytes
    for length in (size, 64, 480, 1000):
        data = rng.randbytes(length)
        transport.write_memory(0, data)
        if transport.read_memory(0, length) != data:
            raise TransportError(f"{length} bytes came back changed, though every frame's CRC was right")
    counts = link.statistics
    trouble = counts.repeated + counts.bad_at_board + counts.overruns
    found = transport.identity
    text = f"{found.baud:,} baud, clock {found.clock_hz / 1e6:g} MHz, {found.memory_bytes >> 20} MiB"
    return text + (f"; {trouble} requests had to be repeated" if trouble else "")


def _data_lines(transport: SerialTransport, seed: int, hold: float) -> str:
    """Each data line alone high, alone low; each byte of a word alone."""
    width = 8 * transport.identity.word_bytes
    values = [1 << bit for bit in range(width)]
    values += [~value & (1 << width) - 1 for value in values]
    data = b"".join(value.to_bytes(width // 8, "little") for value in values)
    transport.write_memory(0, data)
    found = transport.read_memory(0, len(data))
    wrong = 0
    for place in range(0, len(data), width // 8):
        pair = (int.from_bytes(b[place : place + width // 8], "little") for b in (data, found))
        wrong |= next(pair) ^ next(pair)
    if wrong:
        lines = ", ".join(str(bit) for bit in range(width) if wrong >> bit & 1)
        raise TransportError(f"data lines {lines} are wrong: a broken line, or data sampled at a wrong time")
    return f"{width} lines, each alone high and low"


def _address_lines(transport: SerialTransport, seed: int, hold: float) -> str:
    """A word of its own wherever one address bit is set: columns, banks and rows."""
    width, size = transport.identity.word_bytes, transport.memory_bytes
    places = [0] + [1 << bit for bit in range(size.bit_length()) if width <= 1 << bit < size]
    rng = random.Random(seed)
    words = {place: rng.randbytes(width) for place in places}
    for place, word in words.items():
        transport.write_memory(place, word)
    there = {word: place for place, word in words.items()}
    for place, word in words.items():
        found = transport.read_memory(place, width)
        if found != word:
            other = f"that of {there[found]:#x}" if found in there else "none that was written"
            raise TransportError(f"the word at {place:#x} is {other}: an address line is broken")
    return f"{len(places)} words"


def _blocks(transport: SerialTransport, seed: int, hold: float) -> str:
    """Random data all over memory, read back after it had to be refreshed for a while."""
    rng, size = random.Random(seed), transport.memory_bytes
    step = size // BLOCKS
    places = [
        min(step * index + rng.randrange(step) // BLOCK * BLOCK, size - BLOCK) for index in range(BLOCKS)
    ]
    data = {place: rng.randbytes(BLOCK) for place in places}
    for place, block in data.items():
        transport.write_memory(place, block)
    time.sleep(hold)
    for place, block in data.items():
        if transport.check_memory(place, BLOCK) != zlib.crc32(block):
            raise TransportError(f"the block at {place:#x} changed within {hold:g} s: is memory refreshed?")
    return f"{len(data)} blocks of {BLOCK} bytes all over memory, held for {hold:g} s"


def _registers(transport: SerialTransport, seed: int, hold: float) -> str:
    """Identity, and registers that can be written."""
    limits = Device(transport).limits
    for value in (0x5555AAAA, 0xAAAA5555, 0):
        transport.write_register(int(Register.KV_ARGUMENT0), value)
        if (found := transport.read_register(int(Register.KV_ARGUMENT0))) != value:
            raise DriverError(f"register KV_ARGUMENT0 reads {found:#x} after {value:#x} was written")
    n, version = limits.n, ".".join(map(str, limits.version))
    return f"version {version}, array {n} x {n}, {limits.rows_max} rows, context {limits.context_max}"


def _model(transport: SerialTransport, seed: int, hold: float) -> str:
    """A model of two layers goes through array, attention, KV cache, rings."""
    device = Device(transport)
    device.load(make_tape(device.limits.n, device.limits.align))
    handle = device.submit(PROMPT, len(EXPECTED))
    tokens = tuple(device.stream(handle))
    if tokens != EXPECTED:
        good = next(i for i, pair in enumerate(zip(tokens, EXPECTED, strict=False)) if pair[0] != pair[1])
        raise DriverError(
            f"token {good} is {tokens[good]}, not {EXPECTED[good]}: the design computes wrongly"
        )
    return f"{len(tokens)} tokens as expected"


TESTS: dict[str, Callable[[SerialTransport, int, float], str]] = {
    "line": _line,
    "data lines": _data_lines,
    "address lines": _address_lines,
    "blocks": _blocks,
    "registers": _registers,
    "model": _model,
}


def transferred_bytes() -> int:
    """Bytes that a self-test sends, about."""
    return BLOCKS * BLOCK + len(make_tape(8, 32)) + (1 << 14)


def self_test(transport: SerialTransport, seed: int = 1, hold: float = HOLD_SECONDS) -> Iterator[Result]:
    """Run all tests, ending with the first that fails: those behind it need what it tested.

    Overwrites memory.
    """
    for name, test in TESTS.items():
        try:
            yield Result(name, True, test(transport, seed, hold))
        except DriverError as error:
            yield Result(name, False, str(error))
            return


def estimate(baud: int, hold: float = HOLD_SECONDS) -> float:
    """Seconds that it takes, about."""
    return estimate_seconds(transferred_bytes(), baud) + hold + 1
