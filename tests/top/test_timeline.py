# SPDX-License-Identifier: Apache-2.0
"""The timeline of a run on the Verilog: what it shows is what the counters counted."""

import itertools
import json
from collections import defaultdict

import pytest

from serrano.config import preset
from serrano_host.tape import Descriptor
from serrano_sim.golden.synthetic import random_model
from serrano_sim.timeline import TRACKS, build_timeline, write_timeline
from serrano_sim.top.job import MemorySettings
from serrano_sim.top.layout import Request
from support.top import run_model

PARTS = {"array": "array_", "read port": "port_"}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    model = random_model(4, dim=44, ffn=60, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=61, context=64)
    requests = [Request((1, 2, 3), 4), Request(tuple(range(18)), 2)]
    folder, memory = tmp_path_factory.mktemp("run"), MemorySettings.of(60, stall=0.1, seed=3)
    result, verdict = run_model(
        preset("tiny"), model, requests, folder, memory=memory, activity=True, kv_blocks=8
    )
    assert verdict.errors == []
    return result


@pytest.fixture(scope="module")
def tracks(result):
    """The slices of each track."""
    names, found = {}, defaultdict(list)
    for event in build_timeline(result)["traceEvents"]:
        if event["name"] == "thread_name":
            names[event["tid"]] = event["args"]["name"]
        elif event["ph"] == "X":
            found[names[event["tid"]]].append(event)
    assert set(names.values()) == {"scheduler", "packets", *TRACKS} == set(found)
    return found


def ends(event):
    return event["ts"] + event["dur"]


def test_slices_are_in_order_and_do_not_overlap(tracks):
    for name, events in tracks.items():
        events = sorted(events, key=lambda event: event["ts"]) if name == "scheduler" else events
        assert all(event["dur"] > 0 for event in events)
        for one, two in itertools.pairwise(events):
            assert ends(one) <= two["ts"]


def test_the_packets_of_a_step_add_up_to_it(result, tracks):
    program = list(Descriptor.unpack(result.tape[:256]).program())
    steps = [event for event in tracks["scheduler"] if event["name"].startswith("step")]
    recorded = result.recording.steps()
    assert [(event["ts"], ends(event)) for event in steps] == [(s.begin, s.commit) for s in recorded]
    for step, shown in zip(steps, recorded, strict=True):
        inside = [event for event in tracks["packets"] if step["ts"] <= event["ts"] < ends(step)]
        # A step that does not sample is committed in the cycle in which it ends.
        packets = [event for event in inside if event["name"] != "COMMIT"]
        assert inside[0]["ts"] == step["ts"] and ends(inside[-1]) == ends(step)
        assert all(ends(one) == two["ts"] for one, two in itertools.pairwise(inside))
        # A step that does not sample has no LM head.
        wanted = program if shown.sampled else [*program[:-4], program[-1]]
        opcodes = [packet.opcode.name for packet in wanted]
        layers = [None if packet.layer == 0xFFFF else packet.layer for packet in wanted]
        assert [event["args"]["layer"] for event in packets] == layers
        assert all(event["name"].startswith(name) for event, name in zip(packets, opcodes, strict=True))
        for event in (step, *inside):
            for part in PARTS:
                assert sum(event["args"][part].values()) == event["dur"]


def test_steps_and_gaps_follow_each_other(tracks):
    events = sorted(tracks["scheduler"], key=lambda event: event["ts"])
    assert len({event["name"] for event in events}) > 2
    assert all(ends(one) == two["ts"] for one, two in itertools.pairwise(events))


def test_slices_add_up_to_the_counters(result, tracks):
    counted = result.phases[-1].registers
    for part, prefix in PARTS.items():
        found = defaultdict(int)
        for event in tracks[part]:
            assert event["name"] == max(event["args"], key=event["args"].__getitem__)
            for name, cycles in event["args"].items():
                found[name] += cycles
        wanted = {name.removeprefix(prefix): n for name, n in counted.items() if name.startswith(prefix)}
        assert found == {name: cycles for name, cycles in wanted.items() if cycles}


def test_requests_with_their_tokens(result):
    events = [event for event in build_timeline(result)["traceEvents"] if event.get("cat") == "request"]
    for number, tokens in enumerate(result.tokens):
        own = sorted((event for event in events if event["id"] == number), key=lambda event: event["ts"])
        assert [event["ph"] for event in own] == ["b", *["n"] * (1 + len(tokens)), "e"]
        # First it gets its sequence, then come the tokens; the last one ends it.
        assert "sequence" in own[1]["args"]
        assert [event["args"]["token"] for event in own[2:-1]] == tokens


def test_steps_name_their_rows(result, tracks):
    steps = [event["args"] for event in tracks["scheduler"] if event["name"].startswith("step")]
    for number, request in enumerate(result.job.requests):
        spans = [span for step in steps for span in step["spans"] if span["request"] == number]
        assert sum(span["rows"] for span in spans) == len(request.prompt) + request.max_new - 1
    assert max(len(step["spans"]) for step in steps) == 2
    assert all(step["rows"] == sum(span["rows"] for span in step["spans"]) for step in steps)


def test_kv_is_gathered_and_appended(result, tracks):
    assert {event["name"] for event in tracks["KV gather"]} == {"gathering"}
    assert len(tracks["KV append"]) >= len(result.recording.steps())
    names = {event["name"] for event in tracks["epilogue"]}
    assert names == {"quantizing", "residual", "heads", "staged", "logits"}


def test_the_file_is_json(result, tmp_path):
    write_timeline(result, tmp_path / "new" / "timeline.json")
    assert json.loads((tmp_path / "new" / "timeline.json").read_text()) == build_timeline(result)
