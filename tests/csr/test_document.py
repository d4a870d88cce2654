# SPDX-License-Identifier: Apache-2.0
"""The register page and the driver's constants are up to date, and the C header compiles."""

import subprocess
from pathlib import Path

from serrano.csr.document import c_header, main, markdown, python_module
from serrano.csr.table import COUNTERS, REGISTERS
from serrano.faults import FaultCode
from serrano_host.driver import registers

ROOT = Path(__file__).parents[2]


def test_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "registers.md").read_text()
    assert page == markdown(), "run: python -m serrano.csr.document markdown > docs/registers.md"


def test_driver_module_is_up_to_date() -> None:
    command = "python -m serrano.csr.document python > host/serrano_host/driver/registers.py"
    text = (ROOT / "host" / "serrano_host" / "driver" / "registers.py").read_text()
    assert text == python_module(), f"run: {command}"


def test_driver_module_says_what_the_table_says() -> None:
    assert {entry.name: entry.value for entry in registers.Register} == {r.name: r.offset for r in REGISTERS}
    assert registers.KV_COMMAND_TENANT == 0xFF00_0000
    assert tuple(name for name, _ in COUNTERS) == registers.COUNTERS
    assert {c.name: c.value for c in registers.FaultCode} == {c.name: c.value for c in FaultCode}
    assert set(registers.FAULT_TEXTS) == set(registers.FaultCode)


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
