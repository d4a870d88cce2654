# SPDX-License-Identifier: Apache-2.0
"""Random KV commands reach everything; the invariants notice what is wrong."""

import dataclasses
import random
from collections import Counter

import pytest

from serrano.kvcache import Stat
from serrano_sim.golden.block_manager import BlockManager, Opcode, Sequence, Status
from serrano_sim.kv_commands import (
    BUSY,
    CLOSING,
    SMALL,
    UNKNOWN,
    check_invariants,
    check_view,
    manager,
    random_command,
    snapshot,
    view_of,
    view_of_answers,
)


def played(seed: int, commands: int, blocks: int, seen: Counter | None = None) -> BlockManager:
    """A golden model after random commands; each state on the way keeps the invariants."""
    rng = random.Random(seed)
    golden = manager(SMALL, blocks, 3, 2)
    golden.records = 3
    golden.mover = lambda _: rng.random() < 0.8
    weights = BUSY
    for _ in range(commands):
        if rng.random() < 0.02:
            weights = rng.choice((BUSY, BUSY, BUSY, CLOSING))
        command = random_command(rng, golden, [0, 1, 2], weights)
        before = view_of(golden)
        status, aux = golden.execute(*command)
        after = view_of(golden)
        check_view(after)
        assert all(0 <= value < 1 << 32 for value in command) and 0 <= aux < 1 << 32
        if status not in (Status.OK, Status.BUS_ERROR):
            assert (before, aux) == (after, 0), command
        if seen is not None:
            seen[command[0] if command[0] not in UNKNOWN else 0, status] += 1
    return golden


def test_everything_comes_up() -> None:
    seen: Counter = Counter()
    for seed in range(100):
        played(seed, 200, (4, 5, 8, 12)[seed % 4], seen)
    for kind, place in ((Opcode, 0), (Status, 1)):
        counts = Counter()
        for pair, count in seen.items():
            counts[pair[place]] += count
        # 500 of 200,000 are asked for.
        assert {entry.name: counts[entry] for entry in kind if counts[entry] < 50} == {}
    # Every error of each command.
    expected = {
        Opcode.ALLOC: "ZERO_LEN TABLE_FULL NEVER_FITS NO_SPACE",
        Opcode.APPEND: "TABLE_FULL NO_SPACE BUS_ERROR",
        Opcode.SEAL: "OUT_OF_RANGE NOT_FULL NOT_WRITTEN ALREADY",
        Opcode.SHARE: "TENANT UNALIGNED TABLE_FULL NULL_BLOCK NOT_SEALED STALE_GEN REF_OVERFLOW",
        Opcode.FORK: "BAD_SEQ TENANT SEQ_BUSY REF_OVERFLOW",
        Opcode.TRIM: "BAD_LEN",
        Opcode.SLIDE: "BAD_LEN",
        Opcode.TRANSLATE: "OUT_OF_RANGE NOT_MAPPED",
        Opcode.GATHER: "OUT_OF_RANGE NOT_MAPPED BUS_ERROR",
        Opcode.EVICT: "TENANT NULL_BLOCK IN_USE",
        Opcode.SCRUB: "TENANT NULL_BLOCK IN_USE BUS_ERROR",
        Opcode.RESET_POOL: "OK IN_USE",
        Opcode.STAT: "OUT_OF_RANGE",
    }
    for opcode, names in expected.items():
        assert {name for name in names.split() if not seen[opcode, Status[name]]} == set(), opcode


def test_only_the_commands_that_are_asked_for() -> None:
    rng, golden = random.Random(1), manager(SMALL, 12)
    drawn = {random_command(rng, golden, [0, 1], {Opcode.OPEN: 1, Opcode.STAT: 2})[0] for _ in range(2000)}
    assert drawn == {Opcode.OPEN, Opcode.STAT, *UNKNOWN}
    # States out of the blue, of tests that make their own.
    golden.sequences[1] = Sequence(2, 20, 5, [3, 4])
    assert len({random_command(rng, golden, [1])[0] for _ in range(500)}) > 15


@pytest.mark.parametrize("seed", range(5))
def test_stat_tells_the_whole_state(seed: int) -> None:
    golden = played(seed, 150, 12)
    answers = {}
    for command in snapshot(golden):
        _, seq, _, kind, index = command
        answers[kind, seq if kind >= Stat.SEQUENCE_OWNER.value else 0, index] = golden.execute(*command)
    check_invariants(answers, golden.limit, golden.entries)
    assert view_of_answers(answers, golden.limit, golden.entries) == view_of(golden)


def shared() -> BlockManager:
    """Two sequences of a tenant: one has a sealed block that both hold, and a reservation behind it."""
    golden = manager(SMALL, 8)
    for command in (
        (Opcode.OPEN, 0, 1),
        (Opcode.APPEND, 0, 1, 16),
        (Opcode.COMMIT, 0, 1, 16),
        (Opcode.SEAL, 0, 1, 0),
        (Opcode.OPEN, 1, 1),
        (Opcode.SHARE, 1, 1, 1, 1),
        (Opcode.APPEND, 0, 1, 20),
        (Opcode.COMMIT, 0, 1, 3),
    ):
        assert golden.execute(*command)[0] == Status.OK
    check_view(view_of(golden))
    return golden


@pytest.mark.parametrize(
    ("where", "what", "value"),
    [
        (None, "used", 2),
        (None, "peak", 2),
        (None, "head", 5),
        (None, "tail", 6),
        (1, "references", 1),
        (0, "references", 1),
        (0, "sealed", 1),
        (1, "tenant", 2),
        (1, "written", 15),
        (2, "written", 2),
        (2, "written", 17),
        # A block with reserved slots.
        (2, "sealed", 1),
        (3, "sealed", 1),
        (5, "following", 0),
        (5, "following", 4),
        (5, "previous", 6),
        ("first", "entries", 2),
        ("first", "first", 1),
        ("first", "table", (1, 2, 4)),
        ("first", "table", (1, 0, 3)),
        ("first", "table", (1, 2, 3, 4)),
        ("first", "table", (1, 2, 8)),
        ("first", "length", 33),
        ("first", "reserved", 30),
        ("second", "length", 17),
    ],
)
def test_invariants_notice(where, what: str, value) -> None:
    view = view_of(shared())
    if where is None:
        bad = dataclasses.replace(view, **{what: value})
    elif isinstance(where, int):
        blocks = list(view.blocks)
        blocks[where] = dataclasses.replace(blocks[where], **{what: value})
        bad = dataclasses.replace(view, blocks=tuple(blocks))
    else:
        sequences = list(view.sequences)
        place = ("first", "second").index(where)
        sequences[place] = dataclasses.replace(sequences[place], **{what: value})
        bad = dataclasses.replace(view, sequences=tuple(sequences))
    with pytest.raises(AssertionError):
        check_view(bad)
    (difference,) = bad.differences(view)
    assert what in difference and "instead of" in difference


def test_invariants_notice_a_reservation_in_a_shared_block() -> None:
    golden = shared()
    golden.sequences[2] = Sequence(1, 19, 0, [1, 2])
    golden.states[1].references += 1
    golden.states[2].references += 1
    with pytest.raises(AssertionError):
        check_view(view_of(golden))
    golden.sequences[0].reserved = 0
    check_view(view_of(golden))
