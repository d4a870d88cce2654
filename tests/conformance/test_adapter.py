# SPDX-License-Identifier: Apache-2.0
"""Which commands operations become, on the golden model."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from serrano_sim.conformance.adapter import Adapter, BlockFlags, NotHeld
from serrano_sim.conformance.executor import DeviceError, GoldenExecutor, finish
from serrano_sim.golden.block_manager import Opcode, Stat, Status


class Watched(GoldenExecutor):
    """The golden model, noting the commands that change something; ``lie`` may change an answer."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.seen: list[str] = []
        self.lie: Callable[[Opcode, int, int, int, int], tuple[int, int]] = lambda *told: told[-2:]

    async def execute(self, opcode, seq=0, arg0=0, arg1=0):
        status, aux = await super().execute(opcode, seq, arg0, arg1)
        if opcode != Opcode.STAT:
            self.seen.append(opcode.name if status == Status.OK else f"{opcode.name}={Status(status).name}")
        return self.lie(opcode, arg0, arg1, status, aux)

    def take(self) -> str:
        """What was done since the last time."""
        seen, self.seen = self.seen, []
        return " ".join(seen)


class Device:
    """An adapter on a watched golden model, without ``await``."""

    def __init__(self, blocks: int, sequences: int = 16, entries: int = 16, alone: bool = False):
        self.executor = Watched(blocks, sequences, entries)
        self.adapter = Adapter(self.executor, alone)
        finish(self.adapter.start(blocks))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            answer = getattr(self.adapter, name)(*arguments)
            return finish(answer) if isinstance(answer, Coroutine) else answer

        return call

    @property
    def free_blocks(self) -> list[int]:
        return self.executor.manager.free

    @property
    def counts(self) -> list[int]:
        return [block.references for block in self.executor.manager.states]

    @property
    def sealed(self) -> list[int]:
        return [number for number, block in enumerate(self.executor.manager.states) if block.sealed]

    def commands(self) -> str:
        return self.executor.take()


BEGIN = "OPEN ALLOC APPEND COMMIT"


def test_a_list_is_a_sequence() -> None:
    device = Device(10)
    assert device.alloc(4) == [1, 2, 3, 4]
    assert device.commands() == BEGIN
    device.free([4, 3, 2, 1])
    assert device.commands() == "FREE"
    assert device.free_blocks == [5, 6, 7, 8, 9, 4, 3, 2, 1]
    assert device.close() == 0


@pytest.mark.parametrize(
    ("released", "commands", "rest"),
    [
        ([6, 5], "TRIM", [1, 1, 1, 1, 0, 0]),
        ([2, 1], "SLIDE", [0, 0, 1, 1, 1, 1]),
        ([4, 3], "FORK TRIM SLIDE TRIM", [1, 1, 0, 0, 1, 1]),
        ([1, 2, 3], "SLIDE SLIDE SLIDE", [0, 0, 0, 1, 1, 1]),
        ([6, 1, 4], "TRIM SLIDE FORK TRIM SLIDE TRIM", [0, 1, 1, 0, 1, 0]),
        ([3, 4, 5, 6, 2, 1], "FORK TRIM SLIDE TRIM SLIDE SLIDE FREE FREE", [0, 0, 0, 0, 0, 0]),
    ],
)
def test_parts_of_a_list(released, commands, rest) -> None:
    """Blocks go in the order of the list, whatever their places in the sequence."""
    device = Device(7)
    device.alloc(6)
    device.commands()
    device.free(released)
    assert device.commands().replace("OPEN ", "") == commands
    assert device.counts[1:] == rest
    assert device.free_blocks == released
    assert device.close() == 0


def test_lists_of_several_sequences() -> None:
    device = Device(9)
    device.alloc(3)
    device.alloc(3)
    device.seal(1)
    device.seal(2)
    device.share([1, 2])
    device.commands()
    # The longest piece is found first: 2, 1 is all of the third sequence.
    device.free([6, 2, 1, 5, 4, 3, 2])
    assert device.commands() == "TRIM FREE FREE TRIM"
    assert device.counts[1:] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert device.free_blocks == [7, 8, 6, 5, 4, 3, 2]


def test_exhaustion() -> None:
    device = Device(6, entries=4)
    assert device.alloc(0) == []
    assert device.commands() == ""
    device.alloc(3)
    device.commands()
    for count, status in ((3, "NO_SPACE"), (6, "TABLE_FULL"), (10**9, "TABLE_FULL")):
        assert device.alloc(count) is None
        assert device.commands() == f"OPEN ALLOC={status} FREE"
    assert device.free_blocks == [4, 5]
    # A table of which the rehearsal did not know is no refusal.
    with pytest.raises(DeviceError, match="ALLOC ended with TABLE_FULL"):
        device.alloc(5)


