# SPDX-License-Identifier: Apache-2.0
"""Weights and KV bytes that are cheap to make, and behave well."""

import math

import numpy as np

from serrano_host.estimate import Shape

from ..golden.kvcache import BLOCK_SIZE, block_bytes, record_bytes
from ..golden.model import Layer, Matrix, Model
from ..golden.synthetic import pack_nearest, rope_table

__all__ = ["kv_content", "synthetic_model"]

CODE_DEVIATION = 73.0
"""Of codes that are evenly distributed."""


def synthetic_model(shape: Shape, context: int, seed: int = 0) -> Model:
    """A model of random codes, whose activations have the size of a trained one's."""
    rng = np.random.default_rng(seed)
    top, wide = 127, shape.heads * shape.head_dim
    depth = 1 / math.sqrt(2 * shape.layers)

    def matrix(n_out: int, k: int, deviation: float) -> Matrix:
        codes = rng.integers(-top, top, (n_out, k), dtype=np.int8, endpoint=True)
        low, high = (pack_nearest(deviation / CODE_DEVIATION * factor) for factor in (0.8, 1.25))
        return Matrix(codes, rng.integers(low, high, n_out, dtype=np.uint16, endpoint=True))

    narrow = shape.kv_heads * shape.head_dim
    layers = [
        Layer(
            k=matrix(narrow, shape.dim, 2 / top),
            v=matrix(narrow, shape.dim, 1.5 / top),
            q=matrix(wide, shape.dim, 2 / top),
            k_mean=rng.integers(-256, 256, (shape.kv_heads, shape.head_dim), dtype=np.int16),
            o=matrix(shape.dim, wide, 2 * depth / math.sqrt(wide) / top),
            gate=matrix(shape.ffn, shape.dim, 2 / top),
            up=matrix(shape.ffn, shape.dim, 2 / top),
            down=matrix(shape.dim, shape.ffn, 1.5 * depth / math.sqrt(shape.ffn) / top),
        )
        for _ in range(shape.layers)
    ]
    return Model(
        dim=shape.dim,
        ffn=shape.ffn,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab=shape.vocab,
        context=context,
        s_eps=pack_nearest(1e-5 * shape.dim),
        s_score=pack_nearest(math.log2(math.e) / math.sqrt(shape.head_dim) / top**2),
        layers=tuple(layers),
        head=matrix(shape.vocab, shape.dim, 3 / top),
        embedding=matrix(shape.vocab, shape.dim, 0.7),
        rope=rope_table(context, shape.head_dim),
        name="synthetic",
    )


def kv_content(shape: Shape, blocks: int, seed: int = 0) -> np.ndarray:
    """Codes and scales of k and v as a model of the shape might have written them, [blocks, block_bytes]."""
    rng = np.random.default_rng(seed)
    size = block_bytes(shape.layers, shape.kv_heads, shape.head_dim)
    image = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    # There is no code -128.
    image[image == 128] = 129
    count, record = shape.layers * shape.kv_heads, record_bytes(shape.head_dim)
    low, high = pack_nearest(4 / 127), pack_nearest(8 / 127)
    scales = rng.integers(low, high, (blocks, count, 2 * BLOCK_SIZE), dtype=np.uint16, endpoint=True)
    records = image[:, : count * record].reshape(blocks, count, record)
    records[:, :, : 4 * BLOCK_SIZE] = scales.astype("<u2").view(np.uint8)
    image[:, : count * record] = records.reshape(blocks, -1)
    return image
