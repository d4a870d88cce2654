# SPDX-License-Identifier: Apache-2.0
"""From a quantized model to a tape (docs/tape.md)."""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serrano_host.errors import CompileError
from serrano_host.presets import MACHINES
from serrano_host.quantize import Progress, QuantizedLayer, QuantizedMatrix, QuantizedModel
from serrano_host.tape import (
    BLOCK_SIZE,
    DESCRIPTOR_BYTES,
    Descriptor,
    Opcode,
    Packet,
    head_pad,
    power_of_two,
    round_up,
)


@dataclass(frozen=True)
class Geometry:
    """What of the hardware a tape is laid out for.

    Parameters
    ----------
    n : int
        Array size, a power of two in 4 to 64.
    align : int
        Alignment of every part in bytes, a power of two of at least 32.
    """

    n: int = 16
    align: int = 32

    def __post_init__(self):
        if not (power_of_two(self.n) and 4 <= self.n <= 64):
            raise ValueError(f"n must be a power of two in 4 to 64, not {self.n!r}")
        if not (power_of_two(self.align) and 32 <= self.align <= 32768):
            raise ValueError(f"align must be a power of two in 32 to 32768, not {self.align!r}")


# The hardware's presets, as far as a tape depends on them.
PRESETS = {name: Geometry(machine.n, machine.align) for name, machine in MACHINES.items()}


def describe(model: QuantizedModel, geometry: Geometry) -> Descriptor:
    """The descriptor of the tape: all sizes and offsets.

    Raises
    ------
    CompileError
        If the model's shape does not fit the format.
    """
    n, align = geometry.n, geometry.align
    tail = model.head_dim % n
    if tail and not power_of_two(tail):
        raise CompileError(
            f"{model.name}: head_dim must be 0 or a power of two modulo n {n}, not {model.head_dim}"
        )
    record = BLOCK_SIZE * (2 * model.head_dim + 4)
    sizes = {
        "rope_stride": round_up(2 * head_pad(model.head_dim, n), align),
        "embed_stride": round_up(align + model.dim, align),
        "record_bytes": record,
        "block_bytes": round_up(len(model.layers) * model.kv_heads * record, 64),
        "packets": 7 * len(model.layers) + 5,
        "program_offset": round_up(DESCRIPTOR_BYTES, align),
    }
    shape = {
        name: getattr(model, name)
        for name in "dim ffn heads kv_heads head_dim vocab context s_eps s_score bos eos name".split()
    }
    later = dict.fromkeys(
        "image_bytes head_offset end_offset program_end rope_offset embed_offset".split(), 0
    )
    draft = Descriptor(
        n=n,
        align=align,
        layers=len(model.layers),
        head_pad=head_pad(model.head_dim, n),
        **shape,
        **sizes,
        **later,
    )
    program = list(draft.program())
    end = program[-1].offset + align
    embed = end + model.context * sizes["rope_stride"]
    image = embed + model.vocab * sizes["embed_stride"]
    for name, size in (("image_bytes", image), ("block_bytes", sizes["block_bytes"])):
        if size >= 2**32:
            raise CompileError(f"{model.name}: {name} must be below 2^32, not {size}")
    final = vars(draft) | {
        "image_bytes": image,
        "head_offset": program[-4].offset,
        "end_offset": program[-1].offset,
        "program_end": end,
        "rope_offset": end,
        "embed_offset": embed,
    }
    return Descriptor(**final)


def compile_tape(model: QuantizedModel, geometry: Geometry, progress: Progress | None = None) -> bytes:
    """The tape image.

    Parameters
    ----------
    model : QuantizedModel
        Of 8 bits.
    geometry : Geometry
    progress : callable, optional
        Called with (what, done, of how many).

    Raises
    ------
    CompileError
        If the model's shape does not fit the format.
    """
    if model.bits != 8:
        raise ValueError(f"a tape holds 8-bit codes, not {model.bits}-bit ones")
    d = describe(model, geometry)
    image = np.zeros(d.image_bytes, dtype=np.uint8)
    program = list(d.program())
    for packet in program:
        payload = image[packet.offset + d.align :][: packet.payload_bytes]
        _write_payload(payload, packet, model, d)
        header = packet.header(d.align, payload.data)
        image[packet.offset : packet.offset + d.align] = np.frombuffer(header, dtype=np.uint8)
        if progress is not None:
            progress("writing", packet.index + 1, len(program))
    _write_rope(image[d.rope_offset : d.embed_offset], model, d)
    _write_embedding(image[d.embed_offset :], model, d)
    image[:DESCRIPTOR_BYTES] = np.frombuffer(d.pack(), dtype=np.uint8)
    return image.tobytes()


