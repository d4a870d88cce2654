# SPDX-License-Identifier: Apache-2.0
"""Packed scales, folding, codes and k means."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest

from serrano_host.checkpoints import open_checkpoint
from serrano_host.errors import CompileError
from serrano_host.quantize import (
    calibration_windows,
    k_means,
    pack_nearest,
    pack_up,
    quantize,
    quantize_k_means,
    quantize_rope,
    quantize_rows,
    unpack,
)
from serrano_host.reference import Reference
from support.checkpoint_files import Shape, random_weights, write_hugging_face

SHAPE = Shape(dim=40, ffn=36, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=300, context=24, tied=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = write_hugging_face(tmp_path_factory.mktemp("model"), SHAPE, random_weights(SHAPE))
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def model(checkpoint):
    return quantize(checkpoint)


def exact(code):
    """A packed scale as the format defines it: mantissa times a power of two."""
    mantissa, exponent = 2**15 + 32 * (code & 1023), (code >> 10) - 40
    return Fraction(mantissa) * Fraction(2) ** (exponent - 15)


def test_every_packed_scale_survives():
    codes = np.arange(2**16)
    values = unpack(codes)
    assert all(Fraction(values[code]) == exact(code) for code in range(0, 2**16, 97))
    np.testing.assert_array_equal(pack_up(values), codes)
    assert (np.diff(values) > 0).all()
    # Just above a packed scale comes the next one, just below it the same.
    np.testing.assert_array_equal(pack_up(np.nextafter(values[:-1], np.inf)), codes[1:])
    np.testing.assert_array_equal(pack_up(np.nextafter(values, 0)), codes)


def test_nearest_packed_scale():
    for code in (0, 1, 1023, 1024, 40 << 10, 65534):
        low, high = unpack(code), unpack(code + 1)
        assert pack_nearest(low) == code
        assert pack_nearest(low + 0.499 * (high - low)) == code
        assert pack_nearest(low + 0.501 * (high - low)) == code + 1
    assert pack_nearest(float(unpack(65535))) == 65535


def test_range_of_packed_scales():
    assert pack_up(np.array([0.0, 1e-30, 2.0**-40])).tolist() == [0, 0, 0]
    with pytest.raises(
        CompileError, match=r"^wq: scale of channel 1 must be in 0 to 2\^24, not 1\.67772e\+07$"
    ):
        pack_up(np.array([1.0, 2.0**24]), "wq")
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(CompileError, match="scale of channel 0 must be"):
            pack_up(np.array([wrong]))
    for wrong in (0.0, 2.0**-41, 2.0**24, math.nan, math.inf):
        with pytest.raises(CompileError, match="eps must be in the range of packed scales"):
            pack_nearest(wrong, "eps")


@pytest.mark.parametrize(("bits", "qmax"), [(8, 127), (16, 32767)])
def test_rows(bits, qmax):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 33)) * 10.0 ** rng.integers(-6, 4, (50, 1))
    rows[7] = 0
    rows[8] = [1.0, *[-1.0] * 32]
    rows[9] = 2.0**-60
    found = quantize_rows(rows, bits, "rows")
    assert found.codes.dtype == (np.int8 if bits == 8 else np.int16)
    assert np.abs(found.codes.astype(int)).max() <= qmax
    for row, codes, scale in zip(rows, found.codes, found.scales, strict=True):
        largest = np.abs(row).max()
        if largest == 0:
            assert scale == 0 and not codes.any()
            continue
        step = exact(int(scale))
        assert step >= Fraction(largest) / qmax
        if scale:
            assert exact(int(scale) - 1) < Fraction(largest) / qmax
        for value, code in zip(row, codes, strict=True):
            assert int(code) == math.floor(Fraction(value) / step + Fraction(1, 2))
    np.testing.assert_array_equal(found.values()[:, 0], found.codes[:, 0] * unpack(found.scales))


def test_ties_round_up():
    found = quantize_rows(np.array([[127.0, 0.5, -0.5, -1.5, 2.5, -127.0]]), 8, "x")
    assert found.codes.tolist() == [[127, 1, 0, -1, 3, -127]]


def test_folding(checkpoint, model):
    """Each matrix stands for what the table in section 9 of the numerics says."""
    root = np.sqrt(40.0)
    assert (model.dim, model.ffn, model.bits, len(model.layers)) == (40, 36, 8, 2)
    for layer, source in zip(model.layers, checkpoint.layers, strict=True):
        pre, post = source.attention_norm.astype(float), source.ffn_norm.astype(float)
        wanted = {
            "wq": source.wq * pre * root / 127,
            "wk": source.wk * pre * root / 127,
            "wv": source.wv * pre * root / 127,
            "wo": source.wo * 128.0 / 127 / 127,
            "w_gate": source.w_gate * post * root / 127,
            "w_up": source.w_up * post * root / 127,
            "w_down": source.w_down / 127.0,
        }
        for name, weight in wanted.items():
            assert_represents(getattr(layer, name), weight)
    assert_represents(model.head, checkpoint.head * checkpoint.final_norm.astype(float) * root / 127)
    assert_represents(model.embedding, checkpoint.embedding)


def assert_represents(matrix, weight):
    step = unpack(matrix.scales)[:, None]
    assert (np.abs(matrix.values() - weight) <= step * (0.5 + 1e-6)).all()
    # The step is no larger than one packed scale above the smallest possible one.
    smallest = np.abs(weight).max(axis=1, keepdims=True) / 127
    assert (step >= smallest * (1 - 1e-12)).all() and (step <= smallest * (1 + 2**-10)).all()


def test_constants(model):
    assert unpack(model.s_eps) == pytest.approx(1e-5 * 40, rel=2**-11)
    assert unpack(model.s_score) == pytest.approx(math.log2(math.e) / math.sqrt(8) / 127**2, rel=2**-11)
    assert model.rope.shape == (24, 4, 2) and model.rope.dtype == np.int16
    assert model.rope[0].tolist() == [[32767, 0]] * 4
    assert model.rope[5, 1].tolist() == [math.floor(f(0.5) * 2**15 + 0.5) for f in (math.cos, math.sin)]


def test_sixteen_bits(checkpoint, model):
    wide = quantize(checkpoint, bits=16, means=np.zeros((2, 2, 8)))
    assert wide.bits == 16
    wq = wide.layers[0].wq
    assert wq.codes.dtype == np.int16 and np.abs(wq.codes.astype(int)).max() > 30000
    np.testing.assert_allclose(wq.values() * 32767, model.layers[0].wq.values() * 127, atol=0.05)
    np.testing.assert_allclose(
        wide.layers[0].wo.values() * 32767**2 / 32768, checkpoint.layers[0].wo, atol=1e-4
    )
    assert unpack(wide.s_score) == pytest.approx(math.log2(math.e) / math.sqrt(8) / 32767**2, rel=2**-11)


def test_k_means_are_averages_of_k(checkpoint):
    windows = [np.arange(20), np.arange(5) + 100]
    found = k_means(checkpoint, windows)
    reference = Reference(checkpoint)
    k = np.concatenate([reference.forward(w).k for w in windows], axis=1)
    np.testing.assert_allclose(found, k.mean(axis=1), rtol=1e-12)
    layer = quantize(checkpoint, means=found).layers[1]
    assert layer.k_mean.dtype == np.int16
    np.testing.assert_array_equal(layer.k_mean, np.floor(found[1] * 256 + 0.5))


def test_k_means_of_own_samples(checkpoint, model):
    seen = []
    found = k_means(checkpoint, progress=lambda *args: seen.append(args))
    assert seen[0] == ("sampling", 1, 23) and seen[-1] == ("calibrating", 4, 4)
    np.testing.assert_array_equal(quantize_k_means(found[0]), model.layers[0].k_mean)
    samples = Reference(checkpoint).sample(4, 24, seed=1)
    np.testing.assert_allclose(k_means(checkpoint, list(samples)), found, rtol=1e-12)
    assert (found != k_means(checkpoint, seed=2)).all()


def test_large_models_are_calibrated_with_less(checkpoint, monkeypatch):
    monkeypatch.setattr("serrano_host.quantize.LARGE_PARAMETERS", 0)
    monkeypatch.setattr("serrano_host.quantize.CALIBRATION_LENGTH", 40)
    found = k_means(checkpoint)
    samples = Reference(checkpoint, np.float32).sample(4, 10, seed=1)
    np.testing.assert_allclose(found, k_means(checkpoint, list(samples)), rtol=1e-12)


def test_k_means_are_limited():
    means = np.array([1e9, -1e9, 1.5 / 256, -1.5 / 256, 127.998])
    assert quantize_k_means(means).tolist() == [32767, -32768, 2, -1, 32767]


def test_rope_table_limits():
    table = quantize_rope(head_dim=2, context=4000, theta=1e4)
    assert table.max() == 32767 and table.min() >= -32767


def test_calibration_windows(checkpoint):
    windows = calibration_windows(checkpoint, "he" * 30)
    assert [len(w) for w in windows] == [24, 8]
    assert all(w[0] == 1 for w in windows)
    tokens = np.concatenate([w[1:] for w in windows])
    assert checkpoint.tokenizer().decode(tokens) == "he" * 30
    with pytest.raises(CompileError, match="the calibration text is empty"):
        calibration_windows(checkpoint, "")


def test_refusals(checkpoint):
    with pytest.raises(ValueError, match=re.escape("bits must be 8 or 16, not 4")):
        quantize(checkpoint, bits=4)
    saved = checkpoint.layers[1].wv[3].copy()
    checkpoint.layers[1].wv[3] *= 1e12
    try:
        with pytest.raises(CompileError, match=r"^layers\.1\.wv: scale of channel 3 must be in 0 to 2\^24"):
            quantize(checkpoint, means=np.zeros((2, 2, 8)))
    finally:
        checkpoint.layers[1].wv[3] = saved
    eps, checkpoint.norm_eps = checkpoint.norm_eps, 1e-30
    try:
        with pytest.raises(CompileError, match=r"^eps \* dim must be in the range"):
            quantize(checkpoint, means=np.zeros((2, 2, 8)))
    finally:
        checkpoint.norm_eps = eps
    ffn, checkpoint.ffn = checkpoint.ffn, 133145
    try:
        with pytest.raises(
            CompileError, match=r"^ffn must be at most 133144 \(32-bit accumulators\), not 133145"
        ):
            quantize(checkpoint, means=np.zeros((2, 2, 8)))
    finally:
        checkpoint.ffn = ffn
