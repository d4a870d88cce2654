# SPDX-License-Identifier: Apache-2.0
"""The bench of whole steps: plans, partitions, extrapolation, its page; and steps on the smallest Verilog."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from serrano.config import preset
from serrano.kvcache.commands import Opcode
from serrano.trace import ActivityWord
from serrano_host.estimate import Shape, Span
from serrano_sim.bench import __main__ as command
from serrano_sim.bench import cases, page
from serrano_sim.bench.cases import SHAPES, Case, Piece, Plan, chosen, full_plan, pieces_of, quick_plan
from serrano_sim.bench.content import kv_content, synthetic_model
from serrano_sim.bench.cycles import BETWEEN, PartitionError, Section, check_activity, sections_of, total
from serrano_sim.bench.piece import Measured, measure_piece, requests_of
from serrano_sim.bench.plots import write_plots
from serrano_sim.bench.report import show_packets, show_rows, show_sums
from serrano_sim.bench.rows import (
    KEYS,
    bound_cycles,
    build_row,
    figure_of,
    figures_of,
    target_of,
    throughput,
)
from serrano_sim.golden.kvcache import KVCache
from serrano_sim.golden.scale import unpack
from serrano_sim.timeline import Activity
from serrano_sim.top.design import top_design
from serrano_sim.top.figures import ARRAY, PORT, useful_bytes
from serrano_sim.top.trace import Kind, Step, StepWatch, record_dtype

SHAPE = Shape(dim=48, ffn=80, layers=4, heads=4, kv_heads=2, head_dim=8, vocab=61)
CASE = Case("own", "tiny", "decode", 2, 20)


# What is measured


def test_plans():
    full, quick = full_plan(list(SHAPES)), quick_plan(list(SHAPES))
    axes = itertools.product(("15m", "135m", "1.1b"), (1, 4, 16), (0, 256, 2048))
    assert {Case(shape, "base", "decode", batch, context) for shape, batch, context in axes} <= set(full)
    assert Case("1.1b", "base", "prefill", 16, 256) in full
    assert Case("135m", "base", "mixed", 16, 256) in full
    assert Case("135m", "base", "decode", 1, 256, "dram") in full
    assert {case.shape for case in full if case.preset == "tiny"} == {"260k"}
    assert {case.shape for case in full_plan(["15m"], ["tiny"])} == {"15m"}
    # Others are measured only where they are named.
    assert {case.preset for case in [*full, *full_plan(["mine"])]} == {"base", "small", "tiny", "ulx3s"}
    assert Case("135m", "wide", "decode", 64, 256) in full_plan(["135m"], ["wide"])
    assert len(full) == len(set(full)) and len(quick) == len(set(quick)) < len(full) / 4
    assert set(quick) <= set(full)
    assert quick_plan(["mine"]) == [Case("mine", "base", "decode", 1, 256)]


def test_filters():
    full = full_plan(list(SHAPES))
    found = chosen(full, ["15m,base,decode,b1,fixed60", "260k, prefill ,c0,base"])
    assert {str(case) for case in found} == {
        "260k base prefill b16 c0 fixed60",
        "15m base decode b1 c0 fixed60",
        "15m base decode b1 c256 fixed60",
        "15m base decode b1 c2048 fixed60",
    }
    assert chosen(full, []) == full
    with pytest.raises(ValueError, match=r"--only 16m,b1: 16m is none of 1\.1b, 135m"):
        chosen(full, ["16m,b1"])
    with pytest.raises(ValueError, match="no row has all of these"):
        chosen(full, ["decode,prefill"])


def test_rows_of_a_step():
    assert Case("a", "base", "decode", 3, 7).spans() == (Span(7),) * 3
    assert Case("a", "base", "prefill", 16, 7).spans() == (Span(7, 16),)
    mixed = Case("a", "base", "mixed", 16, 7)
    assert mixed.spans() == (*(Span(7),) * 4, Span(7, 12)) and mixed.sampled == 4
    assert Case("a", "tiny", "mixed", 4, 7).spans() == (Span(7), Span(7, 3))
    assert [Case("a", "base", phase, 16, 7).sampled for phase in ("decode", "prefill")] == [16, 0]


def test_what_does_not_fit_is_told():
    def told(case: Case, shape: Shape = SHAPE) -> str:
        return "; ".join(cases.problems_of(case, shape))

    assert told(CASE) == ""
    assert "dim is 288, dim_max is 256" in told(CASE, SHAPES["15m"])
    assert "context_max is 1024" in told(dataclasses.replace(CASE, context=1010))
    assert "blocks_max is 128" in told(dataclasses.replace(CASE, batch=4, context=900))
    assert "a step has 1 to 4 rows, not 5" in told(dataclasses.replace(CASE, batch=5))
    assert "power of two modulo" in told(
        dataclasses.replace(CASE, preset="base"), dataclasses.replace(SHAPE, head_dim=12)
    )


def test_pieces():
    case = Case("15m", "base", "decode", 4, 256)
    whole = pieces_of(case, SHAPES["15m"], 1e9)
    assert whole.pieces == (whole.body,) and whole.body.shape == SHAPES["15m"] and not whole.extrapolated
    parts = pieces_of(case, SHAPES["15m"], 0)
    assert parts.extrapolated and parts.body.shape.layers == 2 and parts.body.shape.vocab < 32000
    head = parts.head
    assert (head.shape.dim, head.shape.vocab, head.shape.layers, head.sampled) == (288, 32000, 1, 4)
    assert head.cycles() > 500_000 > parts.body.cycles()
    # One LM head does for all contexts, and a prompt needs none.
    assert pieces_of(dataclasses.replace(case, context=0), SHAPES["15m"], 0).head == head
    assert pieces_of(Case("15m", "base", "prefill", 16, 256), SHAPES["15m"], 0).head is None
    two = dataclasses.replace(SHAPES["15m"], layers=2)
    assert not pieces_of(case, two, 0).extrapolated


def test_requests():
    piece = Piece("base", "fixed60", SHAPE, (Span(20), Span(20), Span(37, 5)), 2, settle=1)
    commands, before, requests = requests_of(piece)
    assert before == []
    lengths = [c.argument0 for c in commands if c.opcode == Opcode.COMMIT.value]
    # One step more, and they are where they shall be.
    assert lengths == [19, 19, 32]
    assert [len(request.prompt) for request in requests[:2]] == [20, 20]
    assert len(requests[2].prompt) >= 32 + 2 * 16 + 5
    assert all(request.adopt and request.sequence == n for n, request in enumerate(requests))
    commands, before, requests = requests_of(dataclasses.replace(piece, spans=(Span(0),) * 2))
    assert commands == [] and len(before) == 1
    assert [(len(request.prompt), request.adopt) for request in requests] == [(1, False)] * 2


def test_content():
    model = synthetic_model(SHAPE, 48, seed=3)
    assert model.same(synthetic_model(SHAPE, 48, seed=3))
    assert not model.same(synthetic_model(SHAPE, 48, seed=4))
    cache = KVCache(SHAPE.layers, SHAPE.kv_heads, SHAPE.head_dim, 4, 5)
    image = kv_content(SHAPE, 5)
    assert image.shape == cache.image.shape
    cache.image[:] = image
    cache.open(0, [3, 1], 20)
    k, s_k, v, s_v = cache.read(0, 2, 20)
    assert min(k.min(), v.min()) >= -127 and k.std() > 50
    for scales in (unpack(s_k), unpack(s_v)):
        values = scales.m * 2.0 ** (scales.e - 10.0)
        assert values.max() / values.min() < 3


# Where the cycles went


def word(packet: int, array: str, port: str, stepping: int = 1) -> int:
    fields = {"packet": packet, "stepping": stepping, f"array_{array}": 1, f"port_{port}": 1}
    return ActivityWord.const(fields).as_value().value


def activity(*changes: tuple[int, int], end: int = 100) -> Activity:
    cycles, words = zip(*changes, strict=True)
    return Activity(np.array(cycles), np.array(words, dtype=np.uint64), end)


STEP = (
    (5, word(9, "serial", "no_request", 0)),
    # The step begins in cycle 10; the packet of the one before is shown until the first has come.
    (10, word(9, "serial", "weights")),
    (13, word(0, "serial", "other")),
    (20, word(1, "busy", "weights")),
    (26, word(1, "wait_tape", "latency")),
    (30, word(2, "wait_kv", "kv")),
    (41, word(2, "serial", "no_request", 0)),
    (45, word(2, "serial", "weights")),
)


def test_sections():
    sections = sections_of(activity(*STEP), 10, 45)
    assert [(section.packet, section.cycles) for section in sections] == [
        (0, 10),
        (1, 10),
        (2, 11),
        (BETWEEN, 4),
    ]
    assert {name: n for name, n in sections[1].array.items() if n} == {"busy": 6, "wait_tape": 4}
    assert {name: n for name, n in sections[0].port.items() if n} == {"weights": 3, "other": 7}
    assert set(sections[0].array) == set(ARRAY) and set(sections[0].port) == set(PORT)
    whole = total((section, 1) for section in sections)
    assert whole.cycles == 35 == sum(whole.array.values()) == sum(whole.port.values())
    assert total([(sections[1], 3)]).array["busy"] == 18


def test_the_next_step_may_be_seen_before_it_begins():
    sections = sections_of(activity(*STEP), 10, 47)
    assert [(section.packet, section.cycles) for section in sections[2:]] == [(2, 11), (BETWEEN, 6)]


@pytest.mark.parametrize("bits", [0, 3])
def test_a_cycle_that_is_nowhere_or_counted_twice(bits):
    place = ActivityWord.as_shape()["port_weights"].offset
    bad = STEP[3][1] & ~(63 << place) | bits << place
    what = "no part of a partition" if bits == 0 else "port_weights, port_kv"
    with pytest.raises(PartitionError, match=f"cycle 20: {what}"):
        sections_of(activity(*STEP[:3], (20, bad), *STEP[4:]), 10, 45)


def test_sums_that_do_not_add_up():
    with pytest.raises(PartitionError, match="packet 3: array cycles add up to 6, not to 7"):
        total([(Section(3, 7, {"busy": 6}, {"kv": 7}), 1)], 3)
    with pytest.raises(PartitionError, match="port cycles add up to 14, not to 7"):
        Section(3, 7, {"busy": 7}, {"kv": 7, "weights": 7}).check()


def counted(**changes: int) -> Step:
    counters = {f"array_{name}": 0 for name in ARRAY} | {f"port_{name}": 0 for name in PORT}
    counters |= {"array_serial": 36 - 6 - 4 - 11, "array_busy": 6, "array_wait_tape": 4, "array_wait_kv": 11}
    counters |= {"port_no_request": 5, "port_weights": 9, "port_other": 7, "port_latency": 4, "port_kv": 11}
    counters |= {"cycles": 36} | changes
    nothing = np.zeros(0, dtype=[("packet", "u2"), ("kind", "u1")])
    return Step(0, (), 1, 1, 10, 41, counters, (), nothing)


def test_counters_are_compared():
    check_activity(activity(*STEP), [counted()])
    with pytest.raises(PartitionError, match="array cycles add up to 46, not to 36"):
        check_activity(activity(*STEP), [counted(array_busy=16)])
    moved = counted(array_busy=16, array_wait_kv=1)
    with pytest.raises(PartitionError, match="array_busy is 16 by the counter, 6 by the trace"):
        check_activity(activity(*STEP), [moved])


# Rows


def section(packet: int, cycles: int) -> Section:
    """A section whose categories can be told apart: the array is busy a third of the time."""
    array = dict.fromkeys(ARRAY, 0) | {"busy": cycles // 3, "serial": cycles - cycles // 3}
    return Section(packet, cycles, array, dict.fromkeys(PORT, 0) | {"weights": cycles})


def measured(piece: Piece, cycles: dict[int, int], golden: int | None = 5) -> Measured:
    sections = tuple(section(packet, count) for packet, count in cycles.items())
    spans = tuple((span.position, span.rows) for span in piece.spans)
    return Measured(piece, spans, sections, golden, 1, 1.0)


def test_extrapolation():
    """EMBED, the first layer, the last one for all others, and what is behind it from the head's model."""
    case = Case("own", "base", "decode", 2, 48)
    plan = pieces_of(case, SHAPE, 0)
    body = {0: 10} | dict.fromkeys(range(1, 8), 100) | dict.fromkeys(range(8, 15), 200)
    body |= {15: 9999, 16: 9999, 17: 9999, 18: 9999, BETWEEN: 9999}
    head = {0: 77} | dict.fromkeys(range(1, 8), 77) | {8: 40, 9: 3000, 10: 5, 11: 1, BETWEEN: 30}
    both = {plan.body: measured(plan.body, body), plan.head: measured(plan.head, head)}
    row = build_row(case, SHAPE, plan, both)
    assert row["cycles"] == 10 + 700 + 3 * 1400 + 3076
    assert set(row) == set(KEYS) and row["extrapolated"] and row["golden_checked"]
    assert sum(row["array_cycles"].values()) == sum(row["port_cycles"].values()) == row["cycles"]
    assert row["cycles_per_token"] == row["cycles"] / 2
    assert row["mbu"] == useful_bytes(SHAPE, [(48, 1), (48, 1)], True) / row["cycles"] / 16
    packets = {packet["packet"]: packet for packet in row["packets"]}
    assert packets["QKV"]["times"] == 4 and packets["QKV"]["cycles"] == 100 + 3 * 200
    assert packets["NORM"]["times"] == 8 and packets["NORM final"]["cycles"] == 40
    assert packets["MATMUL logits"]["cycles"] == 3000 and packets["between steps"]["cycles"] == 30
    assert sum(packet["cycles"] for packet in row["packets"]) == row["cycles"]


