# SPDX-License-Identifier: Apache-2.0
"""The shell on a board's pins: every pin is the platform's, and the constraints in the tree are these."""

import dataclasses
import re
from pathlib import Path

import pytest

from serrano.boards import BOARDS, board
from serrano.boards.shell import IO_LATENCY, Shell, platform_of

CONSTRAINTS = Path(__file__).parents[2] / "constraints"


@pytest.fixture(scope="module", params=list(BOARDS))
def plan(request):
    described = board(request.param)
    return described, platform_of(described).build(Shell(described), name="top", do_build=False)


def text_of(plan, name: str) -> str:
    content = plan.files[name]
    return content if isinstance(content, str) else content.decode()


def test_constraints_are_those_of_the_platform(plan) -> None:
    """Pins, standards and the clock: the file in the tree is what synthesis uses."""
    described, files = plan
    kept = (CONSTRAINTS / f"{described.name}.lpf").read_text(encoding="utf-8").splitlines()
    made = text_of(files, "top.lpf").splitlines()
    assert kept[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert [line for line in kept if not line.startswith("#")] == [
        line.strip() for line in made if line.strip() and not line.startswith("#")
    ]


def test_every_pin_of_the_memory_has_its_place_and_a_register(plan) -> None:
    described, files = plan
    constraints, rtlil = text_of(files, "top.lpf"), text_of(files, "top.il")
    part = described.sdram
    bits = {"dq": part.data_bits, "a": part.row_bits, "ba": part.bank_bits, "dqm": part.data_bits // 8}
    for name, width in bits.items():
        found = re.findall(rf'LOCATE COMP "sdram_0__{name}__io\[\d+\]" SITE "(\w+)"', constraints)
        assert len(set(found)) == len(found) == width
    assert rtlil.count("cell \\IFS1P3DX") == part.data_bits
    # Address, bank, mask, data, its enables, and six strobes.
    outputs = 2 * part.data_bits + part.row_bits + part.bank_bits + part.data_bits // 8 + 5
    assert rtlil.count("cell \\OFS1P3DX") >= outputs
    assert IO_LATENCY == 2


def test_the_clock_follows_from_the_pin(plan) -> None:
    """The pin is constrained, the PLL says what it makes of it, and no net is named that there may not be."""
    described, files = plan
    constraints, rtlil = text_of(files, "top.lpf"), text_of(files, "top.il")
    platform = platform_of(described)
    pin = f'FREQUENCY PORT "{platform.default_clk}_0__io" {platform.default_clk_frequency} HZ'
    assert pin in constraints and "FREQUENCY NET" not in constraints
    attributes = dict(re.findall(r'attribute \\FREQUENCY_PIN_(\w+) "([\d.]+)"', rtlil))
    made = f"{described.clock_hz / 1e6:.6f}"
    given = f"{platform.default_clk_frequency / 1e6:.6f}"
    assert attributes == {"CLKI": given, "CLKOP": made, "CLKOS": made}


def test_dsp_blocks_take_the_array(plan) -> None:
    _, files = plan
    assert text_of(files, "top.il").count("cell \\MULT18X18D") >= 16
    assert "cell \\EHXPLLL" in text_of(files, "top.il")


def test_a_platform_that_is_missing() -> None:
    described = dataclasses.replace(board("ulx3s_85f"), platform="amaranth_boards.ulx3s:Nothing")
    with pytest.raises(ValueError, match=r"^the platform 'amaranth_boards\.ulx3s:Nothing' of board"):
        platform_of(described)


COLORLIGHT = "amaranth_boards.colorlight_5a75b_r7_0:Colorlight_5A75B_R70Platform"
"""An ECP5 with an SDRAM of 32 bits, 11 of the address, one of the bank, and no masks."""


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ("amaranth_boards.de10_lite:DE10LitePlatform", r"is for 10M50DA; clocks and multipliers"),
        ("amaranth_boards.machxo3_sk:MachXO3LSKPlatform", r"is for LCMXO3L-6900C; clocks and multipliers"),
        ("amaranth_boards.versa_ecp5:VersaECP5Platform", r"takes 1 of sdram\.clk, and its platform .* has 0"),
        (COLORLIGHT, r"takes 16 of sdram\.dq, and its platform .* has 32"),
    ],
)
def test_a_platform_for_something_else(platform: str, message: str) -> None:
    described = dataclasses.replace(board("ulx3s_85f"), platform=platform)
    with pytest.raises(ValueError, match=message):
        platform_of(described)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bank_bits": 2, "row_bits": 11}, r"takes 2 of sdram\.ba, and its platform .* has 1"),
        ({"bank_bits": 1, "row_bits": 13}, r"takes 13 of sdram\.a, and its platform .* has 11"),
        ({"bank_bits": 1, "row_bits": 11}, r"takes 4 of sdram\.dqm, and its platform .* has 0"),
    ],
)
def test_pins_that_the_platform_lacks(change: dict, message: str) -> None:
    found = board("ulx3s_85f")
    part = dataclasses.replace(found.sdram, data_bits=32, **change)
    with pytest.raises(ValueError, match=message):
        platform_of(dataclasses.replace(found, platform=COLORLIGHT, sdram=part))
