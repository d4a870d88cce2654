# SPDX-License-Identifier: Apache-2.0
"""Registers and memories that start with random contents: reset alone puts the accelerator into its state."""

from serrano.config import preset
from serrano_sim.golden.synthetic import random_model
from serrano_sim.soak import draw, run_case
from serrano_sim.top.job import MemorySettings
from serrano_sim.top.layout import Request
from serrano_sim.top.simulate import Options
from support.top import run_model


def test_random_contents_at_the_start(tmp_path) -> None:
    """Two sets of contents, one as the soak run makes them: results and cycles are those without."""
    model = random_model(21, dim=28, ffn=39, layers=2, heads=4, kv_heads=2, head_dim=10, vocab=61)
    requests, memory = [Request((5, 9, 2), 15), Request((1,), 2)], MemorySettings.of(60, 0.1, 2)
    runs = {}
    for seed in (None, 1, 2):
        options = Options(random_reset=seed is not None, seed=seed or 1, timeout=300)
        result, verdict = run_model(
            preset("tiny"), model, requests, tmp_path / str(seed), options=options, memory=memory
        )
        assert verdict.errors == [] and verdict.bit_exact
        runs[seed] = (result.tokens, result.phases)
    assert runs[1] == runs[2] == runs[None]
    case = draw(preset("tiny"), 1)
    outcome = run_case(case, Options(random_reset=True, seed=3, timeout=300))
    assert outcome.errors == [] and outcome.folder == ""
    assert outcome.tokens > 0 and outcome.logits == outcome.tokens * case.model["vocab"]
