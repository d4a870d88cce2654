# SPDX-License-Identifier: Apache-2.0
"""The checkpoint in models/jargon is what its card says: layout, size, tokenizer, and its held-out loss,
recomputed by a float forward written here from the definition of the architecture."""

import csv
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

MODEL = Path(__file__).parents[2] / "models" / "jargon"


@cache
def config() -> dict:
    return json.loads((MODEL / "config.json").read_text())


@cache
def weights() -> dict[str, np.ndarray]:
    return load_file(MODEL / "model.safetensors")


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@cache
def training() -> dict:
    return json.loads((MODEL / "training.json").read_text())


@cache
def heldout() -> str:
    return (MODEL / "heldout.txt").read_text(encoding="utf-8")


def rotate(x: np.ndarray) -> np.ndarray:
    """RoPE over [heads, positions, head_dim]; element i pairs with i + head_dim / 2."""
    half = x.shape[-1] // 2
    angle = np.outer(np.arange(x.shape[-2]), config()["rope_theta"] ** (-np.arange(half) / half))
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def logits(ids: list[int]) -> np.ndarray:
    """Float64 logits [positions, vocabulary] of the checkpoint for one sequence."""
    c = config()
    w = {name: value.astype(np.float64) for name, value in weights().items()}
    heads, kv_heads, width = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    ahead = np.triu(np.ones((len(ids), len(ids)), bool), 1)

    def norm(x: np.ndarray, gain: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"]) * w[gain]

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = norm(x, at + "input_layernorm.weight")
        q, k, v = (
            (h @ w[f"{at}self_attn.{n}_proj.weight"].T).reshape(len(ids), -1, width).swapaxes(0, 1)
            for n in "qkv"
        )
        q, k, v = rotate(q), rotate(k).repeat(heads // kv_heads, 0), v.repeat(heads // kv_heads, 0)
        scores = np.where(ahead, -np.inf, q @ k.swapaxes(1, 2) / math.sqrt(width))
        p = np.exp(scores - scores.max(-1, keepdims=True))
        y = (p / p.sum(-1, keepdims=True)) @ v
        x = x + y.swapaxes(0, 1).reshape(len(ids), -1) @ w[at + "self_attn.o_proj.weight"].T
        h = norm(x, at + "post_attention_layernorm.weight")
        gate, up = h @ w[at + "mlp.gate_proj.weight"].T, h @ w[at + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["model.embed_tokens.weight"].T


def test_config_is_a_llama_with_grouped_queries() -> None:
    c = config()
    assert c["architectures"] == ["LlamaForCausalLM"] and c["model_type"] == "llama"
    assert c["hidden_act"] == "silu" and c["tie_word_embeddings"] is True
    assert not c["attention_bias"] and not c["mlp_bias"] and c["rope_scaling"] is None
    assert c["num_key_value_heads"] < c["num_attention_heads"]
    assert c["num_attention_heads"] % c["num_key_value_heads"] == 0
    assert c["head_dim"] >= 16
    assert c["max_position_embeddings"] >= 512
    assert c["rope_theta"] == 10000.0
    assert (c["bos_token_id"], c["eos_token_id"]) == (1, 2)


def test_tensors_have_the_names_and_shapes_of_the_config() -> None:
    c = config()
    dim, ffn = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    expected = {"model.embed_tokens.weight": (c["vocab_size"], dim), "model.norm.weight": (dim,)}
    for layer in range(c["num_hidden_layers"]):
        expected |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (dim,),
                "post_attention_layernorm": (dim,),
                "self_attn.q_proj": (q, dim),
                "self_attn.k_proj": (kv, dim),
                "self_attn.v_proj": (kv, dim),
                "self_attn.o_proj": (dim, q),
                "mlp.gate_proj": (ffn, dim),
                "mlp.up_proj": (ffn, dim),
                "mlp.down_proj": (dim, ffn),
            }.items()
        }
    assert {name: value.shape for name, value in weights().items()} == expected
    assert all(value.dtype == np.float16 and np.isfinite(value).all() for value in weights().values())


def test_parameters_and_size_on_disk() -> None:
    count = sum(value.size for value in weights().values())
    assert 500_000 <= count <= 750_000
    assert count == training()["parameters"]
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 3_000_000


@pytest.mark.parametrize(
    "text",
    [
        "The Jargon File",
        ":foo: /foo/, n.\nSee {bar}.\n\n:bar:",
        "  two  spaces\tand a tab\n",
        "na\u00efve \u2192 \U0001f600",
        "",
    ],
)
def test_tokenizer_returns_every_text(text: str) -> None:
    ids = tokenizer().encode(text).ids
    assert ids[0] == config()["bos_token_id"]
    assert all(0 < i < config()["vocab_size"] for i in ids)
    assert tokenizer().decode(ids) == text


def test_tokenizer_has_the_ids_of_the_config() -> None:
    assert tokenizer().get_vocab_size() == config()["vocab_size"]
    assert [tokenizer().token_to_id(t) for t in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    assert sorted(tokenizer().get_vocab().values()) == list(range(config()["vocab_size"]))


def test_excerpt_is_long_enough_and_returns_from_the_tokenizer() -> None:
    ids = tokenizer().encode(heldout(), add_special_tokens=False).ids
    assert len(ids) >= 10_000
    assert len(ids) == training()["excerpt"]["tokens"]
    assert tokenizer().decode(ids) == heldout()


def test_loss_curve_falls_to_the_recorded_minimum() -> None:
    with open(MODEL / "loss.csv", newline="") as file:
        curve = [float(row["valid_nats_per_token"]) for row in csv.DictReader(file)]
    assert min(curve) < curve[0] - 1
    assert min(curve) == pytest.approx(training()["validation"]["nats_per_token"], abs=2e-3)


def test_loss_on_the_excerpt_is_the_recorded_one() -> None:
    """Windows of one context length, each beginning with <s>, as in the card."""
    ids = tokenizer().encode(heldout(), add_special_tokens=False).ids
    size, total = config()["max_position_embeddings"], 0.0
    for start in range(0, len(ids), size):
        target = ids[start : start + size]
        z = logits([config()["bos_token_id"], *target[:-1]])
        z -= z.max(-1, keepdims=True)
        total -= (z[np.arange(len(target)), target] - np.log(np.exp(z).sum(-1))).sum()
    assert total / len(ids) == pytest.approx(training()["excerpt"]["nats_per_token"], abs=1e-4)
    bits = total / math.log(2) / len(heldout().encode())
    assert bits == pytest.approx(training()["excerpt"]["bits_per_byte"], abs=1e-4)


def test_greedy_sample_is_the_recorded_one() -> None:
    sample = training()["samples"][0]
    ids = tokenizer().encode(sample["prompt"]).ids
    for _ in range(24):
        token = int(logits(ids)[-1].argmax())
        if token == config()["eos_token_id"]:
            break
        ids.append(token)
    text = tokenizer().decode(ids)
    assert len(text) > len(sample["prompt"])
    assert sample["text"].startswith(text)
