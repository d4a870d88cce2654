# SPDX-License-Identifier: Apache-2.0
"""Commands on one block, on the pool, and on bytes: what they do, and in how many cycles."""

import pytest

from kvcache.control import Pair, pair_maker
from serrano.kvcache import Opcode, Stat, Status
from serrano_sim.golden.block_manager import Kind, Move
from serrano_sim.kv_commands import SMALL


@pytest.fixture(params=[False, True], ids=["plain", "registered"])
def make_pair(request):
    return pair_maker(request.param)


async def fill(ctx, pair: Pair, seq: int, tokens: int, tenant: int = 0) -> None:
    """Open a sequence and commit tokens."""
    await pair.do(ctx, Opcode.OPEN, seq, tenant)
    await pair.do(ctx, Opcode.APPEND, seq, tenant, tokens)
    await pair.do(ctx, Opcode.COMMIT, seq, tenant, tokens)


def test_cycles() -> None:
    pair = Pair(SMALL, 12)

    async def steps(ctx) -> None:
        async def cycles(*command) -> int:
            status, _, count = await pair.do(ctx, *command)
            assert status == 0
            return count

        assert await cycles(Opcode.OPEN, 0) == 5
        await pair.do(ctx, Opcode.APPEND, 0, 0, 17)
        await pair.do(ctx, Opcode.COMMIT, 0, 0, 16)
        assert await cycles(Opcode.ABORT, 0) == 5
        assert await cycles(Opcode.TRANSLATE, 0, 0, 15) == 5
        assert await cycles(Opcode.SEAL, 0) == 7
        await pair.do(ctx, Opcode.OPEN, 1)
        assert await cycles(Opcode.SHARE, 1, 0, 1, pair.golden.states[1].generation) == 8
        assert await cycles(Opcode.EVICT, 0, 0, 3) == 7
        for kind in Stat:
            assert await cycles(Opcode.STAT, 0, 0, kind.value, 0) == 6
        for opcode in (Opcode.SHARE, Opcode.OPEN, Opcode.ALLOC, Opcode.ABORT):
            assert (await pair.do(ctx, opcode, 0))[2] == 5

    pair.run(steps)


@pytest.mark.parametrize("place", ["front", "middle", "end", "alone"])
def test_a_free_block_comes_back_from_anywhere_in_the_list(place: str, make_pair) -> None:
    pair = make_pair(SMALL, 4)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 48)
        generations = [(await pair.do(ctx, Opcode.SEAL, 0, 0, index))[1] for index in range(3)]
        await pair.do(ctx, Opcode.FREE, 0)
        # The list is 3, 2, 1.
        await pair.do(ctx, Opcode.OPEN, 1)
        order = {"front": [3], "middle": [2], "end": [1], "alone": [3, 2, 1]}[place]
        for block in order:
            assert (await pair.do(ctx, Opcode.SHARE, 1, 0, block, generations[block - 1]))[0] == 0
        if place == "alone":
            await pair.do(ctx, Opcode.OPEN, 2)
            assert (await pair.do(ctx, Opcode.ALLOC, 2, 0, 1))[0] == Status.NO_SPACE.value
        await pair.do(ctx, Opcode.FREE, 1)
        await fill(ctx, pair, 0, 40)

    pair.run(steps)


def test_what_was_forgotten_cannot_be_shared(make_pair) -> None:
    pair = make_pair(SMALL, 8)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 48, 5)
        generations = [(await pair.do(ctx, Opcode.SEAL, 0, 5, index))[1] for index in range(3)]
        assert (await pair.do(ctx, Opcode.EVICT, 0, 5, 1))[0] == Status.IN_USE.value
        assert (await pair.do(ctx, Opcode.RESET_POOL))[0] == Status.IN_USE.value
        await pair.do(ctx, Opcode.FREE, 0, 5)
        assert (await pair.do(ctx, Opcode.EVICT, 0, 4, 1))[0] == Status.TENANT.value
        await pair.do(ctx, Opcode.EVICT, 0, 5, 1)
        await pair.do(ctx, Opcode.SCRUB, 0, 5, 2)
        assert pair.asked == [Move(Kind.SCRUB, destination=2)]
        await pair.do(ctx, Opcode.OPEN, 1, 5)
        await pair.do(ctx, Opcode.OPEN, 2, 4)
        for block, status in ((1, Status.NOT_SEALED), (2, Status.NOT_SEALED), (8, Status.NULL_BLOCK)):
            generation = generations[block - 1] if block < 4 else 0
            assert (await pair.do(ctx, Opcode.SHARE, 1, 5, block, generation))[0] == status.value
        assert (await pair.do(ctx, Opcode.SHARE, 2, 4, 3, generations[2]))[0] == Status.TENANT.value
        assert (await pair.do(ctx, Opcode.SHARE, 1, 5, 3, generations[2] + 1))[0] == Status.STALE_GEN.value
        await pair.do(ctx, Opcode.RESET_POOL)
        assert (await pair.do(ctx, Opcode.SHARE, 1, 5, 3, generations[2]))[0] == Status.NOT_SEALED.value

    pair.run(steps)


@pytest.mark.parametrize("blocks", [1, 2, 12])
def test_reset_of_pools_of_any_size(blocks: int, make_pair) -> None:
    pair = make_pair(SMALL, blocks)

    async def steps(ctx) -> None:
        for _ in range(2):
            assert (await pair.do(ctx, Opcode.RESET_POOL))[0] == Status.OK.value

    pair.run(steps)


def test_gather_moves_the_records_of_a_range(make_pair) -> None:
    pair = make_pair(SMALL, 12, records=6)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 70)
        assert (await pair.do(ctx, Opcode.GATHER, 0, 0, 18, 5 << 16 | 40))[1] == 3
        assert [(m.source, m.low, m.high, m.index) for m in pair.asked] == [
            (2, 2, 16, 0),
            (3, 0, 16, 1),
            (4, 0, 10, 2),
        ]
        await pair.do(ctx, Opcode.GATHER, 0, 0, 3, 2)
        assert (pair.asked[-1].low, pair.asked[-1].high) == (3, 5)
        for first, argument, status in (
            (0, 6 << 16 | 1, Status.OUT_OF_RANGE),
            (60, 11, Status.OUT_OF_RANGE),
            (70, 0, Status.OK),
        ):
            assert (await pair.do(ctx, Opcode.GATHER, 0, 0, first, argument))[0] == status.value
        await pair.do(ctx, Opcode.SLIDE, 0, 0, 32)
        assert (await pair.do(ctx, Opcode.GATHER, 0, 0, 31, 2))[0] == Status.NOT_MAPPED.value

    pair.run(steps)


def test_errors_of_the_memory_are_reported(make_pair) -> None:
    pair = make_pair(SMALL, 12, refuses=lambda move: move.kind is Kind.SCRUB or move.index == 1)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 70)
        assert (await pair.do(ctx, Opcode.GATHER, 0, 0, 0, 16))[0] == Status.OK.value
        assert (await pair.do(ctx, Opcode.GATHER, 0, 0, 0, 70))[0] == Status.BUS_ERROR.value
        assert (await pair.do(ctx, Opcode.SCRUB, 0, 0, 9))[0] == Status.BUS_ERROR.value

    pair.run(steps)
