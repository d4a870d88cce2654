# SPDX-License-Identifier: Apache-2.0
"""The Makefile: what its targets would run, its help, and how it refuses an interpreter."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (
    "help venv doctor sim sim-board demo accuracy verilog fpga area test lint format faults invariance"
    " conformance bench-kvcache bench gate-level formal train clean distclean"
).split()


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs make without what a make around this test, or the user, has put into the environment."""
    ours = (
        "MAKEFLAGS MFLAGS MAKELEVEL MODEL TOKENIZER PROMPT PROMPT2 TOKENS PRESET LATENCY SEED RUNS WAVES"
        " TRACE TEXT FILE ARGS TESTS SHAPE QUICK BOARD DIVISOR NETLIST SEEDS CLOCK UNIT STRICT"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ours.split()}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def dry_run(*arguments: str) -> str:
    """What make would run once set-up is done, on one line."""
    done = make("--dry-run", "--assume-old=.venv/.stamp", *arguments)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.replace("\\\n", " ").split())


@pytest.fixture
def shim(tmp_path):
    """A copy of the Makefile whose Python only prints its arguments, one per line."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / ".stamp").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def test_help_names_every_target():
    done = make()
    assert done.returncode == 0
    assert re.findall(r"^  make ([a-z-]+) ", done.stdout, re.MULTILINE) == TARGETS
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert " ".join(phony).split() == TARGETS
    for variable in (
        "MODEL",
        "TOKENIZER",
        "PROMPT",
        "PROMPT2",
        "TOKENS",
        "PRESET",
        "LATENCY",
        "SEED",
        "RUNS",
        "WAVES",
        "TRACE",
        "FILE",
        "QUICK",
        "SHAPE",
        "BOARD",
        "NETLIST",
        "SEEDS",
        "CLOCK",
        "UNIT",
        "STRICT",
    ):
        assert f"{variable}=" in done.stdout


def test_options_only_for_what_is_set():
    assert dry_run("sim").endswith("-m serrano_sim.run")
    assert dry_run("sim", "WAVES=0", "TRACE=0", "SEED=").endswith("-m serrano_sim.run")
    assert dry_run("demo").endswith("-m serrano_sim.demo")
    assert dry_run("faults").endswith("-m serrano_sim.faults")
    options = '--preset "$PRESET" --seed "$SEED" --runs "$RUNS"'
    assert dry_run("faults", "PRESET=base", "SEED=7", "RUNS=2").endswith(f"-m serrano_sim.faults {options}")
    options = options.replace("--runs", "--cases")
    assert dry_run("invariance", "PRESET=base", "SEED=7", "RUNS=2").endswith(
        f"-m serrano_sim.invariance {options}"
    )
    assert dry_run("accuracy").endswith("-m serrano_sim.accuracy")
    assert dry_run("verilog").endswith('-m serrano_sim.handoff "base" -o "build/verilog/base"')
    strict = dry_run("verilog", "PRESET=tiny", "STRICT=1")
    assert strict.endswith('-m serrano_sim.handoff "tiny" -o "build/verilog/tiny" --strict')


def test_gate_level():
    assert dry_run("gate-level").endswith('-m serrano_sim.handoff.gates "tiny"')
    assert dry_run("gate-level", "ARGS=--cocotb").endswith('-m serrano_sim.handoff.gates "tiny" --cocotb')


def test_every_option_of_sim(shim):
    given = {
        "MODEL": "a folder/model.bin",
        "TOKENIZER": "tok",
        "PROMPT": "p",
        "TOKENS": "4",
        "PROMPT2": "it's",
        "PRESET": "tiny",
        "LATENCY": "200",
        "SEED": "7",
    }
    done = make(
        "sim", *(f"{name}={value}" for name, value in given.items()), "WAVES=1", "TRACE=1", folder=shim
    )
    options = [word for name, value in given.items() for word in (f"--{name.lower()}", value)]
    assert done.stdout.splitlines() == ["-m", "serrano_sim.run", *options, "--waves", "--trace"]


def test_every_option_of_accuracy(shim):
    done = make("accuracy", "MODEL=m", "TOKENIZER=t", "TEXT=x.txt", folder=shim)
    wanted = ["-m", "serrano_sim.accuracy", "--model", "m", "--tokenizer", "t", "--text", "x.txt"]
    assert done.stdout.splitlines() == wanted


def test_every_option_of_sim_board(shim):
    given = ["BOARD=b", "MODEL=m", "TOKENIZER=t", "PROMPT=it's", "TOKENS=3", "DIVISOR=8", "SHAPE=15m"]
    done = make("sim-board", *given, "ARGS=--clock 50", folder=shim)
    options = [word for text in given for word in (f"--{text.split('=')[0].lower()}", text.split("=")[1])]
    assert done.stdout.splitlines() == ["-m", "serrano_sim.board", *options, "--clock", "50"]
    assert dry_run("sim-board", "NETLIST=0").endswith("-m serrano_sim.board")
    netlist = dry_run("sim-board", "NETLIST=1", "--assume-old=.venv/.stamp-fpga")
    assert netlist.endswith("-m serrano_sim.board --netlist")
    assert "[dev,fpga]" in make("--dry-run", "--always-make", "sim-board", "NETLIST=1").stdout
    assert "[dev,fpga]" not in make("--dry-run", "--always-make", "sim-board").stdout


@pytest.mark.parametrize("prompt", ["", "it's", 'a "b" `id` $HOME $(shell id) \\n;#', "naïve ☃"])
def test_a_prompt_arrives_as_it_was_given(shim, prompt):
    done = make("sim", f"PROMPT={prompt}", folder=shim)
    assert done.stdout == f"-m\nserrano_sim.run\n--prompt\n{prompt}\n"
    assert done.stderr == ""


def test_recordings_and_measurements(shim):
    done = make("conformance", "FILE=a b.jsonl", folder=shim)
    assert done.stdout.splitlines() == ["-m", "serrano_sim.conformance", "--file", "a b.jsonl"]
    assert dry_run("conformance").endswith("-m serrano_sim.conformance")
    assert dry_run("bench-kvcache", "ARGS=--quick").endswith("-m serrano_sim.kv_bench --quick")


def test_bench(shim):
    """Only a run of everything brings the page up to date."""
    assert dry_run("bench").endswith("-m serrano_sim.bench --docs")
    assert dry_run("bench", "QUICK=0").endswith("-m serrano_sim.bench --docs")
    assert dry_run("bench", "QUICK=1").endswith("-m serrano_sim.bench --quick")
    given = dry_run("bench", "ARGS=--only 15m,decode --packets")
    assert given.endswith("-m serrano_sim.bench --only 15m,decode --packets")
    done = make("bench", "SHAPE=a b.json", folder=shim)
    assert done.stdout.splitlines() == ["-m", "serrano_sim.bench", "--shape", "a b.json"]


def test_sim_needs_no_formal_tools():
    assert "formal" not in make("--dry-run", "--always-make", "sim").stdout
    assert "[dev,formal]" in make("--dry-run", "--always-make", "formal").stdout
    for target in ("sim", "test", "formal"):
        assert "train" not in make("--dry-run", "--always-make", target).stdout


def test_synthesis():
    tools = ("--assume-old=.venv/.stamp-fpga",)
    assert dry_run("fpga", *tools).endswith("-m serrano_sim.synthesis.fpga")
    options = '"$BOARD" --seeds "$SEEDS" --clock "$CLOCK" --unit "$UNIT"'
    settings = ("BOARD=ulx3s_85f", "SEEDS=3", "CLOCK=50", "UNIT=array")
    assert dry_run("fpga", *tools, *settings).endswith(f"-m serrano_sim.synthesis.fpga {options}")
    only = dry_run("fpga", *tools, "PRESET=small", "ESTIMATE=1")
    assert only.endswith('-m serrano_sim.synthesis.fpga --preset "$PRESET" --estimate')
    area = dry_run("area", *tools, "PRESET=tiny")
    assert area.endswith('-m serrano_sim.synthesis.area --preset "$PRESET"')


def test_which_tests_run():
    assert dry_run("test").endswith("-m pytest -n 2 tests --ignore=tests/formal")
    assert dry_run("test", "JOBS=1", "TESTS=tests/a.py", "ARGS=-x -k b").endswith("-n 1 -x -k b tests/a.py")


def test_an_old_interpreter_is_refused(shim):
    (shim / ".venv" / ".stamp").unlink()
    old = shim / "python3.9"
    old.write_text('#!/bin/sh\ntest "$1" = --version && echo "Python 3.9.2" || exit 1\n')
    old.chmod(0o755)
    done = make("venv", f"PYTHON={old}", folder=shim)
    assert done.returncode != 0
    assert "is Python 3.9.2; Serrano needs Python 3.11 or newer." in done.stdout
    assert "make PYTHON=python3.11" in done.stdout


def test_no_interpreter(shim):
    (shim / ".venv" / ".stamp").unlink()
    done = make("venv", "PYTHON=no-such-python", folder=shim)
    assert done.returncode != 0
    assert "'no-such-python' was not found" in done.stdout
    (shim / ".venv" / "bin" / "python").unlink()
    done = make("doctor", "PYTHON=no-such-python", folder=shim)
    assert done.returncode != 0
    assert "Serrano needs Python 3.11 or newer." in done.stdout