def test_extrapolation_of_a_prompt():
    case = Case("own", "base", "prefill", 16, 48)
    plan = pieces_of(case, SHAPE, 0)
    body = {0: 10} | dict.fromkeys(range(1, 8), 100) | dict.fromkeys(range(8, 15), 200) | {18: 1, BETWEEN: 30}
    row = build_row(case, SHAPE, plan, {plan.body: measured(plan.body, body, None)})
    assert row["cycles"] == 10 + 700 + 3 * 1400 + 31 and row["cycles_per_token"] == row["cycles"] / 16
    assert not row["golden_checked"] and row["target"] is None


def test_bounds():
    base, tiny = preset("base"), preset("tiny")
    shape = Shape(dim=32, ffn=64, layers=3, heads=4, kv_heads=2, head_dim=16, vocab=100)
    # 2 * 8 tiles of QKV, 2 * 4, 2 * 8, 4 * 2; 7 * 2 of logits.
    found = bound_cycles(shape, base, [(20, 1), (0, 1)], 2)
    assert found == {
        "QKV": 3 * 16 * 16,
        "MATMUL o": 3 * 8 * 16,
        "GATE_UP": 3 * 16 * 16,
        "MATMUL down": 3 * 8 * 16,
        "MATMUL logits": 14 * 16,
        "ATTEND": 3 * 2 * 20 * 36 // 16,
    }
    assert bound_cycles(shape, base, [(0, 16), *[(0, 1)] * 4], 4)["QKV"] == 3 * 16 * 20
    assert "MATMUL logits" not in bound_cycles(shape, base, [(0, 16)], 0)
    assert bound_cycles(shape, tiny, [(0, 1)], 1)["MATMUL o"] == 3 * 8 * 16 * 4


