# SPDX-License-Identifier: Apache-2.0
"""Estimates against the Verilog: every step of a short run, packet by packet."""

import pytest

from serrano.config import preset
from serrano_host.estimate import Memory, Shape, Span, estimate
from serrano_host.presets import MACHINES
from serrano_sim.golden.synthetic import random_model
from serrano_sim.timeline import build_timeline
from serrano_sim.top.job import MemorySettings
from serrano_sim.top.layout import Request
from support.top import run_model

SHAPE = Shape(dim=44, ffn=60, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=61)


@pytest.mark.parametrize("latency", [60, 7])
def test_steps_and_packets(tmp_path, latency):
    model = random_model(4, **vars(SHAPE), context=64)
    memory = MemorySettings.of(latency)
    requests = [Request(tuple(range(33)), 3), Request(tuple(range(5)), 6)]
    result, verdict = run_model(preset("tiny"), model, requests, tmp_path, memory=memory, activity=True)
    assert verdict.errors == []
    packets = [event for event in build_timeline(result)["traceEvents"] if "packet" in event.get("args", {})]
    for step in result.recording.steps():
        spans = [Span(span.position, span.rows) for span in step.spans]
        found = estimate(MACHINES["tiny"], SHAPE, spans, step.sampled, Memory(latency))
        own = [event for event in packets if step.begin <= event["ts"] < step.commit]
        assert sum(event["dur"] for event in own) == pytest.approx(found.cycles - found.between, rel=0.01)
        for event, packet in zip(own, found.packets, strict=True):
            assert event["name"].startswith(packet.name)
            assert event["args"]["layer"] == packet.layer
            # In QKV and ATTEND tape and KV share the port, which is not followed burst by burst.
            if packet.name not in ("QKV", "ATTEND"):
                assert event["dur"] == pytest.approx(packet.cycles, rel=0.005, abs=4)