def _write_payload(payload: np.ndarray, packet: Packet, model: QuantizedModel, d: Descriptor) -> None:
    """Blocks of the packet's matrix, if it has one."""
    if not packet.payload_bytes:
        return
    if packet.layer >= len(model.layers):
        _write_blocks(payload, model.head, d.n)
        return
    layer = model.layers[packet.layer]
    if packet.opcode is Opcode.QKV:
        _write_qkv(payload, layer, d)
    elif packet.opcode is Opcode.GATE_UP:
        _write_blocks(payload, interleave(layer.w_gate, layer.w_up), d.n)
    elif packet.index % 7 == 4:  # Of a layer's seven packets, the first of which has index 7 * layer + 1.
        _write_blocks(payload, pad_inputs(layer.wo, d), d.n)
    else:
        _write_blocks(payload, layer.w_down, d.n)


def interleave(gate: QuantizedMatrix, up: QuantizedMatrix) -> QuantizedMatrix:
    """Output `2i` is gate channel `i`, output `2i + 1` up channel `i`."""
    codes = np.stack([gate.codes, up.codes], axis=1).reshape(-1, gate.codes.shape[1])
    return QuantizedMatrix(codes, np.stack([gate.scales, up.scales], axis=1).reshape(-1))


def pad_inputs(wo: QuantizedMatrix, d: Descriptor) -> QuantizedMatrix:
    """Wo with each head's inputs padded to head_pad."""
    codes = np.zeros((d.dim, d.heads, d.head_pad), dtype=np.int8)
    codes[:, :, : d.head_dim] = wo.codes.reshape(d.dim, d.heads, d.head_dim)
    return QuantizedMatrix(codes.reshape(d.dim, -1), wo.scales)


def _write_qkv(payload: np.ndarray, layer: QuantizedLayer, d: Descriptor) -> None:
    """k, v and q heads, padded; the blocks that hold k channels carry the k means."""
    heads = 2 * d.kv_heads + d.heads
    codes = np.zeros((heads, d.head_pad, d.dim), dtype=np.int8)
    scales = np.zeros((heads, d.head_pad), dtype=np.uint16)
    start = 0
    for matrix in (layer.wk, layer.wv, layer.wq):
        stop = start + len(matrix.scales) // d.head_dim
        codes[start:stop, : d.head_dim] = matrix.codes.reshape(-1, d.head_dim, d.dim)
        scales[start:stop, : d.head_dim] = matrix.scales.reshape(-1, d.head_dim)
        start = stop
    fused = QuantizedMatrix(codes.reshape(-1, d.dim), scales.reshape(-1))
    means = np.zeros((d.kv_heads, d.head_pad), dtype=np.int16)
    means[:, : d.head_dim] = layer.k_mean
    split = min(round_up(d.kv_heads * d.head_pad, d.n), len(fused.scales))
    padded = np.zeros(round_up(split, d.n), dtype=np.int16)
    padded[: means.size] = means.reshape(-1)
    first = QuantizedMatrix(fused.codes[:split], fused.scales[:split])
    used = _write_blocks(payload, first, d.n, padded)
    _write_blocks(payload[used:], QuantizedMatrix(fused.codes[split:], fused.scales[split:]), d.n)


def _write_blocks(
    payload: np.ndarray, matrix: QuantizedMatrix, n: int, means: np.ndarray | None = None
) -> int:
    """Write the blocks of a matrix at the start of `payload`; returns their length in bytes."""
    n_out, k = matrix.codes.shape
    blocks, tiles = -(-n_out // n), -(-k // n)
    front = 2 * n if means is None else 4 * n
    size = blocks * (front + tiles * n * n)
    out = payload[:size].reshape(blocks, front + tiles * n * n)
    scales = np.zeros(blocks * n, dtype="<u2")
    scales[:n_out] = matrix.scales
    out[:, : 2 * n] = scales.view(np.uint8).reshape(blocks, 2 * n)
    if means is not None:
        out[:, 2 * n : front] = means.astype("<i2").view(np.uint8).reshape(blocks, 2 * n)
    padded = np.zeros((blocks * n, tiles * n), dtype=np.int8)
    padded[:n_out, :k] = matrix.codes
    # [block, output, tile, input] -> [block, tile, input, output]
    ordered = padded.reshape(blocks, n, tiles, n).transpose(0, 2, 3, 1)
    out[:, front:] = ordered.reshape(blocks, tiles * n * n).view(np.uint8)
    return size


def _write_rope(table: np.ndarray, model: QuantizedModel, d: Descriptor) -> None:
    rows = np.zeros((d.context, d.head_pad // 2, 2), dtype="<i2")
    rows[..., 0] = 32767
    rows[:, : d.head_dim // 2] = model.rope
    raw = rows.reshape(d.context, -1).view(np.uint8)
    table.reshape(d.context, d.rope_stride)[:, : raw.shape[1]] = raw


def _write_embedding(table: np.ndarray, model: QuantizedModel, d: Descriptor) -> None:
    rows = table.reshape(d.vocab, d.embed_stride)
    rows[:, :2] = model.embedding.scales.astype("<u2").view(np.uint8).reshape(-1, 2)
    rows[:, d.align : d.align + d.dim] = model.embedding.codes.view(np.uint8)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise CompileError(f"{path}: {error.strerror or error}") from error
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise CompileError(f"{path}: {error.strerror or error}") from error
        raise
