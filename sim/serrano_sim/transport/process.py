# SPDX-License-Identifier: Apache-2.0
"""The process that runs a live simulation: ``python -m serrano_sim.transport.process FOLDER``.

It ends, with all that it started, when its standard input is closed: whatever becomes of the host, no
simulation stays behind.
"""

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from .. import runner
from ..top.design import Design, read_design, write_bench
from ..top.simulate import end_with_parent

__all__ = ["OPTIONS_FILE", "main", "run"]

BENCH = "serrano_sim.cocotb.bench_live"
OPTIONS_FILE = "options.json"


def run(design: Design, folder: Path, name: str, *, build_only: bool = False, waves: bool = False) -> None:
    """Builds the bench where needed, and runs it in a folder.

    Raises
    ------
    SimulationError
        If the build fails or the run breaks down.
    """
    bench = write_bench(design, folder / "bench")
    runner.run(
        bench.files,
        bench.top,
        BENCH,
        name=f"top-{name}",
        sources=bench.sources,
        run_dir=folder,
        waves=waves,
        build_only=build_only,
        timeout=None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the bench that was laid out in a folder."""
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    values = json.loads((folder / OPTIONS_FILE).read_text())
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run(read_design(values.pop("design")), folder, **values)
    except runner.SimulationError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
