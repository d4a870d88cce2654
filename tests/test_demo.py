# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the product, the cycles it shows, the waveforms, and what it says of a wrong array."""

import json
import subprocess
import sys

import numpy as np
import pytest
from amaranth import *

from serrano.config import preset
from serrano.matmul import Engine
from serrano.matmul.array import SystolicArray
from serrano.primitives.multiplier import Multiplier
from serrano_sim import demo

TINY = preset("tiny")
N = TINY.n


def run(capsys, *arguments):
    status = demo.main(list(arguments))
    return status, capsys.readouterr().out


def test_for_a_person(capsys, tmp_path):
    status, text = run(capsys, "--vcd", str(tmp_path / "wave.vcd"))
    assert status == 0
    assert "equal to numpy's A @ B, element by element" in text
    assert "gtkwave" in text and "surfer" in text
    for row in range(N):
        assert f"C[{row}]" in text
    assert max(map(len, text.splitlines()[:-3])) <= 80


@pytest.mark.parametrize("seed", [0, 7])
def test_for_a_program(capsys, tmp_path, seed):
    status, text = run(capsys, "--json", "--seed", str(seed), "--vcd", str(tmp_path / "wave.vcd"))
    found = json.loads(text)
    a, b = np.array(found["a"]), np.array(found["b"])
    assert a.shape == b.shape == (N, N)
    assert found["product"] == found["expected"] == (a @ b).tolist()
    assert (status, found["ok"], found["seed"]) == (0, True, seed)


def test_seeds_differ(capsys, tmp_path):
    texts = {run(capsys, "--json", "--seed", s, "--vcd", str(tmp_path / "w.vcd"))[1] for s in "121"}
    assert len(texts) == 2


def test_cycles_are_those_of_the_contract(tmp_path):
    """Each thing happens where latencies say, and the sums at the bottom are the product."""
    a, b = np.full((3, N), -128), np.arange(-8, 8).reshape(N, N)
    recording = demo.record(a, b, tmp_path / "wave.vcd")
    assert recording.is_right

    def when(field):
        return [cycle.cycle for cycle in recording.cycles if getattr(cycle, field) is not None]

    units, rows = when("unit"), when("row")
    assert units == list(range(TINY.tile_units))
    assert rows == [units[-1] + 1 + r for r in range(3)]
    assert when("waits") == units
    assert when("result") == [row + Engine(TINY).latency for row in rows]
    latency = SystolicArray.latency_of(TINY)
    for j in range(N):
        seen = [(cycle.cycle, *cycle.bottom[j]) for cycle in recording.cycles if cycle.bottom[j] is not None]
        assert seen == [(row + latency + j, r, (a @ b)[r, j]) for r, row in enumerate(rows)]


def test_waveforms(tmp_path):
    file = tmp_path / "new" / "wave.vcd"
    demo.record(np.eye(N, dtype=np.int64), np.eye(N, dtype=np.int64), file)
    text = file.read_text()
    assert "$enddefinitions" in text
    assert "pe_3_3" in text
    view = file.with_suffix(".gtkw").read_text()
    assert str(file) in view
    names = [line.split("[")[0] for line in view.splitlines() if line.startswith("bench.")]
    assert any("results__payload" in name for name in names)


class WrongMultiplier(Multiplier):
    """Off by one where both operands are odd."""

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.p.eq(self.a * self.b + (self.a[0] & self.b[0]))
        return m


def test_a_wrong_array_is_reported(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("serrano.matmul.pe.Multiplier", WrongMultiplier)
    file = str(tmp_path / "wave.vcd")
    status, text = run(capsys, "--vcd", file)
    assert status == 1
    assert "WRONG: C is not A @ B" in text and "equal to numpy" not in text
    status, text = run(capsys, "--json", "--vcd", file)
    assert (status, json.loads(text)["ok"]) == (1, False)


def test_an_engine_without_results_is_reported(capsys, tmp_path, monkeypatch):
    class Stuck(demo._OpenEngine):
        def elaborate(self, platform):
            return ResetInserter(C(1))(super().elaborate(platform))

    monkeypatch.setattr(demo, "_LIMIT", 40)
    monkeypatch.setattr(demo, "_OpenEngine", Stuck)
    status, text = run(capsys, "--vcd", str(tmp_path / "wave.vcd"))
    assert status == 1
    assert "WRONG: C is not A @ B" in text


def test_as_a_program(tmp_path):
    """The way the Makefile starts it, with a terminal that knows ASCII only."""
    command = [sys.executable, "-W", "error", "-m", "serrano_sim.demo", "--vcd", str(tmp_path / "wave.vcd")]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "equal to numpy's A @ B" in done.stdout


def test_bad_options(capsys):
    with pytest.raises(SystemExit) as raised:
        demo.main(["--seed", "-1"])
    assert raised.value.code == 2
    assert "argument --seed: must not be negative, not -1" in capsys.readouterr().err
