# SPDX-License-Identifier: Apache-2.0
"""Replays the operations of a pool and compares what the recording tells with what the controller tells."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from .adapter import Adapter, NotHeld
from .executor import DeviceError, Executor
from .names import NewNames, SameNames
from .recording import OPERATIONS, Operation, Script

__all__ = ["COUNT_LIMIT", "Difference", "Outcome", "highest_count", "replay_scripts"]

COUNT_LIMIT = 255
"""Highest count of a block."""

LISTED = 200
"""So many differences are kept; all are counted."""

REFUSED_SHARE = "refused share"
"""The one kind of deliberate divergence."""


@dataclass(frozen=True)
class Difference:
    """Something that is not as recorded."""

    test: str
    line: int
    pool: int
    number: int
    """Place of the operation in the test's list, from 0."""
    op: str
    field: str
    expected: Any
    got: Any
    more: int = 0
    """How many further values of the same list differ."""

    def __str__(self) -> str:
        more = f" (and {self.more} more)" if self.more else ""
        pool = f", pool {self.pool}" if self.pool else ""
        return (
            f"line {self.line}, {self.test}, ops[{self.number}] {self.op}{pool}: {self.field}:"
            f" expected {_text(self.expected)}, got {_text(self.got)}{more}"
        )


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass
class Outcome:
    """What a replay has found."""

    operations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))
    """How many were replayed and compared, by name."""
    values: int = 0
    """Values compared."""
    refusals: int = 0
    """Operations that the recording has refused, among them."""
    mismatches: int = 0
    listed: list[Difference] = field(default_factory=list)
    deliberate: list[Difference] = field(default_factory=list)
    """Divergences that the controller is made for; the expected and the given status."""
    steered: int = 0
    """ALLOCs before or after which other blocks were evicted than the controller would have chosen."""
    leaked: int = 0
    """Blocks held after everything was freed."""
    commands: int = 0
    sequences: int = 0
    """Most sequences open at a time."""
    entries: int = 0
    """Longest table that was asked for."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Outcome":
        """What :meth:`as_dict` has made."""
        lists = {name: [Difference(**item) for item in values[name]] for name in ("listed", "deliberate")}
        return cls(**{**values, **lists})


def highest_count(script: Script) -> int:
    """The highest count that a block comes to, as the recording has it."""
    counts: Counter[int] = Counter()
    highest = 0
    for operation in script.operations:
        if operation.op == "INIT":
            counts.clear()
        elif operation.op == "FREE":
            counts.subtract(*operation.blocks)
        elif operation.op in ("ALLOC", "SHARE"):
            came = [number for group in operation.blocks for number in group if number]
            came += operation.returned or ()
            counts.update(came)
            highest = max(highest, *(counts[number] for number in came), 0)
    return highest


async def replay_scripts(
    scripts: Iterable[Script],
    executor: Executor,
    progress: Callable[[int], None] | None = None,
    *,
    compare: bool = True,
    alone: bool = False,
) -> Outcome:
    """Replays one script after the other.

    Parameters
    ----------
    scripts
        What was recorded.
    executor
        The controller.
    progress
        Called with the number of operations done, after each.
    compare
        Whether to read and compare what the recording tells after each operation. Without, this only finds
        out how many sequences and table entries are needed.
    alone
        Give each reference a sequence of its own, also where it is not needed.
    """
    outcome = Outcome()
    for script in scripts:
        replay = _Replay(script, executor, outcome, compare, alone or highest_count(script) >= COUNT_LIMIT)
        for operation in script.operations:
            await replay.step(operation)
            if progress:
                progress(sum(outcome.operations.values()))
        await replay.end()
    outcome.commands = executor.commands
    return outcome


class _Replay:
    """A script under way."""

    def __init__(self, script: Script, executor: Executor, outcome: Outcome, compare: bool, alone: bool):
        self.script = script
        self.outcome = outcome
        self.compare = compare
        self.adapter = Adapter(executor, alone)
        self.names = NewNames() if script.renamed else SameNames()
        self.operation = script.operations[0]

    async def step(self, operation: Operation) -> None:
        """Replays an operation, and compares."""
        self.operation = operation
        self.outcome.operations[operation.op] += 1
        try:
            await getattr(self, f"_{operation.op.lower()}")(operation)
        except (NotHeld, DeviceError) as error:
            self._differ("the operation", "done", str(error))
        if self.compare:
            try:
                await self._compare_state(operation)
            except DeviceError as error:
                self._differ("the state", "readable", str(error))

    async def end(self) -> None:
        """Frees everything."""
        outcome, adapter = self.outcome, self.adapter
        try:
            outcome.leaked += await adapter.close()
        except DeviceError as error:
            self._differ("freeing everything", "done", str(error))
        outcome.sequences = max(outcome.sequences, adapter.most_open)
        outcome.entries = max(outcome.entries, adapter.longest)

    # Differences.

    def _difference(self, name: str, expected: Any, got: Any, more: int = 0) -> Difference:
        script, operation = self.script, self.operation
        return Difference(
            script.test, script.line, script.pool, operation.number, operation.op, name, expected, got, more
        )

    def _differ(self, name: str, expected: Any, got: Any, more: int = 0) -> None:
        self.outcome.mismatches += 1
        if len(self.outcome.listed) < LISTED:
            self.outcome.listed.append(self._difference(name, expected, got, more))

    def _equal(self, name: str, expected: Any, got: Any) -> None:
        self.outcome.values += 1
        if expected != got:
            self._differ(name, expected, got)

    def _equal_lists(self, name: str, expected: Sequence[Any], got: Sequence[Any], first: int = 0) -> None:
        """Compares lists from entry ``first`` on; several entries that differ are one difference."""
        self.outcome.values += max(0, len(expected) - first)
        places = [
            place
            for place, (one, other) in enumerate(zip_longest(expected, got))
            if place >= first and one != other
        ]
        if places:
            one, other = [
                values[places[0]] if places[0] < len(values) else None for values in (expected, got)
            ]
            self._differ(f"{name}[{places[0]}]", one, other, len(places) - 1)

    # Operations.

    async def _init(self, operation: Operation) -> None:
        if isinstance(self.names, NewNames):
            self.names = NewNames()
        await self.adapter.start(operation.count)

    async def _alloc(self, operation: Operation) -> None:
        steering = isinstance(self.names, NewNames) and len(operation.returned or ()) == operation.count
        steered = steering and await self._keep_others(operation)
        given = await self.adapter.alloc(operation.count)
        self.outcome.refusals += operation.refused
        if given is None or operation.refused:
            self._equal("ret", _told(operation), "refused" if given is None else given)
        elif isinstance(self.names, NewNames):
            self._equal("number of blocks in ret", len(operation.returned or given), len(given))
            steered |= await self._bind(operation.returned or (), given)
        elif operation.returned is not None:
            self._equal_lists("ret", operation.returned, given)
        self.outcome.steered += steered

    async def _share(self, operation: Operation) -> None:
        for group in operation.blocks:
            for status in await self.adapter.share(self._blocks(group)):
                self.outcome.deliberate.append(self._difference(REFUSED_SHARE, "OK", status.name))

    async def _seal(self, operation: Operation) -> None:
        for block in self._blocks(operation.blocks[0]):
            await self.adapter.seal(block)

    async def _free(self, operation: Operation) -> None:
        await self.adapter.free(self._blocks(operation.blocks[0]))

    async def _reset(self, operation: Operation) -> None:
        done = await self.adapter.reset()
        self.outcome.refusals += operation.ok is False
        if operation.ok is not None:
            self._equal("ok", operation.ok, done)

    def _blocks(self, names: Iterable[int]) -> list[int]:
        """The controller's blocks of that name, placeholders left out."""
        blocks = []
        for name in names:
            if name:
                block = self.names.block(name)
                if block is None:
                    raise NotHeld(f"block {name} was never allocated")
                blocks.append(block)
        return blocks

    # Blocks by other names.

    async def _keep_others(self, operation: Operation) -> bool:
        """Before an ALLOC: what is shareable at the free list's head and stays so in the recording, where
        other blocks were taken, goes to the end. Whether that was needed."""
        adapter, taken = self.adapter, {None, *(operation.returned or ())}
        flags, found, steered = await adapter.flags(), 0, False
        for block in await adapter.free_list():
            if found == operation.count:
                break
            if flags[block].sealed and self.names.name(block) not in taken:
                await adapter.touch(block)
                steered = True
            else:
                found += 1
        return steered

    async def _bind(self, names: Sequence[int], blocks: Sequence[int]) -> bool:
        """After an ALLOC: what was taken in the recording has lost its contents. Whether that was needed."""
        adapter, steered = self.adapter, False
        for name in names:
            block = self.names.block(name)
            if block is None or block in blocks:
                continue
            flags = await adapter.flags_of(block)
            if flags.references:
                raise NotHeld(f"block {name} was allocated while it was held")
            if flags.sealed:
                await adapter.evict(block)
                steered = True
        if len(set(names)) < len(names):
            raise NotHeld("a block was allocated twice")
        if len(names) == len(blocks):
            self.names.bind(names, blocks)
        return steered

    # State.

    async def _compare_state(self, operation: Operation) -> None:
        adapter = self.adapter
        if operation.free is not None or operation.free_count is not None:
            free = await adapter.free_list()
            if operation.free is not None:
                self._equal_lists("free", operation.free, free)
            if operation.free_count is not None:
                self._equal("nfree", operation.free_count, len(free))
        if operation.references is not None or operation.cached is not None:
            flags = await adapter.flags()
            numbers: Sequence[int] = range(adapter.blocks)
            if isinstance(self.names, NewNames):
                told = max(len(operation.references or ()), len(operation.cached or ()))
                numbers = [self.names.block(name) or 0 for name in range(told)]
            if operation.references is not None:
                counts = [flags[number].references + adapter.lacking[number] for number in numbers]
                self._equal_lists("ref", operation.references, counts, 1)
            if operation.cached is not None:
                self._equal_lists("cached", operation.cached, [flags[number].sealed for number in numbers], 1)


def _told(operation: Operation) -> Any:
    """What a recorded ALLOC gave, for comparison with a refusal."""
    if operation.refused:
        return "refused"
    return list(operation.returned) if operation.returned else "blocks"
