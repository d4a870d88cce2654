# SPDX-License-Identifier: Apache-2.0
"""The register page is up to date, and the C header compiles."""

import subprocess
from pathlib import Path

from serrano.csr.document import c_header, main, markdown
from serrano.csr.table import REGISTERS

ROOT = Path(__file__).parents[2]


def test_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "registers.md").read_text()
    assert page == markdown(), "run: python -m serrano.csr.document markdown > docs/registers.md"


def test_header_compiles_and_has_the_offsets(tmp_path: Path) -> None:
    (tmp_path / "registers.h").write_text(c_header())
    checks = "\n".join(f"static_assert(SERRANO_{entry.name} == {entry.offset}u);" for entry in REGISTERS)
    (tmp_path / "check.cpp").write_text(f'#include "registers.h"\n{checks}\nint main() {{ return 0; }}\n')
    subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Werror", "-fsyntax-only", tmp_path / "check.cpp"], check=True
    )


def test_usage(capsys) -> None:
    assert main(["pdf"]) == 2
    assert "usage:" in capsys.readouterr().err
