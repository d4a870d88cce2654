# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with random weights, written as the files that the readers read."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


@dataclass(frozen=True)
class Shape:
    dim: int = 64
    ffn: int = 172
    layers: int = 2
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 8
    vocab: int = 509
    context: int = 48
    theta: float = 10000.0
    eps: float = 1e-5
    tied: bool = True


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Adjacent RoPE pairs to Hugging Face's halves, written element by element."""
    out = np.empty_like(weight)
    size = len(weight) // heads
    for head in range(heads):
        for i in range(size // 2):
            out[head * size + i] = weight[head * size + 2 * i]
            out[head * size + i + size // 2] = weight[head * size + 2 * i + 1]
    return out


def random_weights(shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """Canonical tensors by llama2.c's names, the per-layer ones stacked."""
    rng = np.random.default_rng(seed)
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def matrix(*size: int) -> np.ndarray:
        return (rng.standard_normal(size) / np.sqrt(size[-1])).astype(np.float32)

    def gain(*size: int) -> np.ndarray:
        return rng.uniform(0.5, 1.5, size).astype(np.float32)

    n, d, f = shape.layers, shape.dim, shape.ffn
    out = {
        "token_embedding": matrix(shape.vocab, d) * np.float32(4),
        "rms_att": gain(n, d),
        "wq": matrix(n, q, d),
        "wk": matrix(n, kv, d),
        "wv": matrix(n, kv, d),
        "wo": matrix(n, d, q),
        "rms_ffn": gain(n, d),
        "w1": matrix(n, f, d),
        "w2": matrix(n, d, f),
        "w3": matrix(n, f, d),
        "rms_final": gain(d),
    }
    return out if shape.tied else out | {"wcls": matrix(shape.vocab, d)}


def write_llama2c(path: Path, shape: Shape, weights: dict[str, np.ndarray]) -> Path:
    """A legacy llama2.c file."""
    header = struct.pack(
        "<7i",
        *(shape.dim, shape.ffn, shape.layers, shape.heads, shape.kv_heads),
        *(shape.vocab if shape.tied else -shape.vocab, shape.context),
    )
    angle = np.outer(np.arange(shape.context), 1e4 ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim))
    names = ["token_embedding", "rms_att", "wq", "wk", "wv", "wo", "rms_ffn", "w1", "w2", "w3", "rms_final"]
    parts = [weights[name] for name in names] + [np.cos(angle), np.sin(angle)]
    if not shape.tied:
        parts.append(weights["wcls"])
    path.write_bytes(header + b"".join(part.astype("<f4").tobytes() for part in parts))
    return path


def config(shape: Shape) -> dict[str, object]:
    return {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.dim,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.theta,
        "rope_scaling": None,
        "rms_norm_eps": shape.eps,
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def hugging_face_tensors(shape: Shape, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = {
        "rms_att": "input_layernorm",
        "wq": "self_attn.q_proj",
        "wk": "self_attn.k_proj",
        "wv": "self_attn.v_proj",
        "wo": "self_attn.o_proj",
        "rms_ffn": "post_attention_layernorm",
        "w1": "mlp.gate_proj",
        "w2": "mlp.down_proj",
        "w3": "mlp.up_proj",
    }
    heads = {"wq": shape.heads, "wk": shape.kv_heads}
    out = {"model.embed_tokens.weight": weights["token_embedding"], "model.norm.weight": weights["rms_final"]}
    for index in range(shape.layers):
        for name, theirs in names.items():
            array = weights[name][index]
            out[f"model.layers.{index}.{theirs}.weight"] = (
                halves(array, heads[name]) if name in heads else np.ascontiguousarray(array)
            )
    return out if shape.tied else out | {"lm_head.weight": weights["wcls"]}


def byte_tokenizer(vocab: int) -> Tokenizer:
    """A byte-level tokenizer of 259 tokens and a few merges, three of them control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    merges = [(a, b) for a, b in ["he", "in", "an", "on"] if len(ids) + 4 <= vocab]
    for a, b in merges:
        ids[a + b] = len(ids)
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_hugging_face(
    folder: Path, shape: Shape, weights: dict[str, np.ndarray], dtype: str = "F32", shards: int = 1
) -> Path:
    """A Hugging Face folder with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(shape)))
    byte_tokenizer(shape.vocab).save(str(folder / "tokenizer.json"))
    tensors = hugging_face_tensors(shape, weights)
    if dtype == "BF16":
        write_bfloat16(folder / "model.safetensors", tensors)
    elif shards == 1:
        kind = {"F32": np.float32, "F16": np.float16}[dtype]
        save_file({k: v.astype(kind) for k, v in tensors.items()}, folder / "model.safetensors")
    else:
        names = sorted(tensors)
        weight_map = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            part = {name: tensors[name] for name in names[shard::shards]}
            save_file(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_bfloat16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file whose float32 values are cut to bfloat16."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


PIECES = ["h", "e", "l", "o", "a", " ", "he", "ll", "llo", "hello", " hello", "el", "é", " a", "la", "al"]


def llama2c_pieces(vocab: int) -> list[tuple[bytes, float]]:
    """Pieces and scores: control tokens, bytes, then words whose later ones have lower scores."""
    out = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    out += [(b"<0x%02X>" % value, 0.0) for value in range(256)]
    out += [(piece.encode(), -float(i)) for i, piece in enumerate(PIECES)]
    out += [(f"unused {i}".encode(), -1000.0) for i in range(vocab - len(out))]
    return out[:vocab]


def write_llama2c_tokenizer(path: Path, pieces: list[tuple[bytes, float]]) -> Path:
    parts = [struct.pack("<i", max(len(piece) for piece, _ in pieces))]
    parts += [struct.pack("<fi", score, len(piece)) + piece for piece, score in pieces]
    path.write_bytes(b"".join(parts))
    return path
