# SPDX-License-Identifier: Apache-2.0
"""Tapes against the golden reader and against the golden writer, written apart from the compiler."""

import dataclasses
import os

import numpy as np
import pytest

from serrano import config
from serrano_host.checkpoints import open_checkpoint
from serrano_host.compile import PRESETS, Geometry, compile_tape, describe, write_atomically
from serrano_host.errors import CompileError
from serrano_host.quantize import k_means, quantize
from serrano_host.tape import read_tape
from serrano_sim.golden import synthetic
from serrano_sim.golden.tape import read_tape as golden_read_tape
from support.checkpoint_files import Shape, random_weights, write_hugging_face, write_llama2c

SHAPES = {
    "small heads": Shape(),
    "one odd KV head": Shape(dim=40, ffn=36, layers=1, heads=3, kv_heads=1, head_dim=8, vocab=97, context=20),
    "untied, head_dim 48": Shape(
        dim=96, ffn=100, layers=2, heads=2, kv_heads=1, head_dim=48, vocab=301, context=33, tied=False
    ),
    "narrow": Shape(dim=6, ffn=5, layers=1, heads=3, kv_heads=3, head_dim=2, vocab=11, context=3),
    "head_dim 128": Shape(dim=72, ffn=40, layers=1, heads=4, kv_heads=2, head_dim=128, vocab=64, context=17),
}
GEOMETRIES = [(4, 32), (8, 32), (16, 32), (32, 64), (64, 512)]
CASES = [
    pytest.param(shape, Geometry(*geometry), id=f"{name}-{geometry}")
    for name, shape in SHAPES.items()
    for geometry in GEOMETRIES
    # 48 modulo 64 is no power of two: such a shape has no tape.
    if (shape.head_dim, geometry[0]) != (48, 64)
]


def quantized(tmp_path, shape):
    checkpoint = open_checkpoint(
        write_hugging_face(tmp_path / "random é model", shape, random_weights(shape))
    )
    return checkpoint, quantize(checkpoint)


def float_model(checkpoint, means):
    """The checkpoint as the golden quantizer takes it."""
    c = checkpoint
    layers = tuple(
        synthetic.FloatLayer(
            attention_norm=layer.attention_norm.astype(float),
            q=layer.wq.astype(float),
            k=layer.wk.astype(float),
            v=layer.wv.astype(float),
            o=layer.wo.astype(float),
            ffn_norm=layer.ffn_norm.astype(float),
            gate=layer.w_gate.astype(float),
            up=layer.w_up.astype(float),
            down=layer.w_down.astype(float),
        )
        for layer in c.layers
    )
    return synthetic.FloatModel(
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        context=c.context,
        eps=c.norm_eps,
        theta=c.rope_theta,
        embedding=c.embedding.astype(float),
        layers=layers,
        norm=c.final_norm.astype(float),
        head=c.head.astype(float),
        k_mean=means,
    )


@pytest.mark.parametrize(("shape", "geometry"), CASES)
def test_same_bytes_as_the_golden_writer(tmp_path, shape, geometry):
    checkpoint, model = quantized(tmp_path, shape)
    floats = float_model(checkpoint, k_means(checkpoint))
    golden = dataclasses.replace(synthetic.quantize_model(floats, name=checkpoint.name, eos=2), bos=1)
    image = compile_tape(model, geometry)
    assert image == synthetic.write_tape(golden, geometry.n, geometry.align)


