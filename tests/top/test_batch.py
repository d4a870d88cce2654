# SPDX-License-Identifier: Apache-2.0
"""Several requests at a time on the accelerator's Verilog: steps, tokens and KV memory, bit for bit.

What is compared includes the order in which requests are served and the rows of every step.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from serrano.config import preset
from serrano.faults import FaultCode
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.model import Model
from serrano_sim.golden.synthetic import random_model
from serrano_sim.top.compare import Verdict
from serrano_sim.top.job import MemorySettings, Phase
from serrano_sim.top.layout import Request
from serrano_sim.top.simulate import JobResult
from support.top import run_model

CONFIG = preset("tiny")


@cache
def model() -> Model:
    return random_model(4, dim=16, ffn=14, layers=1, heads=2, kv_heads=1, head_dim=8, vocab=41, context=64)


def alone(request: Request) -> list[int]:
    """The request's tokens when nobody else is served, by the golden model."""
    tokens = Decoder(model(), CONFIG.n).generate(request.prompt, request.max_new)
    return tokens[: tokens.index(request.eos) + 1] if request.eos in tokens else tokens


def prompts(*sizes: tuple[int, int], seed: int = 1) -> list[Request]:
    """Requests of so many tokens that want so many."""
    rng = np.random.default_rng(seed)
    return [Request(rng.integers(0, 41, size), new, tenant=int(rng.integers(256))) for size, new in sizes]


def serve(requests: list[Request], folder: Path, stall: float = 0.2, **settings) -> tuple[JobResult, Verdict]:
    return run_model(CONFIG, model(), requests, folder, memory=MemorySettings.of(20, stall, 3), **settings)


def statuses(result: JobResult) -> list[int]:
    """How each request ended."""
    return [result.phases[0].of(number)[-1].status for number in range(len(result.job.requests))]


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_more_requests_than_sequences(stall: float, tmp_path: Path) -> None:
    requests = prompts((9, 5), (1, 9), (4, 7), (6, 3), (2, 8), (13, 2), (3, 4))
    # One of them ends before it has all it wanted.
    last = alone(requests[1])[3]
    requests[1] = Request(requests[1].prompt, 9, eos=last, tenant=requests[1].tenant)
    result, verdict = serve(requests, tmp_path, stall, kv_blocks=20)
    assert verdict.errors == [] and verdict.bit_exact
    assert result.tokens == [alone(request) for request in requests]
    assert result.tokens[1][-1] == last and len(result.tokens[1]) <= 4
    steps = result.recording.steps()
    assert max(step.rows for step in steps) == CONFIG.rows_max
    assert max(step.sampled for step in steps) > 2
    # A chunk that is not the end of its prompt, together with rows of others.
    assert any(0 < step.sampled < len(step.spans) for step in steps)
    assert len(steps) < sum(len(request.prompt) + len(alone(request)) - 1 for request in requests) / 2


def test_waiting_for_blocks(tmp_path: Path) -> None:
    """The second one needs blocks of the first, the third would fit and waits behind it."""
    requests = prompts((20, 12), (30, 6), (3, 2))
    result, verdict = serve(requests, tmp_path, kv_blocks=5)
    assert verdict.errors == [] and verdict.bit_exact
    assert result.tokens == [alone(request) for request in requests]
    together = [set(step.numbers) for step in result.recording.steps()]
    assert not any({0, 1} <= numbers or {0, 2} <= numbers for numbers in together)
    assert {1, 2} in together


def test_cancelled(tmp_path: Path) -> None:
    """One that waits for a sequence, one that runs, one before it is submitted; others do not notice."""
    requests = prompts((5, 40), (3, 12), (2, 12), (7, 10), (4, 9), (6, 3))
    requests.insert(5, Request((1, 2), 3, cancelled=True))
    phase = Phase(load=True, requests=tuple(requests), cancel=((1, 4), (9, 0)))
    result, verdict = serve(requests, tmp_path, phases=[phase], kv_blocks=20)
    assert verdict.errors == []
    cancelled = FaultCode.REQUEST_CANCELLED.value
    assert statuses(result) == [cancelled, 0, 0, 0, cancelled, cancelled, 0]
    for number in (1, 2, 3, 6):
        assert result.tokens[number] == alone(requests[number])
    assert result.tokens[4] == result.tokens[5] == []
    assert result.tokens[0] == alone(requests[0])[: len(result.tokens[0])]
    assert 0 < len(result.tokens[0]) < 40
    assert result.phases[0].registers["KV_USED"] == 0


def test_refused_among_others(tmp_path: Path) -> None:
    """One that never fits, one that adopts what nobody has opened, one with a token that does not exist."""
    requests = prompts((6, 8), (30, 30), (3, 2), (2, 2), (5, 6))
    requests[2] = Request((1, 2, 3), 2, adopt=True, sequence=3)
    requests[3] = Request((1, 41), 2)
    result, verdict = serve(requests, tmp_path, kv_blocks=4)
    assert verdict.errors == []
    assert [FaultCode(status).name for status in statuses(result)] == [
        "NONE",
        "REQUEST_SPACE",
        "KV_COMMAND",
        "REQUEST_TOKEN",
        "NONE",
    ]
    for number in (0, 4):
        assert result.tokens[number] == alone(requests[number])
    assert result.phases[0].registers["KV_USED"] == 0
