# SPDX-License-Identifier: Apache-2.0
"""Estimates of a step: against figures that were recorded on the RTL, and what must hold of any."""

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from serrano.config import PRESETS
from serrano_host.errors import CompileError
from serrano_host.estimate import Memory, Shape, Span, estimate, read_config, report, useful
from serrano_host.presets import MACHINES
from serrano_sim.top.figures import useful_bytes, useful_macs

SMALL = Shape(dim=64, ffn=172, layers=2, heads=8, kv_heads=4, head_dim=8, vocab=512)
SHAPES = {
    "260k": dataclasses.replace(SMALL, layers=5),
    "260k, 2 layers": SMALL,
    "15m, 1 layer": Shape(dim=288, ffn=768, layers=1, heads=6, kv_heads=6, head_dim=48, vocab=500),
    "135m, 1 layer": Shape(dim=576, ffn=1536, layers=1, heads=9, kv_heads=3, head_dim=64, vocab=500),
}
BURST = 48
"""Beats of most of a burst of ``tiny``, and of less than half of one of ``base``."""
RECORDED = json.loads(Path(__file__).with_name("recorded_steps.json").read_text(encoding="utf-8"))
"""Steps on the RTL, from begin to begin: cycles of packets and of what is between steps; and beats."""


def of(recorded, memory=None):
    spans = [Span(*span) for span in recorded["spans"]]
    memory = memory or Memory.of(recorded["memory"])
    machine, shape = MACHINES[recorded["preset"]], Shape(**recorded["shape"])
    return estimate(machine, shape, spans, recorded["sampled"], memory)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["name"])
def test_cycles_of_the_rtl(recorded):
    found = of(recorded)
    assert found.cycles == pytest.approx(sum(recorded["cycles"]), rel=0.01)
    assert sum(packet.weights for packet in found.packets) == recorded["weights"]
    assert sum(packet.kv for packet in found.packets) == recorded["kv"]
    assert found.array_busy == recorded["array"]
    assert len(found.packets) + 1 == len(recorded["cycles"])


@pytest.mark.parametrize(
    "recorded",
    [recorded for recorded in RECORDED if recorded["memory"] != "dram"],
    ids=lambda recorded: recorded["name"],
)
def test_packets_of_the_rtl(recorded):
    found = of(recorded)
    machine, shifted = found.machine, []
    for packet, cycles in zip(found.packets, recorded["cycles"], strict=False):
        if packet.cycles != pytest.approx(cycles, rel=0.02, abs=BURST):
            shifted.append(abs(packet.cycles - cycles))
    # One may wait for a burst that comes with the packet before or behind.
    assert len(shifted) <= 1 and max(shifted, default=0) <= machine.read_burst_bytes // machine.port_bytes
    assert found.between == pytest.approx(recorded["cycles"][-1], abs=8)


@pytest.mark.parametrize("name", PRESETS)
def test_machines_are_the_presets(name):
    machine = MACHINES[name]
    for field in dataclasses.fields(machine):
        assert getattr(machine, field.name) == getattr(PRESETS[name], field.name)
    assert machine.load_bytes == PRESETS[name].load_bytes
    assert machine.align == PRESETS[name].tape_align
    assert machine.read_burst_beats == PRESETS[name].read_burst_beats


@pytest.mark.parametrize("latency", [1, 60, 300, 9000])
@pytest.mark.parametrize("name", PRESETS)
def test_buffers_are_those_of_the_presets(name, latency):
    machine, config = (
        dataclasses.replace(side[name], memory_latency=latency, tape_fifo_bytes=1 << 16)
        for side in (MACHINES, PRESETS)
    )
    assert (machine.queue_beats, machine.kv_fifo_beats) == (config.queue_beats, config.kv_fifo_beats)


SMALLER = [recorded for recorded in RECORDED if sum(recorded["cycles"]) < 250_000]


