# SPDX-License-Identifier: Apache-2.0
"""The accelerator's Verilog on small models of many shapes, compared with the golden model bit for bit.

Every traced element, every token and every byte of KV memory. One build of the simulator serves all models of
a preset. `python -m serrano_sim.soak` draws many more.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from serrano.config import preset
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.model import Model
from serrano_sim.golden.synthetic import random_model
from serrano_sim.top.job import MemorySettings
from serrano_sim.top.layout import Request
from support.top import run_model

USUAL = MemorySettings.of(60)


@dataclass(frozen=True)
class Shape:
    """A model; ``tokens``: prompt and new tokens of each request."""

    preset: str
    head_dim: int
    heads: int
    kv_heads: int
    dim: int
    ffn: int
    vocab: int
    layers: int
    tokens: tuple[tuple[int, int], ...]
    memory: MemorySettings = USUAL

    def __str__(self):
        heads = f"{self.heads}on{self.kv_heads}x{self.head_dim}"
        return f"{self.preset}-{heads}-dim{self.dim}-ffn{self.ffn}-vocab{self.vocab}-layers{self.layers}"

    @property
    def requests(self) -> list[Request]:
        rng = np.random.default_rng(len(self.tokens))
        return [Request(rng.integers(0, self.vocab, prompt), new) for prompt, new in self.tokens]


@cache
def model_of(shape: Shape) -> Model:
    return random_model(
        shape.head_dim,
        shape.dim,
        shape.ffn,
        shape.layers,
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        shape.vocab,
        context=48,
    )


SHAPES = (
    # Dimensions that are no multiple of N; a sequence that ends with its second block, and one of a token.
    Shape("tiny", 8, 8, 1, 30, 53, 59, 1, ((1, 1), (30, 2), (2, 3))),
    # Three layers, heads of 12 tiles; the third block is begun.
    Shape("tiny", 48, 4, 1, 20, 25, 31, 3, ((14, 20),), MemorySettings.of(200, 0.1, 3)),
    # The widest head, each with keys of its own.
    Shape("tiny", 128, 2, 2, 16, 23, 41, 1, ((15, 3),), MemorySettings.of(1)),
    # A head of one tile and a half, which is padded.
    Shape("tiny", 6, 6, 3, 44, 31, 101, 2, ((3, 15),), MemorySettings.of(7, 0.3, 4)),
    # One lane: pairs one behind the other; two heads in a block, a head and a half tile, the widest head.
    Shape("small", 2, 6, 3, 20, 25, 31, 1, ((5, 20), (1, 2)), MemorySettings.of(60, 0.5, 9)),
    Shape("small", 6, 6, 3, 44, 31, 101, 2, ((3, 15),), MemorySettings.of(7, 0.3, 4)),
    Shape("small", 64, 4, 2, 30, 53, 59, 1, ((30, 4), (2, 3)), MemorySettings.of(1)),
    # The same without registers in between.
    Shape("lean", 2, 6, 3, 20, 25, 31, 1, ((5, 20), (1, 2)), MemorySettings.of(60, 0.5, 9)),
    Shape("lean", 64, 4, 2, 30, 53, 59, 1, ((30, 4), (2, 3)), MemorySettings.of(1)),
    # Two heads in a block of the array.
    Shape("base", 8, 8, 1, 44, 90, 203, 1, ((1, 1), (30, 4), (16, 2)), MemorySettings.of(1)),
    Shape("base", 48, 4, 4, 64, 100, 77, 2, ((17, 3),), MemorySettings.of(200, 0.1, 5)),
    # Several heads and queries per key, block borders while generating.
    Shape("base", 64, 8, 2, 128, 171, 131, 2, ((13, 20),)),
    # As many queries per key as there are in most large models, in the widest head.
    Shape("base", 128, 8, 1, 36, 57, 45, 1, ((12, 6), (5, 1)), MemorySettings.of(40, 0.3, 6)),
    Shape("base", 20, 6, 2, 50, 33, 65, 1, ((2, 16),), MemorySettings.of(60, 0.5, 7)),
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: Shape, tmp_path) -> None:
    model, requests = model_of(shape), shape.requests
    result, verdict = run_model(preset(shape.preset), model, requests, tmp_path, memory=shape.memory)
    assert verdict.errors == []
    assert verdict.bit_exact
    # What the comparison covers, counted apart.
    fed = [prompt + new - 1 for prompt, new in shape.tokens]
    spans = [[step.span(number) for step in steps] for number, steps in enumerate(verdict.steps)]
    assert [sum(span.rows for span in own) for own in spans] == fed
    assert [len(tokens) for tokens in result.tokens] == [new for _, new in shape.tokens]
    assert verdict.logits_compared == sum(new for _, new in shape.tokens) * shape.vocab
    heads = (2 * shape.kv_heads + 2 * shape.heads) * shape.head_dim
    per_row = shape.dim + shape.layers * (4 * shape.dim + heads + shape.ffn)
    # The last norm is that of all rows of a step, if any is sampled.
    normed = sum(step.rows for step in result.recording.steps() if step.sampled) * shape.dim
    sampled = sum(new for _, new in shape.tokens) * (shape.vocab + 2)
    assert verdict.elements_compared == sum(fed) * per_row + normed + sampled
    # And the tokens once more, without trace and steps.
    for request, tokens in zip(requests, result.tokens, strict=True):
        assert tokens == Decoder(model, preset(shape.preset).n).generate(request.prompt, request.max_new)


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_memory_changes_time_only(name: str, tmp_path) -> None:
    """Whatever the latency and the stalls, the tokens are the same, and all of the rest too."""
    config = preset(name)
    model = random_model(5, dim=32, ffn=40, layers=1, heads=4, kv_heads=2, head_dim=16, vocab=35, context=32)
    settings = (
        MemorySettings(),
        MemorySettings.of(60),
        MemorySettings.of(200),
        MemorySettings.of(60, 0.5, 8),
        MemorySettings(read_latency=11, write_latency=90, stall={"r": 0.7, "aw": 0.6, "b": 0.8}, seed=9),
        MemorySettings(read_latency=30, read_bandwidth=(1, 3), write_bandwidth=(1, 5), shared_port=True),
    )
    seen, cycles = set(), []
    for index, memory in enumerate(settings):
        request = Request((3, 1, 4, 1, 5), 13)
        result, verdict = run_model(config, model, [request], tmp_path / str(index), memory=memory)
        assert verdict.errors == [] and verdict.bit_exact, memory
        seen.add(tuple(result.tokens[0]))
        cycles.append(result.cycles)
    assert len(seen) == 1 and len(seen.pop()) == 13
    assert cycles[0] < cycles[1] < cycles[2] and cycles[1] < cycles[3]


def test_a_text_that_ends_itself(tmp_path) -> None:
    """The request ends behind its eos token, and the next one takes the blocks that were freed."""
    model = random_model(11, dim=24, ffn=20, layers=1, heads=2, kv_heads=1, head_dim=12, vocab=29)
    prompt = (4, 8, 15, 16, 23)
    tokens = Decoder(model, 4).generate(prompt, 12)
    eos = tokens[5]
    length = tokens.index(eos) + 1
    requests = [Request(prompt, 12, eos), Request(prompt, 12)]
    result, verdict = run_model(preset("tiny"), model, requests, tmp_path)
    assert verdict.errors == [] and verdict.bit_exact
    assert result.tokens == [tokens[:length], tokens]
    assert result.phases[0].of(0)[-1].ended
