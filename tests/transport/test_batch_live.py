# SPDX-License-Identifier: Apache-2.0
"""Many requests at a time on the accelerator's Verilog, through the driver: cancelling, and logits."""

import json

import numpy as np
from typer.testing import CliRunner

from serrano.config import preset
from serrano_host.cli import app
from serrano_host.driver import Device
from serrano_host.tape import Descriptor
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.sample import greedy
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.transport.simulation import open_transport

CONFIG = preset("tiny")
MODEL = random_model(3, dim=12, ffn=10, layers=2, heads=4, kv_heads=2, head_dim=6, vocab=40, context=64)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
DESCRIPTOR = Descriptor.unpack(TAPE[:256])


def expected(prompt, count):
    """Tokens and logits of the golden model."""
    decoder = Decoder(MODEL, CONFIG.n)
    rows = [decoder.step(prompt)[-1]]
    while len(rows) < count:
        rows.append(decoder.step([int(greedy(rows[-1:])[0])])[0])
    return [int(token) for token in greedy(np.array(rows))], np.array(rows)


def test_cancel():
    """Of requests that run, wait for a sequence, and are over; the others' tokens stay as they are."""
    with Device(open_transport("tiny", DESCRIPTOR, {"latency": "10"})) as device:
        device.load(TAPE)
        prompts = [[i + 1] * (1 + 5 * i) for i in range(7)]
        handles = [device.submit(prompt, 12, tenant=i) for i, prompt in enumerate(prompts)]
        while not handles[1].tokens:
            device.poll(1000)
        assert device.cancel(handles[1]) and device.cancel(handles[6])
        device.wait([handles[0], handles[1]])
        assert not device.cancel(handles[0])
        device.settle()
        assert [h.cancelled for h in handles] == [False, True, False, False, False, False, True]
        for handle, prompt in zip(handles, prompts, strict=True):
            tokens, _ = expected(prompt, 12)
            if handle.cancelled:
                assert len(handle.tokens) < 12 and handle.tokens == tokens[: len(handle.tokens)]
            else:
                assert handle.tokens == tokens and handle.error is None
        assert len({handle.sequence for handle in handles[:4]}) == 4
        stats = device.stats()
        assert (stats.kv_used, stats.running, stats.ended) == (0, 0, 7)
        # Several rows in a step: fewer steps than tokens.
        assert stats.counters["steps"] < stats.tokens


def test_logits(tmp_path):
    """Of steps in which several requests and chunks of prompts are mixed, in a file."""
    (tmp_path / "model.tape").write_bytes(TAPE)
    prompts = [{"prompt_ids": [3 * i + 1] * (2 + 4 * i), "max_new": 4, "eos": None} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    file = tmp_path / "logits.npz"
    options = ["--file", tmp_path / "prompts.jsonl", "--logits", file, "--steps", "0,2-3", "-O", "latency=10"]
    arguments = ["run", tmp_path / "model.tape", "--preset", "tiny", *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "18 rows in" in result.stdout
    with np.load(file) as opened:
        found = dict(opened)
    for index, prompt in enumerate(prompts):
        tokens, logits = expected(prompt["prompt_ids"], 4)
        mine = found["request"] == index
        assert found["step"][mine].tolist() == [0, 2, 3]
        assert found["token"][mine].tolist() == [tokens[0], tokens[2], tokens[3]]
        assert np.array_equal(found["logits"][mine], logits[[0, 2, 3]])
