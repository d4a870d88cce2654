# SPDX-License-Identifier: Apache-2.0
"""A request on a simulated board, by the host's own driver over the serial line; and what it took."""

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serrano_host.board.link import open_line
from serrano_host.board.transport import SerialTransport
from serrano_host.driver import Device
from serrano_host.driver.rings import RECORD_BYTES, MemoryMap
from serrano_host.tape import DESCRIPTOR_BYTES, Descriptor

from ..top.figures import useful_bytes
from .build import BoardBuild
from .session import BoardSession, Statistics

__all__ = ["BoardRun", "BoardTask", "decode_figures", "simulate_board"]

NUMBER_OFFSET = 12
"""Place of a record's number: it is written last."""

TIMEOUT_SECONDS = 60.0
"""A simulated line is slow by this machine's clock."""

PATIENCE_CYCLES = 1 << 40
ANY_BAUD = 115_200
"""A pseudo-terminal has no rate."""


@dataclass(frozen=True, kw_only=True)
class BoardTask:
    """What is to be generated.

    Parameters
    ----------
    tape : bytes
        The model.
    prompt : sequence of int
        Token ids.
    max_new : int
        Tokens wanted.
    eos : int, optional
        Token that ends it as well.
    by_line : int
        Bytes of the tape, from its beginning, that are left to the serial line; the others are put into
        memory by a back door.
    complete_size : int
        Records of the completion ring.
    verify : bool
        Whether the board's CRC of the whole tape is asked for afterwards.
    """

    tape: bytes
    prompt: Sequence[int]
    max_new: int
    eos: int | None = None
    by_line: int = 1 << 14
    complete_size: int = 1024
    verify: bool = True


@dataclass(frozen=True)
class BoardRun:
    """What came of it."""

    tokens: tuple[int, ...]
    counters: dict[str, int]
    faults: tuple[str, ...]
    line_bytes: tuple[int, int]
    repeated: int
    load_seconds: float
    verified: bool | None
    """Whether the board's own CRC of the whole tape is right afterwards; ``None``: was not asked for."""
    commits: tuple[tuple[int, int], ...]
    """(cycle, cycles in which memory drove the bus until then) of each token's completion record."""
    statistics: Statistics


def simulate_board(
    build: BoardBuild,
    task: BoardTask,
    progress: Callable[[str], None] = lambda text: None,
    token: Callable[[int], None] = lambda token: None,
) -> BoardRun:
    """Run a request on a board.

    Raises
    ------
    SimulationError
        If a rule of the SDRAM is violated.
    SerranoError
        If the line, the driver or the accelerator fails.
    """
    descriptor = Descriptor.unpack(task.tape[:DESCRIPTOR_BYTES])
    plan = MemoryMap.plan(
        descriptor,
        kv_blocks=build.config.blocks_max,
        memory_bytes=build.board.sdram.reachable(build.config.address_bits),
        complete_size=task.complete_size,
    )
    with BoardSession(build) as session:
        rest = memoryview(task.tape)[task.by_line :]
        start = plan.tape_address + min(task.by_line, len(task.tape))
        session.memory[start : start + len(rest)] = bytearray(rest)
        transport = SerialTransport(
            open_line(session.port, ANY_BAUD),
            session.port,
            progress=progress,
            timeout=TIMEOUT_SECONDS,
        )
        with Device(transport, complete_size=task.complete_size, patience=PATIENCE_CYCLES) as device:
            begun = time.monotonic()
            device.load(task.tape)
            seconds = time.monotonic() - begun
            if device.map != plan:
                raise ValueError("The driver's places are not those of the back door")
            session.watch(plan.complete_address, plan.complete_address + task.complete_size * RECORD_BYTES)
            progress("running")
            handle = device.submit(task.prompt, task.max_new, task.eos)
            tokens = []
            for number in device.stream(handle):
                tokens.append(number)
                token(number)
            device.settle()
            stats = device.stats()
            verified = _verify(transport, plan, task.tape) if task.verify else None
            counts = transport.link.statistics
        statistics = session.close()
    commits = tuple(
        (cycle, driven)
        for cycle, offset, driven in statistics.writes
        if offset % RECORD_BYTES == NUMBER_OFFSET
    )
    return BoardRun(
        tokens=tuple(tokens),
        counters=dict(stats.counters),
        faults=tuple(str(fault) for fault in stats.faults),
        line_bytes=(counts.sent_bytes, counts.received_bytes),
        repeated=counts.repeated,
        load_seconds=seconds,
        verified=verified,
        commits=commits,
        statistics=statistics,
    )


def _verify(transport: SerialTransport, plan: MemoryMap, tape: bytes) -> bool:
    width = transport.identity.word_bytes
    size = len(tape) // width * width
    return transport.check_memory(plan.tape_address, size) == zlib.crc32(tape[:size])


def decode_figures(build: BoardBuild, task: BoardTask, run: BoardRun) -> dict[str, Any]:
    """Figures of the steps between the first token and the last: one row each, from commit to commit.

    ``mbu`` is the share of what the memory's bus could have moved that was needed, ``bus_busy`` the share of
    the cycles in which the memory drove it.
    """
    if len(run.commits) < 2:
        return {"steps": 0, "cycles": None, "cycles_per_token": None, "mbu": None, "bus_busy": None}
    steps = len(run.commits) - 1
    (first, driven_first), (last, driven_last) = run.commits[0], run.commits[-1]
    cycles = last - first
    descriptor = Descriptor.unpack(task.tape[:DESCRIPTOR_BYTES])
    length = len(task.prompt)
    needed = sum(useful_bytes(descriptor, [(length + step, 1)], True) for step in range(steps))
    clock = build.board.clock_hz
    return {
        "steps": steps,
        "cycles": cycles,
        "cycles_per_token": cycles / steps,
        "useful_bytes": needed,
        "mbu": needed / (cycles * build.config.port_bytes),
        "bus_busy": (driven_last - driven_first) / cycles,
        "megabytes_per_second": (driven_last - driven_first) * build.config.port_bytes / cycles * clock / 1e6,
        "tokens_per_second_at_clock": clock * steps / cycles,
    }
