# SPDX-License-Identifier: Apache-2.0
"""A tiny model with a known answer, for the self-test of a board: no file, no floating point."""

import numpy as np

from serrano_host.compile import Geometry, compile_tape
from serrano_host.quantize import QuantizedLayer, QuantizedMatrix, QuantizedModel, pack_nearest

__all__ = ["EXPECTED", "PROMPT", "make_tape"]

DIM, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB, CONTEXT, LAYERS = 32, 48, 4, 2, 8, 64, 32, 2
LOG2_E = 1.4426950408889634

PROMPT = (1, 17, 42, 5, 60)
EXPECTED = (53, 53, 13, 34, 43, 55, 49, 0, 63, 19, 53, 57, 53, 53, 24, 7, 40, 26, 1, 27)
"""Tokens that follow, as the golden model computes them, whatever the size of the array."""


class _Numbers:
    """The same numbers on every machine: a linear congruential generator."""

    def __init__(self, seed: int):
        self.state = seed

    def codes(self, *shape: int) -> np.ndarray:
        values = np.empty(int(np.prod(shape)), np.int8)
        for index in range(len(values)):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            values[index] = (self.state >> 33) % 255 - 127
        return values.reshape(shape)

    def matrix(self, outputs: int, inputs: int, size: float) -> QuantizedMatrix:
        """Codes of all sizes, with values of about ``size``."""
        scale = pack_nearest(size / 73 / inputs**0.5)
        return QuantizedMatrix(self.codes(outputs, inputs), np.full(outputs, scale, np.uint16))


def _rotations() -> np.ndarray:
    """Pairs (cos, sin) that turn by a quarter, by three and four fifths, and back: a table is a table."""
    turns = np.array([[32767, 0], [0, 32767], [19661, 26214], [26214, -19661]], np.int16)
    places = np.arange(CONTEXT)[:, None] * (1 + np.arange(HEAD_DIM // 2))[None, :]
    return turns[places % len(turns)]


def make_model() -> QuantizedModel:
    """The model."""
    numbers = _Numbers(2026)
    wide, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM

    def layer() -> QuantizedLayer:
        return QuantizedLayer(
            wq=numbers.matrix(wide, DIM, 1.5),
            wk=numbers.matrix(kv, DIM, 1.5),
            wv=numbers.matrix(kv, DIM, 1.0),
            wo=numbers.matrix(DIM, wide, 1.0),
            w_gate=numbers.matrix(FFN, DIM, 1.0),
            w_up=numbers.matrix(FFN, DIM, 1.0),
            w_down=numbers.matrix(DIM, FFN, 1.0),
            k_mean=np.zeros((KV_HEADS, HEAD_DIM), np.int16),
        )

    return QuantizedModel(
        name="self-test",
        dim=DIM,
        ffn=FFN,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        vocab=VOCAB,
        context=CONTEXT,
        bos=1,
        eos=None,
        bits=8,
        s_eps=pack_nearest(1e-5 * DIM),
        s_score=pack_nearest(LOG2_E / HEAD_DIM**0.5 / 127**2),
        rope=_rotations(),
        embedding=numbers.matrix(VOCAB, DIM, 8.0),
        layers=[layer() for _ in range(LAYERS)],
        head=numbers.matrix(VOCAB, DIM, 1.0),
    )


def make_tape(n: int, align: int) -> bytes:
    """The model's tape for an accelerator."""
    return compile_tape(make_model(), Geometry(n, align))
