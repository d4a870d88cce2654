# SPDX-License-Identifier: Apache-2.0
"""Blocks by other names."""

import random

from serrano_sim.conformance.names import NewNames, SameNames


def test_the_same_names() -> None:
    names = SameNames()
    assert names.block(5) == names.name(5) == 5


def test_names_come_with_allocation() -> None:
    names = NewNames()
    assert names.block(5) is names.name(5) is None
    names.bind([5, 6], [1, 2])
    assert [names.block(name) for name in (5, 6, 1)] == [1, 2, None]
    assert [names.name(block) for block in (1, 2, 5)] == [5, 6, None]


def test_what_loses_its_partner_gets_together() -> None:
    names = NewNames()
    names.bind([5, 6], [1, 2])
    names.bind([5], [2])
    assert (names.block(5), names.block(6), names.name(1), names.name(2)) == (2, 1, 6, 5)
    # Nobody is left for the other side.
    names.bind([7], [2])
    assert (names.block(7), names.block(5)) == (2, None)
    names.bind([6], [3])
    assert (names.block(6), names.name(1)) == (3, None)


def test_it_stays_a_bijection() -> None:
    for seed in range(50):
        rng = random.Random(f"names {seed}")
        names = NewNames()
        for _ in range(60):
            size = rng.randint(1, 4)
            given, blocks = rng.sample(range(1, 10), size), rng.sample(range(11, 20), size)
            names.bind(given, blocks)
            assert [names.block(name) for name in given] == blocks
            for name in range(1, 10):
                block = names.block(name)
                assert block is None or names.name(block) == name
            for block in range(11, 20):
                name = names.name(block)
                assert name is None or names.block(name) == block
