# SPDX-License-Identifier: Apache-2.0
"""The bench of the KV controller's figures: its arithmetic, its verdicts, and a quick run of it."""

import dataclasses
import io
import json
import math
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from rich.console import Console

from serrano.config import preset
from serrano_sim.cocotb.bench_kv_figures import Mirror
from serrano_sim.golden.block_manager import Kind, Move
from serrano_sim.golden.kvcache import KVCache
from serrano_sim.kv_bench import gather, moves
from serrano_sim.kv_bench import waste as waste_part
from serrano_sim.kv_bench.__main__ import COMMANDS, QUICK_COMMANDS, Lines, arguments, main
from serrano_sim.kv_bench.arithmetic import Line, Window, blocks_of, conversations, fit, scattered, waste
from serrano_sim.kv_bench.commands import judge
from serrano_sim.kv_bench.figure import Figure, Result, Scope, State, at_least, at_most, equal, told
from serrano_sim.kv_bench.measure import measure
from serrano_sim.kv_bench.outside import (
    judge_conformance,
    judge_formal,
    judge_random,
    run_conformance,
    run_formal,
)
from serrano_sim.kv_bench.pages import BASE, LINEAR, Pages
from serrano_sim.kv_bench.report import KEYS, build_report, failed
from serrano_sim.kv_bench.unit import MEMORY, TRACES, write_bench
from serrano_sim.memory.handle import AxiMemory
from serrano_sim.runner import SimulationError

SOUND = {
    "alloc": {0: 6, **{b: 6 + 2 * b for b in range(1, 17)}},
    "free": {b: 6 + 2 * b for b in range(17)},
    "fork": {b: 8 + 2 * b for b in range(1, 17)},
    "trim": {b: 7 + b for b in range(17)},
    "append": {0: 14, 1: 16},
    "commit": {1: 8, 2: 10},
    "seal": {0: 8},
    "share": {0: 9},
    "stat": {0: 8},
    "reset_pool": {63: 140},
}


def silent() -> Console:
    return Console(width=150, quiet=True)


# Arithmetic


def test_line_through_all() -> None:
    assert fit({b: 6 + 2 * b for b in range(1, 17)}) == Line(6, 2, True)
    assert fit({3: 5, 9: 5}) == Line(5, 0, True)
    assert str(Line(6, 2, True)) == "6 + 2 b"


def test_line_above_all() -> None:
    bent = {1: 8, 2: 10, 3: 13, 4: 15}
    line = fit(bent)
    assert line == Line(5, 3, False)
    assert all(value <= line.base + line.per_block * b for b, value in bent.items())
    assert str(line) == "<= 5 + 3 b"
    # A step over several numbers of blocks, and one that is no whole number of cycles.
    assert fit({1: 8, 3: 11}) == Line(6, 2, False)
    # Falling cycles give no negative slope.
    assert fit({1: 9, 2: 7}) == Line(9, 0, False)


def test_line_needs_two_points() -> None:
    with pytest.raises(ValueError, match="two measurements, not 1"):
        fit({1: 8})


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (2048, 128)])
def test_blocks_of(tokens: int, blocks: int) -> None:
    assert blocks_of(tokens) == blocks


def test_waste_is_exact() -> None:
    assert waste([16, 32], 3) == 0
    assert waste([1], 1) == Fraction(15, 16)
    lengths = [1, 15, 16, 17, 2047]
    wanted = 1 - Fraction(sum(lengths), sum(16 * math.ceil(t / 16) for t in lengths))
    assert waste(lengths, sum(map(blocks_of, lengths))) == wanted
    assert waste(lengths, sum(map(blocks_of, lengths)) + 1) != wanted


def test_conversations_are_those_of_the_seed() -> None:
    drawn = conversations(1000, 1, 2048, 512)
    assert drawn == conversations(1000, 1, 2048, 512) != conversations(1000, 2, 2048, 512)
    assert all(1 <= talk.tokens <= 2048 and talk.prompt >= 1 and 0 <= talk.new <= 512 for talk in drawn)
    # Short and long ones.
    assert min(talk.tokens for talk in drawn) < 32
    assert max(talk.tokens for talk in drawn) > 1900


def test_scattered() -> None:
    assert scattered([1, 2, 3, 4]) == 0
    assert scattered([1, 2, 4, 3]) == 2
    assert scattered([7]) == 0


