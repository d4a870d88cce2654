# SPDX-License-Identifier: Apache-2.0
"""From a float checkpoint to int8 codes and packed scales (docs/numerics.md, sections 2 and 9)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serrano_host.checkpoints import Checkpoint
from serrano_host.errors import CompileError
from serrano_host.reference import Reference, rope_tables

PACKED_MIN, PACKED_MAX = 2.0**-40, (2 - 2.0**-10) * 2.0**23
# Beyond this length a sum of int8 products no longer fits 32 bits.
K_MAX = 133_144
CALIBRATION_SEED = 1
CALIBRATION_SEQUENCES = 4
CALIBRATION_LENGTH = 128
# Models beyond this size draw shorter calibration samples, in float32.
LARGE_PARAMETERS = 100_000_000

Progress = Callable[[str, int, int], None]


def pack_up(values: np.ndarray | float, what: str = "scale") -> np.ndarray:
    """Smallest packed scales that are not below `values` (>= 0); 0 packs to 0x0000.

    Raises
    ------
    CompileError
        If a value is too large, negative or not finite; it names `what` and the channel.
    """
    return _pack(values, what, np.ceil)


def pack_nearest(value: float, what: str = "scale") -> int:
    """The packed scale nearest to a positive constant.

    Raises
    ------
    CompileError
        If the constant is outside the range of packed scales.
    """
    if not PACKED_MIN <= value <= PACKED_MAX:
        raise CompileError(f"{what} must be in the range of packed scales, 2^-40 to 2^24, not {value:g}")
    return int(_pack(value, what, lambda f: np.floor(f + 0.5)))


def _pack(values: np.ndarray | float, what: str, rounded: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    wrong = ~((values >= 0) & (values <= PACKED_MAX))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise CompileError(
            f"{what}: scale of channel {first} must be in 0 to 2^24, not {values.reshape(-1)[first]:g}"
        )
    mantissa, exponent = np.frexp(np.maximum(values, PACKED_MIN))
    fraction = rounded((2 * mantissa - 1) * 1024).astype(np.int64)
    # A fraction of 1024 carries into the exponent by itself.
    return (((exponent.astype(np.int64) - 1 + 40) << 10) + fraction).astype(np.uint16)


def unpack(code: np.ndarray | int) -> np.ndarray:
    """Values of packed scales, exact in float64."""
    code = np.asarray(code, dtype=np.int64)
    return np.ldexp(1024.0 + (code & 1023), (code >> 10) - 50)


@dataclass(frozen=True)
class QuantizedMatrix:
    """Codes `[outputs, inputs]` (int8, or int16 for 16 bits) and one packed scale (uint16) per output."""

    codes: np.ndarray
    scales: np.ndarray

    def values(self) -> np.ndarray:
        """What the codes stand for, float64."""
        return self.codes * unpack(self.scales)[:, None]


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer: gains folded in, RoPE pairs adjacent, no padding.

    `k_mean` is int16 `[kv_heads, head_dim]` in units of 1/256.
    """

    wq: QuantizedMatrix
    wk: QuantizedMatrix
    wv: QuantizedMatrix
    wo: QuantizedMatrix
    w_gate: QuantizedMatrix
    w_up: QuantizedMatrix
    w_down: QuantizedMatrix
    k_mean: np.ndarray


@dataclass(frozen=True)
class QuantizedModel:
    """A model in integers, independent of any array geometry.

    Parameters
    ----------
    name, dim, ffn, heads, kv_heads, head_dim, vocab, context, bos, eos
        As in `Checkpoint`.
    bits : int
        Width of weights and activations: 8; 16 only for the golden model, to judge the nonlinear units alone.
    s_eps, s_score : int
        Packed scales.
    rope : int16 array [context, head_dim / 2, 2]
        (cos, sin) with 15 fraction bits.
    embedding : QuantizedMatrix [vocab, dim]
        One scale per token.
    layers : list of QuantizedLayer
    head : QuantizedMatrix [vocab, dim]
    """

    name: str
    dim: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    bos: int | None
    eos: int | None
    bits: int
    s_eps: int
    s_score: int
    rope: np.ndarray
    embedding: QuantizedMatrix
    layers: list[QuantizedLayer]
    head: QuantizedMatrix


def quantize_rows(weight: np.ndarray, bits: int, what: str) -> QuantizedMatrix:
    """One scale per row, rounded up to a packed one, so that no code is beyond qmax."""
    qmax = 2 ** (bits - 1) - 1
    codes = np.empty(weight.shape, dtype=np.int8 if bits == 8 else np.int16)
    scales = pack_up(np.abs(weight).max(axis=1) / qmax, what)
    steps = unpack(scales)
    for start in range(0, len(weight), 4096):  # Bounds the float64 temporaries.
        part = slice(start, start + 4096)
        codes[part] = np.clip(np.floor(weight[part] / steps[part, None] + 0.5), -qmax, qmax)
    return QuantizedMatrix(codes, scales)


def quantize_rope(head_dim: int, context: int, theta: float) -> np.ndarray:
    """The RoPE table as int16 `[context, head_dim / 2, (cos, sin)]`."""
    table = np.stack(rope_tables(head_dim, context, theta), axis=-1)
    return np.clip(np.floor(table * 2**15 + 0.5), -32767, 32767).astype(np.int16)


