# SPDX-License-Identifier: Apache-2.0
"""Readers of checkpoints: what they read, and that every wrong file is refused by name of file and field."""

import json
import re
import struct

import numpy as np
import pytest

from serrano_host.checkpoints import CheckpointError, open_checkpoint
from serrano_host.checkpoints.base import tensors
from serrano_host.checkpoints.huggingface import interleave_halves
from support.checkpoint_files import (
    Shape,
    config,
    hugging_face_tensors,
    random_weights,
    write_hugging_face,
    write_llama2c,
)

SMALL = Shape(dim=16, ffn=12, layers=2, heads=4, kv_heads=2, head_dim=4, vocab=300, context=20)


def canonical(shape, weights):
    """The tensors as `checkpoints.base.tensors` names them."""
    yield "embedding", weights["token_embedding"]
    names = {
        "attention_norm": "rms_att",
        "wq": "wq",
        "wk": "wk",
        "wv": "wv",
        "wo": "wo",
        "ffn_norm": "rms_ffn",
        "w_gate": "w1",
        "w_up": "w3",
        "w_down": "w2",
    }
    for index in range(shape.layers):
        for ours, theirs in names.items():
            yield f"layers.{index}.{ours}", weights[theirs][index]
    yield "final_norm", weights["rms_final"]
    if not shape.tied:
        yield "head", weights["wcls"]


def assert_same(checkpoint, shape, weights, exact=True):
    found, wanted = list(tensors(checkpoint)), list(canonical(shape, weights))
    assert [name for name, _ in found] == [name for name, _ in wanted]
    for (name, a), (_, b) in zip(found, wanted, strict=True):
        assert a.dtype == np.float32, name
        if exact:
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            np.testing.assert_allclose(a, b, rtol=2**-7, atol=1e-6, err_msg=name)
    assert (checkpoint.head is checkpoint.embedding) == shape.tied


def assert_dimensions(checkpoint, shape):
    for name in "dim ffn heads kv_heads head_dim vocab context tied".split():
        assert getattr(checkpoint, name) == getattr(shape, name), name
    assert len(checkpoint.layers) == shape.layers
    assert (checkpoint.rope_theta, checkpoint.norm_eps) == (shape.theta, shape.eps)


# ---- llama2.c


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"dim": 96, "heads": 2, "kv_heads": 1, "head_dim": 48, "ffn": 100}])
def test_llama2c_file_is_read(tmp_path, tied, sizes):
    shape = Shape(tied=tied, **sizes)
    weights = random_weights(shape)
    checkpoint = open_checkpoint(write_llama2c(tmp_path / "stories.bin", shape, weights))
    assert_dimensions(checkpoint, shape)
    assert_same(checkpoint, shape, weights)
    assert (checkpoint.name, checkpoint.bos, checkpoint.eos) == ("stories", 1, 1)
    assert checkpoint.parameters == sum(w.size for w in weights.values())


