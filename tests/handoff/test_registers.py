# SPDX-License-Identifier: Apache-2.0
"""What PeakRDL makes of the register table."""

import re
import subprocess
from pathlib import Path

import pytest

from serrano.config import preset
from serrano.csr.table import REGISTERS
from serrano_sim.handoff import registers
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
    pages = folder / "html"
    assert "Serrano registers" in (pages / "index.html").read_text()
    assert len(list((pages / "content").glob("*.html"))) > len(REGISTERS)
    # They fetch nothing from elsewhere, start nothing, and come with their licences.
    assert not re.search(r"""src=["']?https?:""", (pages / "index.html").read_text())
    assert not [file for file in pages.rglob("*") if "launcher" in str(file.relative_to(pages))]
    assert (pages / "LICENSE").exists() and (pages / "LICENSE-3RD-PARTY").exists()


def test_pages_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<script src="https://cdn.example/another.js"></script>')
    with pytest.raises(ValueError, match=r"index\.html is not as the pinned version of peakrdl-html"):
        registers._keep_to_itself(tmp_path)