@pytest.mark.parametrize(("shape", "geometry"), CASES)
def test_readers_accept_it(tmp_path, shape, geometry):
    _, model = quantized(tmp_path, shape)
    image = compile_tape(model, geometry)
    golden = golden_read_tape(image)
    assert (golden.n, golden.align) == (geometry.n, geometry.align)
    for mine, theirs in zip(model.layers, golden.model.layers, strict=True):
        names = {"wk": "k", "wv": "v", "wq": "q", "wo": "o", "w_gate": "gate", "w_up": "up", "w_down": "down"}
        for ours, name in names.items():
            np.testing.assert_array_equal(getattr(mine, ours).codes, getattr(theirs, name).codes)
            np.testing.assert_array_equal(getattr(mine, ours).scales, getattr(theirs, name).scales)
        np.testing.assert_array_equal(mine.k_mean, theirs.k_mean)
    np.testing.assert_array_equal(model.head.codes, golden.model.head.codes)
    np.testing.assert_array_equal(model.embedding.codes, golden.model.embedding.codes)
    np.testing.assert_array_equal(model.rope, golden.model.rope)
    tape = read_tape(image)
    assert tape.descriptor == describe(model, geometry)
    assert [p.payload_bytes for p in tape.packets] == [p.payload_bytes for p in golden.packets]


def test_same_tape_from_both_file_formats(tmp_path):
    shape = Shape(dim=32, heads=4, kv_heads=2, head_dim=8, vocab=300)
    weights = random_weights(shape)
    first = open_checkpoint(write_hugging_face(tmp_path / "model", shape, weights))
    second = open_checkpoint(write_llama2c(tmp_path / "model.bin", shape, weights))
    second.eos = first.eos
    one, two = (compile_tape(quantize(c), Geometry(8, 32)) for c in (first, second))
    assert one == two


def test_presets_are_the_hardware_s():
    for name, found in config.PRESETS.items():
        assert PRESETS[name] == Geometry(found.n, found.tape_align), name


def test_progress_counts_the_packets(tmp_path):
    _, model = quantized(tmp_path, SHAPES["narrow"])
    seen = []
    compile_tape(model, Geometry(4, 32), lambda *args: seen.append(args))
    assert seen == [("writing", i + 1, 12) for i in range(12)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 32), "n must be a power of two in 4 to 64, not 12"),
        ((2, 32), "n must be a power of two in 4 to 64, not 2"),
        ((128, 32), "n must be a power of two in 4 to 64, not 128"),
        ((16, 16), "align must be a power of two in 32 to 32768, not 16"),
        ((16, 48), "align must be a power of two in 32 to 32768, not 48"),
        ((16, 65536), "align must be a power of two in 32 to 32768, not 65536"),
    ],
)
def test_wrong_geometry(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Geometry(*arguments)


def test_shapes_without_a_tape(tmp_path):
    shape = Shape(dim=24, heads=2, kv_heads=1, head_dim=12, vocab=11, layers=1)
    _, model = quantized(tmp_path, shape)
    compile_tape(model, Geometry(4, 32))
    compile_tape(model, Geometry(8, 32))
    with pytest.raises(CompileError, match=r"head_dim must be 0 or a power of two modulo n 16, not 12$"):
        compile_tape(model, Geometry(16, 32))
    with pytest.raises(ValueError, match="a tape holds 8-bit codes, not 16-bit ones"):
        compile_tape(dataclasses.replace(model, bits=16), Geometry(4, 32))
    with pytest.raises(CompileError, match=r"image_bytes must be below 2\^32, not \d+"):
        describe(dataclasses.replace(model, vocab=2**27), Geometry(4, 32))


def test_long_names_are_cut_between_characters(tmp_path):
    _, model = quantized(tmp_path, SHAPES["narrow"])
    image = compile_tape(dataclasses.replace(model, name="x" * 51 + "é"), Geometry(4, 32))
    assert read_tape(image).descriptor.name == "x" * 51


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.tape"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.tape"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    (tmp_path / "folder").mkdir()
    with pytest.raises(CompileError, match="folder: Is a directory"):
        write_atomically(tmp_path / "folder", b"new")
    with pytest.raises(CompileError, match=r"nowhere.b\.tape: No such file or directory"):
        write_atomically(tmp_path / "nowhere" / "b.tape", b"new")
    assert sorted(os.listdir(tmp_path)) == ["a.tape", "folder"]
