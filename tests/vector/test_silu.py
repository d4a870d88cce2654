# SPDX-License-Identifier: Apache-2.0
"""SiLU times up against the golden model."""

import random

import pytest

from serrano.vector.silu import SiluUp
from serrano_sim.golden.silu import silu_up
from support.pipelines import run_stretch
from support.streams import STALLS
from support.vectors import INT32_MAX, INT32_MIN, q16


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_silu_up(stall: float, registered: bool) -> None:
    rng = random.Random(1)
    limits = [INT32_MIN, INT32_MAX, -1, 0, 1, 1 << 16, -(1 << 16)]
    gates = [g for g in limits for _ in limits] + q16(rng, 150)
    # The range in which the sigmoid moves.
    gates += [rng.randint(-(16 << 16), 16 << 16) for _ in range(250)]
    ups = [u for _ in limits for u in limits] + q16(rng, 400)
    operands = [{"gate": g, "up": u} for g, u in zip(gates, ups, strict=True)]
    results = run_stretch(SiluUp(registered=registered), operands, ["result"], stall)
    assert [r for (r,) in results] == silu_up(gates, ups).tolist()
