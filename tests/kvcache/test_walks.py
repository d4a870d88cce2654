# SPDX-License-Identifier: Apache-2.0
"""Commands that walk through tables: what they do, and in how many cycles."""

import dataclasses

import pytest

from kvcache.control import Pair, pair_maker
from serrano.config import preset
from serrano.kvcache import Opcode, Status
from serrano_sim.golden.block_manager import Kind
from serrano_sim.kv_commands import SMALL

LONG = dataclasses.replace(preset("tiny"), context_max=1024, blocks_max=160)


@pytest.fixture(params=[False, True], ids=["plain", "registered"])
def make_pair(request):
    return pair_maker(request.param)


async def fill(ctx, pair: Pair, seq: int, tokens: int, tenant: int = 0) -> None:
    """Open a sequence and commit tokens."""
    await pair.do(ctx, Opcode.OPEN, seq, tenant)
    await pair.do(ctx, Opcode.APPEND, seq, tenant, tokens)
    await pair.do(ctx, Opcode.COMMIT, seq, tenant, tokens)


@pytest.mark.parametrize("blocks", [1, 2, 16, 64])
def test_cycles(blocks: int) -> None:
    pair = Pair(LONG, 160)

    async def steps(ctx) -> None:
        async def cycles(*command) -> int:
            status, _, count = await pair.do(ctx, *command)
            assert status == 0
            return count

        await pair.do(ctx, Opcode.OPEN, 0)
        assert await cycles(Opcode.ALLOC, 0, 0, 16 * blocks) == 6 + 2 * blocks
        await pair.do(ctx, Opcode.APPEND, 0, 0, 16 * blocks)
        assert await cycles(Opcode.COMMIT, 0, 0, 16 * blocks) == 6 + 2 * blocks
        await pair.do(ctx, Opcode.OPEN, 1)
        assert await cycles(Opcode.FORK, 0, 0, 1) == 6 + 2 * blocks
        assert await cycles(Opcode.TRIM, 1, 0, 0) == 6 + 2 * blocks
        assert await cycles(Opcode.SLIDE, 0, 0, 16 * blocks) == 6 + 2 * blocks
        assert await cycles(Opcode.FREE, 0) == 6
        await fill(ctx, pair, 2, 16 * blocks)
        assert await cycles(Opcode.FREE, 2) == 6 + 2 * blocks

    pair.run(steps)


@pytest.mark.parametrize("blocks", [1, 16])
def test_cycles_with_registers(blocks: int) -> None:
    """Four times as many, and some more before and after."""
    pair = pair_maker(True)(LONG, 160)

    async def steps(ctx) -> None:
        async def cycles(*command) -> int:
            status, _, count = await pair.do(ctx, *command)
            assert status == 0
            return count

        for _ in range(3):
            plain = 6 + 2 * blocks
            assert await cycles(Opcode.OPEN, 0) <= 4 * 5 + 8
            assert await cycles(Opcode.ALLOC, 0, 0, 16 * blocks) <= 4 * plain + 8
            assert await cycles(Opcode.APPEND, 0, 0, 16 * blocks) <= 4 * (plain + 2) + 12
            assert await cycles(Opcode.COMMIT, 0, 0, 16 * blocks) <= 4 * plain + 8
            assert await cycles(Opcode.FREE, 0) <= 4 * plain + 8
            await ctx.tick()

    pair.run(steps)


def test_append_of_a_step_without_a_copy() -> None:
    """At most 16 cycles for up to 16 tokens, wherever they begin, allocated before or not."""
    pair = Pair(LONG, 160)

    async def steps(ctx) -> None:
        for ahead in (0, 40):
            for position in range(16):
                await pair.do(ctx, Opcode.OPEN, 0)
                if position:
                    await pair.do(ctx, Opcode.APPEND, 0, 0, position)
                if ahead:
                    await pair.do(ctx, Opcode.ALLOC, 0, 0, ahead)
                for tokens in (1, 16):
                    assert (await pair.do(ctx, Opcode.APPEND, 0, 0, tokens))[2] <= 16
                    await pair.do(ctx, Opcode.ABORT, 0)
                    await pair.do(ctx, Opcode.APPEND, 0, 0, position)
                assert (await pair.do(ctx, Opcode.COMMIT, 0, 0, position))[2] <= 16
                await pair.do(ctx, Opcode.FREE, 0)

    pair.run(steps)


