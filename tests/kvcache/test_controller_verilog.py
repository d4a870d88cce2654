# SPDX-License-Identifier: Apache-2.0
"""The controller's Verilog under Verilator: random commands, and what the bench notices."""

import json
from collections import Counter
from pathlib import Path

from serrano_sim.golden.block_manager import Opcode, Status
from serrano_sim.kv_random import VARIANTS, run_random, run_seed, write_bench

HERE = Path(__file__).parent
NARROW = VARIANTS["narrow"]


def test_random_commands(tmp_path) -> None:
    """A part of what `python -m serrano_sim.kv_random` runs: both variants, everything comes up."""
    done = []
    result = run_random(5000, [1, 2, 3, 4], tmp_path, lambda count, found: done.append((count, found)))
    assert result["mismatches"] == []
    assert result["random_mismatches"] == 0
    assert result["leaked_blocks"] == 0
    assert result["random_commands"] == 5000
    assert done == [(1250, [])] * 4
    assert min(result["command_coverage"].values()) >= 50
    assert {name for name, count in result["error_coverage"].items() if count < 5} == set()
    assert sum(result["error_coverage"].values()) == 5000
    # What is rare happens as well.
    assert [name for name, count in result["events"].items() if not count] == []
    assert {"COPY done", "COPY failed", "GATHER done", "GATHER failed", "SCRUB done", "SCRUB failed"} < {
        *result["events"]
    }
    by_command: Counter = Counter()
    for pair, count in result["pair_coverage"].items():
        name, status = pair.split()
        assert status in Status.__members__
        assert name in Opcode.__members__ or name == "unknown"
        by_command[name] += count
    assert by_command["unknown"] == result["error_coverage"]["BAD_CMD"] > 50


def test_differences_are_noticed(tmp_path) -> None:
    """Each of these is a golden model that does one thing differently, in `bench_broken.py`."""
    bench = write_bench(NARROW, tmp_path)
    found = run_seed(bench, NARROW, 7, 4000, tmp_path, HERE / "bench_broken.py")
    told = {
        "released_in_order": "following is",
        "generations_wrap": "generation is 7 instead of 0",
        "keeps_the_seal": "sealed is 0 instead of 1",
        "keeps_the_tenant": "tenant is",
        "copies_are_not_made": "should not have been made",
        "trim_forgets_written_counts": "written is",
        "free_list_in_order_of_numbers": "previous is",
        "no_space_for_never_fits": "NEVER_FITS, 0x0, expected",
        "any_generation": "STALE_GEN, 0x0, expected",
    }
    assert found.keys() == told.keys()
    assert [name for name, texts in found.items() if not texts] == []
    for name, (text,) in found.items():
        assert text.startswith("seed 7, episode ")
        assert told[name] in text, name


def test_a_broken_memory_is_noticed_and_told(tmp_path, monkeypatch) -> None:
    """Word 3 of every memory keeps what it was written first. The report says how to have it again."""

    def broken(variant, folder):
        bench = write_bench(variant, folder)
        (file,) = (file for file in bench.files if file.name == "serrano_mem_1r1w.v")
        text = file.read_text()
        assert "if (w_en[i]) " in text
        file.write_text(text.replace("if (w_en[i]) ", "if (w_en[i] && (w_addr != 3 || w_data[0])) "))
        return bench

    monkeypatch.setattr("serrano_sim.kv_random.write_bench", broken)
    result = run_random(400, [5], tmp_path)
    assert result["random_mismatches"] == len(result["mismatches"]) > 0
    text = result["mismatches"][0]
    assert "seed 5, episode 0, command " in text
    assert "again: python -m serrano_sim.kv_random --seeds 5 --commands 400" in text
    # The same again.
    again = run_random(400, [5], tmp_path / "again")
    assert again["mismatches"] == result["mismatches"]
    json.dumps(result)
