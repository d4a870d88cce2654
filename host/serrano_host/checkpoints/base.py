# SPDX-License-Identifier: Apache-2.0
"""The canonical form of a checkpoint, whatever file it came from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from serrano_host.errors import CheckpointError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """Text to token ids and back."""

    vocab: int

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids of `text`, with the bos token in front if asked for and if there is one."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`. Bytes that are no UTF-8 become U+FFFD; control tokens have no text."""

    def decode_stream(self, prompt: Sequence[int] = ()) -> "TextStream":
        """A stream that gives the text that follows `prompt`, token by token."""


class TextStream:
    """Text of a growing list of tokens, piece by piece.

    A character whose bytes are spread over several tokens is held back until it is complete. The pieces of
    `push` and `finish`, joined, are what decoding prompt and tokens at once would add to the prompt's text.

    Parameters
    ----------
    decode : callable
        Maps a list of token ids to their text.
    prompt : sequence of int
        Tokens whose text has been shown already.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()):
        self._decode = decode
        self._ids = [int(i) for i in prompt]
        self._shown = len(decode(self._ids).rstrip(REPLACEMENT)) if self._ids else 0

    def push(self, token: int) -> str:
        """The text that `token` completes, possibly empty."""
        self._ids.append(int(token))
        return self._advance(self._decode(self._ids).rstrip(REPLACEMENT))

    def finish(self) -> str:
        """What is left: U+FFFD for each incomplete character at the end."""
        return self._advance(self._decode(self._ids))

    def _advance(self, text: str) -> str:
        piece = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return piece


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer, float32, each matrix `[outputs, inputs]`.

    In `wq` and `wk` the rows of a head are in RoPE-pair order: rows `2i` and `2i + 1` rotate together with
    the frequency `theta ** (-2i / head_dim)` (the order of Meta's and llama2.c's checkpoints).
    """

    attention_norm: np.ndarray
    wq: np.ndarray
    wk: np.ndarray
    wv: np.ndarray
    wo: np.ndarray
    ffn_norm: np.ndarray
    w_gate: np.ndarray
    w_up: np.ndarray
    w_down: np.ndarray


@dataclass
class Checkpoint:
    """A Llama-family decoder in float32.

    Parameters
    ----------
    name : str
        For people: the folder's or file's name.
    dim, ffn, heads, kv_heads, head_dim, vocab, context : int
        Dimensions. `heads` is a multiple of `kv_heads`, `head_dim` is even.
    rope_theta, norm_eps : float
        Base of the RoPE frequencies; epsilon of every RMSNorm.
    bos, eos : int or None
        Token that begins a sequence, token that ends one.
    embedding : array [vocab, dim]
    layers : list of Layer
    final_norm : array [dim]
    head : array [vocab, dim]
        The LM head; the embedding itself if `tied`.
    tied : bool
    path : Path or None
        Where it was read from.
    """

    name: str
    dim: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_theta: float
    norm_eps: float
    bos: int | None
    eos: int | None
    tied: bool
    embedding: np.ndarray
    layers: list[Layer]
    final_norm: np.ndarray
    head: np.ndarray
    path: Path | None = None
    tokenizer_path: Path | None = None
    _tokenizer_reader: Callable[[], Tokenizer] | None = field(default=None, repr=False)
    _tokenizer: Tokenizer | None = field(default=None, repr=False)

    @property
    def parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        per_layer = sum(sum(int(a.size) for a in vars(layer).values()) for layer in self.layers)
        head = 0 if self.tied else int(self.head.size)
        return int(self.embedding.size) + per_layer + int(self.final_norm.size) + head

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that was given, or found beside the checkpoint; read when first asked for."""
        if self._tokenizer is None:
            if self._tokenizer_reader is None:
                raise CheckpointError(
                    f"{self.path or self.name}: no tokenizer beside it; give one with --tokenizer"
                )
            self._tokenizer = self._tokenizer_reader()
        return self._tokenizer


def check_dimensions(where: str, names: dict[str, str], *, heads: int, kv_heads: int, head_dim: int) -> None:
    """Refuse dimensions that no Llama decoder has; `names` gives the fields' names in the file."""
    if heads % kv_heads:
        raise CheckpointError(
            f"{where}: {names['heads']} must be a multiple of {names['kv_heads']}, not {heads} and {kv_heads}"
        )
    if head_dim % 2:
        raise CheckpointError(f"{where}: {names['head_dim']} must be even, not {head_dim}")


def check_finite(where: str, name: str, array: np.ndarray) -> None:
    """Refuse infinities and not-a-numbers."""
    # A float64 sum of float32 terms is finite exactly if all of them are.
    with np.errstate(invalid="ignore"):
        total = np.sum(array, dtype=np.float64)
    if not np.isfinite(total):
        raise CheckpointError(f"{where}: {name} has elements that are not finite")


def tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor with its canonical name, for statistics and checks."""
    yield "embedding", checkpoint.embedding
    for index, layer in enumerate(checkpoint.layers):
        for name, array in vars(layer).items():
            yield f"layers.{index}.{name}", array
    yield "final_norm", checkpoint.final_norm
    if not checkpoint.tied:
        yield "head", checkpoint.head
