# SPDX-License-Identifier: Apache-2.0
"""The whole decoder, from tokens to logits, packet by packet as a tape has them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .embed import embed
from .fixed import Int, int64
from .kvcache import KVCache
from .linear import linear, residual
from .model import Matrix, Model
from .quantize import quantize, rms_norm
from .rope import rotate, subtract_mean
from .sample import greedy
from .scale import Scale, mul, pack, unpack
from .silu import h16_decode, h16_encode, silu_up
from .softmax import attend
from .tape import NO_LAYER, Opcode

Trace = Callable[[int, Opcode, int, NDArray], None]
Detail = Callable[[int, str, NDArray], None]


class Decoder:
    """A decoder with paged KV memory.

    A step takes rows (tokens) of one or more sequences; the result of a row depends on its own sequence
    alone, bit for bit, however the rows are split into steps and wherever the blocks lie.

    Parameters
    ----------
    model
        The quantized model; its `bits` are the operand width everywhere.
    n
        Array size of the geometry, for the layout of KV memory.
    kv_blocks
        Blocks of KV memory, NULL included; by default enough for one sequence of the model's context.
    trace
        Called with (packet index, opcode, layer, result) for each packet that has a result. Results are
        [rows, ...] without padding: EMBED and MATMUL to the residual: residual rows in Q16, [dim]; NORM:
        codes, [dim]; QKV: codes of k, v, q, [(2 * kv_heads + heads) * head_dim]; ATTEND: codes, [heads *
        head_dim]; GATE_UP: codes, [ffn]; MATMUL to logits: [vocab]; SAMPLE: the greedy token, []. The layer
        is 0xFFFF outside the layers.
    detail
        Called with (packet index, name, array) for what lies inside a packet: `scale_m` and `scale_e` of what
        is quantized, `linear` outputs, `staged` h16 codes.

    Attributes
    ----------
    kv
        The KV memory, a `KVCache`.
    """

    def __init__(
        self,
        model: Model,
        n: int = 16,
        kv_blocks: int | None = None,
        trace: Trace | None = None,
        detail: Detail | None = None,
    ):
        self.model = model
        self.trace, self.detail = trace, detail
        blocks = 1 + -(-model.context // 16) if kv_blocks is None else kv_blocks
        self.kv = KVCache(len(model.layers), model.kv_heads, model.head_dim, n, blocks, model.bits // 8)
        self._s_eps = unpack(model.s_eps)
        self._s_score = unpack(model.s_score)
        # The model's accumulators of 16-bit codes are wider than any hardware's.
        self._acc_width = 32 if model.bits == 8 else 53
        self._qkv = [_stack(layer.k, layer.v, layer.q) for layer in model.layers]
        self._gate_up = [_stack(layer.gate, layer.up) for layer in model.layers]

    def open(self, sequence: int = 0, table: Sequence[int] = (), length: int = 0) -> None:
        """Makes a sequence, with blocks of the caller's choice to begin with, and maybe tokens in them."""
        self.kv.open(sequence, table, length)

    def close(self, sequence: int = 0) -> None:
        """Ends a sequence and frees its blocks."""
        self.kv.close(sequence)

    def step(
        self, tokens: ArrayLike, sequence: int = 0, sample: bool = True, rows: Sequence[int] | None = None
    ) -> Int:
        """One step with the next tokens of one sequence, which is opened if need be. See `step_batch`."""
        if not self.kv.is_open(sequence):
            self.open(sequence)
        return self.step_batch([(sequence, tokens)], sample, rows)

    def step_batch(
        self,
        parts: Sequence[tuple[int, ArrayLike]],
        sample: bool = True,
        rows: Sequence[int] | None = None,
    ) -> Int:
        """One step.

        Parameters
        ----------
        parts
            Pairs of an open sequence and its next tokens [count]; each sequence at most once.
        sample
            Whether the head runs.
        rows
            Rows whose logits are wanted, if not those of all.

        Returns
        -------
        logits
            [rows, vocab], in the order of `parts`, or of `rows`; [0, vocab] if the head does not run.

        Raises
        ------
        ValueError
            If a token is outside the vocabulary, a position beyond the context, or KV memory is short. No
            sequence has changed then, except for reserved blocks.
        """
        parts = [(sequence, int64(tokens).reshape(-1)) for sequence, tokens in parts]
        if len({sequence for sequence, _ in parts}) != len(parts):
            raise ValueError("A sequence may occur only once in a step")
        positions = [self.kv.length(sequence) + np.arange(len(tokens)) for sequence, tokens in parts]
        tokens, at = np.concatenate([t for _, t in parts]), np.concatenate(positions)
        if not len(tokens):
            raise ValueError("A step needs at least one token")
        if at.max() >= self.model.context:
            raise ValueError(f"Position {int(at.max())} is beyond the context of {self.model.context} tokens")
        x = embed(tokens, self.model.embedding.codes, self.model.embedding.scales)
        for sequence, own in parts:
            self.kv.reserve(sequence, len(own))
        self._report(0, Opcode.EMBED, NO_LAYER, x)
        edges = np.cumsum([0, *(len(own) for _, own in parts)])
        spans = [
            (sequence, slice(edges[index], edges[index + 1])) for index, (sequence, _) in enumerate(parts)
        ]
        for index in range(len(self.model.layers)):
            x = self._layer(index, x, at, spans)
        logits = self._head(x, rows) if sample else np.zeros((0, self.model.vocab), dtype=np.int64)
        for sequence, own in parts:
            self.kv.commit(sequence, len(own))
        return logits

    def generate(self, prompt: Sequence[int], count: int, sequence: int = 0) -> list[int]:
        """Up to `count` greedy tokens after a prompt, one row per step; ends behind the model's eos."""
        if not len(prompt):
            raise ValueError("A prompt needs at least one token")
        if not self.kv.is_open(sequence):
            self.open(sequence)
        for token in prompt[:-1]:
            self.step([token], sequence, sample=False)
        token, result = int(prompt[-1]), []
        while len(result) < count and (not result or token != self.model.eos):
            token = int(greedy(self.step([token], sequence))[0])
            result.append(token)
        return result

    def _layer(self, index: int, x: Int, at: Int, spans: list[tuple[int, slice]]) -> Int:
        layer, packet = self.model.layers[index], 1 + 7 * index
        codes, s = self._norm(packet, index, x)
        y = self._attend(packet, index, codes, s, at, spans)
        x = self._add(packet + 3, index, x, y, layer.o)
        codes, s = self._norm(packet + 4, index, x)
        return self._add(packet + 6, index, x, self._ffn(packet + 5, index, codes, s), layer.down)

    def _norm(self, packet: int, layer: int, x: Int) -> tuple[Int, Scale]:
        codes, s = rms_norm(x, self._s_eps, self.model.bits)
        self._scales(packet, s)
        self._report(packet, Opcode.NORM, layer, codes)
        return codes, s

    def _attend(
        self, packet: int, index: int, codes: Int, s: Scale, at: Int, spans: list[tuple[int, slice]]
    ) -> tuple[Int, Scale]:
        (k, s_k), (v, s_v), (q, s_q) = self._project_qkv(packet + 1, index, codes, s, at)
        model = self.model
        y = np.empty((len(at), model.heads, model.head_dim), dtype=np.int64)
        for sequence, rows in spans:
            own = (
                np.swapaxes(k[rows], 0, 1),
                pack(s_k[rows]).T,
                np.swapaxes(v[rows], 0, 1),
                pack(s_v[rows]).T,
            )
            self.kv.append(sequence, index, *own)
            tokens = int(at[rows][-1]) + 1
            all_k, all_s_k, all_v, all_s_v = self.kv.read(sequence, index, tokens)
            # [rows, heads, ...] to [kv_heads, group * rows, ...]
            shape = (-1, model.kv_heads, model.group)
            queries = q[rows].reshape(*shape, model.head_dim).transpose(1, 2, 0, 3)
            m, e = (part.reshape(shape).transpose(1, 2, 0) for part in (s_q.m[rows], s_q.e[rows]))
            result = attend(
                queries.reshape(model.kv_heads, -1, model.head_dim),
                Scale(m, e).reshape(model.kv_heads, -1),
                all_k,
                unpack(all_s_k),
                all_v,
                unpack(all_s_v),
                np.tile(at[rows], model.group),
                model.bits,
            )
            result = result.reshape(*queries.shape).transpose(2, 0, 1, 3)
            y[rows] = result.reshape(-1, model.heads, model.head_dim)
        return self._stage(packet + 2, Opcode.ATTEND, index, y.reshape(len(at), -1))

    def _project_qkv(self, packet: int, index: int, codes: Int, s: Scale, at: Int) -> list[tuple[Int, Scale]]:
        """Codes and scales of k, v, q, each [rows, heads, head_dim] and [rows, heads]."""
        model, layer = self.model, self.model.layers[index]
        y = self._linear(packet, codes, s, self._qkv[index])
        y = y.reshape(len(at), -1, model.head_dim)
        k, v, q = np.split(y, (model.kv_heads, 2 * model.kv_heads), axis=1)
        table = model.rope[at][:, None]
        k = subtract_mean(rotate(k, table), layer.k_mean)
        kvq, scale = quantize(np.concatenate((k, v, rotate(q, table)), axis=1), model.bits)
        self._report(packet, Opcode.QKV, index, kvq.reshape(len(at), -1))
        edges = (0, model.kv_heads, 2 * model.kv_heads, kvq.shape[1])
        k, v, q = ((kvq[:, a:b], scale[:, a:b]) for a, b in itertools.pairwise(edges))
        q = (q[0], mul(q[1], self._s_score))
        self._scales(packet, Scale(*(np.concatenate([getattr(t[1], f) for t in (k, v, q)], 1) for f in "me")))
        return [k, v, q]

    def _ffn(self, packet: int, index: int, codes: Int, s: Scale) -> tuple[Int, Scale]:
        y = self._linear(packet, codes, s, self._gate_up[index])
        gate, up = np.split(y, 2, axis=1)
        return self._stage(packet, Opcode.GATE_UP, index, silu_up(gate, up))

    def _stage(self, packet: int, opcode: Opcode, layer: int, y: Int) -> tuple[Int, Scale]:
        staged = h16_encode(y)
        codes, s = quantize(h16_decode(staged), self.model.bits)
        if self.detail:
            self.detail(packet, "staged", staged)
        self._scales(packet, s)
        self._report(packet, opcode, layer, codes)
        return codes, s

    def _add(self, packet: int, layer: int, x: Int, y: tuple[Int, Scale], w: Matrix) -> Int:
        x = residual(x, self._linear(packet, *y, w))
        self._report(packet, Opcode.MATMUL, layer, x)
        return x

    def _head(self, x: Int, rows: Sequence[int] | None) -> Int:
        packet = 1 + 7 * len(self.model.layers)
        codes, s = self._norm(packet, NO_LAYER, x)
        if rows is not None:
            chosen = np.array(rows, dtype=np.int64)
            codes, s = codes[chosen], s[chosen]
        logits = self._linear(packet + 1, codes, s, self.model.head)
        self._report(packet + 1, Opcode.MATMUL, NO_LAYER, logits)
        self._report(packet + 2, Opcode.SAMPLE, NO_LAYER, greedy(logits))
        return logits

    def _linear(self, packet: int, x: Int, s: Scale, w: Matrix) -> Int:
        # Codes fit the model's width; the narrow type tells the product so.
        narrow = x.astype(f"i{self.model.bits // 8}")
        y = linear(narrow, s, w.codes, unpack(w.scales), self._acc_width)
        if self.detail:
            self.detail(packet, "linear", y)
        return y

    def _scales(self, packet: int, s: Scale) -> None:
        if self.detail:
            self.detail(packet, "scale_m", s.m)
            self.detail(packet, "scale_e", s.e)

    def _report(self, packet: int, opcode: Opcode, layer: int, result: Int) -> None:
        if self.trace:
            self.trace(packet, opcode, layer, result)


def _stack(*matrices: Matrix) -> Matrix:
    return Matrix(np.concatenate([m.codes for m in matrices]), np.concatenate([m.scales for m in matrices]))
