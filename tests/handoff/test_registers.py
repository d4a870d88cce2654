# SPDX-License-Identifier: Apache-2.0
"""What PeakRDL makes of the register table."""

import subprocess
from pathlib import Path

from serrano.config import preset
from serrano.csr.table import REGISTERS
from serrano_sim.handoff.registers import write_registers


def test_header_and_pages(tmp_path: Path) -> None:
    """The struct has each register at its offset, and the macros agree."""
    folder = tmp_path / "registers"
    write_registers(preset("tiny"), folder)
    checks = "\n".join(
        f"static_assert(offsetof(serrano_t, {entry.name}) == SERRANO_{entry.name});" for entry in REGISTERS
    )
    (tmp_path / "check.cpp").write_text(
        "#include <cstddef>\n"
        '#include "registers/serrano.h"\n'
        '#include "registers/serrano_registers.h"\n'
        f"{checks}\n"
        "static_assert(SERRANO__GEOMETRY__N_reset == 4);\n"
    )
    subprocess.run(["g++", "-std=c++17", "-Werror", "-fsyntax-only", tmp_path / "check.cpp"], check=True)
    assert "Serrano registers" in (folder / "html" / "index.html").read_text()
    assert len(list((folder / "html" / "content").glob("*.html"))) > len(REGISTERS)