def test_never_fits_is_a_refusal() -> None:
    device = Device(6)
    assert device.alloc(6) is None
    assert device.commands() == "OPEN ALLOC=NEVER_FITS FREE"


def test_sealed_blocks_are_shared() -> None:
    device = Device(8)
    device.alloc(3)
    device.seal(3)
    device.seal(1)
    device.seal(1)
    assert device.commands() == f"{BEGIN} SEAL SEAL SEAL=ALREADY"
    assert device.sealed == [1, 3]
    device.free([3, 2, 1])
    # Nobody holds it, but there is nothing to do.
    device.seal(3)
    device.commands()
    assert device.share([3, 1, 3]) == []
    assert device.commands() == "OPEN SHARE SHARE SHARE"
    assert device.counts[1:4] == [1, 0, 2]
    assert device.free_blocks == [4, 5, 6, 7, 2]
    device.free([3, 1, 3])
    assert device.free_blocks == [4, 5, 6, 7, 2, 1, 3]


@pytest.mark.parametrize(
    ("shared", "commands"),
    [
        ([1, 2, 3, 4], "OPEN FORK"),
        ([1, 2, 3], "OPEN SHARE SHARE OPEN FORK TRIM SLIDE"),
        ([3, 4], "OPEN FORK SLIDE"),
        ([4, 3], "OPEN FORK SLIDE OPEN FORK TRIM SLIDE"),
        ([2, 1], "OPEN SHARE SHARE"),
        ([3, 5, 1], "OPEN FORK TRIM SLIDE OPEN FORK OPEN SHARE"),
    ],
)
def test_unsealed_blocks_are_forked(shared, commands) -> None:
    device = Device(8)
    device.alloc(4)
    device.alloc(1)
    device.seal(1)
    device.seal(2)
    device.commands()
    assert device.share(shared) == []
    assert device.commands() == commands
    assert device.counts[1:6] == [1 + (block in shared) for block in range(1, 6)]
    # The forks are as good as what they came from.
    device.free([5, 4, 3, 2, 1])
    assert device.counts[1:6] == [int(block in shared) for block in range(1, 6)]
    for block in shared:
        device.seal(block)
    device.free(shared)
    assert device.counts[1:] == [0] * 7
    assert device.close() == 0


def test_tables_end() -> None:
    """A list that is longer than a table goes on in another sequence."""
    device = Device(9, entries=4)
    for _ in range(2):
        for block in device.alloc(4):
            device.seal(block)
    device.commands()
    device.share([1, 2, 3, 4, 5, 6])
    assert device.commands() == "OPEN SHARE SHARE SHARE SHARE OPEN SHARE SHARE"


def test_a_share_that_is_refused() -> None:
    """Nobody holds the block, and it is not sealed. It is taken out of the list, whose order stays."""
    device = Device(8)
    device.alloc(5)
    device.seal(4)
    device.seal(2)
    device.free([5, 4, 3, 2, 1])
    assert device.free_blocks == [6, 7, 5, 4, 3, 2, 1]
    device.commands()
    assert device.share([4, 3, 2]) == [Status.NOT_SEALED]
    assert "SHARE=NOT_SEALED" in device.commands()
    assert device.free_blocks == [6, 7, 5, 1]
    assert device.counts[1:] == [0, 1, 1, 1, 0, 0, 0]
    assert device.sealed == [2, 4]
    device.free([2, 3, 4])
    assert device.free_blocks == [6, 7, 5, 1, 2, 3, 4]
    assert device.sealed == [2, 4]
    assert device.close() == 0


@pytest.mark.parametrize("sealed", [False, True])
def test_counts_end(sealed) -> None:
    """What the controller cannot count any more is owed, and is given back first."""
    device = Device(3, sequences=300, alone=True)
    device.alloc(1)
    if sealed:
        device.seal(1)
    for _ in range(254):
        assert device.share([1]) == []
    for owed in (1, 2, 3):
        assert device.share([1]) == [Status.REF_OVERFLOW]
        assert device.adapter.lacking[1] == owed
    assert device.counts[1] == 255
    device.free([1, 1])
    device.free([1])
    assert (device.counts[1], device.adapter.lacking[1]) == (255, 0)
    device.free([1] * 254)
    assert device.counts[1] == 1
    assert device.close() == 0


