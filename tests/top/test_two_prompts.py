# SPDX-License-Identifier: Apache-2.0
"""`make sim` with two prompts, from checkpoint to report, on the accelerator itself."""

import json

import pytest

from serrano_sim import run
from support.checkpoint_files import Shape, random_weights, write_hugging_face

SHAPE = Shape(dim=32, ffn=44, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=300, context=64)
TEXT = "a story of two ox"


@pytest.mark.parametrize(
    ("first", "options", "method"),
    [(TEXT, [], "fork and trim"), (f"{TEXT}en in the spring", ["--seed", "7"], "share and trim")],
)
def test_two_prompts(first, options, method, tmp_path, capsys):
    model = write_hugging_face(tmp_path / "small", SHAPE, random_weights(SHAPE))
    file = tmp_path / "sim.json"
    options = [*options, "--prompt", first, "--prompt2", f"{TEXT} carts", "--tokens", "3"]
    options += ["--model", str(model), "--preset", "tiny", "--json", str(file)]
    assert run.main(options) == 0, capsys.readouterr()
    report = json.loads(file.read_text())
    assert report["bit_exact"] and report["errors"] == []
    prefix = report["prefix"]
    # With the bos token 18 tokens are common: one block is shared, one copied.
    assert (prefix["method"], prefix["reused_tokens"]) == (method, 18)
    assert (prefix["blocks_shared"], prefix["blocks_copied"]) == (1, 1)
    # 6 or 24 tokens of the prompt, four at a time, then two more tokens.
    assert prefix["steps"] == {"shared": 4, "alone": 8, "saved": 4}
    assert prefix["logits_equal"] == 3 * 300
    for name in ("cycles", "cycles_to_first_token", "kv_bytes_written"):
        assert prefix[name]["saved"] > 0, name
    assert prefix["cycles"]["saved"] > prefix["cycles"]["alone"] // 3
    assert report["second"]["tokens"] == report["alone"]["tokens"]