@pytest.mark.parametrize("recorded", SMALLER, ids=lambda recorded: recorded["name"])
def test_nothing_is_faster_than_port_and_array(recorded):
    for memory in (Memory.of("fixed1"), Memory.of("fixed60"), Memory.of("fixed200"), Memory.of("dram")):
        found = of(recorded, memory)
        assert found.cycles > max(found.port_beats / memory.efficiency, found.array_busy)
        assert all(packet.cycles > 0 for packet in found.packets)
        assert 0 < found.mbu < 1 and 0 < found.mac_utilization < 1


@pytest.mark.parametrize("seed", range(5))
def test_any_step_of_any_model(seed):
    rng = random.Random(seed)
    base = MACHINES["base"]
    narrow = dataclasses.replace(base, tape_fifo_bytes=2 * base.read_burst_bytes, lookahead=2)
    wide = dataclasses.replace(base, port_bytes=32, tape_fifo_bytes=16384, multiplier_latency=3)
    for _ in range(40):
        machine = rng.choice([*MACHINES.values(), narrow, wide])
        kv_heads, n = rng.randrange(1, 5), machine.n
        shape = Shape(
            dim=rng.randrange(2, 400),
            ffn=rng.randrange(2, 600),
            layers=rng.randrange(1, 4),
            heads=kv_heads * rng.randrange(1, 4),
            kv_heads=kv_heads,
            head_dim=rng.choice([n // 2, n, 2 * n, n + n // 2, 3 * n]),
            vocab=rng.randrange(2, 900),
        )
        spans = [
            Span(rng.choice([0, 1, 15, 16, 17, 100, 300])) for _ in range(rng.randrange(machine.rows_max))
        ]
        spans.append(Span(rng.choice([0, 5, 64]), rng.randint(1, machine.rows_max - len(spans))))
        memory = Memory.of(rng.choice(["fixed1", "fixed7", "fixed60", "fixed300", "dram"]))
        found = estimate(machine, shape, spans, None, memory)
        assert found.cycles > max(found.port_beats / memory.efficiency, found.array_busy)
        assert all(packet.cycles > 0 for packet in found.packets)


def test_more_takes_longer():
    machine, shape = MACHINES["base"], SHAPES["260k"]
    contexts = [estimate(machine, shape, [Span(context)]).cycles for context in (0, 100, 400, 2000)]
    batches = [estimate(machine, shape, [Span(100)] * batch).cycles for batch in (1, 2, 8, 16)]
    chunks = [estimate(machine, shape, [Span(100, rows)], 0).cycles for rows in (1, 4, 16)]
    latencies = [estimate(machine, shape, [Span(100)], 1, Memory(n)).cycles for n in (1, 60, 200)]
    for cycles in (contexts, batches, chunks, latencies):
        assert cycles == sorted(set(cycles))
    # Sixteen sequences share the weights.
    assert batches[-1] < 16 * batches[0]


@pytest.mark.parametrize(
    ("spans", "sampled"),
    [([(0, 1)], 1), ([(37, 1)], 1), ([(32, 5)], 0), ([(3, 4)], 1), ([(9, 1), (40, 1), (16, 6)], 2)],
)
def test_what_is_useful_is_what_the_report_counts(spans, sampled):
    for shape in SHAPES.values():
        size, macs = useful(shape, [Span(*span) for span in spans], sampled)
        assert size == useful_bytes(shape, spans, bool(sampled))
        assert macs == useful_macs(shape, spans, sampled)


def test_weights_count_once_for_a_batch():
    one, two = useful(SMALL, [Span(9)], 1), useful(SMALL, [Span(9), Span(9)], 2)
    kv = SMALL.layers * SMALL.kv_heads * 9 * (2 * SMALL.head_dim + 4)
    assert two[0] - one[0] == kv + SMALL.dim + 2 + 2 * SMALL.head_dim
    assert two[1] == 2 * one[1]


def test_a_shape_from_a_config(tmp_path):
    ours = {"dim": 64, "ffn": 172, "layers": 5, "heads": 8, "kv_heads": 4, "head_dim": 8, "vocab": 512}
    theirs = {
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 5,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 512,
    }
    assert Shape.of(ours) == Shape.of(theirs) == SHAPES["260k"]
    del theirs["num_key_value_heads"]
    assert Shape.of(theirs).kv_heads == 8
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    assert read_config(tmp_path) == theirs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 64}, r"ffn \(or intermediate_size\) must be a positive number, not None"),
        ({"dim": -1}, r"dim \(or hidden_size\) must be a positive number, not -1"),
        (vars(SMALL) | {"kv_heads": 3}, "heads must be a multiple of kv_heads 3, not 8"),
    ],
)
def test_a_wrong_shape(values, message):
    with pytest.raises(CompileError, match=message):
        Shape.of(values)


