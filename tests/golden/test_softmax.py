# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden import page
from serrano_sim.golden import softmax
from serrano_sim.golden.linear import product
from serrano_sim.golden.quantize import quantize
from serrano_sim.golden.scale import Scale, mul
from serrano_sim.golden.softmax import State
from serrano_sim.golden.tables import exp2


def pairs(s):
    return list(zip(s.m.reshape(-1).tolist(), s.e.reshape(-1).tolist(), strict=True))


def operands(rng, heads, rows, tokens, head_dim, s_q=(-16, 0), s_k=(-4, 4), s_v=(-10, 10)):
    """Random codes and scales, extremes among them."""

    def codes(*shape):
        values = rng.integers(-127, 128, shape)
        values[..., 0] = rng.choice([-128, 127], shape[:-1])
        return values

    def scales(bounds, *shape):
        return Scale(rng.integers(1 << 15, 1 << 16, shape), rng.integers(*bounds, shape))

    q, k, v = codes(heads, rows, head_dim), codes(heads, tokens, head_dim), codes(heads, tokens, head_dim)
    return q, scales(s_q, heads, rows), k, scales(s_k, heads, tokens), v, scales(s_v, heads, tokens)


def expected(q, s_q, k, s_k, v, s_v, positions, bits=8):
    result = np.empty(q.shape, dtype=np.int64)
    for head in range(q.shape[0]):
        keys = (k[head].tolist(), pairs(s_k[head]), v[head].tolist(), pairs(s_v[head]))
        for row, position in enumerate(positions):
            scale = pairs(s_q[head, row])[0]
            result[head, row] = page.attend(q[head, row].tolist(), scale, *keys, int(position), bits)
    return result


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 53])
def test_equals_the_page(tokens):
    rng = np.random.default_rng(tokens)
    data = operands(rng, 2, 9, tokens, 8)
    positions = np.concatenate([[0, tokens - 1], rng.integers(0, tokens, 7)])
    assert np.array_equal(softmax.attend(*data, positions), expected(*data, positions))


@pytest.mark.parametrize(
    ("s_q", "s_k", "s_v"),
    [
        ((-80, -79), (-40, -39), (-40, -39)),
        ((40, 48), (20, 24), (20, 24)),
        ((-30, 0), (-10, 10), (-40, 24)),
        ((-20, 10), (-16, 16), (-16, 16)),
    ],
)
def test_equals_the_page_at_extreme_scales(s_q, s_k, s_v):
    rng = np.random.default_rng(14)
    data = operands(rng, 2, 5, 40, 6, s_q, s_k, s_v)
    positions = np.array([39, 3, 20, 16, 15])
    assert np.array_equal(softmax.attend(*data, positions), expected(*data, positions))


def test_16_bits_equal_the_page():
    rng = np.random.default_rng(15)
    q, k, v = rng.integers(-32767, 32768, (3, 1, 20, 8))
    s_q = Scale(rng.integers(1 << 15, 1 << 16, (1, 20)), -24)
    s_k, s_v = (Scale(rng.integers(1 << 15, 1 << 16, (1, 20)), 0) for _ in range(2))
    data = (q, s_q, k, s_k, v, s_v, np.arange(20))
    assert np.array_equal(softmax.attend(*data, bits=16), expected(*data, bits=16))


def test_group_by_group_equals_the_whole():
    rng = np.random.default_rng(16)
    # Scores so large that the maximum grows by much more than the width of l from one group to the next.
    q, s_q, k, s_k, v, s_v = operands(rng, 3, 4, 40, 8, s_q=(-16, -8), s_v=(-40, 20))
    positions = np.array([39, 20, 7, 31])
    state = State.fresh((3, 4), 8)
    for first in range(0, 48, 16):
        span = slice(first, min(first + 16, 40))
        w = softmax.weights(product(q, np.swapaxes(k[:, span], 1, 2)), s_q, s_k[:, span], s_v[:, span])
        valid = np.arange(span.start, span.stop) <= positions[:, None]
        state, p = softmax.update(state, w, v[:, span], valid)
        assert p.max() <= 65535
        assert not p[:, ~valid].any()
    assert np.array_equal(softmax.finish(state), softmax.attend(q, s_q, k, s_k, v, s_v, positions))
    for head in range(3):
        keys = (k[head].tolist(), pairs(s_k[head]), v[head].tolist(), pairs(s_v[head]))
        for row, position in enumerate(positions):
            scale = pairs(s_q[head, row])[0]
            m, x, total, o = page.attend_state(q[head, row].tolist(), scale, *keys, int(position))
            own = (state.m[head, row], state.x[head, row], state.l[head, row], state.o[head, row].tolist())
            assert own == (m, x, total, o)


