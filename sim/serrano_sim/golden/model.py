# SPDX-License-Identifier: Apache-2.0
"""A quantized model as the golden models compute with it: no padding, no geometry."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .fixed import check_signed, check_unsigned


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """A quantized matrix.

    Parameters
    ----------
    codes
        [n_out, k], int8 (or int16 in a model of 16 bits).
    scales
        Packed scales of the output channels, [n_out], uint16.
    """

    codes: NDArray
    scales: NDArray[np.uint16]

    def same(self, other: Matrix) -> bool:
        """Whether both hold the same numbers."""
        return np.array_equal(self.codes, other.codes) and np.array_equal(self.scales, other.scales)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One layer. Channels of k, v and q are head after head; RoPE pairs are adjacent.

    Parameters
    ----------
    k, v, q
        [heads * head_dim, dim], of the respective number of heads.
    k_mean
        Static means of k with 8 fraction bits, [kv_heads, head_dim], int16.
    o
        [dim, heads * head_dim].
    gate, up
        [ffn, dim].
    down
        [dim, ffn].
    """

    k: Matrix
    v: Matrix
    q: Matrix
    k_mean: NDArray[np.int16]
    o: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A quantized model. Fields named as in docs/tape.md have the same meaning.

    Parameters
    ----------
    dim, ffn, heads, kv_heads, head_dim, vocab, context
        Dimensions, unpadded.
    s_eps, s_score
        Packed scales.
    layers
        The layers.
    head
        LM head, [vocab, dim].
    embedding
        [vocab, dim].
    rope
        `(cos, sin)` with 15 fraction bits, [context, head_dim / 2, 2], int16.
    bos, eos
        Token ids, or None.
    name
        For people only.
    bits
        Width of all codes: 8, or 16 to judge the nonlinear units alone.

    Raises
    ------
    ValueError
        If a dimension or the shape of an array does not fit the others.
    OverflowError
        If a code or scale does not fit its width.
    """

    dim: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    s_eps: int
    s_score: int
    layers: tuple[Layer, ...]
    head: Matrix
    embedding: Matrix
    rope: NDArray[np.int16]
    bos: int | None = None
    eos: int | None = None
    name: str = ""
    bits: int = 8

    def __post_init__(self):
        if self.bits not in (8, 16):
            raise ValueError(f"Field 'bits' must be 8 or 16, not {self.bits!r}")
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"Field 'kv_heads' must divide heads ({self.heads}), not {self.kv_heads!r}")
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"Field 'head_dim' must be even, not {self.head_dim!r}")
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for index, layer in enumerate(self.layers):
            self._check(f"layers[{index}].k", layer.k, kv_width, self.dim)
            self._check(f"layers[{index}].v", layer.v, kv_width, self.dim)
            self._check(f"layers[{index}].q", layer.q, width, self.dim)
            self._check(f"layers[{index}].o", layer.o, self.dim, width)
            self._check(f"layers[{index}].gate", layer.gate, self.ffn, self.dim)
            self._check(f"layers[{index}].up", layer.up, self.ffn, self.dim)
            self._check(f"layers[{index}].down", layer.down, self.dim, self.ffn)
            _check_shape(f"layers[{index}].k_mean", layer.k_mean, (self.kv_heads, self.head_dim))
            check_signed(layer.k_mean, 16, "k mean")
        self._check("head", self.head, self.vocab, self.dim)
        self._check("embedding", self.embedding, self.vocab, self.dim)
        _check_shape("rope", self.rope, (self.context, self.head_dim // 2, 2))
        check_signed(self.rope, 16, "Entry of the RoPE table")

    def _check(self, what: str, matrix: Matrix, n_out: int, k: int) -> None:
        _check_shape(f"{what}.codes", matrix.codes, (n_out, k))
        _check_shape(f"{what}.scales", matrix.scales, (n_out,))
        check_signed(matrix.codes, self.bits, f"Code of {what}")
        check_unsigned(matrix.scales, 16, f"Packed scale of {what}")

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads

    def same(self, other: Model) -> bool:
        """Whether both hold the same numbers and names."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name == "layers":
                equal = len(mine) == len(theirs) and all(
                    _same_layer(a, b) for a, b in zip(mine, theirs, strict=True)
                )
            elif isinstance(mine, Matrix):
                equal = mine.same(theirs)
            elif isinstance(mine, np.ndarray):
                equal = np.array_equal(mine, theirs)
            else:
                equal = mine == theirs
            if not equal:
                return False
        return True


def _same_layer(a: Layer, b: Layer) -> bool:
    matrices = ("k", "v", "q", "o", "gate", "up", "down")
    return np.array_equal(a.k_mean, b.k_mean) and all(getattr(a, m).same(getattr(b, m)) for m in matrices)


def _check_shape(what: str, array: NDArray, shape: tuple[int, ...]) -> None:
    if np.shape(array) != shape:
        raise ValueError(f"Field {what!r} must have the shape {shape}, not {np.shape(array)}")