def quantize_k_means(means: np.ndarray) -> np.ndarray:
    """Averages of k in units of 1/256, limited to int16."""
    return np.clip(np.floor(means * 256 + 0.5), -32768, 32767).astype(np.int16)


def calibration_windows(checkpoint: Checkpoint, text: str) -> list[np.ndarray]:
    """The text's tokens in windows of the model's context, each beginning with the bos token."""
    tokens = checkpoint.tokenizer().encode(text, bos=False)
    if not tokens:
        raise CompileError("the calibration text is empty")
    begin = [] if checkpoint.bos is None else [checkpoint.bos]
    size = max(1, checkpoint.context - len(begin))
    return [np.array(begin + tokens[i : i + size]) for i in range(0, len(tokens), size)]


def k_means(
    checkpoint: Checkpoint,
    windows: Sequence[np.ndarray] | None = None,
    seed: int = CALIBRATION_SEED,
    progress: Progress | None = None,
) -> np.ndarray:
    """Average of k after RoPE per (layer, KV head, channel), float64, over calibration tokens.

    Parameters
    ----------
    windows : sequences of token ids, optional
        Each at most the model's context long. Without them the model draws its own samples, from `seed`.
    """
    large = checkpoint.parameters > LARGE_PARAMETERS
    reference = Reference(checkpoint, np.float32 if large else np.float64)
    if windows is None:
        length = min(checkpoint.context, CALIBRATION_LENGTH // 4 if large else CALIBRATION_LENGTH)
        windows = list(
            reference.sample(
                CALIBRATION_SEQUENCES, length, seed, lambda i, n: progress and progress("sampling", i, n)
            )
        )
    total: np.ndarray | float = 0.0
    count = 0
    for index, window in enumerate(windows):
        total = total + reference.forward(window).k.sum(axis=1, dtype=np.float64)
        count += len(window)
        if progress is not None:
            progress("calibrating", index + 1, len(windows))
    return np.asarray(total) / count


def quantize(
    checkpoint: Checkpoint,
    bits: int = 8,
    means: np.ndarray | None = None,
    progress: Progress | None = None,
) -> QuantizedModel:
    """Fold and quantize a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
    bits : int
        8, or 16 for accuracy experiments with the golden model.
    means : array [layers, kv_heads, head_dim], optional
        Result of `k_means`; by default computed from the model's own samples.
    progress : callable, optional
        Called with (what, done, of how many).

    Raises
    ------
    CompileError
        If a scale or a constant is outside the range of packed scales, or a reduction too long for 32 bits.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, not {bits!r}")
    c = checkpoint
    for name, length in (("dim", c.dim), ("ffn", c.ffn), ("heads * head_dim", c.heads * c.head_dim)):
        if length > K_MAX:
            raise CompileError(f"{name} must be at most {K_MAX} (32-bit accumulators), not {length}")
    if means is None:
        means = k_means(c, progress=progress)
    qmax = 2 ** (bits - 1) - 1

    def matrix(name: str, weight: np.ndarray, gain: np.ndarray | None, factor: float) -> QuantizedMatrix:
        folded = weight.astype(np.float64)
        if gain is not None:
            folded *= gain.astype(np.float64)
        folded *= factor
        return quantize_rows(folded, bits, name)

    normed = np.sqrt(float(c.dim)) / qmax
    steps = len(c.layers) + 2
    layers = []
    for index, layer in enumerate(c.layers):
        name = f"layers.{index}."
        pre, post = layer.attention_norm, layer.ffn_norm
        layers.append(
            QuantizedLayer(
                wq=matrix(name + "wq", layer.wq, pre, normed),
                wk=matrix(name + "wk", layer.wk, pre, normed),
                wv=matrix(name + "wv", layer.wv, pre, normed),
                wo=matrix(name + "wo", layer.wo, None, (qmax + 1) / qmax / qmax),
                w_gate=matrix(name + "w_gate", layer.w_gate, post, normed),
                w_up=matrix(name + "w_up", layer.w_up, post, normed),
                w_down=matrix(name + "w_down", layer.w_down, None, 1 / qmax),
                k_mean=quantize_k_means(means[index]),
            )
        )
        if progress is not None:
            progress("quantizing", index + 1, steps)
    head = matrix("head", c.head, c.final_norm, normed)
    if progress is not None:
        progress("quantizing", steps - 1, steps)
    embedding = matrix("embedding", c.embedding, None, 1.0)
    if progress is not None:
        progress("quantizing", steps, steps)
    return QuantizedModel(
        name=c.name,
        dim=c.dim,
        ffn=c.ffn,
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        vocab=c.vocab,
        context=c.context,
        bos=c.bos,
        eos=c.eos,
        bits=bits,
        s_eps=pack_nearest(c.norm_eps * c.dim, "eps * dim"),
        s_score=pack_nearest(np.log2(np.e) / np.sqrt(c.head_dim) / qmax**2, "score scale"),
        rope=quantize_rope(c.head_dim, c.context, c.rope_theta),
        embedding=embedding,
        layers=layers,
        head=head,
    )
