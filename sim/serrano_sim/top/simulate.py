# SPDX-License-Identifier: Apache-2.0
"""Running a job on the accelerator's Verilog: in this process, or in one of its own that can be watched.

``python -m serrano_sim.top.simulate FOLDER`` is the process of its own. It ends, with all that it started,
when its standard input is closed, so that nothing is left behind whatever happens to whoever started it.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serrano.config import AcceleratorConfig

from .. import runner
from ..memory.handle import AxiMemory
from .design import Design, read_design, top_design, write_bench
from .job import EVENTS_FILE, MEMORY, Job, MemorySettings, Phase, PhaseResult, phase_results, read_events
from .layout import MemoryLayout, Request
from .trace import Recording

__all__ = ["JobResult", "Options", "Simulation", "plan_job", "prepare", "run_job", "simulate"]

BENCH = "serrano_sim.cocotb.bench_top"
OPTIONS_FILE = "options.json"
# Cycles that even the slowest memory needs for a beat, and then some.
PATIENCE_PER_BEAT = 16
PATIENCE_MIN = 200_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a job is run: as :func:`serrano_sim.runner.run` takes it."""

    waves: bool = False
    random_reset: bool = False
    seed: int = 1
    optimize: str = "-O2"
    timeout: float | None = None


@dataclass(frozen=True)
class JobResult:
    """What a run left behind.

    Parameters
    ----------
    job : :class:`~serrano_sim.top.job.Job`
        The job.
    folder : path
        The run's folder.
    events : sequence of dict
        Everything that the simulation reported.
    tape : :class:`bytes`
        The tape as it was laid out.
    """

    job: Job
    folder: Path
    events: Sequence[dict[str, Any]] = field(repr=False)
    tape: bytes = field(repr=False)

    @functools.cached_property
    def phases(self) -> list[PhaseResult]:
        """Results of the phases."""
        return phase_results(self.events)

    @functools.cached_property
    def recording(self) -> Recording:
        """The trace."""
        return Recording.read(self.job.config.lanes, folder=self.folder)

    @functools.cached_property
    def memory(self) -> AxiMemory:
        """The memory, with what is in it now."""
        return AxiMemory(MEMORY, folder=self.folder)

    @property
    def tokens(self) -> list[list[int]]:
        """Tokens of each request, as they were found in memory."""
        found: list[list[int]] = [[] for _ in self.job.requests]
        for phase in self.phases:
            for _, record in phase.completions:
                if record.token is not None:
                    found[record.id].append(record.token)
        return found

    @property
    def cycles(self) -> int:
        """Cycles from reset to the end."""
        return self.events[-1]["cycle"]

    @property
    def seconds(self) -> float:
        """Time from reset to the end."""
        return self.events[-1]["seconds"]


def plan_job(
    config: AcceleratorConfig,
    tape: bytes,
    requests: Sequence[Request],
    *,
    phases: Sequence[Phase] | None = None,
    memory: MemorySettings | None = None,
    layout: MemoryLayout | None = None,
    kv_blocks: int | None = None,
    **settings: Any,
) -> Job:
    """A job for an accelerator and a tape.

    Parameters
    ----------
    config, tape
        Accelerator and tape.
    requests : sequence of :class:`~serrano_sim.top.layout.Request`
        What is wanted; all at once after one LOAD if there are no phases.
    phases : sequence of :class:`~serrano_sim.top.job.Phase`
        Several visits of the host instead; ``requests`` must be those of all phases, in order.
    memory, layout, kv_blocks
        How the memory behaves, and how it is laid out if the usual way is not wanted.
    **settings
        Further fields of :class:`~serrano_sim.top.job.Job`.
    """
    if phases is None:
        phases = (Phase(load=True, requests=tuple(requests)),)
    memory = memory or MemorySettings()
    layout = layout or MemoryLayout.plan(tape, requests, kv_blocks=kv_blocks)
    stall = max(memory.stall.values()) if isinstance(memory.stall, dict) else memory.stall
    beats = len(tape) // config.port_bytes / (1 - float(stall)) ** 2
    settings.setdefault(
        "patience", int(PATIENCE_MIN + PATIENCE_PER_BEAT * beats + 1000 * memory.read_latency)
    )
    return Job(config=config, layout=layout, phases=tuple(phases), memory=memory, **settings)