def test_copy_on_write(make_pair) -> None:
    """A shared tail is copied as far as it is written; shared blocks behind it are replaced."""
    pair = make_pair(SMALL, 12)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 20)
        await pair.do(ctx, Opcode.ALLOC, 0, 0, 40)
        await pair.do(ctx, Opcode.OPEN, 1)
        await pair.do(ctx, Opcode.FORK, 0, 0, 1)
        await pair.do(ctx, Opcode.APPEND, 1, 0, 30)
        (move,) = pair.asked
        assert (move.kind, move.source, move.destination, move.low, move.high) == (Kind.COPY, 2, 5, 0, 4)
        # The first sequence has its blocks to itself again, the first one apart.
        await pair.do(ctx, Opcode.APPEND, 0, 0, 30)
        assert len(pair.asked) == 1

    pair.run(steps)


def test_a_sealed_block_is_copied_though_nobody_shares_it(make_pair) -> None:
    pair = make_pair(SMALL, 12)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 16)
        await pair.do(ctx, Opcode.SEAL, 0)
        await pair.do(ctx, Opcode.TRIM, 0, 0, 9)
        await pair.do(ctx, Opcode.APPEND, 0, 0, 1)
        assert pair.asked[0].high == 9
        # Where nothing is to be kept there is nothing to copy.
        await pair.do(ctx, Opcode.ABORT, 0)
        await pair.do(ctx, Opcode.TRIM, 0, 0, 0)
        await pair.do(ctx, Opcode.APPEND, 0, 0, 1)
        assert len(pair.asked) == 1

    pair.run(steps)


def test_a_copy_that_fails_leaves_all_but_the_spoilt_block(make_pair) -> None:
    pair = make_pair(SMALL, 6, refuses=lambda move: True)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 10)
        await pair.do(ctx, Opcode.OPEN, 1)
        await pair.do(ctx, Opcode.FORK, 0, 0, 1)
        for _ in range(2):
            status, *_ = await pair.do(ctx, Opcode.APPEND, 1, 0, 3)
            assert status == Status.BUS_ERROR.value

    pair.run(steps)


def test_no_space_counts_what_has_to_be_replaced(make_pair) -> None:
    pair = make_pair(SMALL, 5)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 40)
        await pair.do(ctx, Opcode.OPEN, 1)
        await pair.do(ctx, Opcode.FORK, 0, 0, 1)
        # One block is free: enough for the tail, not for one more behind it.
        assert (await pair.do(ctx, Opcode.APPEND, 1, 0, 9))[0] == Status.NO_SPACE.value
        assert (await pair.do(ctx, Opcode.APPEND, 1, 0, 8))[0] == Status.OK.value

    pair.run(steps)


@pytest.mark.parametrize("place", range(4))
def test_fork_gives_back_what_it_took(place: int, make_pair) -> None:
    """A block that is held as often as can be, anywhere in the table: nothing has changed."""
    pair = make_pair(SMALL, 12, reference_bits=2)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 2, 16)
        _, generation, _ = await pair.do(ctx, Opcode.SEAL, 2)
        # Sequence 0 names block 1 twice; a fourth reference would be too many.
        await pair.do(ctx, Opcode.OPEN, 0)
        for index in range(4):
            if index == place:
                await pair.do(ctx, Opcode.SHARE, 0, 0, 1, generation)
            else:
                await pair.do(ctx, Opcode.APPEND, 0, 0, 16)
                await pair.do(ctx, Opcode.COMMIT, 0, 0, 16)
        await pair.do(ctx, Opcode.SHARE, 0, 0, 1, generation)
        await pair.do(ctx, Opcode.OPEN, 1)
        assert (await pair.do(ctx, Opcode.FORK, 0, 0, 1))[0] == Status.REF_OVERFLOW.value
        await pair.do(ctx, Opcode.TRIM, 0, 0, 64)
        assert (await pair.do(ctx, Opcode.FORK, 0, 0, 1))[0] == Status.OK.value

    pair.run(steps)


def test_slide_and_trim_meet(make_pair) -> None:
    pair = make_pair(SMALL, 12)

    async def steps(ctx) -> None:
        await fill(ctx, pair, 0, 70)
        await pair.do(ctx, Opcode.SLIDE, 0, 0, 40)
        await pair.do(ctx, Opcode.SLIDE, 0, 0, 20)
        assert (await pair.do(ctx, Opcode.TRIM, 0, 0, 31))[0] == Status.BAD_LEN.value
        await pair.do(ctx, Opcode.OPEN, 1)
        await pair.do(ctx, Opcode.FORK, 0, 0, 1)
        await pair.do(ctx, Opcode.TRIM, 0, 0, 32)
        assert (await pair.do(ctx, Opcode.SLIDE, 0, 0, 33))[0] == Status.BAD_LEN.value
        assert (await pair.do(ctx, Opcode.FREE, 1))[1] == 3

    pair.run(steps)
