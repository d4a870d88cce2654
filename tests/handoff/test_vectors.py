# SPDX-License-Identifier: Apache-2.0
"""The vectors show something, and are the same every time."""

import pytest

from serrano.config import PRESETS
from serrano.faults import FaultCode
from serrano_sim.handoff.vectors import make_vectors


@pytest.mark.parametrize("name", PRESETS)
def test_requests_of_each_kind(name: str) -> None:
    vectors = make_vectors(PRESETS[name])
    of = {number: [record for record in vectors.records if record.id == number] for number in range(3)}
    assert len({record.token for record in of[0]}) == 3 and of[0][-1].ended
    # Fewer than the three that were wanted: it ended itself.
    assert len({record.token for record in of[1]}) == 2 and of[1][-1].ended
    assert [record.status for record in of[2]] == [FaultCode.REQUEST_TOKEN.value]


def test_files() -> None:
    config = PRESETS["tiny"]
    vectors = make_vectors(config)
    assert vectors == make_vectors(config)
    words = vectors.files["memory.hex"].splitlines()
    assert {len(word) for word in words} == {2 * config.port_bytes}
    assert f"localparam MEMORY_WORDS = {len(words)};" in vectors.files["vectors.vh"]
    assert vectors.files["starts.hex"].split() == ["00000000", "00000003", "00000005", "00000006"]
    assert len(vectors.files["expected.hex"].splitlines()) == len(vectors.records) == 6
    # The first constant register is the identity, as docs/registers.md has it.
    assert vectors.files["identity.hex"].splitlines()[0] == "0000_4f4e5253"
