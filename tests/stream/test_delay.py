# SPDX-License-Identifier: Apache-2.0
"""DelayLine against the delay it declares."""

import random
import re

import pytest
from amaranth import *

from serrano.stream.delay import DelayLine
from support.pipelines import run_stretch
from support.streams import STALLS


@pytest.mark.parametrize("latency", [3, 4, 12])
@pytest.mark.parametrize("stall", STALLS)
def test_delay(latency: int, stall: float) -> None:
    values = [random.Random(1).randint(-(1 << 31), (1 << 31) - 1) for _ in range(50)]
    results = run_stretch(DelayLine(signed(32), latency), [{"i": v} for v in values], ["o"], stall)
    assert [r for (r,) in results] == values


def test_refused() -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('Latency must be at least 3, not 2')}$"):
        DelayLine(8, 2)
