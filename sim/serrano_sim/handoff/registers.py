# SPDX-License-Identifier: Apache-2.0
"""The register description: SystemRDL from the register table, and what PeakRDL makes of it."""

from pathlib import Path

from peakrdl_cheader.exporter import CHeaderExporter
from peakrdl_html import HTMLExporter
from systemrdl import RDLCompiler

from serrano.config import AcceleratorConfig
from serrano.csr.document import c_header
from serrano.csr.registers import constants
from serrano.csr.systemrdl import system_rdl

__all__ = ["write_registers"]


def write_registers(config: AcceleratorConfig, folder: Path) -> None:
    """Writes the description of an accelerator's registers into a folder.

    ``serrano.rdl`` is the source; from it PeakRDL makes ``html``, and ``serrano.h``, a struct to lay over the
    registers. ``serrano_registers.h`` has offsets, masks and fault codes as macros.
    """
    folder.mkdir(parents=True)
    source = folder / "serrano.rdl"
    source.write_text(system_rdl(constants(config)), encoding="utf-8", newline="\n")
    (folder / "serrano_registers.h").write_text(c_header(), encoding="utf-8", newline="\n")
    compiler = RDLCompiler()
    compiler.compile_file(str(source))
    root = compiler.elaborate()
    CHeaderExporter().export(root, str(folder / "serrano.h"))
    # A fixed stamp: the same table gives the same pages.
    HTMLExporter(user_context={"build_ts": 0}).export(root, str(folder / "html"), title="Serrano registers")
