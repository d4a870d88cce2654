# SPDX-License-Identifier: Apache-2.0
"""The register description: SystemRDL from the register table, and what PeakRDL makes of it."""

import re
import shutil
from importlib import metadata
from pathlib import Path

from peakrdl_cheader.exporter import CHeaderExporter
from peakrdl_html import HTMLExporter
from systemrdl import RDLCompiler

from serrano.config import AcceleratorConfig
from serrano.csr.document import c_header
from serrano.csr.registers import constants
from serrano.csr.systemrdl import system_rdl

__all__ = ["write_registers"]

MATHJAX = re.compile(
    r"<script async src=\"https://[^\"]*/MathJax\.js\"></script>\s*<script .*?</script>", re.DOTALL
)
"""What fetches the setter of formulas from another host. There are no formulas."""

NO_FORMULAS = "<script>var MathJax = {Hub: {Queue: function () {}}};</script>"


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
    pages = folder / "html"
    # A fixed stamp: the same table gives the same pages.
    HTMLExporter(user_context={"build_ts": 0}).export(root, str(pages), title="Serrano registers")
    _keep_to_itself(pages)


def _keep_to_itself(pages: Path) -> None:
    """Makes PeakRDL's pages need no other host, takes out what starts browsers with less security, and adds
    the licences."""
    index = pages / "index.html"
    text, taken = MATHJAX.subn(NO_FORMULAS, index.read_text(encoding="utf-8"))
    if taken != 1 or "https://cdn" in text:
        raise ValueError(f"{index} is not as the pinned version of peakrdl-html writes it")
    index.write_text(text, encoding="utf-8", newline="\n")
    for launcher in pages.glob("launcher-*"):
        launcher.unlink()
    shutil.rmtree(pages / ".launcher_data", ignore_errors=True)
    files = metadata.files("peakrdl-html") or []
    licences = [file for file in files if file.name.upper().startswith("LICENSE")]
    if not licences:
        raise ValueError("the installed peakrdl-html has no licence")
    for file in licences:
        shutil.copyfile(file.locate(), pages / file.name)
