# SPDX-License-Identifier: Apache-2.0
"""llama2.c checkpoints: the legacy float32 `.bin` (version 0) and its `tokenizer.bin`.

The file is seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len), then the
float32 tensors of `layout` one after the other. A negative vocab_size says that a separate classifier
follows.
"""

import heapq
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serrano_host.checkpoints.base import Checkpoint, Layer, TextStream, check_dimensions, check_finite
from serrano_host.errors import CheckpointError

HEADER = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
NAMES = {"heads": "n_heads", "kv_heads": "n_kv_heads", "head_dim": "dim / n_heads"}
# What a file of another kind begins with.
FOREIGN = {
    b"24ka": "a llama2.c file of version 1 or later; only the legacy version 0 (float32) is supported",
    b"GGUF": "a GGUF file, which is not supported",
    b"PK\x03\x04": "a PyTorch file, which is not supported",
    b"SRNO": "a compiled tape, not a checkpoint",
}
EPS, THETA = 1e-5, 10000.0
BOS, EOS = 1, 2


def layout(
    dim: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int, context: int, shared: bool
) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors behind the header, in the file's order."""
    head_dim = dim // heads
    kv = kv_heads * head_dim
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("token_embedding", (vocab, dim)),
        ("rms_att", (layers, dim)),
        ("wq", (layers, dim, dim)),
        ("wk", (layers, kv, dim)),
        ("wv", (layers, kv, dim)),
        ("wo", (layers, dim, dim)),
        ("rms_ffn", (layers, dim)),
        ("w1", (layers, ffn, dim)),
        ("w2", (layers, dim, ffn)),
        ("w3", (layers, ffn, dim)),
        ("rms_final", (dim,)),
        ("freq_cis_real", (context, head_dim // 2)),
        ("freq_cis_imag", (context, head_dim // 2)),
    ]
    return tensors if shared else [*tensors, ("wcls", (vocab, dim))]


def read_header(path: Path, raw: bytes, size: int) -> tuple[dict[str, int], bool]:
    """The header's fields with a positive vocab_size, and whether the classifier is shared."""
    for magic, what in FOREIGN.items():
        if raw.startswith(magic):
            raise CheckpointError(f"{path}: {what}")
    if raw[8:9] == b"{" and path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path}: a safetensors file; give the folder that holds it and its config.json"
        )
    if len(raw) < 28:
        name = HEADER[len(raw) // 4]
        raise CheckpointError(f"{path}: truncated: the file of {size} bytes ends in the header at {name}")
    fields = dict(zip(HEADER, struct.unpack("<7i", raw[:28]), strict=True))
    shared = fields["vocab_size"] > 0
    fields["vocab_size"] = abs(fields["vocab_size"])
    for name, value in fields.items():
        if not 0 < value < 2**28:
            raise CheckpointError(
                f"{path}: neither a Hugging Face folder nor a llama2.c file (header field {name} is {value})"
            )
    if fields["dim"] % fields["n_heads"]:
        raise CheckpointError(
            f"{path}: dim must be a multiple of n_heads {fields['n_heads']}, not {fields['dim']}"
        )
    check_dimensions(
        str(path),
        NAMES,
        heads=fields["n_heads"],
        kv_heads=fields["n_kv_heads"],
        head_dim=fields["dim"] // fields["n_heads"],
    )
    return fields, shared


def check_length(path: Path, size: int, tensors: list[tuple[str, tuple[int, ...]]]) -> None:
    """Refuse a file that is not exactly as long as its header says, naming the tensor in which it ends."""
    offset, starts = 28, []
    for name, shape in tensors:
        starts.append((offset, name, shape))
        offset += 4 * int(np.prod(shape, dtype=object))
    if size == offset:
        return
    if size > offset:
        raise CheckpointError(
            f"{path}: {size - offset} bytes behind {tensors[-1][0]}, where the file should end "
            f"(expected {offset} bytes, not {size})"
        )
    start, name, shape = next(entry for entry in reversed(starts) if entry[0] <= size)
    where = name
    if len(shape) > 1 and shape[0] > 1 and name.startswith(("rms_", "w")) and name != "wcls":
        where += f" of layer {(size - start) // (4 * int(np.prod(shape[1:], dtype=object)))}"
    raise CheckpointError(f"{path}: truncated: ends in {where} (expected {offset} bytes, not {size})")


def read(path: Path) -> Checkpoint:
    """Read a legacy llama2.c file. RoPE's base is 10000 and epsilon 1e-5, as in llama2.c; the file's own
    RoPE tables are skipped, as there."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        fields, shared = read_header(path, file.read(64), size)
    dim, heads, kv_heads = fields["dim"], fields["n_heads"], fields["n_kv_heads"]
    vocab, count = fields["vocab_size"], fields["n_layers"]
    tensors = layout(dim, fields["hidden_dim"], count, heads, kv_heads, vocab, fields["seq_len"], shared)
    check_length(path, size, tensors)

    flat = np.memmap(path, dtype="<f4", mode="r", offset=28)
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for name, shape in tensors:
        length = int(np.prod(shape))
        arrays[name] = flat[offset : offset + length].reshape(shape).view(np.ndarray)
        offset += length
        if not name.startswith("freq_cis"):
            check_finite(str(path), name, arrays[name])
    layers = [
        Layer(
            attention_norm=arrays["rms_att"][i],
            wq=arrays["wq"][i],
            wk=arrays["wk"][i],
            wv=arrays["wv"][i],
            wo=arrays["wo"][i],
            ffn_norm=arrays["rms_ffn"][i],
            w_gate=arrays["w1"][i],
            w_up=arrays["w3"][i],
            w_down=arrays["w2"][i],
        )
        for i in range(count)
    ]
    return Checkpoint(
        name=path.stem,
        dim=dim,
        ffn=fields["hidden_dim"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim // heads,
        vocab=vocab,
        context=fields["seq_len"],
        rope_theta=THETA,
        norm_eps=EPS,
        bos=BOS if vocab > BOS else None,
        # llama2.c's stories are separated by the token that begins them; its loop ends there.
        eos=BOS if vocab > BOS else None,
        tied=shared,
        embedding=arrays["token_embedding"],
        layers=layers,
        final_norm=arrays["rms_final"],
        head=arrays["token_embedding"] if shared else arrays["wcls"],
        path=path,
    )


class Llama2cTokenizer:
    """llama2.c's `tokenizer.bin`: int32 max_token_length, then per token float32 score, int32 length, bytes.

    `encode` is llama2.c's: a space in front of the text, one token per character (or per byte, `<0xXX>`,
    where the character is no token), then the adjacent pair whose joint token has the best score is merged,
    the leftmost of equals, until no pair is a token. `decode` drops the space in front of the first word.

    Parameters
    ----------
    path : Path
        The file.
    vocab : int
        Number of tokens, which must be the model's.
    """

    def __init__(self, path: Path, vocab: int):
        self.path = path
        self.vocab = vocab
        self.pieces, self.scores = self._read(path, vocab)
        self._ids: dict[bytes, int] = {}
        for token, piece in enumerate(self.pieces):
            self._ids.setdefault(piece, token)
        self._text = [self._visible(token, piece) for token, piece in enumerate(self.pieces)]

    @staticmethod
    def _read(path: Path, vocab: int) -> tuple[list[bytes], list[float]]:
        raw = path.read_bytes()
        if len(raw) < 4:
            raise CheckpointError(f"{path}: truncated: ends in max_token_length")
        (longest,) = struct.unpack_from("<i", raw, 0)
        if not 0 < longest < 2**16:
            raise CheckpointError(f"{path}: not a llama2.c tokenizer: max_token_length is {longest}")
        pieces, scores, offset = [], [], 4
        for token in range(vocab):
            if offset + 8 > len(raw):
                raise CheckpointError(
                    f"{path}: ends at the {'score' if offset + 4 > len(raw) else 'length'} of token {token}; "
                    f"the model's vocab_size is {vocab}"
                )
            score, length = struct.unpack_from("<fi", raw, offset)
            if not 0 <= length <= longest:
                raise CheckpointError(
                    f"{path}: length of token {token} must be 0 to max_token_length {longest}, not {length}"
                )
            if score != score:
                raise CheckpointError(f"{path}: score of token {token} is not a number")
            if offset + 8 + length > len(raw):
                raise CheckpointError(f"{path}: truncated: ends in the bytes of token {token}")
            pieces.append(raw[offset + 8 : offset + 8 + length])
            scores.append(score)
            offset += 8 + length
        if offset != len(raw):
            raise CheckpointError(
                f"{path}: {len(raw) - offset} bytes behind token {vocab - 1}, the last by vocab_size {vocab}"
            )
        return pieces, scores

    @staticmethod
    def _visible(token: int, piece: bytes) -> bytes:
        if token in (BOS, EOS):
            return b""
        byte = re.fullmatch(rb"<0x([0-9A-Fa-f]{2})>", piece)
        return bytes([int(byte[1], 16)]) if byte else piece

    def _byte(self, value: int) -> int:
        token = self._ids.get(b"<0x%02X>" % value, self._ids.get(bytes([value])))
        if token is None:
            raise CheckpointError(f"{self.path}: has no token for the byte 0x{value:02X}")
        return token

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids of `text`."""
        ids: list[int] = []
        if text and b" " in self._ids:
            ids.append(self._ids[b" "])
        for character in text:
            raw = character.encode("utf-8", errors="surrogateescape")
            if raw in self._ids:
                ids.append(self._ids[raw])
            else:
                ids += [self._byte(value) for value in raw]
        return ([BOS] if bos else []) + self._merge(ids)

    def _merge(self, ids: list[int]) -> list[int]:
        count = len(ids)
        after = list(range(1, count + 1))
        before = list(range(-1, count - 1))
        alive = [True] * count
        heap: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            right = after[left]
            if right < count:
                joint = self._ids.get(self.pieces[ids[left]] + self.pieces[ids[right]])
                if joint is not None:
                    heapq.heappush(heap, (-self.scores[joint], left, ids[left], ids[right], joint))

        for left in range(count):
            offer(left)
        while heap:
            _, left, first, second, joint = heapq.heappop(heap)
            right = after[left] if alive[left] else count
            if right == count or ids[left] != first or ids[right] != second:
                continue
            ids[left], alive[right], after[left] = joint, False, after[right]
            if after[left] < count:
                before[after[left]] = left
            offer(left)
            if before[left] >= 0:
                offer(before[left])
        return [token for token, kept in zip(ids, alive, strict=True) if kept]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        out, previous = [], None
        for token in (int(i) for i in ids):
            piece = self._text[token]
            if previous == BOS and piece.startswith(b" "):
                piece = piece[1:]
            out.append(piece)
            previous = token
        return b"".join(out).decode("utf-8", errors="replace")

    def decode_stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """The text that follows `prompt`, token by token."""
        return TextStream(self.decode, prompt)