def test_a_sudden_maximum_clears_what_was_before():
    # The second group's score exceeds the first's by d: l falls by d bits, and to nothing beyond its width.
    for d in (0, 1, 20, 25, 26, 40, 63, 64, 1000):
        s = Scale([[1 << 15]], 0)
        state = State.fresh((1, 1), 1)
        for group, z in enumerate((0, d << 12)):
            w = softmax.weights(np.array([[[1]]]), s, Scale([[1 << 15]], 0), s)
            w.z[:], w.i[:], w.y[:], w.x[:] = z, z >> 12, (z >> 12) + 1, (z >> 12) + 1
            w.mantissa[:], w.u[:] = 1 << 16, 1 << 15
            before = state
            state, p = softmax.update(state, w, np.array([[[100]]]), True)
            if group:
                assert state.l.item() == page.rhu(before.l.item(), min(d, 63)) + (1 << 24)
                assert state.o.item() == page.rhu(before.o.item(), min(d, 63)) + 100 * p.item()
                assert (state.m.item(), p.item()) == (d, 1 << 15)


def test_score_at_every_exponent():
    acc = np.array([0, 1, -1, 2, -3, 127 * 128, -(2**31), 2**31 - 1])
    for e in range(-80, 48, 3):
        for e_k in (-40, -7, 0, 23):
            s_q, s_k = Scale([32768, 65535], [e, e]), Scale(np.full(len(acc), 50000), e_k)
            z = softmax.score(np.stack([acc, acc]), s_q, s_k)
            for row, m in enumerate((32768, 65535)):
                assert z[row].tolist() == [page.score(int(a), (m, e), (50000, e_k)) for a in acc]


def test_weight_that_rounds_to_a_power_of_two():
    # U = 2^16 exactly: its exponent x is one more than that of U = 2^16 - 1.
    mantissas, _ = exp2(np.arange(4096))
    found = 0
    for m_v in (1 << 15) + 32 * np.arange(1024):
        z = np.flatnonzero((mantissas * m_v + (1 << 15)) >> 16 == 1 << 16)[:1]
        if len(z):
            # A score of z: acc = z, scale 2^-12.
            one = Scale(1 << 15, 0)
            s_v = Scale([m_v], 5)
            w = softmax.weights(np.array([z]), Scale([1 << 15], -12), one.reshape(1), s_v)
            assert (w.u.item(), w.y.item(), w.x.item()) == (1 << 16, 6, 7)
            found += 1
    assert found > 10


def test_finish_equals_the_page():
    rng = np.random.default_rng(30)
    count = 3000
    m, x = rng.integers(-100, 100, (2, count))
    total = rng.integers(1 << 22, 1 << 40, count) >> rng.integers(0, 18, count)
    total = np.maximum(total, 1 << 22)
    o = rng.integers(-(1 << 39), 1 << 39, (count, 2)) >> rng.integers(0, 39, (count, 1))
    state = State(np.zeros(count, dtype=bool), m, x, total, o)
    for bits in (8, 16):
        expected = [
            page.finish(*(int(part) for part in row[:3]), [int(part) for part in row[3]], bits)
            for row in zip(m, x, total, o, strict=True)
        ]
        assert softmax.finish(state, bits).tolist() == expected


def test_one_row_at_a_time_equals_all_rows():
    rng = np.random.default_rng(17)
    q, s_q, *rest = operands(rng, 2, 70, 70, 8)
    every = softmax.attend(q, s_q, *rest, np.arange(70))
    for row in range(70):
        one = softmax.attend(q[:, row : row + 1], s_q[:, row : row + 1], *rest, [row])
        assert np.array_equal(one[:, 0], every[:, row])


def test_span_does_not_matter(monkeypatch):
    rng = np.random.default_rng(18)
    data = operands(rng, 2, 70, 70, 8)
    every = softmax.attend(*data, np.arange(70))
    monkeypatch.setattr(softmax, "_SPAN_ELEMENTS", 1)
    assert np.array_equal(softmax.attend(*data, np.arange(70)), every)


def test_tokens_that_are_not_valid_change_nothing():
    rng = np.random.default_rng(19)
    q, s_q, k, s_k, v, s_v = operands(rng, 1, 3, 40, 8, s_q=(-24, -20))
    positions = np.array([5, 18, 30])
    before = softmax.attend(q, s_q, k, s_k, v, s_v, positions)
    k[:, 31:], v[:, 31:] = 99, -99
    s_v = Scale(np.where(np.arange(40) > 30, 65535, s_v.m), np.where(np.arange(40) > 30, 23, s_v.e))
    assert np.array_equal(softmax.attend(q, s_q, k, s_k, v, s_v, positions), before)
    # A row is blind to what lies behind it, also within its own group.
    k[:, 19:31], v[:, 19:31] = 99, -99
    after = softmax.attend(q, s_q, k, s_k, v, s_v, positions)
    assert np.array_equal(after[:, :2], before[:, :2])
    assert not np.array_equal(after[:, 2], before[:, 2])