def prepare(job: Job, tape: bytes, folder: Path | str) -> Path:
    """Lays a job out in a new folder: the job file and the memory's contents."""
    path = Path(folder).resolve()
    path.mkdir(parents=True, exist_ok=True)
    job.write(path)
    job.layout.fill(AxiMemory(MEMORY, folder=path, size=job.layout.size), tape, job.requests)
    (path / EVENTS_FILE).write_text("")
    return path


def simulate(design: Design, folder: Path | str, options: Options | None = None) -> runner.Results:
    """Builds the bench where needed and runs the job that was laid out in a folder.

    Raises
    ------
    SimulationError
        If the build fails, or the run breaks down. A fault that the accelerator reports is no such thing.
    """
    path, options = Path(folder), options or Options()
    bench = write_bench(design, path / "bench")
    name = Job.read(path).config.name
    run = functools.partial(
        runner.run,
        bench.files,
        bench.top,
        BENCH,
        name=f"top-{name}",
        sources=bench.sources,
        run_dir=path,
        **vars(options),
    )
    _report(path, "stage", stage="build")
    built = run(build_only=True)
    _report(path, "stage", stage="run", cached=built.cached)
    return run()


def _report(folder: Path, event: str, **values: Any) -> None:
    with (folder / EVENTS_FILE).open("a") as file:
        file.write(json.dumps({"event": event, **values}) + "\n")


def load_result(folder: Path | str, tape: bytes) -> JobResult:
    """The result of the job in a folder."""
    path = Path(folder)
    lines = (path / EVENTS_FILE).read_text().splitlines(keepends=True)
    events = [event for event in read_events(lines) if "cycle" in event]
    return JobResult(Job.read(path), path, events, tape)


def run_job(
    config: AcceleratorConfig,
    tape: bytes,
    requests: Sequence[Request],
    folder: Path | str,
    *,
    design: Design | None = None,
    options: Options | None = None,
    **settings: Any,
) -> JobResult:
    """Runs requests on an accelerator and returns what came of them.

    Parameters
    ----------
    config, tape, requests
        Accelerator, tape and requests.
    folder : path
        A folder for the run, which is kept.
    design : :class:`~serrano_sim.top.design.Design`
        The Verilog, if it is not to be that of ``config``.
    options : :class:`Options`
        How to run it; without them, at most 15 minutes.
    **settings
        As for :func:`plan_job`.

    Raises
    ------
    SimulationError
        As :func:`simulate`.
    """
    job = plan_job(config, tape, requests, **settings)
    path = prepare(job, tape, folder)
    simulate(design or top_design(config), path, options or Options(timeout=900))
    return load_result(path, tape)


class Simulation:
    """A job that runs in a process of its own, in a session of its own: an interrupt stays with this process.

    Parameters
    ----------
    design : :class:`~serrano_sim.top.design.Design`
        The Verilog.
    folder : path
        Where the job was laid out.
    options : :class:`Options`
        How to run it.
    """

    def __init__(self, design: Design, folder: Path, options: Options):
        self.folder = folder
        values = vars(options) | {"design": str(design.files[-1].parent)}
        (folder / OPTIONS_FILE).write_text(json.dumps(values))
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with (folder / "process.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serrano_sim.top.simulate", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": path},
            )

    def events(self, interval: float = 0.1) -> Iterator[dict[str, Any] | None]:
        """Events as they come, and ``None`` whenever there was none for a while, until the process ends."""
        rest = ""
        with (self.folder / EVENTS_FILE).open() as file:
            while True:
                running = self._process.poll() is None
                text = rest + file.read()
                *lines, rest = text.split("\n")
                for line in lines:
                    yield json.loads(line)
                if not running:
                    return
                if not lines:
                    yield None
                    time.sleep(interval)

    def failure(self) -> str:
        """What the process has to say if it failed; empty if it did not."""
        code = self._process.wait()
        if code == 0:
            return ""
        text = (self.folder / "process.log").read_text(errors="replace").strip()
        return text or f"the process ended with status {code}"

    def stop(self) -> None:
        """Ends the process and all that it started."""
        for number, patience in ((signal.SIGINT, 5.0), (signal.SIGKILL, None)):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                break
        self._process.stdin.close()

    def __enter__(self) -> "Simulation":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def end_with_parent() -> None:
    """Ends the session when standard input is closed."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> int:
    """The process of its own: runs the job in a folder."""
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    values = json.loads((folder / OPTIONS_FILE).read_text())
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        simulate(read_design(values.pop("design")), folder, Options(**values))
    except runner.SimulationError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