def test_targets():
    def target(*case):
        return target_of(Case(*case))

    assert target("15m", "base", "decode", 4, 2048) == ("mbu", 0.99)
    assert target("1.1b", "base", "decode", 16, 0) == ("mbu or mac_utilization", 0.95)
    assert target("260k", "base", "decode", 1, 0) == ("mbu", 0.95)
    assert target("260k", "base", "decode", 4, 0) is None
    assert target("135m", "base", "prefill", 16, 256) == ("mac_utilization", 0.91)
    assert target("135m", "base", "prefill", 16, 0) is None
    assert target("135m", "base", "decode", 1, 0, "dram") == ("mbu", 0.90)
    assert target("135m", "ulx3s", "decode", 1, 0) is None
    assert target("15m", "base", "mixed", 16, 256) == ("bound_share", 1 / 1.05)


def test_throughput():
    common = {"shape": "135m", "preset": "base", "context": 256, "memory": "fixed60", "phase": "decode"}
    rows = [common | {"batch": batch, "cycles_per_token": 1200 / batch} for batch in (1, 16)]
    (found,) = throughput(rows)
    assert found["times"] == 16 and found["target_value"] == 11 and found["met"]
    (other,) = throughput([row | {"shape": "15m"} for row in rows])
    assert other["target_value"] is None and other["met"] is None
    assert throughput(rows[:1]) == []


