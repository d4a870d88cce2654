# SPDX-License-Identifier: Apache-2.0
"""The float reference against a token-by-token rendering with plain loops over heads and positions."""

import numpy as np
import pytest

from serrano_host.checkpoints import open_checkpoint
from serrano_host.reference import Reference, rope_tables
from support.checkpoint_files import Shape, random_weights, write_hugging_face, write_llama2c

SHAPE = Shape(dim=24, ffn=20, layers=2, heads=6, kv_heads=2, head_dim=4, vocab=37, context=16, tied=False)


def plain_forward(shape, w, tokens):
    """Logits and rotated k by complex rotation of adjacent pairs, one position after the other."""

    def norm(x, gain):
        return x / np.sqrt((x * x).mean() + shape.eps) * gain

    def rotate(x, position):
        pairs = x.reshape(-1, shape.head_dim // 2, 2)
        turn = np.exp(1j * position * shape.theta ** (-2 * np.arange(shape.head_dim // 2) / shape.head_dim))
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(-1, shape.head_dim)

    w = {name: a.astype(np.float64) for name, a in w.items()}
    keys = [[] for _ in range(shape.layers)]
    values = [[] for _ in range(shape.layers)]
    logits = []
    for position, token in enumerate(tokens):
        x = w["token_embedding"][token]
        for n in range(shape.layers):
            y = norm(x, w["rms_att"][n])
            q = rotate(w["wq"][n] @ y, position)
            keys[n].append(rotate(w["wk"][n] @ y, position))
            values[n].append((w["wv"][n] @ y).reshape(-1, shape.head_dim))
            out = []
            for head in range(shape.heads):
                kv = head // (shape.heads // shape.kv_heads)
                scores = np.array([k[kv] @ q[head] for k in keys[n]]) / np.sqrt(shape.head_dim)
                p = np.exp(scores) / np.exp(scores).sum()
                out.append(sum(pi * v[kv] for pi, v in zip(p, values[n], strict=True)))
            x = x + w["wo"][n] @ np.concatenate(out)
            y = norm(x, w["rms_ffn"][n])
            gate = w["w1"][n] @ y
            x = x + w["w2"][n] @ (gate / (1 + np.exp(-gate)) * (w["w3"][n] @ y))
        logits.append(w.get("wcls", w["token_embedding"]) @ norm(x, w["rms_final"]))
    return np.array(logits), np.array(keys)


@pytest.mark.parametrize("write", [write_llama2c, write_hugging_face])
def test_forward(tmp_path, write):
    weights = random_weights(SHAPE)
    checkpoint = open_checkpoint(write(tmp_path / "model", SHAPE, weights))
    tokens = np.random.default_rng(1).integers(0, SHAPE.vocab, SHAPE.context)
    found = Reference(checkpoint).forward(tokens)
    logits, keys = plain_forward(SHAPE, weights, tokens)
    assert found.logits.dtype == np.float64
    np.testing.assert_allclose(found.logits, logits, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.k, keys, rtol=1e-9, atol=1e-9)


@pytest.fixture
def checkpoint(tmp_path):
    return open_checkpoint(write_hugging_face(tmp_path, SHAPE, random_weights(SHAPE)))


def test_single_precision_is_close(checkpoint):
    tokens = list(range(12))
    single, double = (
        Reference(checkpoint, dtype).forward(tokens).logits for dtype in (np.float32, np.float64)
    )
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)


def test_cache_of_weights_changes_nothing(checkpoint, monkeypatch):
    cached = Reference(checkpoint).forward([1, 2, 3]).logits
    monkeypatch.setattr("serrano_host.reference.CACHED_PARAMETERS", 0)
    np.testing.assert_array_equal(Reference(checkpoint).forward([1, 2, 3]).logits, cached)


def test_samples_follow_the_distribution(checkpoint):
    reference = Reference(checkpoint)
    drawn = reference.sample(4000, 2, seed=3)
    assert (drawn[:, 0] == checkpoint.bos).all()
    logits = reference.forward([checkpoint.bos]).logits[0]
    p = np.exp(logits - logits.max())
    p /= p.sum()
    found = np.bincount(drawn[:, 1], minlength=SHAPE.vocab) / len(drawn)
    # Five standard errors.
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / len(drawn)) + 1e-12).all()


def test_samples_depend_on_the_seed_and_on_what_came_before(checkpoint):
    reference = Reference(checkpoint)
    first = reference.sample(3, SHAPE.context, seed=1)
    assert first.shape == (3, SHAPE.context)
    np.testing.assert_array_equal(first, reference.sample(3, SHAPE.context, seed=1))
    assert (first != reference.sample(3, SHAPE.context, seed=2)).any()
    # The sampler's cache holds what the forward pass computes: drawing again from its logits gives the same.
    rng = np.random.Generator(np.random.PCG64(1))
    uniform = np.stack([rng.random(3) for _ in range(SHAPE.context - 1)], axis=1)
    for row, u in zip(first, uniform, strict=True):
        logits = reference.forward(row).logits[:-1]
        cumulated = np.exp(logits - logits.max(-1, keepdims=True)).cumsum(-1)
        wanted = (cumulated <= (u * cumulated[:, -1])[:, None]).sum(-1)
        np.testing.assert_array_equal(row[1:], wanted)


def test_samples_without_bos(checkpoint):
    checkpoint.bos = None
    assert len(set(Reference(checkpoint).sample(50, 1, seed=0)[:, 0])) > 10


@pytest.mark.parametrize("tokens", [[], [0] * 17, [[1, 2]]])
def test_wrong_tokens(checkpoint, tokens):
    with pytest.raises(ValueError, match="tokens must be a sequence of 1 to 16 ids"):
        Reference(checkpoint).forward(tokens)
    with pytest.raises(ValueError, match="length must be in 1 to the context 16, not 17"):
        Reference(checkpoint).sample(1, 17, seed=0)


def test_rope_tables():
    cos, sin = rope_tables(head_dim=4, context=3, theta=100.0)
    angles = np.array([[0, 0], [1, 0.1], [2, 0.2]])
    np.testing.assert_allclose(cos, np.cos(angles), rtol=1e-15)
    np.testing.assert_allclose(sin, np.sin(angles), rtol=1e-15)
