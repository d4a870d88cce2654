# SPDX-License-Identifier: Apache-2.0
"""`make sim-board` around the simulation: what it refuses, and what its report says is wrong."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from serrano.boards import board
from serrano.config import preset
from serrano_sim.board.__main__ import build_report, main, show
from serrano_sim.board.build import BoardBuild, Settings
from serrano_sim.board.session import Statistics
from serrano_sim.board.simulate import BoardRun, BoardTask, decode_figures
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.synthesis import tools
from serrano_sim.synthesis.tools import ToolError
from serrano_sim.top.layout import Request
from serrano_sim.top.prefix import golden_tokens

CONFIG = preset(board("ulx3s_85f").preset)
MODEL = random_model(3, dim=12, ffn=10, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=40, context=64)
TASK = BoardTask(tape=write_tape(MODEL, CONFIG.n, CONFIG.tape_align), prompt=(1, 2), max_new=3)
BOARD = replace(board("ulx3s_85f"), clock_hz=100_000_000)
BUILD = BoardBuild(Path("Vserrano_board"), BOARD, CONFIG, Settings())
RUN = BoardRun(
    tokens=tuple(golden_tokens(MODEL, CONFIG.n, Request((1, 2), 3))),
    counters={"tokens": 3},
    faults=(),
    line_bytes=(20000, 900),
    repeated=0,
    load_seconds=1.0,
    verified=True,
    commits=((10_000, 4000), (19_000, 12_000), (30_000, 21_000)),
    statistics=Statistics((), {"cycles": 40_000, "refreshes": 50, "driven": 21_000}),
)


def report(run):
    return build_report(Namespace(), "small", TASK, run, BUILD)


def test_good_run(capsys):
    found = report(RUN)
    assert found["errors"] == [] and found["tokens_equal"]
    assert found["tape_bytes_by_line"] == min(1 << 14, len(TASK.tape))
    show(Console(width=200), found)
    assert "3 tokens, equal to the golden model's" in (out := capsys.readouterr().out)
    assert "netlist" not in out and not found["netlist"]


def test_a_netlist_is_told_apart(capsys):
    found = build_report(Namespace(), "small", TASK, RUN, replace(BUILD, netlist=True))
    assert found["netlist"]
    show(Console(width=200), found)
    assert "ulx3s_85f, its netlist, preset small" in capsys.readouterr().out


def test_figures():
    found = decode_figures(BUILD, TASK, RUN)
    assert (found["steps"], found["cycles"], found["cycles_per_token"]) == (2, 20_000, 10_000)
    assert found["bus_busy"] == 17_000 / 20_000
    assert found["megabytes_per_second"] == pytest.approx(170)
    assert found["tokens_per_second_at_clock"] == pytest.approx(10_000)
    assert found["mbu"] == found["useful_bytes"] / 40_000
    assert decode_figures(BUILD, TASK, replace(RUN, commits=()))["cycles"] is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tokens": (1, 2, 3)}, "tokens are [1, 2, 3], the golden model's"),
        ({"verified": False}, "memory does not hold the tape"),
        ({"faults": ("TAPE_CRC",)}, "fault: TAPE_CRC"),
    ],
)
def test_bad_runs(change, text):
    errors = report(replace(RUN, **change))["errors"]
    assert len(errors) == 1 and errors[0].startswith(text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--board", "none"], "board must be one of"),
        (["--tokens", "0"], "TOKENS must be at least 1, not 0"),
        (["--clock", "200"], "clock_hz must be at most 142857143 at CAS latency 3, not 200000000"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_refuses(arguments, text, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("sim-board: ") and text in error


def test_a_netlist_needs_yosys(tmp_path, monkeypatch, capsys):
    def missing(tool):
        raise ToolError(f"no {tool} was found")

    monkeypatch.setattr(tools, "command", missing)
    assert (
        main(["--netlist", "--shape", "15m", "--tokens", "1", "--json", str(tmp_path / "report.json")]) == 1
    )
    assert capsys.readouterr().err == "sim-board: no yosys was found\n"
    assert not (tmp_path / "report.json").exists()
