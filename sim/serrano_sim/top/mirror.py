# SPDX-License-Identifier: Apache-2.0
"""The golden block manager, led through the commands that host and scheduler give the KV controller."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode

from ..golden.block_manager import BlockManager, Kind, Move, Opcode, Status
from .job import KVCommand
from .layout import Request, blocks_of

__all__ = ["Admission", "Mirror", "command_text"]


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

    def unused(self) -> int | None:
        """The lowest sequence that is not open; ``None`` if all are."""
        numbers = (number for number in range(self.manager.limit) if number not in self.manager.sequences)
        return next(numbers, None)

    def admit(self, request: Request, sequence: int | None = None) -> Admission | FaultCode:
        """Opens a sequence for a request, or takes the one it adopts, and gives it its blocks.

        Returns why not if it cannot be served. Without ``sequence`` the lowest one is opened that is not.
        """
        before = self._held()
        self._copied.clear()
        if request.adopt:
            number = request.sequence
            refused = self._take_over(request)
        else:
            number = self.unused() if sequence is None else sequence
            refused = FaultCode.KV_COMMAND if number is None else self._open(request, number)
        if refused is not FaultCode.NONE:
            return refused
        found = self.manager.sequences[number]
        return Admission(
            sequence=number,
            table=tuple(found.table),
            length=found.length,
            shared=tuple(block for block in found.table if self.manager.states[block].references > 1),
            copied=tuple(self._copied),
            allocated=tuple(block for block in found.table if block not in before),
        )

    def _open(self, request: Request, number: int) -> FaultCode:
        if self._of(request, number, Opcode.OPEN) is not Status.OK:
            return FaultCode.KV_COMMAND
        status = self._of(request, number, Opcode.ALLOC, request.tokens)
        if status is not Status.OK:
            self._of(request, number, Opcode.FREE)
        return _refusal(status)

    def _take_over(self, request: Request) -> FaultCode:
        number, found = request.sequence, self.manager.sequences.get(request.sequence)
        if self._of(request, number, Opcode.APPEND, 0) is not Status.OK:
            return FaultCode.KV_COMMAND
        if found.reserved or found.length >= len(request.prompt):
            return FaultCode.REQUEST_SEQUENCE
        # This replaces what is shared or sealed; the slots are given back, the blocks stay.
        status = self._of(request, number, Opcode.APPEND, request.tokens - found.length)
        self._of(request, number, Opcode.ABORT)
        return _refusal(status)

    def must_wait(self, request: Request) -> bool:
        """Whether a request lacks a sequence or blocks now that it can have when others give them back."""
        manager = self.manager
        if not request.adopt:
            blocks = blocks_of(request.tokens)
            if self.unused() is None:
                return True
            return len(manager.free) < blocks <= min(manager.blocks - 1, manager.entries)
        found = manager.sequences.get(request.sequence)
        if not found or found.tenant != request.tenant or found.length >= len(request.prompt):
            return False
        trial = copy.copy(manager)
        trial.mover = None
        parts = (manager.states, manager.free, manager.sequences)
        trial.states, trial.free, trial.sequences = copy.deepcopy(parts)
        rest = request.tokens - found.length
        status = trial.execute(Opcode.APPEND, request.sequence, request.tenant, rest)[0]
        return status is Status.NO_SPACE

    def step(self, request: Request, sequence: int, rows: int) -> Status:
        """Rows of a request in a step that is committed."""
        status = self._of(request, sequence, Opcode.APPEND, rows)
        if status is Status.OK:
            status = self._of(request, sequence, Opcode.COMMIT, rows)
        return status

    def end(self, request: Request, sequence: int) -> None:
        """The end of a request: its sequence is freed, or kept without the blocks behind its tokens."""
        if request.keep:
            self._of(request, sequence, Opcode.TRIM, self.length(sequence))
        else:
            self._of(request, sequence, Opcode.FREE)

    def length(self, sequence: int) -> int:
        """Committed tokens of a sequence; 0 if there is none."""
        found = self.manager.sequences.get(sequence)
        return found.length if found else 0

    def _of(self, request: Request, sequence: int, opcode: Opcode, argument: int = 0) -> Status:
        return self.manager.execute(opcode, sequence, request.tenant, argument)[0]


def _refusal(status: Status) -> FaultCode:
    """What a request is refused with when the command that gives it blocks has this status."""
    if status is Status.OK:
        return FaultCode.NONE
    return FaultCode.REQUEST_SPACE if status in (Status.NO_SPACE, Status.NEVER_FITS) else FaultCode.KV_COMMAND


def command_text(command: KVCommand) -> str:
    """A command for people."""
    names = {opcode.value: opcode.name for opcode in Opcode}
    name = names.get(command.opcode, f"command {command.opcode}")
    return f"{name} of sequence {command.sequence} ({command.argument0}, {command.argument1})"


def status_text(status: int) -> str:
    """A status for people."""
    names = {known.value: known.name for known in Status}
    return names.get(status, str(status))
