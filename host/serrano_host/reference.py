# SPDX-License-Identifier: Apache-2.0
"""The float reference of a checkpoint: what the integers are compared with, and where k means come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serrano_host.checkpoints import Checkpoint

# Up to this many parameters a converted copy of the weights is kept; beyond, each use converts anew.
CACHED_PARAMETERS = 100_000_000


def rope_tables(head_dim: int, context: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines `[context, head_dim / 2]` of `position * theta ** (-2i / head_dim)`, float64."""
    frequencies = float(theta) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.arange(context, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


@dataclass(frozen=True)
class Forward:
    """Result of a teacher-forced pass: `logits[t]` predicts token `t + 1`; `k` is after RoPE.

    Shapes: logits `[tokens, vocab]`, k `[layers, tokens, kv_heads, head_dim]`.
    """

    logits: np.ndarray
    k: np.ndarray


class Reference:
    """The decoder of a checkpoint in floating point.

    Parameters
    ----------
    checkpoint : Checkpoint
    dtype : numpy dtype
        float64 for accuracy measurements; float32 is enough to draw calibration samples from a large model.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: type = np.float64):
        self.checkpoint = checkpoint
        self.dtype = np.dtype(dtype)
        cos, sin = rope_tables(checkpoint.head_dim, checkpoint.context, checkpoint.rope_theta)
        self._cos, self._sin = cos.astype(self.dtype), sin.astype(self.dtype)
        self._cache: dict[int, np.ndarray] | None = {} if checkpoint.parameters <= CACHED_PARAMETERS else None

    def forward(self, tokens: Sequence[int] | np.ndarray) -> Forward:
        """All logits of one sequence of at most `context` tokens."""
        tokens = np.asarray(tokens, dtype=np.int64)
        c = self.checkpoint
        if tokens.ndim != 1 or not 1 <= len(tokens) <= c.context:
            raise ValueError(
                f"tokens must be a sequence of 1 to {c.context} ids, not of shape {tokens.shape}"
            )
        state = _Cache(c, sequences=1, length=len(tokens), dtype=self.dtype)
        return Forward(self._step(tokens[None], state)[0], np.stack([k[0] for k in state.k]))

    def sample(
        self,
        sequences: int,
        length: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Sequences `[sequences, length]` drawn from the model itself at temperature 1.

        Each begins with the token that begins sequences (a random one if there is none).
        """
        c = self.checkpoint
        if not 1 <= length <= c.context:
            raise ValueError(f"length must be in 1 to the context {c.context}, not {length}")
        rng = np.random.Generator(np.random.PCG64(seed))
        tokens = np.zeros((sequences, length), dtype=np.int64)
        tokens[:, 0] = rng.integers(0, c.vocab, sequences) if c.bos is None else c.bos
        state = _Cache(c, sequences, length, self.dtype)
        for position in range(length - 1):
            logits = self._step(tokens[:, position : position + 1], state)[:, -1].astype(np.float64)
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True)).cumsum(axis=-1)
            target = rng.random((sequences, 1)) * weights[:, -1:]
            tokens[:, position + 1] = np.minimum((weights <= target).sum(axis=-1), c.vocab - 1)
            if progress is not None:
                progress(position + 1, length - 1)
        return tokens

    def _weight(self, array: np.ndarray) -> np.ndarray:
        # The checkpoint holds every array as long as this lives, so ids stay distinct.
        if self._cache is None:
            return array.astype(self.dtype)
        if id(array) not in self._cache:
            self._cache[id(array)] = array.astype(self.dtype)
        return self._cache[id(array)]

    def _norm(self, x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        return x / np.sqrt(mean + self.checkpoint.norm_eps) * self._weight(gain)

    def _rotate(self, x: np.ndarray, start: int) -> np.ndarray:
        """`x` is [sequences, tokens, heads, head_dim]; the tokens begin at position `start`."""
        stop = start + x.shape[1]
        cos, sin = self._cos[start:stop, None], self._sin[start:stop, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = even * cos - odd * sin
        out[..., 1::2] = even * sin + odd * cos
        return out

    def _step(self, tokens: np.ndarray, state: "_Cache") -> np.ndarray:
        """Logits of further tokens [sequences, new]; appends their k and v to the cache."""
        c, w = self.checkpoint, self._weight
        s, new = tokens.shape
        x = c.embedding[tokens].astype(self.dtype)
        for index, layer in enumerate(c.layers):
            y = self._norm(x, layer.attention_norm)
            q = (y @ w(layer.wq).T).reshape(s, new, c.heads, c.head_dim)
            k = (y @ w(layer.wk).T).reshape(s, new, c.kv_heads, c.head_dim)
            v = (y @ w(layer.wv).T).reshape(s, new, c.kv_heads, c.head_dim)
            state.append(index, self._rotate(k, state.length), v)
            y = self._attend(self._rotate(q, state.length), state, index)
            x = x + y @ w(layer.wo).T
            y = self._norm(x, layer.ffn_norm)
            gate = y @ w(layer.w_gate).T
            # exp of a very negative argument is 0, of a very positive one inf: silu is right in both.
            with np.errstate(over="ignore"):
                gate = gate / (1 + np.exp(-gate))
            x = x + (gate * (y @ w(layer.w_up).T)) @ w(layer.w_down).T
        state.length += new
        return self._norm(x, c.final_norm) @ w(c.head).T

    def _attend(self, q: np.ndarray, state: "_Cache", layer: int) -> np.ndarray:
        c = self.checkpoint
        s, new = q.shape[:2]
        stop = state.length + new
        group = c.heads // c.kv_heads
        out = np.empty_like(q)
        masked = np.arange(stop) > np.arange(state.length, stop)[:, None]
        for head in range(c.kv_heads):
            k, v = state.k[layer][:, :stop, head], state.v[layer][:, :stop, head]
            for h in range(head * group, (head + 1) * group):
                scores = q[:, :, h] @ k.transpose(0, 2, 1) / np.sqrt(self.dtype.type(c.head_dim))
                scores[:, masked] = -np.inf
                p = np.exp(scores - scores.max(axis=-1, keepdims=True))
                out[:, :, h] = (p @ v) / p.sum(axis=-1, keepdims=True)
        return out.reshape(s, new, c.heads * c.head_dim)


class _Cache:
    """k (after RoPE) and v of all layers, each `[sequences, length, kv_heads, head_dim]`."""

    def __init__(self, c: Checkpoint, sequences: int, length: int, dtype: np.dtype):
        shape = (sequences, length, c.kv_heads, c.head_dim)
        self.k = [np.zeros(shape, dtype) for _ in c.layers]
        self.v = [np.zeros(shape, dtype) for _ in c.layers]
        self.length = 0

    def append(self, layer: int, k: np.ndarray, v: np.ndarray) -> None:
        stop = self.length + k.shape[1]
        self.k[layer][:, self.length : stop] = k
        self.v[layer][:, self.length : stop] = v
