# SPDX-License-Identifier: Apache-2.0
"""Dividers of the PLL, and phases of its second output."""

import re

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal

from serrano.boards.pll import DETECTOR_HZ, VCO_HZ, Clocking, clock_generator


@pytest.mark.parametrize("wanted", [25e6, 40e6, 45e6, 50e6, 62.5e6, 75e6, 100e6, 133.333333e6])
def test_dividers(wanted: float) -> None:
    found = Clocking.of(25e6, wanted)
    assert found.output_hz == pytest.approx(wanted, abs=1)
    assert VCO_HZ[0] <= found.vco_hz <= VCO_HZ[1]
    assert DETECTOR_HZ[0] <= 25e6 / found.reference <= DETECTOR_HZ[1]


def test_a_frequency_that_cannot_be_had() -> None:
    message = r"^no PLL gives 51\.234 MHz from 25\.000 MHz; the nearest is 50\.000 MHz$"
    with pytest.raises(ValueError, match=message):
        Clocking.of(25e6, 51.234e6)


@pytest.mark.parametrize("lag_ns", [0.0, 2.0, 5.0, 9.9, -2.0, -5.0])
def test_phase(lag_ns: float) -> None:
    found = Clocking.of(25e6, 100e6)
    coarse, fine = found.phase(lag_ns)
    step = 1e9 / found.vco_hz
    assert 0 <= coarse < found.output and 0 <= fine < 8
    lag = (coarse + fine / 8) * step
    assert abs((lag - lag_ns + 5) % 10 - 5) <= step / 16 + 1e-9


def test_instance() -> None:
    m = Module()
    ports = [Signal(name=name) for name in ("i", "clock", "shifted", "locked")]
    m.submodules.pll = clock_generator(Clocking.of(25e6, 100e6), *ports, lag_ns=-2.0)
    text = rtlil.convert(m, ports=ports)
    parameters = dict(re.findall(r"parameter signed \\(\w+) (\d+)", text))
    parameters |= dict(re.findall(r"parameter \\(\w+) (\d+)$", text, re.MULTILINE))
    assert text.count("cell \\EHXPLLL") == 1
    # 6 periods of the oscillator in one of the clock; 8 ns are 4.8 of them.
    wanted = {"CLKOP_DIV": 6, "CLKOS_DIV": 6, "CLKOP_CPHASE": 5, "CLKOS_CPHASE": 9, "CLKOS_FPHASE": 6}
    assert {name: int(parameters[name]) for name in wanted} == wanted