def test_figures():
    rows = [report(met)["rows"][0] for met in (True, False)]
    rows[1] |= {"batch": 4, "mbu": 0.98}
    times = [{"shape": "135m", "context": 256, "times": 10.9, "target_value": 11.0, "met": False}]
    first, second = figures_of(rows, [*times, {"shape": "15m", "target_value": None}])
    assert first["figure"] == "15m, 135m, 1.1b decode, 1 and 4 rows: MBU" and first["rows"] == 2
    assert first["least"] == 0.98 and first["at"] == "15m base decode b4 c0 fixed60" and not first["met"]
    assert second["least"] == 10.9 and not second["met"]
    assert figures_of(rows[:1], [])[0]["met"] and figures_of([], []) == []
    assert {figure_of(case) is None for case in full_plan(list(SHAPES)) if target_of(case)} == {False}


# The page


def report(met: bool) -> dict:
    case = Case("15m", "base", "decode", 1, 0)
    plan = Plan(Piece("base", "fixed60", SHAPES["15m"], case.spans(), 1))
    cycles = {0: 950_000 if met else 999_999, BETWEEN: 40}
    row = build_row(case, SHAPES["15m"], plan, {plan.body: measured(plan.body, cycles)})
    return {
        "rows": [row],
        "shapes": {"15m": vars(SHAPES["15m"])},
        "extrapolation": [{"case": str(case), "whole": 1000, "extrapolated": 1002, "error": 0.002}],
        "throughput": [],
        "figures": figures_of([row], []),
    }


