# SPDX-License-Identifier: Apache-2.0
"""DRAM parts in cycles of a clock; bench_memory.py shows what the model makes of them."""

import dataclasses

import pytest

from serrano.config import preset
from serrano_sim.memory.dram import PARTS, settings_of


def test_times_in_cycles():
    settings = settings_of("ddr3-1600")
    # 5 ns per cycle: 13.75 ns are three, 35 ns are seven.
    assert (settings["dram_rcd"], settings["dram_rp"], settings["dram_ras"]) == (3, 3, 7)
    assert (settings["dram_rfc"], settings["dram_refresh_interval"]) == (32, 1560)
    faster = dataclasses.replace(PARTS["ddr3-1600"], clock_mhz=400)
    assert settings_of(faster)["dram_rcd"] == 6
    assert settings_of("") == {"dram_banks": 0}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_peak_is_that_of_the_base_preset(part):
    assert abs(part.bytes_per_cycle / preset("base").port_bytes - 1) <= 0.1


def test_bad_parts_are_refused():
    with pytest.raises(ValueError, match="must be one of ddr3-1600, not 'sdram'"):
        settings_of("sdram")
    with pytest.raises(ValueError, match="banks of a DRAM must be a power of two, not 6"):
        settings_of(dataclasses.replace(PARTS["ddr3-1600"], banks=6))
