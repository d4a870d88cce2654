# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints: a folder with `config.json`, `*.safetensors` and `tokenizer.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import tokenizers

from serrano_host.checkpoints.base import (
    Checkpoint,
    Layer,
    TextStream,
    check_dimensions,
    check_finite,
)
from serrano_host.errors import CheckpointError

MODEL_TYPES = ("llama", "mistral")
DTYPES = ("F32", "F16", "BF16")
NAMES = {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_dim": "head_dim"}


class Config:
    """`config.json` with checked access: every complaint names the file and the field.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; a Hugging Face folder has a config.json")
        self.fields = read_json(path)

    def refuse(self, name: str, rule: str) -> CheckpointError:
        """The error for a field whose value breaks a rule."""
        return CheckpointError(f"{self.path}: {name} {rule}, not {json.dumps(self.fields.get(name))}")

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer; null or absent gives the default."""
        value = self.fields.get(name)
        if value is None:
            if default is None:
                raise CheckpointError(f"{self.path}: {name} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise self.refuse(name, "must be a positive integer")
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number; null or absent gives the default."""
        value = self.fields.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.refuse(name, "must be a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean; null or absent gives the default."""
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(name, "must be true or false")
        return value

    def token(self, name: str, vocab: int) -> int | None:
        """A token id or null; of a list of ids the first."""
        value = self.fields.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab:
            raise self.refuse(name, f"must be a token id below vocab_size {vocab} or null")
        return value

    def check_supported(self, context: int) -> None:
        """Refuse what the accelerator does not compute."""
        fields = self.fields
        if fields.get("model_type") not in MODEL_TYPES:
            raise self.refuse("model_type", "must be " + " or ".join(MODEL_TYPES))
        if fields.get("hidden_act", "silu") != "silu":
            raise self.refuse("hidden_act", "must be silu")
        for name in ("attention_bias", "mlp_bias"):
            if self.flag(name, False):
                raise self.refuse(name, "is not supported: must be false")
        for name in ("rope_scaling", "rope_parameters"):
            value = fields.get(name)
            if value is None:
                continue
            if not isinstance(value, dict):
                raise self.refuse(name, "must be an object or null")
            kind = value.get("rope_type", value.get("type", "default"))
            if kind != "default":
                raise self.refuse(name, "is not supported: only plain RoPE (null or type default)")
        if fields.get("quantization_config") is not None:
            raise self.refuse(
                "quantization_config", "is not supported: weights must be F32, F16 or BF16; must be null"
            )
        if fields.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise self.refuse("partial_rotary_factor", "is not supported: must be 1")
        window = fields.get("sliding_window")
        if window is not None and self.integer("sliding_window") < context:
            raise self.refuse(
                "sliding_window", f"is not supported: must be null or at least the context {context}"
            )

    def rope_theta(self) -> float:
        """The RoPE base, from its own field or from rope_parameters."""
        parameters = self.fields.get("rope_parameters")
        if "rope_theta" not in self.fields and isinstance(parameters, dict) and "rope_theta" in parameters:
            value = parameters["rope_theta"]
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise self.refuse("rope_parameters", "must have a positive number as rope_theta")
            return float(value)
        return self.number("rope_theta", 10000.0)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object")
    return value


class Tensors:
    """The tensors of a folder, by name, as float32, from one safetensors file or several.

    Parameters
    ----------
    folder : Path
        With `model.safetensors`, or `model.safetensors.index.json` and its shards, or any `*.safetensors`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, Path] = {}
        self._whole: tuple[Path, dict[str, dict[str, Any]]] | None = None
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if single.is_file():
            self._add(single)
        elif index.is_file():
            self._add_index(index)
        else:
            found = sorted(folder.glob("*.safetensors"))
            if not found:
                raise CheckpointError(f"{folder}: no *.safetensors file in it")
            for path in found:
                self._add(path)

    def _add(self, path: Path) -> None:
        for name in self._open(path).keys():  # noqa: SIM118 - not a mapping
            if name in self.files:
                raise CheckpointError(f"{path}: tensor {name} is in {self.files[name].name} too")
            self.files[name] = path

    def _add_index(self, index: Path) -> None:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise CheckpointError(f"{index}: weight_map must map tensor names to file names")
        held: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            path = self.folder / shard
            if shard not in held:
                if not path.is_file() or path.parent != self.folder:
                    raise CheckpointError(f"{index}: weight_map names {shard}, which is not in the folder")
                held[shard] = set(self._open(path).keys())
            if name not in held[shard]:
                raise CheckpointError(f"{path}: tensor {name} is missing; {index.name} says that it is here")
            self.files[name] = path

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            return safetensors.safe_open(path, framework="numpy")
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{path}: truncated or not a safetensors file ({error})") from error

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """One tensor as float32, with its shape checked."""
        path = self.files.pop(name, None)
        if path is None:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing in its safetensors files")
        file = self._open(path)
        entry = file.get_slice(name)
        found = tuple(entry.get_shape())
        if found != shape:
            raise CheckpointError(
                f"{path}: tensor {name} must have the shape {list(shape)} by config.json, not {list(found)}"
            )
        dtype = entry.get_dtype()
        if dtype not in DTYPES:
            raise CheckpointError(f"{path}: tensor {name} must be F32, F16 or BF16, not {dtype}")
        if dtype == "BF16":
            array = self._bfloat16(path, name, shape)
        else:
            array = np.asarray(file.get_tensor(name), dtype=np.float32)
        check_finite(str(path), f"tensor {name}", array)
        return array

    def _bfloat16(self, path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """numpy has no bfloat16: the bits are the upper half of a float32."""
        if self._whole is None or self._whole[0] != path:
            self._whole = path, dict(safetensors.deserialize(path.read_bytes()))
        bits = np.frombuffer(self._whole[1][name]["data"], dtype="<u2")
        return (bits.astype(np.uint32) << 16).view(np.float32).reshape(shape)

    def close(self, ignored: tuple[str, ...]) -> None:
        """Refuse tensors that were not taken: they would change what the model computes."""
        self._whole = None
        for name, path in self.files.items():
            if not name.endswith(ignored):
                raise CheckpointError(
                    f"{path}: tensor {name} is not part of a Llama decoder and is not supported"
                )


def interleave_halves(weight: np.ndarray, heads: int, head_dim: int) -> np.ndarray:
    """From Hugging Face's RoPE pairs `(i, i + head_dim / 2)` to adjacent ones `(2i, 2i + 1)`."""
    split = weight.reshape(heads, 2, head_dim // 2, -1)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(weight.shape)


def read_layer(
    tensors: Tensors, index: int, dim: int, ffn: int, heads: int, kv_heads: int, head_dim: int
) -> Layer:
    """Weights of one layer."""
    prefix = f"model.layers.{index}."

    def take(name: str, *shape: int) -> np.ndarray:
        return tensors.take(f"{prefix}{name}.weight", shape)

    q, kv = heads * head_dim, kv_heads * head_dim
    return Layer(
        attention_norm=take("input_layernorm", dim),
        wq=interleave_halves(take("self_attn.q_proj", q, dim), heads, head_dim),
        wk=interleave_halves(take("self_attn.k_proj", kv, dim), kv_heads, head_dim),
        wv=take("self_attn.v_proj", kv, dim),
        wo=take("self_attn.o_proj", dim, q),
        ffn_norm=take("post_attention_layernorm", dim),
        w_gate=take("mlp.gate_proj", ffn, dim),
        w_up=take("mlp.up_proj", ffn, dim),
        w_down=take("mlp.down_proj", dim, ffn),
    )


def read(folder: Path) -> Checkpoint:
    """Read a Hugging Face folder."""
    config = Config(folder / "config.json")
    context = config.integer("max_position_embeddings", 2048)
    config.check_supported(context)
    dim, ffn = config.integer("hidden_size"), config.integer("intermediate_size")
    heads, count = config.integer("num_attention_heads"), config.integer("num_hidden_layers")
    kv_heads, vocab = config.integer("num_key_value_heads", heads), config.integer("vocab_size")
    if config.fields.get("head_dim") is None and dim % heads:
        raise config.refuse("hidden_size", f"must be a multiple of num_attention_heads {heads}")
    head_dim = config.integer("head_dim", dim // heads)
    check_dimensions(str(config.path), NAMES, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    bos, eos = config.token("bos_token_id", vocab), config.token("eos_token_id", vocab)
    theta, eps = config.rope_theta(), config.number("rms_norm_eps", 1e-6)
    tied = config.flag("tie_word_embeddings", False)

    tensors = Tensors(folder)
    embedding = tensors.take("model.embed_tokens.weight", (vocab, dim))
    layers = [read_layer(tensors, i, dim, ffn, heads, kv_heads, head_dim) for i in range(count)]
    final_norm = tensors.take("model.norm.weight", (dim,))
    head = embedding if tied else tensors.take("lm_head.weight", (vocab, dim))
    tensors.close(("rotary_emb.inv_freq", *(("lm_head.weight",) if tied else ())))
    return Checkpoint(
        name=folder.resolve().name,
        dim=dim,
        ffn=ffn,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        context=context,
        rope_theta=theta,
        norm_eps=eps,
        bos=bos,
        eos=eos,
        tied=tied,
        embedding=embedding,
        layers=layers,
        final_norm=final_norm,
        head=head,
        path=folder,
    )


class HuggingFaceTokenizer:
    """A `tokenizer.json`, through the `tokenizers` library.

    Parameters
    ----------
    path : Path
        The file.
    vocab : int
        Vocabulary size of the model; a tokenizer may have fewer tokens, not more.
    bos : int or None
        Token that `encode` puts in front.
    """

    def __init__(self, path: Path, vocab: int, bos: int | None):
        self.path = path
        self.bos = bos
        self.vocab = vocab
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises nothing narrower.
            raise CheckpointError(f"{path}: not a tokenizer.json ({error})") from error
        size = self._tokenizer.get_vocab_size(with_added_tokens=False)
        if size > vocab:
            raise CheckpointError(f"{path}: has {size} tokens; the model's vocab_size is {vocab}")

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids of `text`."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        for token in ids:
            if token >= self.vocab:
                raise CheckpointError(
                    f"{self.path}: token {token} is outside the model's vocab_size {self.vocab}"
                )
        return ([self.bos] if bos and self.bos is not None else []) + ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without control tokens."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def decode_stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """The text that follows `prompt`, token by token."""
        return TextStream(self.decode, prompt)