def test_page(tmp_path):
    missed, kept = report(False), report(True)
    assert missed["rows"][0]["met"] is False and kept["rows"][0]["met"] is True
    text = page.measured_part(missed, ["plots/performance-roofline.svg"])
    assert "![roofline](plots/performance-roofline.svg)" in text
    assert "| decode | 1 | 0 | fixed60 | 1,000,039 | 1,000,039 |" in text
    assert "| 15m, 135m, 1.1b decode, 1 and 4 rows: MBU | 99.0 | 95." in text
    assert "1,002 (+0.20 %)" in text and "**missed**" in text and "Where a figure is not reached" in text
    assert "Where a figure is not reached" not in page.measured_part(kept)
    before = f"above\n\n{page.BEGIN}\nold\n{page.END}\n\nbelow\n"
    after = page.replace_part(before, text)
    assert after.startswith(f"above\n\n{page.BEGIN}\n") and after.endswith(f"{page.END}\n\nbelow\n")
    assert "old" not in after and page.replace_part(after, text) == after
    with pytest.raises(ValueError, match="the page needs the lines"):
        page.replace_part("nothing", text)
    file = tmp_path / "performance.md"
    file.write_text(before)
    plots = write_plots(missed, tmp_path / "plots")
    page.write_page(missed, file, plots)
    assert "(plots/performance-tokens.svg)" in file.read_text()
    first = [plot.read_bytes() for plot in plots]
    assert [plot.read_bytes() for plot in write_plots(missed, tmp_path / "plots")] == first
    assert all(b"<svg" in plot for plot in first)


