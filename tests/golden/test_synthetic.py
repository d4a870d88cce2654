# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from serrano_host.checkpoints import Checkpoint
from serrano_host.checkpoints.base import Layer as HostLayer
from serrano_host.compile import Geometry, compile_tape
from serrano_host.quantize import quantize
from serrano_sim.golden import synthetic
from serrano_sim.golden.scale import unpack
from serrano_sim.golden.tape import read_tape

SHAPES = [
    {"head_dim": 8, "heads": 8, "kv_heads": 4},
    {"head_dim": 48, "heads": 6, "kv_heads": 6, "dim": 36},
    {"head_dim": 64, "heads": 8, "kv_heads": 1, "dim": 40},
    {"head_dim": 128, "heads": 2, "kv_heads": 2, "ffn": 77},
    {"head_dim": 20, "heads": 3, "kv_heads": 1, "vocab": 13},
    {"head_dim": 4, "heads": 5, "kv_heads": 5, "dim": 17, "ffn": 1, "context": 3},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape["head_dim"]))
@pytest.mark.parametrize(("n", "align"), [(4, 32), (8, 32), (16, 32), (16, 128), (32, 64), (64, 64)])
def test_tape_comes_back(shape, n, align):
    model = synthetic.random_model(2, layers=2, **{"context": 20, **shape})
    rest = model.head_dim % n
    if rest & (rest - 1):
        with pytest.raises(
            ValueError, match=rf"^head_dim modulo {n} must be 0 or a power of two, not {rest}$"
        ):
            synthetic.write_tape(model, n, align)
        return
    image = synthetic.write_tape(model, n, align)
    read = read_tape(image)
    assert read.model.same(model)
    assert (read.n, read.align, len(image) % align) == (n, align, 0)
    assert all(packet.offset % align == 0 == packet.payload_bytes % align for packet in read.packets)


def test_packed_scales():
    for value in (1.0, 1.5, 0.1, 3e-9, 1e6, math.pi):
        up, nearest = unpack(synthetic.pack_up(value)).value, unpack(synthetic.pack_nearest(value)).value
        assert value <= up < value * (1 + 2.0**-10)
        assert abs(nearest / value - 1) <= 2.0**-11
        assert unpack(synthetic.pack_up(float(up))).value == up
    # Rounding carries into the exponent.
    assert synthetic.pack_up(2.0 - 1e-9) == synthetic.pack_nearest(2.0 - 1e-9) == 41 << 10
    assert synthetic.pack_up(1e-30) == 0
    with pytest.raises(ValueError, match=r"^A packed scale is below 2\^24, not 16777216.0$"):
        synthetic.pack_up(2.0**24)


@pytest.mark.parametrize("bits", [8, 16])
def test_quantized_matrix(bits):
    rng = np.random.default_rng(25)
    w = rng.normal(size=(40, 30)) * 2.0 ** rng.uniform(-12, 3, (40, 1))
    w[7] = 0
    matrix = synthetic.quantize_matrix(w, bits)
    assert matrix.codes.dtype == np.dtype(f"i{bits // 8}")
    top = 2 ** (bits - 1) - 1
    assert -top <= matrix.codes.min() and matrix.codes.max() <= top
    assert (matrix.scales[7], matrix.codes[7].any()) == (0, False)
    step = unpack(matrix.scales).value[:, None]
    assert np.all(np.abs(matrix.codes * step - w) <= step / 2 * (1 + 1e-9))
    assert np.all(np.abs(np.delete(matrix.codes, 7, 0)).max(axis=1) >= top * (1 - 2.0**-9) - 1)


def test_rope_table():
    table = synthetic.rope_table(50, 8, 100.0)
    assert table[0].tolist() == [[32767, 0]] * 4
    angle = np.arange(50)[:, None] * 100.0 ** (-np.arange(4) / 4)
    assert np.max(np.abs(table[..., 0] / 32768 - np.cos(angle))) <= 2.0**-15
    assert np.max(np.abs(table[..., 1] / 32768 - np.sin(angle))) <= 2.0**-15
    assert table.min() >= -32767


def test_random_models_repeat_and_differ():
    a, b = synthetic.random_model(6, layers=1), synthetic.random_model(6, layers=1)
    assert a.same(b)
    assert not a.same(synthetic.random_model(7, layers=1))


def test_outlier_channels():
    codes = synthetic.random_floats(8).embedding
    peaks = np.abs(codes).mean(axis=0)
    assert sorted(peaks > 5)[-2:] == [True, True]
    assert np.count_nonzero(peaks > 5) == 2


def test_no_tape_of_16_bits():
    with pytest.raises(ValueError, match=r"^A tape holds codes of 8 bits, not 16$"):
        synthetic.write_tape(synthetic.random_model(0, layers=1, bits=16), 16, 32)


def test_long_name_is_cut_at_a_character():
    floats = synthetic.random_floats(0, layers=1)
    model = synthetic.quantize_model(floats, name="x" * 51 + "é")
    assert read_tape(synthetic.write_tape(model, 16, 32)).model.name == "x" * 51


def host_checkpoint(f: synthetic.FloatModel, eos: int | None) -> Checkpoint:
    """The same weights, as the host reads them from a file."""
    return Checkpoint(
        name="synthetic",
        dim=f.embedding.shape[1],
        ffn=len(f.layers[0].gate),
        heads=f.heads,
        kv_heads=f.kv_heads,
        head_dim=f.head_dim,
        vocab=len(f.embedding),
        context=f.context,
        rope_theta=f.theta,
        norm_eps=f.eps,
        bos=None,
        eos=eos,
        tied=False,
        embedding=f.embedding,
        layers=[
            HostLayer(
                attention_norm=layer.attention_norm,
                wq=layer.q,
                wk=layer.k,
                wv=layer.v,
                wo=layer.o,
                ffn_norm=layer.ffn_norm,
                w_gate=layer.gate,
                w_up=layer.up,
                w_down=layer.down,
            )
            for layer in f.layers
        ],
        final_norm=f.norm,
        head=f.head,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape["head_dim"]))
def test_the_host_compiles_the_same_bytes(shape):
    floats = synthetic.random_floats(3, **{"context": 20, **shape})
    model = synthetic.quantize_model(floats, eos=1)
    compiled = quantize(host_checkpoint(floats, 1), means=floats.k_mean)
    for n, align in ((4, 32), (8, 64), (16, 32), (16, 128), (32, 64), (64, 64)):
        rest = model.head_dim % n
        if rest & (rest - 1) == 0:
            image = bytes(compile_tape(compiled, Geometry(n, align)))
            assert image == synthetic.write_tape(model, n, align)


def test_the_host_quantizes_16_bits_alike():
    floats = synthetic.random_floats(4)
    model, compiled = (
        synthetic.quantize_model(floats, 16),
        quantize(host_checkpoint(floats, None), 16, floats.k_mean),
    )
    assert (model.s_eps, model.s_score) == (compiled.s_eps, compiled.s_score)
    for mine, theirs in zip(model.layers, compiled.layers, strict=True):
        pairs = ((mine.k, theirs.wk), (mine.o, theirs.wo), (mine.down, theirs.w_down), (mine.up, theirs.w_up))
        for a, b in pairs:
            assert np.array_equal(a.codes, b.codes) and np.array_equal(a.scales, b.scales)
