# SPDX-License-Identifier: Apache-2.0
"""A recording on the RTL."""

import json
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..golden.block_manager import BLOCK_SIZE
from ..runner import build_root, run
from .executor import GoldenExecutor, finish
from .recording import Malformed, Recording, read
from .script import REFUSED_SHARE, Outcome, replay_scripts
from .unit import Sizes, write_bench

__all__ = ["DEFAULT", "Result", "replay", "sizes_for"]

DEFAULT = Path(__file__).resolve().parents[4] / "shared" / "conformance" / "kv-ops.jsonl"
"""The recording beside the project."""

_INTERVAL = 0.3


@dataclass(frozen=True)
class Result:
    """What a replay has found: see :class:`~serrano_sim.conformance.script.Outcome`."""

    recording: Recording
    outcome: Outcome
    sizes: Sizes
    cycles: int
    seconds: float

    @property
    def operations(self) -> int:
        """Operations replayed and compared."""
        return sum(self.outcome.operations.values())

    @property
    def mismatches(self) -> int:
        return self.outcome.mismatches

    @property
    def deliberate(self) -> int:
        return len(self.outcome.deliberate)

    @property
    def leaked(self) -> int:
        return self.outcome.leaked

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        outcome = self.outcome.as_dict()
        scripts = self.recording.scripts
        return {
            "file": self.recording.file.name,
            "tests": self.recording.tests,
            "pools": len(scripts),
            "pools_up_to_renaming": sum(script.renamed for script in scripts),
            "operations": self.operations,
            "by_operation": outcome["operations"],
            "values": outcome["values"],
            "refusals": outcome["refusals"],
            "mismatches": self.mismatches,
            "deliberate": self.deliberate,
            "deliberate_kinds": [REFUSED_SHARE] if self.deliberate else [],
            "steered": outcome["steered"],
            "leaked": self.leaked,
            "mismatches_listed": outcome["listed"],
            "deliberate_listed": outcome["deliberate"],
            "commands": outcome["commands"],
            "cycles": self.cycles,
            "blocks_max": self.sizes.blocks,
            "sequences_max": self.sizes.sequences,
            "table_entries": self.sizes.entries,
            "seconds": self.seconds,
        }


def sizes_for(recording: Recording, alone: bool = False) -> Sizes:
    """How large a controller the recording needs: a rehearsal on the golden model, without comparing.

    Raises
    ------
    Malformed
        If no controller is so large.
    """
    blocks = max(script.size for script in recording.scripts)
    golden = GoldenExecutor(blocks, 1 << 16, (1 << 32) // BLOCK_SIZE)
    outcome = finish(replay_scripts(recording.scripts, golden, compare=False, alone=alone))
    try:
        return Sizes(blocks, outcome.sequences, outcome.entries).rounded
    except ValueError as error:
        raise Malformed(f"{recording.file}: {error}") from error


class _Follower(threading.Thread):
    """Tells how many operations are done, as the bench writes it down."""

    def __init__(self, file: Path, progress: Callable[[int], None]):
        super().__init__(daemon=True)
        self.file, self.progress = file, progress
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(_INTERVAL):
            try:
                self.progress(int(self.file.read_text()))
            except (OSError, ValueError):
                # Not there yet, or half written.
                continue


def replay(
    file: Path | str = DEFAULT, progress: Callable[[int], None] | None = None, *, alone: bool = False
) -> Result:
    """Replays a recording on the RTL.

    Parameters
    ----------
    file
        The recording.
    progress
        Called now and then, in another thread, with the number of operations done.
    alone
        Give each reference a sequence of its own, also where it is not needed.

    Raises
    ------
    Malformed
        If the file is no recording.
    SimulationError
        If the build fails, or the controller does not answer.
    """
    began = time.monotonic()
    recording = read(file)
    sizes = sizes_for(recording, alone)
    bench = write_bench(sizes)
    plan = {
        "file": str(recording.file.resolve()),
        "sequences": sizes.sequences,
        "entries": sizes.entries,
        "alone": alone,
    }
    runs = build_root() / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="conformance-", dir=runs) as folder:
        follower = _Follower(Path(folder) / "progress", progress or (lambda done: None))
        follower.start()
        try:
            run(
                bench.files,
                bench.top,
                "serrano_sim.cocotb.bench_conformance",
                name=sizes.config.name,
                sources=bench.sources,
                env={"PLAN": json.dumps(plan)},
                run_dir=folder,
                timeout=None,
            )
        finally:
            follower.over.set()
            follower.join()
        left = json.loads((Path(folder) / "outcome.json").read_text())
    cycles = left.pop("cycles")
    return Result(recording, Outcome.from_dict(left), sizes, cycles, round(time.monotonic() - began, 1))