def test_what_is_in_the_way():
    row = report(False)["rows"][0]
    row["port_cycles"] = dict.fromkeys(PORT, 0) | {"weights": 900_000, "latency": 100_000, "no_space": 39}
    row["packets"][0]["port_cycles"] = {"weights": 899_960, "latency": 100_000, "no_space": 39}
    row["packets"][1]["port_cycles"] = {"weights": 40}
    partition, categories, packets = page.in_the_way(row)
    assert partition == "port" and list(categories) == ["latency"] and list(packets) == ["EMBED"]
    assert page.way_text(row) == "port: latency 10.0 %; in EMBED 10.0 %"


def test_table(capsys):
    missed = report(False)
    console = Console(width=200)
    show_rows(console, missed["rows"])
    show_sums(console, missed)
    show_packets(console, missed["rows"][0])
    told = capsys.readouterr().out
    assert "1,000,039" in told and "MISS" in told and "99.0" in told
    assert "15m base decode b1 c0 fixed60: 1,000 cycles whole, 1,002 extrapolated, +0.20 %" in told
    assert "between steps" in told and "serial 666,666" in told
    show_rows(console, report(True)["rows"])
    told = capsys.readouterr().out
    assert "met" in told and "MISS" not in told


# The command


def test_watch_sees_each_step_once(tmp_path):
    """Beats come while it looks; only steps one after another count."""
    lanes = 2
    dtype = np.dtype([("cycle", "<u8"), ("beat", record_dtype(lanes))])
    assert dtype.itemsize % 8 == 0
    beats = np.zeros(7, dtype)
    beats["beat"]["kind"] = [
        Kind.BEGIN,
        Kind.RESIDUAL,
        Kind.BEGIN,
        Kind.BEGIN,
        Kind.BEGIN,
        Kind.CODES,
        Kind.BEGIN,
    ]
    beats["beat"]["values"][:, 0] = [4, 4, 1, 4, 4, 4, 1]
    beats["beat"]["values"][:, 1] = 3
    (tmp_path / "trace.trace").write_bytes(bytes(64) + beats.tobytes())
    assert not StepWatch(lanes, 4, 2, 1, folder=tmp_path).seen(7)
    watch = StepWatch(lanes, 4, 3, 2, folder=tmp_path)
    assert [watch.seen(length) for length in (0, 1, 4, 4, 6, 7)] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "17m"], "17m is none of"),
        (["--shape", "missing.json"], "No such file"),
        (["--from", "missing.json"], "no report"),
        (["--presets", "tiny", "--only", "15m"], "dim is 288, dim_max is 256"),
    ],
)
def test_wrong_input(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments, Console(width=2000)) == 2
    assert message in capsys.readouterr().out


def test_wrong_options(capsys):
    for arguments in (["--presets", "huge"], ["--jobs", "0"], ["--docs", "--shape", "x"]):
        with pytest.raises(SystemExit) as ended:
            command.arguments(arguments)
        assert ended.value.code == 2


# On the Verilog


def quiet(doing: str, share: float) -> None:
    assert doing and 0 <= share <= 1


def assert_spans(found: Measured, case: Case) -> None:
    """Rows as wanted; who was admitted first may have decoded a token more for each of the others."""
    wanted = case.spans()
    assert [rows for _, rows in found.spans] == [span.rows for span in wanted]
    for (position, _), span in zip(found.spans, wanted, strict=True):
        assert 0 <= position - span.position < len(wanted)


