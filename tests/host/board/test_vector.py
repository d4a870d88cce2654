# SPDX-License-Identifier: Apache-2.0
"""The self-test's model and its known answer."""

import pytest

from serrano_host.board.vector import EXPECTED, PROMPT, make_tape
from serrano_sim.golden.tape import load_model
from serrano_sim.top.layout import Request
from serrano_sim.top.prefix import golden_tokens


@pytest.mark.parametrize(("n", "align"), [(4, 32), (8, 32), (16, 32), (32, 64)])
def test_expected(n, align):
    model = load_model(make_tape(n, align))
    assert tuple(golden_tokens(model, n, Request(PROMPT, len(EXPECTED)))) == EXPECTED
    assert len(set(EXPECTED)) > 10