def test_one_sequence_per_reference() -> None:
    device = Device(8, alone=True)
    assert device.alloc(3) == [1, 2, 3]
    device.seal(1)
    device.commands()
    device.share([1, 2, 1])
    assert device.commands() == "OPEN SHARE OPEN FORK OPEN SHARE"
    device.free([3, 2, 1])
    assert device.commands() == "FREE FREE FREE"
    assert len(device.adapter.runs) == 3
    assert device.close() == 0


def test_reset() -> None:
    device = Device(4)
    device.alloc(1)
    device.seal(1)
    assert device.reset() is False
    assert device.sealed == [1]
    device.free([1])
    assert device.reset() is True
    assert device.sealed == []


def test_order_of_eviction_can_be_changed() -> None:
    device = Device(5)
    device.alloc(4)
    for block in (1, 2, 3):
        device.seal(block)
    device.free([1, 2, 3, 4])
    device.touch(2)
    device.evict(3)
    assert device.free_blocks == [1, 3, 4, 2]
    assert device.sealed == [1, 2]
    assert device.close() == 0


def test_references_that_nobody_holds() -> None:
    device = Device(6)
    device.alloc(2)
    for call, block in (("free", [3]), ("seal", 3), ("share", [6]), ("share", [0]), ("free", [0])):
        with pytest.raises(NotHeld):
            getattr(device, call)(block)
    # The others go all the same.
    with pytest.raises(NotHeld, match="block 4 is held by nobody"):
        device.free([2, 4, 1])
    assert device.counts[1:3] == [0, 0]


def test_sequences_end() -> None:
    device = Device(6, sequences=2)
    device.alloc(1)
    device.alloc(1)
    with pytest.raises(DeviceError, match="more than 2 sequences are needed"):
        device.alloc(1)
    device.free([1])
    assert device.alloc(1) == [3]
    assert device.adapter.most_open == 2


def test_what_is_read() -> None:
    device = Device(5)
    assert device.free_list() == [1, 2, 3, 4]
    device.alloc(4)
    device.seal(2)
    assert device.free_list() == []
    assert device.flags()[1:] == [BlockFlags(1, block == 2) for block in range(1, 5)]
    assert device.flags_of(2) == BlockFlags(1, True)
    device.free([3])
    assert device.free_list() == [3]


@pytest.mark.parametrize(
    ("kind", "index", "lie", "told"),
    [
        (Stat.POOL_BLOCKS, 0, 6, "the pool has 6 blocks instead of 5"),
        (Stat.POOL_USED, 0, 1, "1 blocks of 4 are held, but the free list is [1, 2, 3, 4]"),
        (Stat.POOL_ENDS, 0, 1 | 3 << 16, "does not read the same backwards"),
        (Stat.BLOCK_LINKS, 2, 1 | 1 << 16, "the free list is [1, 2, 1, 2, 1, 2]"),
        (Stat.BLOCK_LINKS, 2, 3, "does not read the same backwards"),
        (Stat.BLOCK_LINKS, 2, 1 << 16, "0 blocks of 4 are held, but the free list is [1, 2]"),
        (Stat.BLOCK_LINKS, 2, 9, "STAT BLOCK_LINKS of 9 ended with status 11"),
    ],
)
def test_a_list_that_is_none_is_noticed(kind, index, lie, told) -> None:
    device = Device(5)

    def answer(opcode, arg0, arg1, status, aux):
        return (status, lie) if (opcode, arg0, arg1) == (Opcode.STAT, kind, index) else (status, aux)

    device.executor.lie = answer
    with pytest.raises(DeviceError) as caught:
        device.free_list()
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("opcode", "lie", "told"),
    [
        (Opcode.OPEN, (Status.SEQ_BUSY, 0), "OPEN ended with SEQ_BUSY"),
        (Opcode.ALLOC, (Status.OK, 1), "ALLOC answered with another number than it must"),
        (Opcode.COMMIT, (200, 0), "COMMIT ended with 200"),
    ],
)
def test_answers_that_cannot_be_are_noticed(opcode, lie, told) -> None:
    device = Device(5)
    device.executor.lie = lambda asked, arg0, arg1, *answer: lie if asked == opcode else tuple(answer)
    with pytest.raises(DeviceError, match=told):
        device.alloc(2)


def test_only_what_never_waits_can_be_finished() -> None:
    class Wait:
        def __await__(self):
            yield

    async def wait() -> None:
        await Wait()

    with pytest.raises(RuntimeError, match="nothing to wait for"):
        finish(wait())
