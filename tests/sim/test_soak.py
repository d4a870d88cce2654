# SPDX-License-Identifier: Apache-2.0
"""The soak run: what is drawn fits and varies, and what differs is told. Real runs of it are in tests/top."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from serrano.config import PRESETS, preset
from serrano_sim import soak
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import read_tape
from serrano_sim.runner import SimulationError
from serrano_sim.soak import CYCLES, Outcome, draw, main
from serrano_sim.top.limits import limits_of, misfits
from serrano_sim.top.simulate import plan_job

SEEDS = range(1, 301)


@pytest.mark.parametrize("name", PRESETS)
def test_cases_fit_and_vary(name):
    config = preset(name)
    cases = [draw(config, seed) for seed in SEEDS]
    for case in cases:
        model = case.model
        for request in case.requests:
            assert request.prompt and request.max_new >= 1
            assert request.tokens <= model["context"]
            assert all(0 <= token < model["vocab"] for token in request.prompt)
        assert case.requests
    seen = {name: {case.model[name] for case in cases} for name in cases[0].model}
    assert {size for size in (8, 48, 64, 128) if size <= config.head_dim_max} <= seen["head_dim"]
    assert {1, 4, 8} <= {case.model["heads"] // case.model["kv_heads"] for case in cases}
    assert any(ffn % config.n for ffn in seen["ffn"]) and any(vocab % 2 for vocab in seen["vocab"])
    assert len(seen["layers"]) == 3
    # Sequences on both sides of the borders of blocks, and several blocks.
    lengths = {request.tokens for case in cases for request in case.requests}
    assert {15, 16, 17, 32, 33} <= lengths
    assert {1, 60, 200} <= {case.memory.read_latency for case in cases}
    assert any(case.memory.stall for case in cases) and not all(case.memory.stall for case in cases)


@pytest.mark.parametrize("name", PRESETS)
def test_models_have_a_tape_that_runs(name):
    config = preset(name)
    for seed in range(1, 13):
        case = draw(config, seed)
        tape = write_tape(random_model(seed, **case.model), config.n, config.tape_align)
        fields = read_tape(tape).fields
        assert misfits(SimpleNamespace(**fields), limits_of(config)) == []
        job = plan_job(config, tape, case.requests, memory=case.memory)
        assert job.layout.size < 1 << config.address_bits
        # Padding makes it more than the weights alone.
        assert case.rows * (fields["program_end"] // config.port_bytes) < 4 * CYCLES


def test_a_case_depends_on_preset_and_seed_alone():
    first = draw(preset("tiny"), 7)
    assert draw(preset("tiny"), 7) == first
    assert draw(preset("tiny"), 8) != first
    assert draw(preset("base"), 7) != first


def outcome_of(case, options):
    """Seed 5 differs."""
    good = Outcome(cycles=1000, tokens=2, elements=300, logits=20, kv_bytes=40)
    assert options.random_reset and options.seed == case.seed
    return replace(good, errors=["step 9: wrong"], folder="somewhere") if case.seed == 5 else good


def test_what_differs_is_told(tmp_path, capsys):
    options = ["--preset", "base", "--random-reset", "--json", str(tmp_path / "soak.json"), "--cases"]
    assert main([*options, "4", "--seed", "1"], outcome_of) == 0
    assert json.loads((tmp_path / "soak.json").read_text())["failed"] == []
    assert main([*options, "3", "--seed", "4"], outcome_of) == 1
    report = json.loads((tmp_path / "soak.json").read_text())
    assert (report["cases"], report["failed"], report["logits"]) == (3, [5], 60)
    out = capsys.readouterr().out
    assert "base 4: exact, 1,000 cycles; dim " in out
    assert (
        "base 5: differs, 1,000 cycles; " in out
        and "  step 9: wrong\n  files: somewhere\n"
        "  again: python -m serrano_sim.soak --preset base --seed 5 --cases 1 --random-reset\n"
        in out
    )
    assert "3 cases, 1 failed; 3,000 cycles, 6 tokens, 900 elements, 60 logits, 120 kv bytes;" in out


def test_nothing_run_is_no_success(tmp_path):
    assert main(["--cases", "0", "--json", str(tmp_path / "soak.json")], outcome_of) == 1
    assert main(["--seconds", "-1", "--json", str(tmp_path / "soak.json")], outcome_of) == 1


def test_a_run_that_breaks_down_is_an_outcome(tmp_path, monkeypatch):
    def broken(config, tape, requests, folder, *, options, memory, kv_blocks):
        assert kv_blocks == 1 + sum(-(-request.tokens // 16) for request in requests)
        raise SimulationError("it died")

    monkeypatch.setattr(soak, "build_root", lambda: tmp_path)
    monkeypatch.setattr(soak, "run_job", broken)
    outcome = soak.run_case(draw(preset("tiny"), 1))
    assert outcome.errors == ["it died"]
    assert Path(outcome.folder).is_dir()