def test_group_without_valid_tokens_changes_nothing():
    rng = np.random.default_rng(20)
    q, s_q, k, s_k, v, s_v = operands(rng, 1, 2, 16, 8)
    w = softmax.weights(product(q, np.swapaxes(k, 1, 2)), s_q, s_k, s_v)
    empty = State.fresh((1, 2), 8)
    same, p = softmax.update(empty, w, v, np.zeros((2, 16), dtype=bool))
    assert same.empty.all() and not p.any() and not same.l.any() and not same.o.any()
    assert not softmax.finish(same).any()
    full, _ = softmax.update(empty, w, v, np.array([[True], [False]]))
    assert full.empty.tolist() == [[False, True]]
    same, _ = softmax.update(full, w, v, np.zeros((2, 16), dtype=bool))
    for name in ("empty", "m", "x", "l", "o"):
        assert np.array_equal(getattr(same, name), getattr(full, name))


def test_zero_keys_and_values():
    # All-zero vectors have the smallest scale: every token weighs the same, and the output is zero.
    zero = np.zeros((1, 20, 8), dtype=np.int64)
    least = Scale(np.full((1, 20), 1 << 15), -40)
    assert not softmax.attend(zero, least, zero, least, zero, least, np.arange(20)).any()
    v = np.full((1, 20, 8), 127)
    one = Scale(np.full((1, 20), 1 << 15), 0)
    y = softmax.attend(zero, least, zero, least, v, one, np.arange(20))
    assert np.max(np.abs(y / 65536 - 127 / 128)) < 2.0**-14


def attention(q, k, v, positions):
    s = np.einsum("hrd,htd->hrt", q, k) / np.sqrt(q.shape[-1])
    s[:, positions[:, None] < np.arange(k.shape[1])] = -np.inf
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True) @ v


def golden(q, k, v, positions, bits):
    top = 2 ** (bits - 1) - 1
    (q, s_q), (k, s_k), (v, s_v) = (quantize(np.round(x * 65536).astype(np.int64), bits) for x in (q, k, v))
    factor = np.log2(np.e) / np.sqrt(q.shape[-1]) / top**2
    e = int(np.floor(np.log2(factor)))
    s_q = mul(s_q, Scale(int(np.floor(factor * 2.0 ** (15 - e) + 0.5)), e))
    return softmax.attend(q, s_q, k, s_k, v, s_v, positions, bits) / 65536 * (top + 1) / top


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.03), (16, 3e-4)])
@pytest.mark.parametrize("tokens", [20, 300])
def test_against_floats(bits, bound, tokens):
    rng = np.random.default_rng(21)
    q, k, v = rng.normal(size=(3, 2, tokens, 16))
    positions = np.arange(tokens)
    error = golden(q, k, v, positions, bits) - attention(q, k, v, positions)
    assert np.max(np.abs(error)) < bound


def test_attention_sink():
    # A token that takes nearly all weight but has a tiny value must not drown the others.
    rng = np.random.default_rng(22)
    tokens = 400
    q, k, v = rng.normal(size=(3, 1, tokens, 16))
    q[..., 0], k[..., 0] = 4.0, 0.0
    k[:, 0, 0] = 12.0
    v[:, 0] *= 1e-3
    positions = np.arange(tokens)
    exact = attention(q, k, v, positions)[:, 64:]
    error = golden(q, k, v, positions, 8)[:, 64:] - exact
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(exact)


def test_widths_of_the_state():
    rng = np.random.default_rng(23)
    q, s_q, k, s_k, v, s_v = operands(rng, 1, 1, 16, 8, s_q=(-30, -29))
    w = softmax.weights(product(q, np.swapaxes(k, 1, 2)), s_q, s_k, s_v)
    state = State.fresh((1, 1), 8)
    state, _ = softmax.update(state, w, v, True)
    state.o[:] = (1 << 39) - 1
    with pytest.raises(OverflowError, match=r"^o must fit in 40 bits signed"):
        softmax.update(state, w, np.full((1, 16, 8), 127), True)
    state.l[:] = (1 << 40) - 1
    with pytest.raises(OverflowError, match=r"^l must be in 0 .. 1099511627775"):
        softmax.update(state, w, v, True)
