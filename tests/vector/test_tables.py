# SPDX-License-Identifier: Apache-2.0
"""The tables are those of the golden model, and so is every interpolated value that was tried."""

import random
import re

import pytest

from serrano.vector import tables
from serrano.vector.tables import Exp2, Interpolator, Recip, Rsqrt
from serrano_sim.golden import tables as golden
from support.pipelines import run_stretch
from support.streams import STALLS


@pytest.mark.parametrize("name", ["RECIP_TABLE", "RSQRT_TABLE", "EXP2_TABLE"])
def test_entries(name: str) -> None:
    assert getattr(tables, name) == getattr(golden, name)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("block", "low", "high", "function"),
    [(Recip, 1 << 15, 1 << 16, golden.recip), (Rsqrt, 1 << 16, 1 << 18, golden.rsqrt)],
)
def test_falling(block: type, low: int, high: int, function, stall: float, registered: bool) -> None:
    rng = random.Random(1)
    ends = [low, low + 1, low + 127, low + 128, high - 129, high - 128, high - 1, high]
    operands = ends + [rng.randint(low, high) for _ in range(400)]
    results = run_stretch(block(registered=registered), [{"operand": x} for x in operands], ["result"], stall)
    assert [r for (r,) in results] == function(operands).tolist()


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_exp2(stall: float, registered: bool) -> None:
    rng = random.Random(2)
    operands = [0, -1, 1, 4095, 4096, -4096, -4097, (1 << 31) - 1, -(1 << 31)]
    operands += [rng.randint(-(1 << rng.randint(1, 31)), (1 << rng.randint(1, 31)) - 1) for _ in range(400)]
    results = run_stretch(
        Exp2(registered=registered), [{"operand": z} for z in operands], ["mantissa", "exponent"], stall
    )
    mantissa, exponent = golden.exp2(operands)
    assert results == list(zip(mantissa.tolist(), exponent.tolist(), strict=True))


def test_refused() -> None:
    message = "A table must have two entries and rise or fall throughout, not [1, 2, 1]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Interpolator([1, 2, 1], 4)
