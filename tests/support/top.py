# SPDX-License-Identifier: Apache-2.0
"""Runs of the whole accelerator for tests: a model, some requests, and everything compared."""

import re
from pathlib import Path

from serrano.config import AcceleratorConfig
from serrano_sim.golden.model import Model
from serrano_sim.golden.synthetic import write_tape
from serrano_sim.top.compare import Verdict, check
from serrano_sim.top.design import Design, write_ports
from serrano_sim.top.layout import Request
from serrano_sim.top.simulate import JobResult, run_job


def run_model(
    config: AcceleratorConfig, model: Model, requests: list[Request], folder: Path, **settings
) -> tuple[JobResult, Verdict]:
    """Runs requests on a golden model's tape and compares all of it. Settings as for `run_job`."""
    tape = write_tape(model, config.n, config.tape_align)
    result = run_job(config, tape, requests, folder, **settings)
    return result, check(result, model)


def flipped(design: Design, folder: Path, pattern: str, place: int = 0, bit: int = 0) -> Design:
    """The design with one bit of one constant changed.

    `pattern` has one group that matches the hexadecimal digits of a constant; `place` says which of its
    matches in all files of the design it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, seen = [], 0
    for file in design.files:
        text = file.read_text()
        found = list(re.finditer(pattern, text))
        if 0 <= place - seen < len(found):
            match = found[place - seen]
            digits = f"{int(match[1], 16) ^ 1 << bit:0{len(match[1])}x}"
            text = text[: match.start(1)] + digits + text[match.end(1) :]
        seen += len(found)
        files.append(folder / file.name)
        files[-1].write_text(text)
    if place >= seen:
        raise ValueError(f"Pattern {pattern!r} matches {seen} times, not {place + 1}")
    write_ports(folder, files, design.ports)
    return Design(tuple(files), design.ports)
