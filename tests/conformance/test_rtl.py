# SPDX-License-Identifier: Apache-2.0
"""Replays on the RTL: the bench `serrano_sim.cocotb.bench_conformance` under Verilator."""

import dataclasses
import json
from pathlib import Path

import pytest

from conformance.software import recording, text
from serrano_sim.conformance import DEFAULT, Malformed, replay
from serrano_sim.conformance.executor import GoldenExecutor, finish
from serrano_sim.conformance.recording import read
from serrano_sim.conformance.rtl import sizes_for
from serrano_sim.conformance.script import replay_scripts
from serrano_sim.conformance.unit import Bench, Sizes, write_bench

SIZES = Sizes(64, 64, 64)


def test_recordings_on_the_rtl(tmp_path) -> None:
    """Both kinds of recordings, one divergence that is deliberate, and two values that are wrong."""
    tests = [*recording(4, tests=3), *recording(4, tests=3, counted=True)]
    # The 64 sequences and entries that make the other tests here use the same build.
    blocks = list(range(1, 41))
    tests.append(
        {
            "test": "many",
            "ops": [
                {"op": "INIT", "n": 41},
                {"op": "ALLOC", "n": 40, "ret": blocks, "free": []},
                {"op": "SEAL", "blk": blocks},
                *({"op": "SHARE", "blk": [[block]]} for block in blocks),
                {"op": "FREE", "blk": blocks, "free": [], "ref": [0] + [1] * 40},
                {"op": "FREE", "blk": blocks[::-1], "free": blocks[::-1], "ref": [0] * 41},
            ],
        }
    )
    tests.append(
        {
            "test": "divergence",
            "ops": [
                {"op": "INIT", "n": 4, "pool": 3},
                {"op": "ALLOC", "n": 2, "ret": [1, 3], "free": [3], "pool": 3},
                {"op": "FREE", "blk": [2, 1], "free": [3, 2, 1], "pool": 3},
                {"op": "SHARE", "blk": [[2]], "free": [3, 1], "ref": [0, 0, 1, 0], "pool": 3},
                {"op": "RESET", "ok": True, "pool": 3},
            ],
        }
    )
    file = tmp_path / "recording.jsonl"
    file.write_text(text(tests))
    done: list[int] = []
    result = replay(file, done.append)
    assert result.sizes == SIZES
    assert [str(difference) for difference in result.outcome.listed] == [
        "line 8, divergence, ops[1] ALLOC, pool 3: ret[1]: expected 3, got 2",
        "line 8, divergence, ops[4] RESET, pool 3: ok: expected true, got false",
    ]
    (difference,) = result.outcome.deliberate
    assert (difference.number, difference.field, difference.got) == (3, "refused share", "NOT_SEALED")
    assert result.operations == sum(len(test["ops"]) for test in tests) == read(file).operations
    assert (result.mismatches, result.deliberate, result.leaked) == (2, 1, 0)
    assert result.outcome.steered > 0
    assert result.cycles > result.outcome.commands > 10_000
    assert done == sorted(done) and all(count <= result.operations for count in done)
    told = json.loads(json.dumps(result.as_dict()))
    assert {name: told[name] for name in ("file", "tests", "operations", "mismatches", "deliberate")} == {
        "file": "recording.jsonl",
        "tests": 8,
        "operations": result.operations,
        "mismatches": 2,
        "deliberate": 1,
    }
    assert told["deliberate_kinds"] == ["refused share"]
    assert told["pools"] > told["pools_up_to_renaming"] > 2
    assert len(told["mismatches_listed"]) == 2


def test_a_broken_memory_is_noticed(tmp_path, monkeypatch) -> None:
    """What is compared is what the RTL has: word 3 of every memory is never written but with an odd value."""

    def broken(sizes: Sizes) -> Bench:
        bench, files = write_bench(sizes), []
        for file in bench.files:
            source = file.read_text()
            if file.name == "serrano_mem_1r1w.v":
                assert "if (w_en[i]) " in source
                source = source.replace("if (w_en[i]) ", "if (w_en[i] && (w_addr != 3 || w_data[0])) ")
            files.append(tmp_path / file.name)
            files[-1].write_text(source)
        return dataclasses.replace(bench, files=tuple(files))

    monkeypatch.setattr("serrano_sim.conformance.rtl.write_bench", broken)
    ops = [
        {"op": "INIT", "n": 6},
        {"op": "ALLOC", "n": 2, "ret": [1, 2], "free": [3, 4, 5], "ref": [0, 1, 1, 0, 0, 0]},
        {"op": "ALLOC", "n": 2, "ret": [3, 4], "free": [5], "ref": [0, 1, 1, 1, 1, 0]},
        {"op": "FREE", "blk": [4, 3], "free": [5, 4, 3], "ref": [0, 1, 1, 0, 0, 0]},
    ]
    file = tmp_path / "recording.jsonl"
    file.write_text(text([{"test": "broken", "ops": ops}]))
    result = replay(file)
    assert result.mismatches > 0
    assert {difference.number for difference in result.outcome.listed} <= {1, 2, 3}
    golden = GoldenExecutor(6, 16, 16)
    assert finish(replay_scripts(read(file).scripts, golden)).mismatches == 0


def test_sizes(tmp_path) -> None:
    file = tmp_path / "recording.jsonl"
    blocks = list(range(1, 21))
    ops = [
        {"op": "INIT", "n": 33},
        {"op": "ALLOC", "n": 20, "ret": blocks},
        *({"op": "SHARE", "blk": [[block]]} for block in blocks),
        {"op": "ALLOC", "n": 1000},
    ]
    file.write_text(text([{"test": "sizes", "ops": ops}]))
    assert sizes_for(read(file)) == Sizes(64, 32, 32)
    assert sizes_for(read(file), alone=True) == Sizes(64, 64, 32)
    assert Sizes(2, 1, 1).rounded == Sizes(16, 16, 16)
    assert Sizes(65536, 65536, 65536).rounded == Sizes(65536, 65536, 65535)
    with pytest.raises(ValueError, match="at most 65,536 blocks and sequences"):
        Sizes(64, 65537, 16).rounded  # noqa: B018
    config = Sizes(64, 32, 16).config
    assert (config.blocks_max, config.sequences_max, config.table_entries) == (64, 32, 16)


def test_too_many_sequences(tmp_path, monkeypatch) -> None:
    file = tmp_path / "recording.jsonl"
    file.write_text(text(recording(1, tests=1)))
    limited = property(lambda self: (_ for _ in ()).throw(ValueError("too large")))
    monkeypatch.setattr(Sizes, "rounded", limited)
    with pytest.raises(Malformed, match=r"recording\.jsonl: too large"):
        sizes_for(read(file))


def test_the_default_recording_lies_beside_the_project() -> None:
    root = Path(__file__).resolve().parents[2]
    assert root.parent / "shared" / "conformance" / "kv-ops.jsonl" == DEFAULT
