# SPDX-License-Identifier: Apache-2.0
"""Figures against numbers computed by hand from the definitions in docs/simulation.md."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from serrano.config import preset
from serrano.csr.table import COUNTERS
from serrano_sim.top.figures import ARRAY, PORT, check_counters, figures, useful_bytes, useful_macs
from serrano_sim.top.trace import Span, Step

# The checkpoint in this repository: 128, 256, 4 layers, 4 heads on 2 of 32, 1024 tokens.
JARGON = SimpleNamespace(dim=128, ffn=256, layers=4, heads=4, kv_heads=2, head_dim=32, vocab=1024)
# Per layer: QKV 256 x 128, Wo 128 x 128, gate and up 512 x 128, down 128 x 256.
LAYER_WEIGHTS = 32768 + 16384 + 65536 + 32768
LAYER_OUTPUTS = 256 + 128 + 512 + 128
HEAD = 1024 * 128


def test_useful_bytes():
    layers = 4 * (LAYER_WEIGHTS + 2 * LAYER_OUTPUTS)
    row = 128 + 2 + 64
    assert useful_bytes(JARGON, [(0, 1)], False) == layers + row == 598210
    assert useful_bytes(JARGON, [(0, 1)], True) == layers + row + HEAD + 2048
    # A token of KV: in 4 layers and 2 heads 64 codes and two scales.
    assert useful_bytes(JARGON, [(10, 1)], False) - layers - row == 10 * 8 * 68
    # Rows of one sequence share weights and KV, those of several the weights.
    assert useful_bytes(JARGON, [(10, 1), (4, 2)], False) == layers + 3 * row + 14 * 8 * 68
    assert useful_bytes(JARGON, [(10, 3)], False) == layers + 3 * row + 10 * 8 * 68


def test_useful_macs():
    layers = 4 * LAYER_WEIGHTS
    # Two for each of 4 layers, 4 heads, 32 dimensions.
    token = 2 * 4 * 4 * 32
    assert useful_macs(JARGON, [(0, 1)], 0) == layers + token
    assert useful_macs(JARGON, [(9, 1)], 1) == layers + 10 * token + HEAD
    assert useful_macs(JARGON, [(9, 2)], 1) == 2 * layers + (10 + 11) * token + HEAD
    assert useful_macs(JARGON, [(9, 1), (0, 2)], 2) == 3 * layers + (10 + 1 + 2) * token + 2 * HEAD


def counters(**values):
    return dict.fromkeys((name for name, _ in COUNTERS), 0) | values


def steps():
    """Chunks of 16, 4 and 2 tokens of a prompt, then one token; 1,000 cycles, then 900, 1,100 and 1,200."""
    parts = [(1000, 600, 700), (1900, 1200, 1500), (3000, 2000, 2400), (4200, 2800, 3300)]
    chunks = [(0, 16), (16, 4), (20, 2), (22, 1)]
    made = []
    for index, (cycles, busy, weights) in enumerate(parts):
        values = counters(
            cycles=cycles,
            array_busy=busy,
            array_serial=cycles - busy,
            port_weights=weights,
            port_kv=100,
            port_latency=cycles - weights - 100,
            bytes_weights=16 * weights,
            bytes_kv_read=1600,
            rows_issued=busy,
        )
        position, rows = chunks[index]
        spans = (Span(0, 0, 0, rows, position),)
        clock = {"begin": 50 + cycles - 900, "commit": 50 + cycles}
        step = Step(
            index, spans, rows, int(index >= 2), **clock, counters=values, faults=(), beats=np.zeros(0)
        )
        made.append(step)
    return made


def test_figures_cover_the_steps_that_gave_tokens():
    found = figures(steps(), JARGON, preset("base"))
    assert (found.tokens, found.cycles) == (2, 4200 - 1900)
    assert found.cycles_per_token == 1150
    assert found.array_cycles == {**dict.fromkeys(ARRAY, 0), "busy": 1600, "serial": 700}
    assert found.port_cycles == {**dict.fromkeys(PORT, 0), "weights": 1800, "latency": 500}
    assert sum(found.array_cycles.values()) == sum(found.port_cycles.values()) == found.cycles
    assert found.bytes == {"weights": 28800, "kv_read": 0, "kv_write": 0, "other": 0}
    assert found.port_busy == 1800 / 2300
    assert found.useful_bytes == useful_bytes(JARGON, [(20, 2)], True) + useful_bytes(JARGON, [(22, 1)], True)
    assert found.mbu == found.useful_bytes / (2300 * 16)
    assert found.useful_macs == useful_macs(JARGON, [(20, 2)], 1) + useful_macs(JARGON, [(22, 1)], 1)
    assert found.mac_utilization == found.useful_macs / (2300 * 256)


def test_a_prompt_of_one_token():
    own = [dataclasses.replace(step, sampled=1) for step in steps()]
    found = figures(own, JARGON, preset("base"))
    assert (found.tokens, found.cycles) == (4, 4200)


def test_steps_of_several_requests():
    """Two rows of a step are sampled: two tokens; the rows of each count."""
    first, second = steps()[2:]
    both = dataclasses.replace(second, rows=4, sampled=2, spans=(Span(1, 1, 0, 1, 22), Span(0, 2, 1, 3, 40)))
    found = figures([first, both], JARGON, preset("base"))
    assert found.tokens == 3
    assert found.useful_bytes == useful_bytes(JARGON, [(20, 2)], True) + useful_bytes(
        JARGON, [(22, 1), (40, 3)], True
    )
    assert found.useful_macs == useful_macs(JARGON, [(20, 2)], 1) + useful_macs(JARGON, [(22, 1), (40, 3)], 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sampled": 0}, "No step gave a token"), ({"counters": None}, "Counters of a step are missing")],
)
def test_no_figures(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        figures([dataclasses.replace(step, **change) for step in steps()], JARGON, preset("base"))


def test_counters_are_checked():
    good = steps()
    assert check_counters(good) == []
    bad = dict(good[1].counters) | {"port_other": 1}
    assert check_counters([good[0], dataclasses.replace(good[1], counters=bad)]) == [
        "step 1: port cycles add up to 1,901, not to 1,900"
    ]
    assert check_counters([good[0], dataclasses.replace(good[1], commit=1000)]) == [
        "step 1: 900 cycles counted since the last commit, -50 went by"
    ]
    # Between two requests nothing may have run; what has run is no longer than the time that went by.
    other = (Span(0, 1, 0, 1, 22),)
    assert check_counters([good[0], dataclasses.replace(good[1], commit=9000, spans=other)]) == []
    assert check_counters([good[0], dataclasses.replace(good[1], commit=949, spans=other)]) == [
        "step 1: 900 cycles counted since the last commit, -101 went by"
    ]
    assert check_counters([dataclasses.replace(good[0], counters=None)]) == [
        "step 0: no counters in the trace"
    ]