def field_ends(shape):
    """(tensor, offset of its first byte) of a llama2.c file, computed apart from the reader."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    d, f, n, rope = shape.dim, shape.ffn, shape.layers, shape.context * shape.head_dim // 2
    sizes = [("token_embedding", shape.vocab * d), ("rms_att", n * d), ("wq", n * q * d), ("wk", n * kv * d)]
    sizes += [("wv", n * kv * d), ("wo", n * q * d), ("rms_ffn", n * d), ("w1", n * f * d), ("w2", n * f * d)]
    sizes += [("w3", n * f * d), ("rms_final", d), ("freq_cis_real", rope), ("freq_cis_imag", rope)]
    offset = 28
    for name, size in sizes + ([] if shape.tied else [("wcls", shape.vocab * d)]):
        yield name, offset
        offset += 4 * size


@pytest.mark.parametrize(("name", "offset"), list(field_ends(Shape(tied=False))))
def test_truncated_llama2c_file_names_the_tensor(tmp_path, name, offset):
    shape = Shape(tied=False)
    path = write_llama2c(tmp_path / "m.bin", shape, random_weights(shape))
    whole = path.read_bytes()
    for cut in (offset, offset + 6):
        path.write_bytes(whole[:cut])
        with pytest.raises(
            CheckpointError, match=rf"m\.bin: truncated: ends in {name}( of layer 0)? \(expected"
        ):
            open_checkpoint(path)


def test_truncated_llama2c_file_names_the_layer(tmp_path):
    shape = Shape()
    path = write_llama2c(tmp_path / "m.bin", shape, random_weights(shape))
    whole = path.read_bytes()
    start = dict(field_ends(shape))["w1"] + 4 * shape.ffn * shape.dim
    path.write_bytes(whole[: start + 1])
    message = f"{path}: truncated: ends in w1 of layer 1 (expected {len(whole)} bytes, not {start + 1})"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        open_checkpoint(path)


@pytest.mark.parametrize(("length", "field"), [(0, "dim"), (3, "dim"), (4, "hidden_dim"), (27, "seq_len")])
def test_truncated_llama2c_header(tmp_path, length, field):
    path = tmp_path / "m.bin"
    path.write_bytes(struct.pack("<7i", 8, 8, 1, 2, 2, 9, 4)[:length])
    with pytest.raises(CheckpointError, match=f"ends in the header at {field}$"):
        open_checkpoint(path)


def test_longer_llama2c_file_is_refused(tmp_path):
    shape = SMALL
    path = write_llama2c(tmp_path / "m.bin", shape, random_weights(shape))
    path.write_bytes(path.read_bytes() + b"1234")
    with pytest.raises(CheckpointError, match="4 bytes behind freq_cis_imag, where the file should end"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ((0, 8, 1, 2, 2, 9, 4), "header field dim is 0"),
        ((8, 8, -1, 2, 2, 9, 4), "header field n_layers is -1"),
        ((8, 8, 1, 2, 2, 0, 4), "header field vocab_size is 0"),
        ((8, 8, 1, 3, 1, 9, 4), "dim must be a multiple of n_heads 3, not 8"),
        ((12, 8, 1, 3, 2, 9, 4), "n_heads must be a multiple of n_kv_heads, not 3 and 2"),
        ((6, 8, 1, 2, 2, 9, 4), "dim / n_heads must be even, not 3"),
    ],
)
def test_wrong_llama2c_header(tmp_path, header, message):
    path = tmp_path / "m.bin"
    path.write_bytes(struct.pack("<7i", *header) + bytes(100))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Ii", 0x616B3432, 1) + bytes(248), "only the legacy version 0"),
        (b"GGUF" + bytes(60), "GGUF"),
        (b"PK\x03\x04" + bytes(60), "PyTorch"),
        (b"SRNO" + bytes(60), "a compiled tape, not a checkpoint"),
        (b"This is a text, not a checkpoint at all.", "neither a Hugging Face folder nor a llama2.c file"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_missing_path(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing: no such file or folder$"):
        open_checkpoint(tmp_path / "nothing")


def test_llama2c_weight_that_is_not_finite(tmp_path):
    weights = random_weights(SMALL)
    weights["w2"][1, 3, 2] = np.inf
    path = write_llama2c(tmp_path / "m.bin", SMALL, weights)
    with pytest.raises(CheckpointError, match="w2 has elements that are not finite"):
        open_checkpoint(path)


# ---- Hugging Face


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
def test_hugging_face_folder_is_read(tmp_path, tied, shards):
    shape = Shape(dim=40, heads=6, kv_heads=2, head_dim=16, theta=5e5, eps=1e-6, tied=tied)
    weights = random_weights(shape)
    checkpoint = open_checkpoint(write_hugging_face(tmp_path / "model", shape, weights, shards=shards))
    assert_dimensions(checkpoint, shape)
    assert_same(checkpoint, shape, weights)
    assert (checkpoint.name, checkpoint.bos, checkpoint.eos) == ("model", 1, 2)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_short_floats(tmp_path, dtype):
    weights = random_weights(SMALL)
    folder = write_hugging_face(tmp_path, SMALL, weights, dtype=dtype)
    checkpoint = open_checkpoint(folder)
    assert_same(checkpoint, SMALL, weights, exact=False)
    short = weights["token_embedding"]
    if dtype == "F16":
        short = short.astype(np.float16).astype(np.float32)
    else:
        short = (short.view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(checkpoint.embedding, short)


def test_halves_become_adjacent_pairs():
    weight = np.arange(16)[:, None] * np.ones((1, 3))
    found = interleave_halves(weight, heads=2, head_dim=8)[:, 0]
    assert found.tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_defaults_of_config(tmp_path):
    shape = Shape(
        dim=16, ffn=12, layers=1, heads=4, kv_heads=4, head_dim=4, vocab=300, context=2048, eps=1e-6
    )
    folder = write_hugging_face(tmp_path, shape, random_weights(shape))
    kept = "model_type hidden_size intermediate_size num_hidden_layers num_attention_heads vocab_size".split()
    fields = {k: v for k, v in config(shape).items() if k in kept} | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(fields))
    checkpoint = open_checkpoint(folder)
    assert_dimensions(checkpoint, shape)
    assert (checkpoint.bos, checkpoint.eos) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": {"rope_type": "default"}, "head_dim": None},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral", "sliding_window": 20},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "eos_token_id": [2, 3]},
    ],
)
def test_supported_variants(tmp_path, fields):
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL))
    change(folder, **fields)
    checkpoint = open_checkpoint(folder)
    assert_dimensions(checkpoint, SMALL)
    assert checkpoint.eos == 2


def test_rope_theta_of_rope_parameters(tmp_path):
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL))
    fields = json.loads((folder / "config.json").read_text())
    del fields["rope_theta"]
    fields["rope_parameters"] = {"rope_theta": 500000, "rope_type": "default"}
    (folder / "config.json").write_text(json.dumps(fields))
    assert open_checkpoint(folder).rope_theta == 5e5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "qwen2"}, 'model_type must be llama or mistral, not "qwen2"'),
        ({"hidden_act": "gelu"}, 'hidden_act must be silu, not "gelu"'),
        ({"attention_bias": True}, "attention_bias is not supported: must be false, not true"),
        ({"mlp_bias": True}, "mlp_bias is not supported: must be false, not true"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            "rope_scaling is not supported: only plain RoPE (null or type default), not",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling is not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters is not supported"),
        (
            {"sliding_window": 8},
            "sliding_window is not supported: must be null or at least the context 20, not 8",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported: must be 1, not 0.5"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, 'hidden_size must be a positive integer, not "64"'),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, not 0"),
        ({"vocab_size": True}, "vocab_size must be a positive integer, not true"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, not 0"),
        ({"rope_theta": "big"}, 'rope_theta must be a positive number, not "big"'),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, not 1"),
        (
            {"num_key_value_heads": 3},
            "num_attention_heads must be a multiple of num_key_value_heads, not 4 and 3",
        ),
        ({"head_dim": 5}, "head_dim must be even, not 5"),
        (
            {"head_dim": None, "num_attention_heads": 5, "num_key_value_heads": 5},
            "hidden_size must be a multiple",
        ),
        ({"bos_token_id": 300}, "bos_token_id must be a token id below vocab_size 300 or null, not 300"),
    ],
)
def test_config_is_refused_by_field(tmp_path, fields, message):
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL))
    change(folder, **fields)
    with pytest.raises(CheckpointError, match=re.escape(f"{folder / 'config.json'}: {message}")):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[1]", "must hold a JSON object"), (None, "missing")]
)
def test_broken_config(tmp_path, text, message):
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL))
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_tensor_shape_must_fit_config(tmp_path):
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL))
    change(folder, intermediate_size=14)
    message = (
        r"tensor model\.layers\.0\.mlp\.gate_proj\.weight must have the shape \[14, 16\] by config\.json"
    )
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_missing_foreign_and_unfit_tensors(tmp_path):
    from safetensors.numpy import save_file

    weights = hugging_face_tensors(SMALL, random_weights(SMALL))
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL))
    file = folder / "model.safetensors"

    save_file({k: v for k, v in weights.items() if "1.mlp.up" not in k}, file)
    with pytest.raises(CheckpointError, match=r"tensor model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        open_checkpoint(folder)
    save_file(weights | {"model.layers.0.self_attn.q_proj.bias": np.zeros(16, np.float32)}, file)
    with pytest.raises(CheckpointError, match=r"q_proj\.bias is not part of a Llama decoder"):
        open_checkpoint(folder)
    save_file(weights | {"model.norm.weight": np.zeros(16, np.int32)}, file)
    with pytest.raises(
        CheckpointError, match=r"tensor model\.norm\.weight must be F32, F16 or BF16, not I32"
    ):
        open_checkpoint(folder)
    save_file(weights | {"model.norm.weight": np.full(16, np.nan, np.float32)}, file)
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight has elements that are not finite"):
        open_checkpoint(folder)
    # What tied and old checkpoints also hold is no fault.
    inverse = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32)}
    save_file(weights | inverse | {"lm_head.weight": weights["model.embed_tokens.weight"]}, file)
    open_checkpoint(folder)
    change(folder, tie_word_embeddings=False)
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"tensor lm_head\.weight is missing"):
        open_checkpoint(folder)


def test_truncated_safetensors(tmp_path):
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL))
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (len(whole) - 1, 1000, 5, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated or not a safetensors file"):
            open_checkpoint(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors file in it"):
        open_checkpoint(folder)


def test_broken_shard_index(tmp_path):
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL), shards=2)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    (folder / "model-00002-of-00002.safetensors").rename(folder / "other")
    with pytest.raises(
        CheckpointError, match=r"weight_map names model-00002-of-00002\.safetensors, which is not"
    ):
        open_checkpoint(folder)
    (folder / "other").rename(folder / "model-00002-of-00002.safetensors")
    first = next(iter(weight_map))
    index.write_text(json.dumps({"weight_map": weight_map | {"ghost": weight_map[first]}}))
    with pytest.raises(CheckpointError, match="tensor ghost is missing"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": [1]}))
    with pytest.raises(CheckpointError, match="weight_map must map"):
        open_checkpoint(folder)


def test_safetensors_file_instead_of_its_folder(tmp_path):
    folder = write_hugging_face(tmp_path, SMALL, random_weights(SMALL))
    with pytest.raises(CheckpointError, match="give the folder that holds it"):
        open_checkpoint(folder / "model.safetensors")
