# SPDX-License-Identifier: Apache-2.0
"""What executes the commands of a replay: the RTL in a simulation, or the golden model."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..golden.block_manager import BlockManager, Opcode, Stat, Status

__all__ = ["TENANT", "DeviceError", "Executor", "GoldenExecutor", "finish"]

TENANT = 1
"""Whose sequences these are: software block managers know one tenant."""

_Answer = TypeVar("_Answer")


class DeviceError(Exception):
    """The controller contradicts itself, or refuses what it must not refuse."""


class Executor(ABC):
    """A KV controller.

    ``commands`` counts the commands that were executed. Reading goes through STAT, and nothing else.
    """

    def __init__(self, sequences: int, entries: int):
        self.sequences = sequences
        self.entries = entries
        self.commands = 0

    @abstractmethod
    async def initialize(self, blocks: int) -> None:
        """A new pool of so many blocks, NULL included; all sequences are closed."""

    @abstractmethod
    async def execute(self, opcode: Opcode, seq: int = 0, arg0: int = 0, arg1: int = 0) -> tuple[int, int]:
        """Status and aux of a command."""

    async def stat(self, kind: Stat, seq: int = 0, index: int = 0) -> int:
        """A statistic."""
        (value,) = await self.sweep(kind, seq, index, 1)
        return value

    async def sweep(self, kind: Stat, seq: int, first: int, count: int) -> list[int]:
        """A statistic for ``count`` indices from ``first`` on."""
        values = []
        for index in range(first, first + count):
            status, aux = await self.execute(Opcode.STAT, seq, kind, index)
            if status != Status.OK:
                raise DeviceError(f"STAT {kind.name} of {index} ended with status {status}")
            values.append(aux)
        return values

    async def walk(self, first: int, most: int) -> list[int]:
        """Links of the free list's blocks, from block ``first`` on, no more than ``most``."""
        links: list[int] = []
        number = first
        while number and len(links) < most:
            links.append(await self.stat(Stat.BLOCK_LINKS, 0, number))
            number = links[-1] & 0xFFFF
        return links


class GoldenExecutor(Executor):
    """The golden model as a controller."""

    def __init__(self, blocks_max: int, sequences: int, entries: int):
        super().__init__(sequences, entries)
        self.manager = BlockManager(blocks_max, blocks_max, sequences, entries)

    async def initialize(self, blocks: int) -> None:
        self.manager.initialize(blocks)

    async def execute(self, opcode: Opcode, seq: int = 0, arg0: int = 0, arg1: int = 0) -> tuple[int, int]:
        self.commands += 1
        status, aux = self.manager.execute(opcode, seq, TENANT, arg0, arg1)
        return int(status), aux


def finish(coroutine: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Runs to its end what never waits, as is true of everything on the golden model.

    Raises
    ------
    RuntimeError
        If it does wait.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a replay on the golden model has nothing to wait for")
