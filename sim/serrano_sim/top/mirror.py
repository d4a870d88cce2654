# SPDX-License-Identifier: Apache-2.0
"""The golden block manager, led through the commands that host and scheduler give the KV controller."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from serrano.config import AcceleratorConfig

from ..golden.block_manager import BlockManager, Kind, Move, Opcode, Status
from .job import KVCommand
from .layout import Request

__all__ = ["Admission", "Mirror", "command_text"]

OWN_SEQUENCE = 0
"""The sequence that the scheduler opens for a request that brings none."""


@dataclass(frozen=True)
class Admission:
    """What a request began with.

    Parameters
    ----------
    sequence : :class:`int`
        Its sequence.
    table : tuple of :class:`int`
        Its blocks.
    length : :class:`int`
        Tokens that were there already.
    shared, copied, allocated : tuple of :class:`int`
        Of its blocks those that other sequences have as well, those that hold a copy, and all that were taken
        for it, the copies included.
    """

    sequence: int
    table: tuple[int, ...]
    length: int
    shared: tuple[int, ...]
    copied: tuple[int, ...]
    allocated: tuple[int, ...]


class Mirror:
    """State of the KV controller as it must be.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    blocks : :class:`int`
        Blocks of the pool, NULL included.
    records : :class:`int`
        Records of a block.
    move : callable
        Called with each move of bytes (:class:`~serrano_sim.golden.block_manager.Move`); whether the memory
        took it.

    Attributes
    ----------
    manager : :class:`~serrano_sim.golden.block_manager.BlockManager`
        The golden model.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        blocks: int,
        records: int = 1,
        move: Callable[[Move], bool] = lambda move: True,
    ):
        self.blocks = blocks
        self._move = move
        self._copied: list[int] = []
        # After reset no block is in use; LOAD takes the number over.
        self.manager = BlockManager(
            0,
            config.blocks_max,
            config.sequences_max,
            config.table_entries,
            records=records,
            mover=self._moved,
        )

    def _moved(self, move: Move) -> bool:
        done = self._move(move)
        if done and move.kind is Kind.COPY:
            self._copied.append(move.destination)
        return done

    def load(self) -> None:
        """LOAD: a pool without any sequence."""
        self.manager.initialize(self.blocks)

    def command(self, command: KVCommand) -> tuple[int, int]:
        """A command of the host: status and auxiliary value."""
        c = command
        status, aux = self.manager.execute(c.opcode, c.sequence, c.tenant, c.argument0, c.argument1)
        return int(status), aux

    def _held(self) -> set[int]:
        return {block for sequence in self.manager.sequences.values() for block in sequence.held}

    def admit(self, request: Request) -> Admission | None:
        """Opens a request's sequence, or takes the one it adopts, and gives it its blocks.

        Returns ``None`` if it cannot be served; it is over then.
        """
        number = request.sequence if request.adopt else OWN_SEQUENCE
        before = self._held()
        self._copied.clear()
        found = self.manager.sequences.get(number)
        if request.adopt and found and (found.reserved or found.length >= len(request.prompt)):
            return None
        if not request.adopt and self._of(request, Opcode.OPEN) is not Status.OK:
            return None
        length = self.length(number)
        if self._of(request, Opcode.APPEND, 1) is not Status.OK:
            if not request.adopt:
                self.end(request)
            return None
        self._of(request, Opcode.ABORT)
        if self._of(request, Opcode.ALLOC, request.tokens - length) is not Status.OK:
            # What was adopted stays as it was.
            self.end(replace(request, keep=request.keep or request.adopt))
            return None
        table = tuple(self.manager.sequences[number].table)
        return Admission(
            sequence=number,
            table=table,
            length=length,
            shared=tuple(block for block in table if self.manager.states[block].references > 1),
            copied=tuple(self._copied),
            allocated=tuple(block for block in table if block not in before),
        )

    def step(self, request: Request, rows: int) -> None:
        """A step that is committed."""
        self._of(request, Opcode.APPEND, rows)
        self._of(request, Opcode.COMMIT, rows)

    def end(self, request: Request) -> None:
        """The end of a request: its sequence is freed, or kept without the blocks behind its tokens."""
        if request.keep:
            number = request.sequence if request.adopt else OWN_SEQUENCE
            self._of(request, Opcode.TRIM, self.length(number))
        else:
            self._of(request, Opcode.FREE)

    def length(self, sequence: int) -> int:
        """Committed tokens of a sequence; 0 if there is none."""
        found = self.manager.sequences.get(sequence)
        return found.length if found else 0

    def _of(self, request: Request, opcode: Opcode, argument: int = 0) -> Status:
        number = request.sequence if request.adopt else OWN_SEQUENCE
        return self.manager.execute(opcode, number, request.tenant, argument)[0]


def command_text(command: KVCommand) -> str:
    """A command for people."""
    names = {opcode.value: opcode.name for opcode in Opcode}
    name = names.get(command.opcode, f"command {command.opcode}")
    return f"{name} of sequence {command.sequence} ({command.argument0}, {command.argument1})"


def status_text(status: int) -> str:
    """A status for people."""
    names = {known.value: known.name for known in Status}
    return names.get(status, str(status))
