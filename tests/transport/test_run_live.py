# SPDX-License-Identifier: Apache-2.0
"""`serrano run` on the accelerator's Verilog: preset tiny and a small random model."""

import json

from typer.testing import CliRunner

from serrano.config import preset
from serrano_host.cli import app
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.top.layout import Request
from serrano_sim.top.prefix import golden_tokens

CONFIG = preset("tiny")
MODEL = random_model(3, dim=12, ffn=10, layers=2, heads=4, kv_heads=2, head_dim=6, vocab=40, context=64)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)


def run(*arguments):
    return CliRunner().invoke(app, ["run", *(str(argument) for argument in arguments), "--preset", "tiny"])


def test_json_lines(tmp_path):
    """Prompts that arrive one after another; one that is refused, others of different lengths."""
    (tmp_path / "model.tape").write_bytes(TAPE)
    prompts = [{"prompt_ids": [1 + i] * (1 + 3 * i), "max_new": 3 + i, "eos": None} for i in range(5)]
    prompts[3] |= {"arrival": 20_000, "tenant": 4}
    prompts.append({"prompt_ids": [1] * 60, "max_new": 5})
    file, report = tmp_path / "prompts.jsonl", tmp_path / "report.json"
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    result = run(tmp_path / "model.tape", "--file", file, "--json", report, "-O", "latency=20")
    assert result.exit_code == 1, result.output
    found = json.loads(report.read_text())
    for prompt, request in zip(prompts[:5], found["requests"], strict=False):
        wanted = golden_tokens(MODEL, CONFIG.n, Request(tuple(prompt["prompt_ids"]), prompt["max_new"]))
        assert request["tokens"] == wanted and request["error"] is None
        assert request["text"].split() == [str(token) for token in wanted]
        assert 0 < request["time_to_first_token"] < request["ended"]
    assert found["requests"][5]["error"].startswith("REQUEST_LENGTH")
    assert found["requests"][3]["arrival"] == 20_000 <= found["requests"][3]["submitted"] < 20_500
    assert found["throughput"]["tokens"] == 25 == found["counters"]["tokens"]
    assert found["kv_blocks"]["used"] == 0 and found["kv_blocks"]["peak"] >= 2
    assert "5 served, 1 failed" in result.stdout
