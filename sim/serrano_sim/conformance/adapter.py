# SPDX-License-Identifier: Apache-2.0
"""A software block manager's operations as commands of the KV controller: see docs/conformance.md.

The adapter knows which sequence holds which references, because that is what a serving stack knows. Which
blocks are free, in what order, how often each is held and whether it is sealed it always asks the controller.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..golden.block_manager import BLOCK_SIZE, Opcode, Stat, Status
from .executor import DeviceError, Executor

__all__ = ["Adapter", "BlockFlags", "NotHeld"]

MOST_TOKENS = (1 << 32) - 1

NO_ROOM = (Status.NO_SPACE, Status.NEVER_FITS)
REFUSALS = (Status.NOT_SEALED, Status.REF_OVERFLOW)


class NotHeld(Exception):
    """A reference is to be used that nobody holds."""


class _Refused(DeviceError):
    """A reference that the controller refuses."""

    def __init__(self, opcode: Opcode, status: Status):
        super().__init__(f"{opcode.name} ended with {status.name}")
        self.status = status


@dataclass(frozen=True)
class BlockFlags:
    """What STAT tells of a block."""

    references: int
    sealed: bool

    @classmethod
    def of(cls, state: int) -> "BlockFlags":
        return cls(state & 0xFF, bool(state >> 24 & 1))


@dataclass(eq=False)
class _Run:
    """An open sequence: live entries from ``first`` on."""

    seq: int
    table: list[int] = field(default_factory=list)
    first: int = 0

    @property
    def live(self) -> int:
        return len(self.table) - self.first


@dataclass(frozen=True)
class _Piece:
    """Entries ``low`` to ``high - 1`` of a run."""

    run: _Run
    low: int
    high: int

    @property
    def size(self) -> int:
        return self.high - self.low

    @property
    def whole(self) -> bool:
        return self.size == self.run.live

    @property
    def rank(self) -> tuple[int, bool, bool, bool]:
        """What is longest is best, then what needs the fewest commands."""
        run = self.run
        return self.size, self.whole, self.high == len(run.table), self.low == run.first


class Adapter:
    """Operations on one pool.

    Every list of blocks that is allocated or shared becomes a sequence, with all its tokens committed. What
    is released as it stands in a sequence is released by FREE, TRIM or SLIDE; to release something from the
    middle, the sequence is split: FORK, TRIM, SLIDE.

    Parameters
    ----------
    executor
        The controller.
    alone
        One sequence for each reference: for blocks whose counts come so close to the highest one that a fork
        on the way could be refused.
    """

    def __init__(self, executor: Executor, alone: bool = False):
        self.executor = executor
        self.alone = alone
        self.blocks = 0
        self.runs: dict[int, _Run] = {}
        self.holders: dict[int, Counter[_Run]] = {}
        """Sequences by the blocks that they hold, and how often."""
        self.lacking: Counter[int] = Counter()
        """References that the recording has and the controller has refused."""
        self.most_open = self.longest = 0
        self._spare: list[int] = []
        self._unused = 0

    # The pool.

    async def start(self, blocks: int) -> None:
        """A new pool."""
        await self.executor.initialize(blocks)
        self.blocks = blocks
        self.runs, self.holders, self._spare, self._unused = {}, {}, [], 0
        self.lacking = Counter()

    async def close(self) -> int:
        """Frees everything; returns the blocks that are held nevertheless."""
        for run in list(self.runs.values()):
            await self._free(run)
        return await self.executor.stat(Stat.POOL_USED)

    async def free_list(self) -> list[int]:
        """The free blocks, head first.

        Raises
        ------
        DeviceError
            If it is not a list that reads the same both ways and has as many blocks as are not held.
        """
        executor = self.executor
        size, used, ends = [await executor.stat(kind) for kind in _POOL]
        if size != self.blocks:
            raise DeviceError(f"the pool has {size} blocks instead of {self.blocks}")
        count = size - 1 - used
        links = await executor.walk(ends & 0xFFFF, self.blocks)
        numbers = [number for number in (ends & 0xFFFF, *(link & 0xFFFF for link in links)) if number]
        before = [link >> 16 for link in links]
        if len(numbers) != count or len(set(numbers)) != count or not all(0 < n < size for n in numbers):
            raise DeviceError(f"{used} blocks of {size - 1} are held, but the free list is {_some(numbers)}")
        if before != [0, *numbers[:-1]][:count] or ends >> 16 != (numbers or [0])[-1]:
            raise DeviceError(f"the free list {_some(numbers)} does not read the same backwards")
        return numbers

    async def flags(self) -> list[BlockFlags]:
        """Count and flag of every block; those of block 0 have no meaning."""
        states = await self.executor.sweep(Stat.BLOCK_STATE, 0, 1, self.blocks - 1)
        return [BlockFlags(0, False), *map(BlockFlags.of, states)]

    async def flags_of(self, block: int) -> BlockFlags:
        return BlockFlags.of(await self.executor.stat(Stat.BLOCK_STATE, 0, block))

    # Operations.

    async def alloc(self, count: int) -> list[int] | None:
        """Takes blocks from the free list's head; ``None`` if there are too few."""
        if count == 0:
            return []
        if count < self.blocks:
            self.longest = max(self.longest, count)
        run = await self._open()
        tokens = min(BLOCK_SIZE * count, MOST_TOKENS)
        status, aux = await self._command(Opcode.ALLOC, run, tokens)
        # A table is as long as the longest list that is not refused.
        if status in NO_ROOM or (status == Status.TABLE_FULL and count >= self.blocks):
            await self._free(run)
            return None
        self._expect(Opcode.ALLOC, status, aux == count)
        table = await self.executor.sweep(Stat.SEQUENCE_ENTRY, run.seq, 0, count)
        self._hold(run, table)
        # What becomes of unwritten blocks when they are shared is not a matter of these recordings.
        await self._do(Opcode.APPEND, run, tokens)
        await self._do(Opcode.COMMIT, run, tokens)
        if self.alone:
            for index in range(count - 1, 0, -1):
                await self._split(run, index)
        return table

    async def share(self, blocks: Sequence[int]) -> list[Status]:
        """One more reference to each; the statuses with which some were refused."""
        for block in blocks:
            self._check(block)
        sealed = {block: (await self.flags_of(block)).sealed for block in dict.fromkeys(blocks)}
        refusals: list[Status] = []
        run: _Run | None = None
        place = 0
        while place < len(blocks):
            piece = self._forkable(blocks[place:], sealed)
            size = piece.size if piece else 1
            try:
                if piece:
                    run = None
                    await self._fork(piece)
                else:
                    if run is None or self.alone or len(run.table) == self.executor.entries:
                        run = await self._open()
                    await self._share(run, blocks[place])
            except _Refused as refused:
                refusals.append(refused.status)
                run = await self._make_good(run, blocks[place : place + size], refused.status)
            place += size
        return refusals

    async def seal(self, block: int) -> None:
        """Makes a block shareable; nothing to do for one that is."""
        self._check(block)
        holders = self.holders.get(block)
        if not holders:
            if (await self.flags_of(block)).sealed:
                return
            raise NotHeld(f"block {block} is held by nobody")
        run = next(iter(holders))
        status, _ = await self._command(Opcode.SEAL, run, run.table.index(block, run.first))
        self._expect(Opcode.SEAL, status if status != Status.ALREADY else Status.OK)

    async def free(self, blocks: Sequence[int]) -> None:
        """One reference less of each, in this order.

        Raises
        ------
        NotHeld
            Once the others are released, if there were some that nobody holds.
        """
        place = 0
        unheld = []
        while place < len(blocks):
            block = blocks[place]
            pieces = self._pieces(blocks[place:], -1)
            place += 1
            if self.lacking[block]:
                self.lacking[block] -= 1
            elif pieces:
                best = max(pieces, key=lambda piece: piece.rank)
                await self._release(best)
                place += best.size - 1
            else:
                unheld.append(block)
        if unheld:
            raise NotHeld(f"block {unheld[0]} is held by nobody")

    async def reset(self) -> bool:
        """Forgets what is shareable; whether that was allowed."""
        status, _ = await self.executor.execute(Opcode.RESET_POOL)
        if status == Status.IN_USE:
            return False
        self._expect(Opcode.RESET_POOL, status)
        return True

    async def touch(self, block: int) -> None:
        """Brings a sealed free block to the free list's end."""
        run = await self._open()
        await self._share(run, block)
        await self._free(run)

    async def evict(self, block: int) -> None:
        """Forgets what a free block holds."""
        status, _ = await self.executor.execute(Opcode.EVICT, arg0=block)
        self._expect(Opcode.EVICT, status)

    # Commands.

    async def _command(self, opcode: Opcode, run: _Run, arg0: int = 0, arg1: int = 0) -> tuple[int, int]:
        return await self.executor.execute(opcode, run.seq, arg0, arg1)

    async def _do(self, opcode: Opcode, run: _Run, arg0: int = 0, arg1: int = 0) -> None:
        status, _ = await self._command(opcode, run, arg0, arg1)
        self._expect(opcode, status)

    def _expect(self, opcode: Opcode, status: int, right: bool = True) -> None:
        if status != Status.OK:
            name = Status(status).name if status in list(Status) else status
            raise DeviceError(f"{opcode.name} ended with {name}")
        if not right:
            raise DeviceError(f"{opcode.name} answered with another number than it must")

    def _check(self, block: int) -> None:
        if not 0 < block < self.blocks:
            raise NotHeld(f"the pool has no block {block}")

    async def _open(self) -> _Run:
        if self._spare:
            seq = self._spare.pop()
        elif self._unused < self.executor.sequences:
            seq, self._unused = self._unused, self._unused + 1
        else:
            raise DeviceError(f"more than {self.executor.sequences} sequences are needed")
        run = _Run(seq)
        self.runs[seq] = run
        self.most_open = max(self.most_open, len(self.runs))
        await self._do(Opcode.OPEN, run)
        return run

    async def _free(self, run: _Run) -> None:
        self._drop(run, run.first, len(run.table))
        del self.runs[run.seq]
        self._spare.append(run.seq)
        await self._do(Opcode.FREE, run)

    # Who holds what.

    def _hold(self, run: _Run, blocks: Sequence[int]) -> None:
        run.table += blocks
        self.longest = max(self.longest, len(run.table))
        for block in blocks:
            self.holders.setdefault(block, Counter())[run] += 1

    def _drop(self, run: _Run, low: int, high: int) -> None:
        """Entries at one of the run's ends are released."""
        for block in run.table[low:high]:
            holders = self.holders[block]
            holders[run] -= 1
            if not holders[run]:
                del holders[run]
        if low == run.first:
            run.first = high
        else:
            del run.table[low:]

    def _pieces(self, blocks: Sequence[int], direction: int) -> list[_Piece]:
        """Pieces of runs that begin as ``blocks`` do, read upwards or downwards, each as long as possible."""
        found = []
        for run in self.holders.get(blocks[0], ()):
            for start in range(run.first, len(run.table)):
                if run.table[start] != blocks[0]:
                    continue
                index = start
                for block in blocks:
                    if not run.first <= index < len(run.table) or run.table[index] != block:
                        break
                    index += direction
                low, high = (start, index) if direction > 0 else (index + 1, start + 1)
                found.append(_Piece(run, low, high))
        return found

    # References that come.

    async def _share(self, run: _Run, block: int) -> None:
        generation = await self.executor.stat(Stat.BLOCK_GENERATION, 0, block)
        status, _ = await self._command(Opcode.SHARE, run, block, generation)
        if status in REFUSALS:
            raise _Refused(Opcode.SHARE, Status(status))
        self._expect(Opcode.SHARE, status)
        self._hold(run, [block])

    def _forkable(self, blocks: Sequence[int], sealed: Mapping[int, bool]) -> _Piece | None:
        """What must be forked: how a list begins, if blocks in it are held but not sealed."""
        if all(sealed[block] for block in blocks):
            return None
        best = max(self._pieces(blocks, 1), key=lambda piece: piece.rank, default=None)
        if best is None or all(sealed[block] for block in blocks[: best.size]):
            return None
        if best.whole or not sealed[blocks[0]]:
            return best
        # What is sealed in front can be shared by itself.
        return None

    async def _fork(self, piece: _Piece) -> None:
        """A sequence with what the piece has."""
        copy = await self._copy(piece.run)
        if piece.high < len(copy.table):
            await self._trim(copy, piece.high)
        if piece.low > copy.first:
            await self._slide(copy, piece.low)

    async def _copy(self, run: _Run) -> _Run:
        copy = await self._open()
        status, aux = await self._command(Opcode.FORK, run, copy.seq)
        if status in REFUSALS:
            await self._free(copy)
            raise _Refused(Opcode.FORK, Status(status))
        self._expect(Opcode.FORK, status, aux == run.live)
        copy.table, copy.first = [0] * run.first, run.first
        self._hold(copy, run.table[run.first :])
        return copy

    async def _make_good(self, run: _Run | None, blocks: Sequence[int], status: Status) -> _Run | None:
        """After a refusal: as much of the recorded state as the controller gives otherwise."""
        if run is not None and not run.live:
            await self._free(run)
            run = None
        if status == Status.NOT_SEALED and not (await self.flags_of(blocks[0])).references:
            await self._take_out(blocks[0])
            return None
        self.lacking.update(blocks)
        return run

    async def _take_out(self, block: int) -> None:
        """Takes a free block that is not sealed from where it is; the others stay in their order.

        The whole list goes by once: each block is taken and comes back at the end, except this one.
        """
        for number in await self.free_list():
            run = await self._open()
            if (await self.flags_of(number)).sealed:
                await self._share(run, number)
            else:
                await self._do(Opcode.ALLOC, run, BLOCK_SIZE)
                self._hold(run, [number])
                if number == block:
                    await self._do(Opcode.APPEND, run, BLOCK_SIZE)
                    await self._do(Opcode.COMMIT, run, BLOCK_SIZE)
                    continue
            await self._free(run)

    # References that go.

    async def _release(self, piece: _Piece) -> None:
        run, low, high = piece.run, piece.low, piece.high
        if piece.whole:
            await self._free(run)
        elif high == len(run.table):
            await self._trim(run, low)
        elif low == run.first:
            await self._slide(run, high)
        else:
            await self._split(run, high)
            await self._trim(run, low)

    async def _trim(self, run: _Run, entries: int) -> None:
        self._drop(run, entries, len(run.table))
        await self._do(Opcode.TRIM, run, BLOCK_SIZE * entries)

    async def _slide(self, run: _Run, entries: int) -> None:
        self._drop(run, run.first, entries)
        await self._do(Opcode.SLIDE, run, BLOCK_SIZE * entries)

    async def _split(self, run: _Run, entries: int) -> None:
        """Entries from number ``entries`` on get a sequence of their own; no count changes."""
        rest = await self._copy(run)
        await self._trim(run, entries)
        await self._slide(rest, entries)


_POOL = (Stat.POOL_BLOCKS, Stat.POOL_USED, Stat.POOL_ENDS)


def _some(numbers: Sequence[int]) -> str:
    """The beginning of a list."""
    shown = ", ".join(map(str, numbers[:8]))
    return f"[{shown}{', ...' if len(numbers) > 8 else ''}]"
