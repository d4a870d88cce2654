# SPDX-License-Identifier: Apache-2.0
"""The page on proofs says what the proofs' data says."""

from pathlib import Path

import pytest

from serrano_sim.formal import limits, page
from serrano_sim.formal.properties import PROOFS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formal.md").read_text()


@pytest.mark.parametrize("rows", [page.proof_rows, page.invariant_rows, page.property_rows])
def test_page_is_up_to_date(rows):
    for row in rows(PROOFS):
        assert f"\n{row}\n" in PAGE, row


def test_every_invariant_has_a_property():
    spoken_of = {
        number
        for proof in PROOFS
        for statement in proof.checks.values()
        for number in page.numbers(statement)
    }
    assert spoken_of == set(page.INVARIANTS)


def test_numbers():
    assert page.numbers("4, 7: moves") == [4, 7]
    assert page.numbers("1 to 3, 7: all") == [1, 2, 3, 7]
    assert page.numbers("every status") == []
    assert page.numbers("what: else") == []


def test_every_command_has_a_limit():
    (command,) = [proof for proof in PROOFS if proof.name == "command"]
    assert {case: limit + 2 for case, limit in limits.LIMITS.items()} == dict(command.cases)
