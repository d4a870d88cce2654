# SPDX-License-Identifier: Apache-2.0
"""A simulated board that runs: a serial port for the host, memory that can be looked into."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import tty
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from ..memory.sdram import part_fields
from ..runner import SimulationError, build_root
from .build import BoardBuild

__all__ = ["BoardSession", "Statistics"]

END_SECONDS = 20.0


@dataclass(frozen=True)
class Statistics:
    """What the harness counted: (cycle, offset, cycles in which memory drove the bus so far) of each write to
    the watched range; and sums at the end, by name."""

    writes: tuple[tuple[int, int, int], ...]
    sums: dict[str, int]


class BoardSession:
    """A board in a process of its own, from power-up on.

    Parameters
    ----------
    build : BoardBuild
        What to run.
    """

    def __init__(self, build: BoardBuild):
        self.build = build
        runs = build_root() / "sim" / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="board-", dir=runs))
        self._keep = False
        size = build.board.sdram.capacity
        path = self.folder / "memory.bin"
        with path.open("wb") as file:
            file.truncate(size)
        self.memory = np.memmap(path, np.uint8, "r+", shape=(size,))
        """Contents of the SDRAM, by address."""
        master, slave = os.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        """Name of the serial port."""
        self._slave = slave
        fields = part_fields(build.board.sdram, build.board.clock_hz)
        values = [v for field in fields.values() for v in (field if isinstance(field, list) else [field])]
        arguments = {
            "part": ",".join(map(str, values)),
            "memory": path,
            "line": master,
            "divisor": build.settings.divisor,
            "pads": build.settings.pads,
            "statistics": self.folder / "statistics.txt",
        }
        with (self.folder / "harness.log").open("w") as log:
            self._process = subprocess.Popen(
                [build.executable, *(f"{name}={value}" for name, value in arguments.items())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[master],
                start_new_session=True,
            )
        os.close(master)

    @property
    def baud(self) -> int:
        """Of the line, as the bridge names it."""
        return self.build.board.clock_hz // self.build.settings.divisor

    def watch(self, low: int, high: int) -> None:
        """Note the cycle of every write to a range of memory from about now on."""
        self._process.stdin.write(f"watch {low} {high}\n".encode())
        self._process.stdin.flush()

    def close(self) -> Statistics:
        """End the simulation.

        Raises
        ------
        SimulationError
            If a rule of the memory was violated, or it ended otherwise before.
        """
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        text = (self.folder / "harness.log").read_text(errors="replace").strip()
        statistics = self._statistics() if status == 0 else Statistics((), {})
        self._clean_up(status == 0)
        if status:
            raise SimulationError(f"the board's simulation ended with status {status}: {text}")
        return statistics

    def _statistics(self) -> Statistics:
        writes, sums = [], {}
        for line in (self.folder / "statistics.txt").read_text().splitlines():
            kind, *values = line.split()
            if kind == "write":
                writes.append(tuple(map(int, values)))
            elif kind == "end":
                sums = dict(zip(values[::2], map(int, values[1::2]), strict=True))
        return Statistics(tuple(writes), sums)

    def _clean_up(self, good: bool) -> None:
        with contextlib.suppress(OSError):
            os.close(self._slave)
        self.memory = None
        if good:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._process.returncode is None:
            # What went wrong first says more than what follows from it, but for a violated rule.
            with contextlib.suppress(*([] if kind is None else [OSError])):
                self.close()