def test_windows() -> None:
    window = gather.window_of(np.array([30, 31, 34]), 11)
    assert window == Window(11, 30, 34, 3)
    assert (window.cycles, window.streaming, window.share, window.steady_share) == (24, 5, 3 / 24, 3 / 5)
    with pytest.raises(ValueError, match="No beat"):
        gather.window_of(np.array([], dtype=np.int64), 1)


def test_pages_are_laid_out_as_the_golden_cache() -> None:
    pages = Pages(blocks=6, records=4, head_dim=40, seed=3)
    image = pages.image()
    cache = KVCache(2, 2, 40, 16, blocks=6)
    assert image.shape == cache.image.shape
    cache.image[:] = image
    cache.open(0, [4, 2])
    cache.commit(0, 32)
    k, _, v, s_v = cache.read_group(0, 1, 1, 1)
    got = pages.gathered(image, [4, 2], 3).reshape(2, -1)[1]
    assert np.array_equal(got[32:64].view("<u2"), s_v)
    # The first chunk of K and of V: 16 dimensions of each token.
    assert np.array_equal(got[64 : 64 + 256].view("i1").reshape(16, 16), k[:, :16])
    assert np.array_equal(got[704 : 704 + 256].view("i1").reshape(16, 16), v[:, :16])
    with pytest.raises(ValueError, match="no room"):
        Pages(blocks=LINEAR // 2112, records=1, head_dim=64, seed=1).image()


def test_mirror_counts_every_byte_that_differs(tmp_path) -> None:
    pages = Pages(blocks=6, records=4, head_dim=40, seed=3)
    mirror, memory = Mirror(pages, 16), AxiMemory("memory", folder=tmp_path, size=0x8000000)
    memory.write(BASE, pages.image())
    assert mirror.differing(memory) == 0
    assert mirror.move(Move(Kind.COPY, 2, 3, high=5))
    copied = mirror.cache.image[3].copy()
    assert mirror.differing(memory) == np.count_nonzero(copied != pages.image()[3]) > 4000
    memory.write(BASE + 3 * pages.block_bytes, copied)
    assert mirror.differing(memory) == 0
    assert mirror.move(Move(Kind.SCRUB, destination=1))
    memory.write(BASE + pages.block_bytes, bytes(pages.block_bytes))
    assert mirror.differing(memory) == 0
    assert mirror.move(Move(Kind.GATHER, 4, record=2, low=1, high=16, index=1))
    assert mirror.differing(memory) > 1000
    memory.write(LINEAR + pages.record_bytes, mirror.buffer[1])
    assert mirror.differing(memory) == 0
    memory.write(BASE + 5, b"\0" if pages.image()[0, 5] else b"\1")
    assert mirror.differing(memory) == 1


# Verdicts


@pytest.mark.parametrize(
    ("figure", "state"),
    [
        (at_most("a", 16, 16), State.PASS),
        (at_most("a", 17, 16), State.MISS),
        (at_most("a", None, 16), State.MISS),
        (at_least("a", 0.99, 0.99), State.PASS),
        (at_least("a", 0.9899, 0.99), State.MISS),
        (at_least("a", None, 1), State.MISS),
        (equal("a", 0, 0), State.PASS),
        (equal("a", 1, 0), State.MISS),
        (told("a", "b"), State.TOLD),
    ],
)
def test_states(figure: Figure, state: State) -> None:
    assert figure.state is state
    assert failed([figure]) == ([figure] if state is State.MISS else [])


def test_commands_within_their_limits() -> None:
    figures, keys = judge(SOUND, [])
    assert not failed(figures)
    assert keys["alloc_base"] == 6 and keys["alloc_per_block"] == 2
    assert keys["fork_base"] == 8 and keys["fork_per_block"] == 2
    assert keys["append"] == 16 and keys["commit"] == 10 and keys["reset_pool"] == 140
    assert keys["slide_base"] is None


@pytest.mark.parametrize(
    ("name", "cycles"),
    [
        ("alloc", {b: 15 + 2 * b for b in range(1, 17)}),
        ("alloc", {b: 1 + 3 * b for b in range(1, 17)}),
        ("free", {b: 9 + 2 * b for b in range(1, 17)}),
        ("fork", {b: 8 + 2 * b + (b == 7) for b in range(1, 17)}),
        ("trim", {b: 9 + 2 * b for b in range(1, 17)}),
        ("append", {0: 8, 1: 17}),
        ("commit", {1: 8, 2: 17}),
        ("seal", {0: 17}),
        ("share", {0: 17}),
    ],
)
def test_commands_beyond_their_limits(name: str, cycles: dict[int, int]) -> None:
    figures, _ = judge({**SOUND, name: cycles}, [])
    assert [figure.name for figure in failed(figures)] == [name.upper()]


@pytest.mark.parametrize("name", ["alloc", "free", "fork", "trim", "append", "commit", "seal", "share"])
def test_a_command_that_is_not_there_misses_its_limit(name: str) -> None:
    figures, _ = judge({key: value for key, value in SOUND.items() if key != name}, [name.upper()])
    assert {figure.name for figure in failed(figures)} == {name.upper(), "commands that are not there"}


def window(cycles: int, beats: int = 16896) -> Window:
    return Window(1, cycles - beats + 1, cycles, beats)


@pytest.mark.parametrize(
    ("paged", "contiguous", "linear", "missed"),
    [
        (16970, 16970, 16961, 0),
        # More than a thousandth above the others.
        (16990, 16970, 16990, 1),
        (16990, 16990, 16970, 1),
        # Slow, however the blocks lie.
        (17100, 17100, 17100, 1),
    ],
)
def test_gather_limits(paged: int, contiguous: int, linear: int, missed: int) -> None:
    row = gather.rows(quick=True)[0]
    windows = {"paged": window(paged), "contiguous": window(contiguous), "linear": window(linear)}
    assert len(failed(gather._figures(row, windows, main=True))) == missed


def test_gather_with_pauses_between_beats() -> None:
    row = gather.rows(quick=True)[0]
    paused = dataclasses.replace(window(17500), first=100)
    windows = dict.fromkeys(("paged", "contiguous", "linear"), paused)
    assert len(failed(gather._figures(row, windows, main=True))) == 2


def test_the_row_that_the_limits_speak_of() -> None:
    for quick in (False, True):
        row = gather.rows(quick)[0]
        assert [row["tokens"], row["pages"]["head_dim"]] == [2048, 64]
        assert [row["latency"], row["stall"], row["dram"]] == [60, 0.0, ""]


def held_by(extra: int, leaked: int = 0) -> Callable:
    """Stands in for a run in which each length takes some blocks too many."""

    def measure(_: Scope, part: str, plan: dict) -> tuple[dict, None]:
        assert part == "waste"
        return {
            "held": [[blocks_of(t) + extra for t in row] for row in plan["lengths"]],
            "leaked": leaked,
        }, None

    return measure


@pytest.mark.parametrize(("extra", "missed"), [(0, 0), (1, 2)])
def test_waste_limits(tmp_path, monkeypatch, extra: int, missed: int) -> None:
    monkeypatch.setattr(waste_part, "measure", held_by(extra, leaked=3))
    result = waste_part.run(scope(tmp_path))
    assert len(failed(result.figures)) == missed
    found = result.keys["waste"]
    assert found["exact"] is (extra == 0)
    assert found["lengths"] == 100
    # 512 tokens more than the prompt are more than any answer has.
    assert found["admission"]["blocks"] > found["blocks"]
    assert result.leaked == 3


@pytest.mark.parametrize("differing", [0, 7])
def test_moves_limits(tmp_path, monkeypatch, differing: int) -> None:
    def measure(_: Scope, part: str, plan: dict) -> tuple[dict, None]:
        assert part == "moves"
        names = [("append_copy", 3), ("scrub", 0), *(("gather", size) for size in plan["gathered"])]
        found = [
            {"name": name, "size": size, "writes": writes, "cycles": 9000 // writes, "differing": 0}
            for writes in plan["writes"]
            for name, size in names
        ]
        found[2]["differing"] = differing
        return {"moves": found, "leaked": 0}, None

    monkeypatch.setattr(moves, "measure", measure)
    result = moves.run(scope(tmp_path))
    assert len(failed(result.figures)) == (differing > 0)
    assert result.keys["command_cycles"] == {"append_copy": 562, "scrub": 562}


# Report and command line


def scope(folder) -> Scope:
    return Scope(preset("base"), True, 10, 1, folder, folder)


def test_formal_that_was_not_run(tmp_path) -> None:
    result = run_formal(scope(tmp_path))
    assert [figure.state for figure in result.figures] == [State.NOT_RUN]
    assert result.keys["formal"] == {
        "proved": None, "bounded": None, "broken_variants_caught": None, "state": "not run: make formal",
    }  # fmt: skip


def test_formal_from_before_a_change_counts_as_not_run(tmp_path) -> None:
    file = tmp_path / "formal.json"
    file.write_text("{}")
    os.utime(file, (1, 1))
    result = run_formal(scope(tmp_path))
    assert [figure.state for figure in result.figures] == [State.NOT_RUN]
    assert result.keys["formal"]["state"] == "older than the controller: make formal"


PROVED = {"proved": 9, "bounded": 3, "not_proved": 0, "broken_variants": 12, "broken_variants_caught": 12}


def test_formal_that_was_run(tmp_path) -> None:
    (tmp_path / "formal.json").write_text(json.dumps(PROVED))
    result = run_formal(scope(tmp_path))
    assert not failed(result.figures)
    assert result.keys["formal"] == {"proved": 9, "bounded": 3, "broken_variants_caught": 12}
    assert result.leaked is None


@pytest.mark.parametrize("wrong", [{"not_proved": 1}, {"broken_variants_caught": 11}])
def test_formal_that_failed(wrong: dict[str, int]) -> None:
    assert len(failed(judge_formal({**PROVED, **wrong}))) == 1


@pytest.mark.parametrize(
    ("counts", "missed"),
    [((266, 0, 0), 0), ((0, 0, 0), 1), ((266, 1, 0), 1), ((266, 0, 1), 1)],
)
def test_conformance_limits(counts: tuple[int, int, int], missed: int) -> None:
    assert len(failed(judge_conformance(*counts))) == missed


def test_a_recording_that_is_absent_is_no_pass(tmp_path) -> None:
    result = run_conformance(scope(tmp_path), tmp_path / "shared" / "conformance" / "kv-ops.jsonl")
    assert [figure.state for figure in result.figures] == [State.NOT_RUN]
    assert result.keys["conformance"] == {
        "operations": None, "mismatches": None, "deliberate": None,
        "state": "absent: shared/conformance/kv-ops.jsonl",
    }  # fmt: skip


def test_a_recording_that_is_there(tmp_path) -> None:
    file = tmp_path / "kv-ops.jsonl"
    file.touch()
    told_of = []

    class Found:
        operations, mismatches, deliberate, leaked = 12, 1, 0, 3

        def as_dict(self) -> dict:
            return {"pools": 2}

    def replayer(asked, progress) -> Found:
        assert asked == file
        progress(5)
        return Found()

    here = dataclasses.replace(scope(tmp_path), progress=told_of.append)
    result = run_conformance(here, file, replayer)
    assert result.keys["conformance"] == {"operations": 12, "mismatches": 1, "deliberate": 0}
    assert (result.leaked, result.details, len(failed(result.figures))) == (3, {"pools": 2}, 1)
    assert told_of == ["replaying kv-ops.jsonl", "5 operations"]


RANDOM = {
    "random_commands": 200_000,
    "random_mismatches": 0,
    "mismatches": [],
    "command_coverage": {"OPEN": 500, "FREE": 900},
    "error_coverage": {"OK": 100_000, "TENANT": 500},
    "events": {"copies": 12},
    "episodes": 40,
    "cycles": 3_000_000,
    "seconds": 60.0,
}


@pytest.mark.parametrize(
    ("wrong", "full", "missed"),
    [
        ({}, True, []),
        ({"random_mismatches": 1}, True, ["mismatches"]),
        ({"random_mismatches": 1}, False, ["mismatches"]),
        ({"random_commands": 199_999}, True, ["random commands"]),
        ({"random_commands": 4000}, False, []),
        ({"command_coverage": {"OPEN": 499, "FREE": 900}}, True, ["rarest command"]),
        ({"error_coverage": {"OK": 100_000, "TENANT": 0}}, True, ["rarest status"]),
        ({"error_coverage": {"OK": 100_000, "TENANT": 0}}, False, []),
    ],
)
def test_random_commands(wrong: dict, full: bool, missed: list[str]) -> None:
    figures = judge_random({**RANDOM, **wrong}, full)
    assert [figure.name for figure in failed(figures)] == missed


def test_report_joins_parts() -> None:
    results = {
        "a": Result(keys={"command_cycles": {"alloc_base": 6}}, details={"x": 1}, leaked=0),
        "b": Result(keys={"command_cycles": {"translate": 3}, "gather_port_share": 0.995}, leaked=2),
        "c": Result(),
    }
    figures = {"a": [told("n", "v")], "b": [equal("blocks leaked", 2, 0)], "c": []}
    report = build_report(results, figures, {"quick": True})
    assert set(KEYS) <= set(report)
    assert report["command_cycles"] == {"alloc_base": 6, "translate": 3}
    assert report["leaked_blocks"] == 2
    assert report["random_commands"] is None
    assert report["passed"] is False
    assert [figure["state"] for figure in report["figures"]] == ["told", "miss"]
    assert report["details"] == {"a": {"x": 1}}
    assert build_report({"c": Result()}, {"c": []}, {})["leaked_blocks"] is None


def broken(_: Scope) -> Result:
    raise ValueError("bytes differ\nin many places")


@pytest.mark.parametrize(
    ("part", "status"),
    [
        (lambda scope: Result([told("a", "b")], leaked=0), 0),
        (lambda scope: Result([at_most("a", 2, 1)]), 1),
        (lambda scope: Result(leaked=1), 1),
        (broken, 1),
    ],
)
def test_exit_status(tmp_path, monkeypatch, part: Callable, status: int) -> None:
    monkeypatch.setenv("SERRANO_BUILD_DIR", str(tmp_path))
    assert main([], {"part": part}, silent()) == status
    report = json.loads((tmp_path / "reports" / "kvcache.json").read_text())
    assert report["passed"] == (status == 0)
    assert report["parts"] == ["part"]
    # Files are kept where there is something to look for.
    assert len(list((tmp_path / "sim" / "runs").iterdir())) == status


def test_progress_where_nobody_watches() -> None:
    file, now = io.StringIO(), [100.0]
    lines = Lines(Console(file=file, force_terminal=False), lambda: now[0])
    for text in ("one", "two"):
        lines.tell(text)
    now[0] += 10
    for text in ("three", "four"):
        lines.tell(text)
    assert file.getvalue().split() == ["one", "three"]
    Lines(Console(file=file, force_terminal=True), lambda: now[0]).tell("five")
    assert file.getvalue().split() == ["one", "three"]


def test_command_line() -> None:
    assert arguments([]).commands == COMMANDS == 200_000
    assert arguments(["--quick"]).commands == QUICK_COMMANDS
    assert arguments(["--quick", "--commands", "7"]).commands == 7
    assert arguments(["--only", "waste", "--only", "gather"]).only == ["waste", "gather"]
    for wrong in (["--commands", "0"], ["--only", "nothing"]):
        with pytest.raises(SystemExit):
            arguments(wrong)


# On the RTL


def test_bytes_that_differ_are_found(tmp_path) -> None:
    """A quick run of gather; then the same run against other golden pages, and another table."""
    result = gather.run(scope(tmp_path))
    assert not failed(result.figures)
    assert result.leaked == 0
    measured = json.loads((tmp_path / "gather" / "measured.json").read_text())
    row, windows, tables = gather.rows(quick=True)[0], measured["rows"][0], measured["tables"]
    folder = tmp_path / "gather"
    assert windows.pop("meanwhile") == 0
    found, differing = gather.evaluate(row, windows, tables, folder)
    assert set(found) == {"paged", "contiguous", "linear"}
    assert differing == 0
    other = {**row, "pages": {**row["pages"], "seed": 5}}
    assert gather.evaluate(other, windows, tables, folder)[1] > 500_000
    swapped = [tables[0], [*tables[1][:-1], tables[1][0]]]
    assert 2000 < gather.evaluate(row, windows, swapped, folder)[1] <= 2112
    for name in ("paged", "linear"):
        begin, end = windows[name]
        with pytest.raises(ValueError, match="bytes came"):
            gather.evaluate(row, {name: [begin, begin + (end - begin) // 2]}, tables, folder)


def test_a_part_that_does_not_exist(tmp_path) -> None:
    with pytest.raises(SimulationError):
        measure(scope(tmp_path), "nothing", {})


def test_bench_is_written_once() -> None:
    config = preset("base")
    first = write_bench(config)
    write_bench.cache_clear()
    again = write_bench(config)
    assert first == again
    assert all(file.exists() for file in first.files)
    text = next(file for file in first.files if file.stem == first.top).read_text()
    assert all(f'.NAME("{name}")' in text for name in (MEMORY, *TRACES))


def test_quick_run(tmp_path) -> None:
    file = tmp_path / "kvcache.json"
    assert main(["--quick", "--commands", "600", "--json", str(file)], console=silent()) == 0
    report = json.loads(file.read_text())
    assert report["gather_cycles_paged"] <= 1.001 * report["gather_cycles_contiguous"]
    assert report["gather_port_share"] >= 0.99
    assert report["leaked_blocks"] == 0
    assert report["waste"]["exact"] is True
    cycles = report["command_cycles"]
    assert all(cycles[name] is not None for name in cycles), cycles
    assert cycles["translate"] <= 4
    assert report["random_commands"] == 600
    assert report["random_mismatches"] == 0
    assert report["details"]["moves"]["moves"]
