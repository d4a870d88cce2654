# SPDX-License-Identifier: Apache-2.0
"""A whole small board in Verilator: preset tiny, an SDRAM of 32 bits, the host's own driver."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from serrano.boards import board
from serrano.config import preset
from serrano_host.board.link import open_line
from serrano_host.board.selftest import self_test
from serrano_host.board.transport import SerialTransport
from serrano_host.cli import app
from serrano_sim.board.build import Settings, build_board
from serrano_sim.board.session import BoardSession
from serrano_sim.board.simulate import BoardTask, decode_figures, simulate_board
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.runner import SimulationError
from serrano_sim.top.layout import Request
from serrano_sim.top.prefix import golden_tokens

MODEL = random_model(3, dim=12, ffn=10, layers=2, heads=4, kv_heads=2, head_dim=6, vocab=40, context=64)
CONFIG = preset("tiny")
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
FULL = board("ulx3s_85f")
PART = replace(FULL.sdram, data_bits=32, row_bits=11, t_init=5000)
BOARD = replace(FULL, name="small", preset="tiny", sdram=PART)


@pytest.fixture(scope="module")
def build():
    return build_board(BOARD, CONFIG, Settings(divisor=4))


def expected(prompt, count):
    return golden_tokens(MODEL, CONFIG.n, Request(tuple(prompt), count))


def test_tape_over_the_line(build):
    """All of a tape of 9 KiB goes over the line, and is verified; tokens as the golden model's."""
    assert len(TAPE) > 4096
    task = BoardTask(tape=TAPE, prompt=(1, 2, 3), max_new=6, by_line=len(TAPE))
    said = []
    run = simulate_board(build, task, said.append)
    assert list(run.tokens) == expected(task.prompt, 6)
    assert run.verified and run.faults == () and run.repeated == 0
    assert any(text.startswith(f"loading {len(TAPE):,} of {len(TAPE):,} bytes") for text in said)
    assert run.line_bytes[0] > len(TAPE)
    assert run.counters["tokens"] == len(run.commits) == 6
    figures = decode_figures(build, task, run)
    assert figures["steps"] == 5
    assert 1000 < figures["cycles_per_token"] < 4000
    assert 0.1 < figures["mbu"] < figures["bus_busy"] < 1
    sums = run.statistics.sums
    assert sums["refreshes"] >= sums["cycles"] // 781 - 8
    assert sums["sent"] >= run.line_bytes[0] and sums["broken"] == 0


def test_tape_by_the_back_door(build):
    """What memory holds already is not sent."""
    task = BoardTask(tape=TAPE, prompt=(5, 6), max_new=4, by_line=0)
    run = simulate_board(build, task)
    assert list(run.tokens) == expected(task.prompt, 4)
    assert run.verified
    # The NULL block of the KV cache is what is left.
    assert run.line_bytes[0] < len(TAPE) + 16384


def test_self_test(build):
    with BoardSession(build) as session:
        with SerialTransport(open_line(session.port, 115_200), session.port, timeout=60) as transport:
            results = list(self_test(transport, hold=0.0))
        session.close()
    assert [(result.name, result.passed) for result in results] == [
        (name, True) for name in ("line", "data lines", "address lines", "blocks", "registers", "model")
    ], results


def test_serrano_run(build, tmp_path):
    """`serrano run --port`, with a prompt that is cut into chunks and two requests at a time."""
    (tmp_path / "model.tape").write_bytes(TAPE)
    report = tmp_path / "report.json"
    with BoardSession(build) as session:
        arguments = ["run", tmp_path / "model.tape", "--port", session.port, "-O", "timeout=60"]
        arguments += [
            "--prompt-ids",
            "1 2 3 4 5 6 7",
            "--prompt-ids",
            "9",
            "--max-new",
            "3",
            "--json",
            report,
        ]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        session.close()
    assert result.exit_code == 0, result.output
    found = json.loads(report.read_text())
    assert found["transport"] == "serial"
    assert [request["tokens"] for request in found["requests"]] == [
        expected((1, 2, 3, 4, 5, 6, 7), 3),
        expected((9,), 3),
    ]


def test_a_slow_memory_stops_the_simulation(build):
    """The board's memory is slower than the controller was made for: the run fails and names the rule."""
    slow = replace(build, board=replace(BOARD, sdram=replace(PART, t_rcd=60)))
    with pytest.raises(SimulationError, match=r"status 3: SDRAM: tRCD: cycle"):
        simulate_board(slow, BoardTask(tape=TAPE, prompt=(1,), max_new=1))
