# SPDX-License-Identifier: Apache-2.0
"""A live simulation as the driver's transport.

Memory is a file that host and simulation share, so its transfers take neither simulated nor much real time.
Registers, and waiting, go to the simulation's process.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from serrano.config import AcceleratorConfig, preset
from serrano_host.driver.rings import memory_needed
from serrano_host.driver.transport import Transport
from serrano_host.errors import TransportError
from serrano_host.tape import Descriptor

from .. import runner
from ..memory.dram import PARTS
from ..memory.handle import AxiMemory
from ..top.design import Design, top_design
from ..top.job import MEMORY
from ..top.trace import Recording
from . import process
from .logits import sampled_rows
from .server import SOCKET_FILE

__all__ = ["Settings", "SimulationTransport", "open_transport"]

STALL = 0.1
LATENCY_MAX = 100_000
START_SECONDS = 120.0
END_SECONDS = 20.0


def _say_nothing(text: str) -> None:
    """No progress is shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How the memory behaves, and what is kept.

    Parameters
    ----------
    latency : int
        Cycles from a request of memory to its answer.
    seed : int, optional
        Random stalls on all channels of memory, from this seed.
    dram : str
        A part of :data:`serrano_sim.memory.dram.PARTS`; empty for a memory without rows.
    waves : bool
        Whether waveforms are written; keeps the run's folder.
    keep : bool
        Whether the run's folder is kept.

    Raises
    ------
    TransportError
        If a value is out of range.
    """

    latency: int = 60
    seed: int | None = None
    dram: str = ""
    waves: bool = False
    keep: bool = False

    def __post_init__(self):
        if not 1 <= self.latency <= LATENCY_MAX:
            raise TransportError(f"latency must be from 1 to {LATENCY_MAX} cycles, not {self.latency}")
        if self.dram and self.dram not in PARTS:
            raise TransportError(f"dram must be one of {', '.join(PARTS)}, not {self.dram!r}")

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> "Settings":
        """From texts, as a command line has them."""
        values: dict[str, object] = {}
        for name, text in texts.items():
            try:
                if name in ("latency", "seed"):
                    values[name] = int(text)
                elif name in ("waves", "keep"):
                    values[name] = {"0": False, "1": True}[text]
                elif name == "dram":
                    values[name] = text
                else:
                    known = ", ".join(field.name for field in dataclasses.fields(cls))
                    raise TransportError(f"the simulation has no option {name!r}; it has {known}")
            except (ValueError, KeyError):
                kind = "0 or 1" if name in ("waves", "keep") else "an integer"
                raise TransportError(f"option {name} must be {kind}, not {text!r}") from None
        return cls(**values)


class SimulationTransport(Transport):
    """An accelerator in simulation, from reset on, in a process of its own.

    Simulated time passes only while the host accesses registers or waits.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    memory_bytes : int
        Size of its memory, rounded up to whole pages. What is not written takes no room.
    settings : Settings
        How the memory behaves.
    design : :class:`~serrano_sim.top.design.Design`
        The Verilog, if it is not to be that of ``config``.
    progress : callable
        Gets a text when something begins that may take minutes.

    Raises
    ------
    TransportError
        If the simulation cannot be built or does not start.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        memory_bytes: int,
        settings: Settings | None = None,
        *,
        design: Design | None = None,
        progress: Callable[[str], None] = _say_nothing,
    ):
        self.config, self.settings = config, settings or Settings()
        self.memory_bytes = -(-memory_bytes // 4096) * 4096
        self.ended = ""
        runs = runner.build_root() / "sim" / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"live-{config.name}-", dir=runs))
        self._sockets = Path(tempfile.mkdtemp(prefix="serrano-"))
        self._process: subprocess.Popen | None = None
        self._connection: socket.socket | None = None
        self._keep = self.settings.keep or self.settings.waves
        try:
            self._memory = self._lay_out()
            progress("generating the Verilog")
            found = design or top_design(config)
            progress("building the simulation (a few minutes the first time)")
            waves = self.settings.waves
            process.run(found, self.folder, config.name, build_only=True, waves=waves)
            progress("starting the simulation")
            self._start(found)
        except runner.SimulationError as error:
            self._clean_up()
            raise TransportError(f"the simulation cannot be built: {error}") from error
        except BaseException:
            self._clean_up()
            raise

    def _lay_out(self) -> AxiMemory:
        settings = self.settings
        stall = 0.0 if settings.seed is None else STALL
        return AxiMemory(
            MEMORY,
            folder=self.folder,
            size=self.memory_bytes,
            read_latency=settings.latency,
            write_latency=settings.latency,
            stall=stall,
            seed=settings.seed or 0,
            dram=settings.dram,
        )

    def _start(self, design: Design) -> None:
        options = {
            "design": str(design.files[-1].parent),
            "name": self.config.name,
            "waves": self.settings.waves,
        }
        (self.folder / process.OPTIONS_FILE).write_text(json.dumps(options))
        path = str(self._sockets / "s")
        (self.folder / SOCKET_FILE).write_text(path)
        with socket.socket(socket.AF_UNIX) as listening, (self.folder / "process.log").open("w") as log:
            try:
                listening.bind(path)
            except OSError as error:
                raise TransportError(f"{path}: {error}") from error
            listening.listen(1)
            listening.settimeout(0.1)
            self._process = subprocess.Popen(
                [sys.executable, "-m", process.__name__, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            )
            self._connection = self._accept(listening)
        self._lines = self._connection.makefile("rw")

    def _accept(self, listening: socket.socket) -> socket.socket:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                connection, _ = listening.accept()
                connection.settimeout(None)
                return connection
            if self._process.poll() is not None:
                break
        raise TransportError(self._failure("does not start"))

    # The transport

    def _call(self, *command: object) -> list[int]:
        if self._connection is None:
            raise TransportError("the simulation has been closed")
        if not self.ended:
            with contextlib.suppress(OSError, ValueError):
                self._lines.write(json.dumps(command) + "\n")
                self._lines.flush()
                if answer := self._lines.readline():
                    return json.loads(answer)
            self.ended = self._failure("ended")
        raise TransportError(self.ended)

    def read_register(self, offset: int) -> int:
        """The register at a byte offset."""
        return self.read_registers(offset, 1)[0]

    def write_register(self, offset: int, value: int) -> None:
        """Writes a register."""
        self.write_registers(offset, [value])

    def read_registers(self, offset: int, count: int) -> list[int]:
        """So many consecutive registers."""
        return self._call("read", int(offset), count)

    def write_registers(self, offset: int, values: Sequence[int]) -> None:
        """Writes consecutive registers."""
        self._call("write", int(offset), list(values))

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes from an address on."""
        try:
            return self._memory.read(address, size)
        except ValueError as error:
            raise TransportError(str(error)) from error

    def write_memory(self, address: int, data: bytes) -> None:
        """Puts bytes at an address."""
        try:
            self._memory.write(address, data)
        except ValueError as error:
            raise TransportError(str(error)) from error

    def watch(self, address: int, size: int) -> bool:
        """Lets :meth:`wait` end with writes to a range."""
        self._call("watch", address, size)
        return True

    def wait(self, cycles: int) -> bool:
        """Simulates until the interrupt, a write to the watched range, or so many cycles later."""
        return bool(self._call("wait", cycles)[0])

    def cycles(self) -> int:
        """Clock cycles since reset."""
        return self._memory.cycles

    def logits(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Request, position and logits (Q16) of every row sampled so far, as the trace shows them."""
        recording = Recording.read(self.config.lanes, folder=self.folder)
        return sampled_rows(recording)

    def close(self) -> None:
        """Ends the simulation.

        Raises
        ------
        TransportError
            If the accelerator broke the rules of the memory bus, or the simulation failed otherwise.
        """
        if self._connection is None:
            return
        text = ""
        try:
            if not self.ended:
                self._disconnect()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    if self._process.wait(END_SECONDS):
                        text = self._failure("failed")
        finally:
            self._keep = self._keep or bool(text)
            self._clean_up()
        if text:
            raise TransportError(text)

    # The process

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError, ValueError):
                self._lines.close()
            self._connection.close()
            self._connection = None

    def _failure(self, what: str) -> str:
        """What the process has to say; its files are kept."""
        self._keep = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        lines = (self.folder / "process.log").read_text(errors="replace").strip().splitlines()
        if not lines:
            text = f"its process ended with status {self._process.poll()}"
        else:
            text = lines[-1] if lines[0].startswith("Traceback") else lines[0]
        return f"the simulation {what}: {text}; more in {self.folder / 'process.log'}"

    def _clean_up(self) -> None:
        self._disconnect()
        if self._process is not None:
            for number in (signal.SIGINT, signal.SIGKILL):
                if self._process.poll() is not None:
                    break
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(5.0)
            self._process.stdin.close()
        shutil.rmtree(self._sockets, ignore_errors=True)
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def open_transport(
    preset_name: str,
    descriptor: Descriptor,
    options: Mapping[str, str],
    progress: Callable[[str], None] = _say_nothing,
    **sizes: int,
) -> SimulationTransport:
    """A simulated accelerator with room for a tape and all its KV blocks: what `serrano run` calls.

    Parameters
    ----------
    preset_name : str
        Name of the configuration.
    descriptor : Descriptor
        Of the tape that is to be loaded.
    options : mapping
        As :meth:`Settings.of` takes them.
    progress : callable
        As for :class:`SimulationTransport`.
    **sizes
        Sizes of the rings, if they are not the driver's usual ones.

    Raises
    ------
    TransportError
        If something is wrong with that, or the simulation does not start.
    """
    try:
        config = preset(preset_name)
    except ValueError as error:
        raise TransportError(str(error)) from error
    memory = memory_needed(descriptor, config.blocks_max, **sizes)
    return SimulationTransport(config, memory, Settings.of(options), progress=progress)