@pytest.mark.parametrize(
    ("spans", "sampled", "shape", "message"),
    [
        ([], 0, SMALL, "a step has 1 to 16 rows, not 0"),
        ([Span(0, 17)], 0, SMALL, "a step has 1 to 16 rows, not 17"),
        ([Span(0, 3)], 4, SMALL, "of 3 rows at most 3 are sampled, not 4"),
        ([Span(0)], 1, dataclasses.replace(SMALL, head_dim=28), "head_dim must be even, and 0 or a power of"),
        ([Span(0)], 1, dataclasses.replace(SMALL, heads=68), "heads / kv_heads is 17, attention_rows_max is"),
    ],
)
def test_a_step_that_there_is_not(spans, sampled, shape, message):
    with pytest.raises(CompileError, match=message):
        estimate(MACHINES["base"], shape, spans, sampled)


def test_memories_by_name():
    assert Memory.of("fixed60") == Memory() == Memory(60)
    assert Memory.of("dram").efficiency < 1
    for name in ("fast", "fixed", "fixed0", "fixed-3"):
        with pytest.raises(CompileError, match="memory must be dram, or fixed with its latency"):
            Memory.of(name)


# The command


def run(*arguments):
    command = [sys.executable, "-m", "serrano_host.cli", "estimate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "shape.json"
    file.write_text(json.dumps(vars(SHAPES["260k"])))
    return file


def test_json(config):
    done = run(config, "--preset", "base", "--context", 100, "--json")
    found = json.loads(done.stdout)
    expected = report(estimate(MACHINES["base"], SHAPES["260k"], [Span(100)]))
    assert found == {"preset": "base", "memory": "fixed60", **json.loads(json.dumps(expected))}
    assert found["cycles_per_token"] == found["cycles"]
    assert sum(found["port_cycles"].values()) == pytest.approx(found["cycles"], abs=1)
    assert len(found["packets"]) == 7 * 5 + 5


def test_a_batch_and_a_chunk(config):
    found = json.loads(run(config, "--batch", 4, "--rows", 12, "--last", "--context", 7, "--json").stdout)
    spans = [Span(7)] * 4 + [Span(7, 12)]
    assert found["cycles"] == round(estimate(MACHINES["base"], SHAPES["260k"], spans, 5).cycles)
    chunk = json.loads(run(config, "--rows", 16, "--memory", "dram", "--json").stdout)
    assert chunk["cycles_per_token"] is None
    assert "MATMUL logits" not in [packet["name"] for packet in chunk["packets"]]


def test_the_table(config):
    done = run(config)
    assert done.returncode == 0
    cycles = estimate(MACHINES["base"], SHAPES["260k"], [Span(0)]).cycles
    for text in ("GATE_UP", "between steps", "MBU", "100.0%", f"{cycles:,.0f}"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "17"], "a step has 1 to 16 rows, not 17"),
        (["--memory", "slow"], "memory must be dram, or fixed with its latency as in fixed60, not 'slow'"),
        (["--batch", "-1"], "--batch, --rows and --context must not be negative"),
    ],
)
def test_a_wrong_option(config, options, message):
    done = run(config, *options)
    assert done.returncode == 1
    assert done.stderr == f"serrano: error: {message}\n"


def test_a_wrong_file(tmp_path):
    assert run(tmp_path / "none.json").stderr.endswith("none.json: No such file or directory\n")
    (tmp_path / "a.json").write_text("{")
    assert "a.json: not JSON" in run(tmp_path / "a.json").stderr
    (tmp_path / "a.json").write_text("[]")
    assert "a.json: not a JSON object" in run(tmp_path / "a.json").stderr
