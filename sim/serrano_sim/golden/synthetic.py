# SPDX-License-Identifier: Apache-2.0
"""Random models of any shape, their quantization, and a tape writer apart from the host's compiler.

Both follow docs/numerics.md, section 9, and docs/tape.md by themselves, so that a disagreement with the
compiler shows an error in one of them, or in the page.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from .model import Layer, Matrix, Model

Float = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class FloatLayer:
    """One layer of a Llama model, [n_out, k] each; RoPE pairs of q and k are adjacent."""

    attention_norm: Float
    q: Float
    k: Float
    v: Float
    o: Float
    ffn_norm: Float
    gate: Float
    up: Float
    down: Float


@dataclasses.dataclass(frozen=True, eq=False)
class FloatModel:
    """A Llama model before quantization; `k_mean` is [layers, kv_heads, head_dim]."""

    heads: int
    kv_heads: int
    head_dim: int
    context: int
    eps: float
    theta: float
    embedding: Float
    layers: tuple[FloatLayer, ...]
    norm: Float
    head: Float
    k_mean: Float


def pack_nearest(value: float) -> int:
    """The packed scale nearest to a positive value."""
    return _pack(value, lambda f: math.floor(f + 0.5))


def pack_up(value: float) -> int:
    """The smallest packed scale that is not below a positive value."""
    return _pack(value, math.ceil)


def _pack(value: float, rounding: object) -> int:
    exponent = math.frexp(value)[1] - 1
    fraction = rounding((value * 2.0**-exponent - 1) * 1024)
    code = ((exponent + 40) << 10) + fraction
    if code > 0xFFFF:
        raise ValueError(f"A packed scale is below 2^24, not {value!r}")
    return max(code, 0)


def quantize_matrix(w: Float, bits: int = 8) -> Matrix:
    """Codes and packed scales of a matrix [n_out, k] that gains and constants were folded into."""
    top = (1 << (bits - 1)) - 1
    codes = np.zeros(w.shape, dtype=f"i{bits // 8}")
    scales = np.zeros(len(w), dtype=np.uint16)
    for row, values in enumerate(w):
        peak = float(np.abs(values).max())
        if peak > 0:
            code = pack_up(peak / top)
            scales[row] = code
            step = math.ldexp(1024 + (code & 1023), (code >> 10) - 50)
            codes[row] = np.clip(np.floor(values / step + 0.5), -top, top)
    return Matrix(codes, scales)


def rope_table(context: int, head_dim: int, theta: float = 10000.0) -> NDArray[np.int16]:
    """`(cos, sin)` per position and pair, [context, head_dim / 2, 2]."""
    frequency = float(theta) ** (-2.0 * np.arange(head_dim // 2) / head_dim)
    angle = np.arange(context)[:, None] * frequency
    table = np.floor(np.stack((np.cos(angle), np.sin(angle)), axis=-1) * 32768 + 0.5)
    return np.clip(table, -32767, 32767).astype(np.int16)


def quantize_model(f: FloatModel, bits: int = 8, name: str = "synthetic", eos: int | None = None) -> Model:
    """Folds and quantizes a model."""
    top = (1 << (bits - 1)) - 1
    dim = f.embedding.shape[1]
    root = math.sqrt(dim) / top

    def after(norm: Float, w: Float) -> Matrix:
        return quantize_matrix(w * norm * root, bits)

    layers = []
    for index, layer in enumerate(f.layers):
        layers.append(
            Layer(
                k=after(layer.attention_norm, layer.k),
                v=after(layer.attention_norm, layer.v),
                q=after(layer.attention_norm, layer.q),
                k_mean=np.clip(np.floor(f.k_mean[index] * 256 + 0.5), -32768, 32767).astype(np.int16),
                o=quantize_matrix(layer.o * ((top + 1) / top / top), bits),
                gate=after(layer.ffn_norm, layer.gate),
                up=after(layer.ffn_norm, layer.up),
                down=quantize_matrix(layer.down / top, bits),
            )
        )
    return Model(
        dim=dim,
        ffn=len(f.layers[0].gate),
        heads=f.heads,
        kv_heads=f.kv_heads,
        head_dim=f.head_dim,
        vocab=len(f.embedding),
        context=f.context,
        s_eps=pack_nearest(f.eps * dim),
        s_score=pack_nearest(math.log2(math.e) / math.sqrt(f.head_dim) / top**2),
        layers=tuple(layers),
        head=after(f.norm, f.head),
        embedding=quantize_matrix(f.embedding, bits),
        rope=rope_table(f.context, f.head_dim, f.theta),
        eos=eos,
        name=name,
        bits=bits,
    )


def random_floats(
    seed: int = 0,
    dim: int = 64,
    ffn: int = 172,
    layers: int = 2,
    heads: int = 8,
    kv_heads: int = 4,
    head_dim: int = 8,
    vocab: int = 97,
    context: int = 64,
    eps: float = 1e-5,
    theta: float = 10000.0,
) -> FloatModel:
    """A random Llama model whose activations look like a trained one's.

    Two channels of the residual are far larger than the others and nearly constant, as in trained models; the
    gains of the norms damp them. Keys have a static mean.
    """
    rng = np.random.default_rng(seed)
    outliers = rng.choice(dim, size=min(2, dim), replace=False)

    def normal(*shape: int, deviation: float) -> Float:
        return rng.normal(size=shape) * deviation

    def gain() -> Float:
        g = np.exp(normal(dim, deviation=0.2))
        g[outliers] *= 0.1
        return g

    embedding = normal(vocab, dim, deviation=0.7)
    embedding[:, outliers] = 12.0 * rng.choice([-1.0, 1.0], len(outliers)) + normal(
        vocab, len(outliers), deviation=0.5
    )
    inputs, width = 1 / math.sqrt(dim), heads * head_dim
    depth = 1 / math.sqrt(2 * layers)
    parts = [
        FloatLayer(
            attention_norm=gain(),
            q=normal(width, dim, deviation=2.0 * inputs),
            k=normal(kv_heads * head_dim, dim, deviation=2.0 * inputs),
            v=normal(kv_heads * head_dim, dim, deviation=1.5 * inputs),
            o=normal(dim, width, deviation=2.0 * depth / math.sqrt(width)),
            ffn_norm=gain(),
            gate=normal(ffn, dim, deviation=2.0 * inputs),
            up=normal(ffn, dim, deviation=2.0 * inputs),
            down=normal(dim, ffn, deviation=1.5 * depth / math.sqrt(ffn)),
        )
        for _ in range(layers)
    ]
    return FloatModel(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=context,
        eps=eps,
        theta=theta,
        embedding=embedding,
        layers=tuple(parts),
        norm=gain(),
        head=normal(vocab, dim, deviation=3.0 * inputs),
        k_mean=normal(layers, kv_heads, head_dim, deviation=0.5),
    )


def random_model(
    seed: int = 0,
    dim: int = 64,
    ffn: int = 172,
    layers: int = 2,
    heads: int = 8,
    kv_heads: int = 4,
    head_dim: int = 8,
    vocab: int = 97,
    context: int = 64,
    bits: int = 8,
    eos: int | None = None,
) -> Model:
    """A random quantized model, see `random_floats`."""
    floats = random_floats(seed, dim, ffn, layers, heads, kv_heads, head_dim, vocab, context)
    return quantize_model(floats, bits, f"synthetic-{seed}", eos)


def write_tape(model: Model, n: int, align: int) -> bytes:
    """The tape image of a model for a geometry.

    Raises
    ------
    ValueError
        If the model has no tape for this geometry.
    """
    if model.bits != 8:
        raise ValueError(f"A tape holds codes of 8 bits, not {model.bits}")
    tail = model.head_dim % n
    if tail & (tail - 1):
        raise ValueError(f"head_dim modulo {n} must be 0 or a power of two, not {tail}")
    pad = _head_pad(model.head_dim, n)
    program = _program(model, n, align, pad)
    start = _up(256, align)
    offsets = [start]
    for packet in program:
        offsets.append(offsets[-1] + len(packet))
    rope = _rope(model, align, pad)
    embedding = _embedding(model, align)
    rope_offset = _up(offsets[-1], align)
    embed_offset = _up(rope_offset + len(rope), align)
    end = embed_offset + len(embedding)
    record = 16 * (2 * model.head_dim + 4)
    none = 0xFFFFFFFF
    values = [
        b"SRNO",
        struct.pack("<HHII", 1, 0, 256, end),
        struct.pack("<HHHH", n, align, 16, 16),
        struct.pack("<IIIII", model.dim, model.ffn, len(model.layers), model.heads, model.kv_heads),
        struct.pack("<IIII", model.head_dim, pad, model.vocab, model.context),
        struct.pack("<HH", model.s_eps, model.s_score),
        struct.pack(
            "<II", none if model.bos is None else model.bos, none if model.eos is None else model.eos
        ),
        struct.pack("<IIII", start, offsets[-5], offsets[-2], offsets[-1]),
        struct.pack("<II", rope_offset, len(rope) // model.context),
        struct.pack("<II", embed_offset, len(embedding) // model.vocab),
        struct.pack("<II", len(program), record),
        struct.pack("<I", _up(len(model.layers) * model.kv_heads * record, 64)),
    ]
    descriptor = b"".join(values).ljust(200, b"\0") + _name(model.name).ljust(52, b"\0")
    descriptor += struct.pack("<I", zlib.crc32(descriptor))
    image = bytearray(end)
    image[:256] = descriptor
    image[start : offsets[-1]] = b"".join(program)
    image[rope_offset : rope_offset + len(rope)] = rope
    image[embed_offset:end] = embedding
    return bytes(image)


def _up(value: int, multiple: int) -> int:
    return (value + multiple - 1) // multiple * multiple


def _head_pad(head_dim: int, n: int) -> int:
    if head_dim >= n:
        return _up(head_dim, n)
    return max(n // 2, 1 << (head_dim - 1).bit_length())


def _name(name: str) -> bytes:
    # Cut at a character, so that it stays UTF-8.
    return name.encode()[:52].decode(errors="ignore").encode()


def _program(model: Model, n: int, align: int, pad: int) -> list[bytes]:
    packets: list[bytes] = []

    def add(opcode: int, layer: int, k: int, n_out: int, payload: bytes = b"", flags: int = 0) -> None:
        payload = payload.ljust(_up(len(payload), align), b"\0")
        header = struct.pack("<BBHIIII8x", opcode, flags, layer, k, n_out, len(payload), len(packets))
        header += struct.pack("<I", zlib.crc32(header + payload))
        packets.append(header.ljust(align, b"\0") + payload)

    outside, wide = 0xFFFF, model.heads * pad
    add(1, outside, 0, model.dim)
    for index, layer in enumerate(model.layers):
        add(2, index, model.dim, 0)
        qkv, means = _pad_qkv(model, layer, pad)
        payload = _blocks(qkv, n, means, model.kv_heads * pad)
        add(3, index, model.dim, len(qkv.codes), payload)
        add(4, index, 0, wide)
        add(5, index, wide, model.dim, _blocks(_pad_inputs(layer.o, model.head_dim, pad), n))
        add(2, index, model.dim, 0)
        codes = np.stack((layer.gate.codes, layer.up.codes), axis=1).reshape(-1, model.dim)
        scales = np.stack((layer.gate.scales, layer.up.scales), axis=1).reshape(-1)
        add(6, index, model.dim, 2 * model.ffn, _blocks(Matrix(codes, scales), n))
        add(5, index, model.ffn, model.dim, _blocks(layer.down, n))
    add(2, outside, model.dim, 0)
    add(5, outside, model.dim, model.vocab, _blocks(model.head, n), flags=1)
    add(7, outside, 0, model.vocab)
    add(15, outside, 0, 0)
    return packets


def _pad_qkv(model: Model, layer: Layer, pad: int) -> tuple[Matrix, NDArray[np.int16]]:
    total = 2 * model.kv_heads + model.heads
    codes = np.zeros((total * pad, model.dim), dtype=np.int8)
    scales = np.zeros(total * pad, dtype=np.uint16)
    means = np.zeros(total * pad, dtype=np.int16)
    head = 0
    for matrix in (layer.k, layer.v, layer.q):
        for first in range(0, len(matrix.codes), model.head_dim):
            at, own = head * pad, slice(first, first + model.head_dim)
            codes[at : at + model.head_dim] = matrix.codes[own]
            scales[at : at + model.head_dim] = matrix.scales[own]
            head += 1
    for head in range(model.kv_heads):
        means[head * pad : head * pad + model.head_dim] = layer.k_mean[head]
    return Matrix(codes, scales), means


def _pad_inputs(matrix: Matrix, head_dim: int, pad: int) -> Matrix:
    heads = matrix.codes.shape[1] // head_dim
    codes = np.zeros((len(matrix.codes), heads * pad), dtype=np.int8)
    for head in range(heads):
        codes[:, head * pad : head * pad + head_dim] = matrix.codes[
            :, head * head_dim : (head + 1) * head_dim
        ]
    return Matrix(codes, matrix.scales)


def _blocks(matrix: Matrix, n: int, means: NDArray[np.int16] | None = None, k_channels: int = 0) -> bytes:
    n_out, k = matrix.codes.shape
    codes = np.zeros((_up(n_out, n), _up(k, n)), dtype=np.int8)
    codes[:n_out, :k] = matrix.codes
    scales = np.zeros(_up(n_out, n), dtype="<u2")
    scales[:n_out] = matrix.scales
    all_means = np.zeros(_up(n_out, n), dtype="<i2")
    if means is not None:
        all_means[:n_out] = means
    parts = []
    for first in range(0, n_out, n):
        channels = slice(first, first + n)
        parts.append(scales[channels].tobytes())
        if first < k_channels:
            parts.append(all_means[channels].tobytes())
        # Row i of a tile belongs to input i, column j to output j.
        parts.extend(codes[channels, start : start + n].T.tobytes() for start in range(0, k, n))
    return b"".join(parts)


def _rope(model: Model, align: int, pad: int) -> bytes:
    rows = []
    for pairs in model.rope:
        row = np.zeros((pad // 2, 2), dtype="<i2")
        row[:, 0] = 32767
        row[: model.head_dim // 2] = pairs
        rows.append(row.tobytes().ljust(_up(2 * pad, align), b"\0"))
    return b"".join(rows)


def _embedding(model: Model, align: int) -> bytes:
    stride = _up(align + model.dim, align)
    rows = []
    for codes, scale in zip(model.embedding.codes, model.embedding.scales, strict=True):
        row = struct.pack("<H", int(scale)).ljust(align, b"\0") + codes.astype(np.int8).tobytes()
        rows.append(row.ljust(stride, b"\0"))
    return b"".join(rows)
