# SPDX-License-Identifier: Apache-2.0
"""DelayLine, and what waits in one, against the delay declared."""

import random
import re

import pytest
from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.delay import DelayLine, waited
from support.pipelines import run_stretch
from support.streams import STALLS


@pytest.mark.parametrize("latency", [3, 4, 12])
@pytest.mark.parametrize("stall", STALLS)
def test_delay(latency: int, stall: float) -> None:
    values = [random.Random(1).randint(-(1 << 31), (1 << 31) - 1) for _ in range(50)]
    results = run_stretch(DelayLine(signed(32), latency), [{"i": v} for v in values], ["o"], stall)
    assert [r for (r,) in results] == values


class Waiting(wiring.Component):
    def __init__(self, latency: int):
        self.latency = latency
        shape = data.StructLayout({"low": 7, "high": signed(12)})
        super().__init__({"enable": In(1), "i": In(shape), "o": Out(shape)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.o.eq(waited(m, self.i, self.latency, enable=self.enable, name="i"))
        return m


@pytest.mark.parametrize("latency", [3, 17, 18, 25])
@pytest.mark.parametrize("stall", STALLS)
def test_waited(latency: int, stall: float) -> None:
    rng = random.Random(2)
    values = [{"low": rng.randrange(128), "high": rng.randint(-2048, 2047)} for _ in range(60)]
    results = run_stretch(Waiting(latency), [{"i": v} for v in values], ["o"], stall)
    assert [{"low": r.low, "high": r.high} for (r,) in results] == values


def test_refused() -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('Latency must be at least 3, not 2')}$"):
        DelayLine(8, 2)
