# SPDX-License-Identifier: Apache-2.0
"""Command line: ``python -m serrano_sim.handoff PRESET -o DIR``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from serrano.config import PRESETS, preset

from .checks import CheckError
from .folder import write_folder

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the folder of a preset; 1 if a check failed, 2 if there is no such preset."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano_sim.handoff",
        description="Write what a preset's synthesis needs, and check it.",
    )
    parser.add_argument("preset", help=f"hardware configuration: {', '.join(PRESETS)}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--strict", action="store_true", help="a check that cannot be run is an error")
    options = parser.parse_args(arguments)
    try:
        config = preset(options.preset)
    except ValueError as error:
        print(f"verilog: {error}", file=sys.stderr)
        return 2
    try:
        manifest = write_folder(config, options.output, strict=options.strict)
    except CheckError as error:
        print(f"verilog: {error}", file=sys.stderr)
        return 1
    blocks = f"{manifest['blocks']} blocks in {manifest['modules']} modules"
    print(f"{options.output}: {len(manifest['files'])} files, {blocks}")
    for name, result in manifest["checks"].items():
        print(f"  {name:<10} {result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
