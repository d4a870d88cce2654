# SPDX-License-Identifier: Apache-2.0
"""Online attention over groups of 16 tokens: docs/numerics.md, section 7.

Shapes: `...` stands for leading dimensions that broadcast (KV heads, say); a row is one query token and one
of the query heads that share the KV head.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .fixed import Int, check_range, check_signed, check_unsigned, int64, limit, msb, rhu, rhu_sat32
from .linear import product
from .scale import Scale, mul
from .tables import exp2, recip

GROUP = 16

# Scores of one span of groups are formed at once; this many elements keep the arrays in the cache.
_SPAN_ELEMENTS = 1 << 16


@dataclasses.dataclass(eq=False)
class State:
    """The running state of rows.

    Parameters
    ----------
    empty
        [..., rows]: no valid token yet; the rest is zero.
    m
        [..., rows]: the running maximum of the scores, an integer in the log2 domain [s21].
    x
        [..., rows]: the running exponent of the weighted values [s21]; X on the page.
    l
        [..., rows]: the denominator [u40], 24 fraction bits.
    o
        [..., rows, head_dim]: the output [s40].
    """

    empty: NDArray[np.bool_]
    m: Int
    x: Int
    l: Int  # noqa: E741 - the name it has on the page
    o: Int

    @classmethod
    def fresh(cls, shape: tuple[int, ...], head_dim: int) -> State:
        """An empty state for rows of the given shape."""
        zero = [np.zeros(shape, dtype=np.int64) for _ in range(3)]
        return cls(np.ones(shape, dtype=bool), *zero, np.zeros((*shape, head_dim), dtype=np.int64))


@dataclasses.dataclass(eq=False)
class Weights:
    """What scores give, each [..., rows, tokens]: z [s32], `(mantissa, i) = exp2(z)`, U [u17], y and x."""

    z: Int
    mantissa: Int
    i: Int
    u: Int
    y: Int
    x: Int

    def __getitem__(self, index: slice) -> Weights:
        """The weights of some of the tokens."""
        return Weights(*(getattr(self, field.name)[..., index] for field in dataclasses.fields(self)))


def score(acc: ArrayLike, s_q: Scale, s_k: Scale) -> Int:
    """z: scores in the log2 domain with 12 fraction bits [s32].

    Parameters
    ----------
    acc
        Products of q and k codes, [..., rows, tokens].
    s_q
        Scales of the rows, [..., rows], the score constant included.
    s_k
        Scales of the keys, [..., tokens].
    """
    s = mul(s_q[..., None], s_k[..., None, :])
    return rhu_sat32(int64(acc) * s.m, limit(3 - s.e, -16, 63))


def weights(acc: ArrayLike, s_q: Scale, s_k: Scale, s_v: Scale) -> Weights:
    """Scores to weights: the part that knows no maximum. Shapes as in `score`; s_v is [..., tokens]."""
    z = score(acc, s_q, s_k)
    mantissa, i = exp2(z)
    u = check_unsigned(rhu(mantissa * s_v.m[..., None, :], 16), 17, "U")
    y = i + s_v.e[..., None, :] + 1
    return Weights(z, mantissa, i, u, y, y + (u >= 1 << 16))


def update(state: State, w: Weights, v: ArrayLike, valid: ArrayLike) -> tuple[State, Int]:
    """One group of up to 16 tokens.

    Parameters
    ----------
    state
        The state before, of rows [..., rows].
    w
        Weights of the group's tokens, [..., rows, tokens].
    v
        Codes of the values, [..., tokens, head_dim].
    valid
        [..., rows, tokens], broadcasting.

    Returns
    -------
    state, p
        The state after, and the streamed weights P [u16], [..., rows, tokens], zero where not valid.
    """
    valid = np.broadcast_to(np.asarray(valid, dtype=bool), w.z.shape)
    some = valid.any(axis=-1)
    lowest = np.int64(-(1 << 40))
    group_m = np.where(valid, -(-w.z >> 12), lowest).max(axis=-1)
    group_x = np.where(valid, w.x, lowest).max(axis=-1)
    m = np.where(some, np.where(state.empty, group_m, np.maximum(state.m, group_m)), state.m)
    x = np.where(some, np.where(state.empty, group_x, np.maximum(state.x, group_x)), state.x)
    check_signed(m, 21, "m")
    check_signed(x, 21, "X")

    term = rhu(256 * w.mantissa, limit(m[..., None] - w.i, 0, 63))
    old = np.where(state.empty, 0, m - state.m)
    denominator = rhu(state.l, limit(old, 0, 63)) + np.where(valid, term, 0).sum(axis=-1)
    check_unsigned(denominator, 40, "l")

    p = np.minimum(rhu(w.u, limit(x[..., None] - w.y, 0, 63)), 65535)
    p = np.where(valid, p, 0)
    old = np.where(state.empty, 0, x - state.x)
    o = rhu(state.o, limit(old, 0, 63)[..., None]) + product(p, v)
    return State(state.empty & ~some, m, x, denominator, check_signed(o, _output_width(v), "o")), p


def _output_width(v: ArrayLike) -> int:
    # Values of 16 bits exist in the model only, which then keeps more than the hardware.
    array = np.asarray(v)
    return 40 if not array.size or -128 <= int(array.min()) <= int(array.max()) <= 127 else 48


def finish(state: State, bits: int = 8) -> Int:
    """Outputs in Q16 (int32) times `qmax / 2^(bits-1)`, [..., rows, head_dim]; zero for an empty state."""
    l = np.where(state.empty, 1 << 24, state.l)  # noqa: E741
    check_range(l, 1 << 22, (1 << 40) - 1, "l of a state that is not empty")
    pl = msb(l)
    g = recip(rhu(l, pl - 15))
    n = limit(state.m + pl - state.x - 1 + (bits - 8), -16, 63)
    return np.where(state.empty[..., None], 0, rhu_sat32(state.o * g[..., None], n[..., None]))


def attend(
    q: ArrayLike,
    s_q: Scale,
    k: ArrayLike,
    s_k: Scale,
    v: ArrayLike,
    s_v: Scale,
    positions: ArrayLike,
    bits: int = 8,
) -> Int:
    """Causal attention of rows over a whole sequence, group by group.

    Parameters
    ----------
    q, s_q
        Codes [..., rows, head_dim] and scales [..., rows] of the queries, the score constant included.
    k, s_k, v, s_v
        Codes [..., tokens, head_dim] and scales [..., tokens]; token 0 is at logical position 0.
    positions
        Positions of the rows, [rows]. Tokens beyond a row's own are not valid for it.
    bits
        Width of the codes.

    Returns
    -------
    y
        Outputs in Q16, [..., rows, head_dim], before staging.
    """
    q, k, v = np.asarray(q), np.asarray(k), np.asarray(v)
    positions = int64(positions)
    order = np.argsort(positions, kind="stable")
    q, s_q, ordered = q[..., order, :], s_q[..., order], positions[order]
    tokens = min(k.shape[-2], int(ordered[-1]) + 1)
    lead, rows = q.shape[:-2], q.shape[-2]
    state = State.fresh((*lead, rows), q.shape[-1])

    first = 0
    while first < tokens:
        # Rows before this one see nothing of the span: they are done.
        start = int(np.searchsorted(ordered, first))
        count = max(1, _SPAN_ELEMENTS // (GROUP * (rows - start) * max(1, int(np.prod(lead)))))
        stop = min(tokens, first + count * GROUP)
        live = np.s_[..., start:]
        acc = product(q[..., start:, :], np.swapaxes(k[..., first:stop, :], -1, -2))
        if bits == 8:
            check_signed(acc, 32, "Score accumulator")
        w = weights(acc, s_q[live], s_k[..., first:stop], s_v[..., first:stop])
        part = State(state.empty[live], state.m[live], state.x[live], state.l[live], state.o[..., start:, :])
        for group in range(first, stop, GROUP):
            end = min(group + GROUP, stop)
            valid = np.arange(group, end) <= ordered[start:, None]
            part, _ = update(part, w[group - first : end - first], v[..., group:end, :], valid)
        state.empty[live], state.m[live], state.x[live], state.l[live] = part.empty, part.m, part.x, part.l
        state.o[..., start:, :] = part.o
        first = stop

    y = np.empty_like(state.o)
    y[..., order, :] = finish(state, bits)
    return y