def test_a_step_and_its_extrapolation(tmp_path):
    plans = {"whole": pieces_of(CASE, SHAPE, 1e9), "parts": pieces_of(CASE, SHAPE, 0)}
    design = top_design(preset("tiny"))
    found = {
        piece: measure_piece(piece, design, tmp_path / str(number), quiet)
        for number, piece in enumerate(piece for plan in plans.values() for piece in plan.pieces)
    }
    assert list(tmp_path.iterdir()) == []
    whole, parts = (build_row(CASE, SHAPE, plan, found) for plan in plans.values())
    body = found[plans["whole"].body]
    assert_spans(body, CASE)
    assert body.golden > 0
    assert whole["golden_checked"] and not whole["extrapolated"] and parts["extrapolated"]
    assert parts["cycles"] == pytest.approx(whole["cycles"], rel=0.01)
    for row in (whole, parts):
        assert sum(row["array_cycles"].values()) == sum(row["port_cycles"].values()) == row["cycles"]
        assert 0.5 < row["mbu"] < row["port_busy"] < 1 and row["bound_cycles"] < row["cycles"]
    names = [packet["packet"] for packet in whole["packets"]]
    assert names == [packet["packet"] for packet in parts["packets"]]
    assert names[0] == "EMBED" and names[-1] == "between steps" and len(names) == 12


@pytest.mark.parametrize("phase", ["prefill", "mixed"])
@pytest.mark.parametrize("context", [0, 21])
def test_chunks(tmp_path, phase, context):
    case = Case("own", "tiny", phase, 4, context)
    shape = dataclasses.replace(SHAPE, layers=1)
    plan = pieces_of(case, shape)
    found = measure_piece(plan.body, top_design(preset("tiny")), tmp_path / "run", quiet)
    assert_spans(found, case)
    row = build_row(case, shape, plan, {plan.body: found})
    assert row["golden_checked"] and sum(row["array_cycles"].values()) == row["cycles"]
    named = {packet["packet"] for packet in row["packets"]}
    assert ("MATMUL logits" in named) == (phase == "mixed") and "END" in named


def test_the_command(tmp_path, capsys):
    file, out = tmp_path / "own.json", tmp_path / "bench.json"
    file.write_text(json.dumps(vars(SHAPE)))
    arguments = ["--shape", str(file), "--presets", "tiny", "--only", "decode,b1,c0", "--json", str(out)]
    assert command.main([*arguments, "--packets"], Console(width=200)) == 0
    told = capsys.readouterr().out
    assert "own" in told and "between steps" in told
    written = json.loads(out.read_text())
    (row,) = written["rows"]
    assert set(row) == set(KEYS) and row["shape"] == "own" and row["golden_checked"]
    assert written["failed"] == {} and written["shapes"] == {"own": vars(SHAPE)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bench-partitions.svg",
        "bench-roofline.svg",
        "bench-tokens.svg",
        "bench.json",
        "own.json",
    ]
    assert command.main(["--from", str(out)], Console(width=200)) == 0
    assert "own" in capsys.readouterr().out


def test_a_piece_that_breaks_down(tmp_path, monkeypatch, capsys):
    """The others go on, it is told, and the command fails."""

    def measure(piece, design, folder, progress):
        progress("simulating", 0.5)
        if piece.spans[0].position:
            raise ValueError("not the golden model's")
        return measured(piece, {0: 90_000, BETWEEN: 10})

    monkeypatch.setenv("SERRANO_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(command, "measure_piece", measure)
    monkeypatch.setattr(command, "top_design", lambda *arguments: None)
    file = tmp_path / "bench.json"
    assert command.main(["--only", "260k,base,b1,fixed60", "--json", str(file)], Console(width=200)) == 1
    written = json.loads(file.read_text())
    assert [row["context"] for row in written["rows"]] == [0] and len(written["failed"]) == 2
    assert "not the golden model's" in capsys.readouterr().out


def test_interrupted(tmp_path, monkeypatch):
    """Nothing is left running, nothing is written."""
    stopped = []

    def measure(piece: Piece, design, folder: Path, progress):
        if not stopped:
            stopped.append(piece)
            raise KeyboardInterrupt
        while True:
            progress("simulating", 0.5)

    monkeypatch.setenv("SERRANO_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(command, "measure_piece", measure)
    monkeypatch.setattr(command, "top_design", lambda *arguments: None)
    file = tmp_path / "bench.json"
    assert command.main(["--only", "260k,base,b1", "--json", str(file)], Console(width=200)) == 130
    assert not file.exists() and list((tmp_path / "sim" / "runs").iterdir()) == []
