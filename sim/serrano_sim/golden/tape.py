# SPDX-License-Identifier: Apache-2.0
"""Reads a tape image back into a model, checking every field: docs/tape.md."""

from __future__ import annotations

import dataclasses
import enum
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from .kvcache import BLOCK_SIZE, block_bytes, record_bytes
from .model import Layer, Matrix, Model
from .softmax import GROUP

MAGIC = b"SRNO"
MAJOR, MINOR = 1, 0
DESCRIPTOR_BYTES = 256
HEADER_BYTES = 32
NO_LAYER = 0xFFFF
NO_TOKEN = 0xFFFFFFFF
TO_LOGITS = 1


class Opcode(enum.IntEnum):
    EMBED = 0x01
    NORM = 0x02
    QKV = 0x03
    ATTEND = 0x04
    MATMUL = 0x05
    GATE_UP = 0x06
    SAMPLE = 0x07
    END = 0x0F


# name, offset, struct format
_FIELDS = (
    ("major", 4, "H"),
    ("minor", 6, "H"),
    ("descriptor_bytes", 8, "I"),
    ("image_bytes", 12, "I"),
    ("n", 16, "H"),
    ("align", 18, "H"),
    ("group", 20, "H"),
    ("block_size", 22, "H"),
    ("dim", 24, "I"),
    ("ffn", 28, "I"),
    ("layers", 32, "I"),
    ("heads", 36, "I"),
    ("kv_heads", 40, "I"),
    ("head_dim", 44, "I"),
    ("head_pad", 48, "I"),
    ("vocab", 52, "I"),
    ("context", 56, "I"),
    ("s_eps", 60, "H"),
    ("s_score", 62, "H"),
    ("bos", 64, "I"),
    ("eos", 68, "I"),
    ("program_offset", 72, "I"),
    ("head_offset", 76, "I"),
    ("end_offset", 80, "I"),
    ("program_end", 84, "I"),
    ("rope_offset", 88, "I"),
    ("rope_stride", 92, "I"),
    ("embed_offset", 96, "I"),
    ("embed_stride", 100, "I"),
    ("packets", 104, "I"),
    ("record_bytes", 108, "I"),
    ("block_bytes", 112, "I"),
    ("crc", 252, "I"),
)


@dataclasses.dataclass(frozen=True)
class Packet:
    """A packet's header, its offset in the image and its payload's."""

    offset: int
    payload_offset: int
    opcode: Opcode
    flags: int
    layer: int
    k: int
    n_out: int
    payload_bytes: int
    index: int
    crc: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tape:
    """A tape that was read: its descriptor's numbers by name, its packets, and the model."""

    fields: dict[str, int]
    packets: tuple[Packet, ...]
    model: Model

    @property
    def n(self) -> int:
        return self.fields["n"]

    @property
    def align(self) -> int:
        return self.fields["align"]


def round_up(value: int, multiple: int) -> int:
    """`value`, or the next multiple."""
    return -(-value // multiple) * multiple


def head_pad(head_dim: int, n: int) -> int:
    """Channels that a head takes in the tape."""
    if head_dim >= n:
        return round_up(head_dim, n)
    pad = 1
    while pad < head_dim or 2 * pad < n:
        pad *= 2
    return pad


def load_model(image: bytes) -> Model:
    """The model in a tape image. Raises ValueError naming the field that is wrong."""
    return read_tape(image).model


def read_tape(image: bytes) -> Tape:
    """Reads and checks a tape image.

    Raises
    ------
    ValueError
        If anything in the image contradicts docs/tape.md; the text names the field.
    """
    fields = _descriptor(image)
    packets = _program(image, fields)
    reader = _Reader(image, fields)
    n = fields["n"]
    kv = fields["kv_heads"] * fields["head_pad"]
    layers = []
    for index in range(fields["layers"]):
        _, qkv, _, wo, _, gate_up, down = packets[1 + 7 * index : 8 + 7 * index]
        matrix, means = reader.blocks(qkv, -(-kv // n))
        k, v, q = reader.heads(qkv, matrix)
        both, _ = reader.blocks(gate_up)
        layers.append(
            Layer(
                k=k,
                v=v,
                q=q,
                k_mean=reader.means(qkv, means),
                o=reader.head_inputs(wo, reader.blocks(wo)[0]),
                gate=Matrix(both.codes[0::2], both.scales[0::2]),
                up=Matrix(both.codes[1::2], both.scales[1::2]),
                down=reader.blocks(down)[0],
            )
        )
    try:
        name = image[200:252].rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise ValueError("Tape field 'name' must be UTF-8") from error
    model = Model(
        **{key: fields[key] for key in ("dim", "ffn", "heads", "kv_heads", "head_dim", "vocab", "context")},
        s_eps=fields["s_eps"],
        s_score=fields["s_score"],
        layers=tuple(layers),
        head=reader.blocks(packets[-3])[0],
        embedding=reader.embedding(),
        rope=reader.rope(),
        bos=None if fields["bos"] == NO_TOKEN else fields["bos"],
        eos=None if fields["eos"] == NO_TOKEN else fields["eos"],
        name=name,
    )
    return Tape(fields, packets, model)


def _expect(name: str, value: object, expected: object) -> None:
    if value != expected:
        raise ValueError(f"Tape field {name!r} must be {expected!r}, not {value!r}")


def _descriptor(image: bytes) -> dict[str, int]:
    if len(image) < DESCRIPTOR_BYTES:
        raise ValueError(f"Tape field 'descriptor' must have {DESCRIPTOR_BYTES} bytes, not {len(image)}")
    _expect("magic", bytes(image[:4]), MAGIC)
    fields = {name: struct.unpack_from("<" + kind, image, at)[0] for name, at, kind in _FIELDS}
    _expect("major", fields["major"], MAJOR)
    _expect("descriptor_bytes", fields["descriptor_bytes"], DESCRIPTOR_BYTES)
    _expect("crc", fields["crc"], zlib.crc32(image[:252]))
    _expect("image_bytes", fields["image_bytes"], len(image))

    n, align, head_dim = fields["n"], fields["align"], fields["head_dim"]
    if n not in (4, 8, 16, 32, 64):
        raise ValueError(f"Tape field 'n' must be a power of two from 4 to 64, not {n}")
    if align < 32 or align & (align - 1):
        raise ValueError(f"Tape field 'align' must be a power of two of at least 32, not {align}")
    _expect("group", fields["group"], GROUP)
    _expect("block_size", fields["block_size"], BLOCK_SIZE)
    for name in ("dim", "ffn", "layers", "heads", "kv_heads", "head_dim", "vocab", "context"):
        if fields[name] < 1:
            raise ValueError(f"Tape field {name!r} must be at least 1, not 0")
    if fields["heads"] % fields["kv_heads"]:
        raise ValueError(f"Tape field 'kv_heads' must divide heads, not {fields['kv_heads']}")
    rest = head_dim % n
    if head_dim % 2 or rest & (rest - 1):
        raise ValueError(
            f"Tape field 'head_dim' must be even, and 0 or a power of two modulo {n}, not {head_dim}"
        )
    for name in ("bos", "eos"):
        if fields[name] != NO_TOKEN and fields[name] >= fields["vocab"]:
            raise ValueError(f"Tape field {name!r} must be below {fields['vocab']}, not {fields[name]}")

    pad = head_pad(head_dim, n)
    _expect("head_pad", fields["head_pad"], pad)
    _expect("rope_stride", fields["rope_stride"], round_up(2 * pad, align))
    _expect("embed_stride", fields["embed_stride"], round_up(align + fields["dim"], align))
    _expect("record_bytes", fields["record_bytes"], record_bytes(head_dim))
    _expect("block_bytes", fields["block_bytes"], block_bytes(fields["layers"], fields["kv_heads"], head_dim))
    _expect("packets", fields["packets"], 7 * fields["layers"] + 5)
    _expect("program_offset", fields["program_offset"], round_up(DESCRIPTOR_BYTES, align))
    return fields


def _programme(fields: dict[str, int]) -> list[tuple[Opcode, int, int, int, int]]:
    """Opcode, flags, layer, k and n_out of each packet, from the dimensions."""
    dim, ffn, heads, pad = fields["dim"], fields["ffn"], fields["heads"], fields["head_pad"]
    program = [(Opcode.EMBED, 0, NO_LAYER, 0, dim)]
    for layer in range(fields["layers"]):
        program += [
            (Opcode.NORM, 0, layer, dim, 0),
            (Opcode.QKV, 0, layer, dim, (2 * fields["kv_heads"] + heads) * pad),
            (Opcode.ATTEND, 0, layer, 0, heads * pad),
            (Opcode.MATMUL, 0, layer, heads * pad, dim),
            (Opcode.NORM, 0, layer, dim, 0),
            (Opcode.GATE_UP, 0, layer, dim, 2 * ffn),
            (Opcode.MATMUL, 0, layer, ffn, dim),
        ]
    return [
        *program,
        (Opcode.NORM, 0, NO_LAYER, dim, 0),
        (Opcode.MATMUL, TO_LOGITS, NO_LAYER, dim, fields["vocab"]),
        (Opcode.SAMPLE, 0, NO_LAYER, 0, fields["vocab"]),
        (Opcode.END, 0, NO_LAYER, 0, 0),
    ]


def payload_bytes(opcode: int, k: int, n_out: int, n: int, align: int, k_channels: int = 0) -> int:
    """Length of a packet's payload; `k_channels` is `kv_heads * head_pad`, which matters for QKV only."""
    if opcode not in (Opcode.QKV, Opcode.MATMUL, Opcode.GATE_UP):
        return 0
    total = -(-n_out // n) * (2 * n + -(-k // n) * n * n)
    if opcode == Opcode.QKV:
        total += -(-k_channels // n) * 2 * n
    return round_up(total, align)


def _program(image: bytes, fields: dict[str, int]) -> tuple[Packet, ...]:
    n, align = fields["n"], fields["align"]
    offset, packets = fields["program_offset"], []
    for index, expected in enumerate(_programme(fields)):
        if offset + align > len(image):
            raise ValueError(f"Tape field 'image_bytes' is too small for packet {index}")
        code, flags, layer, k, n_out, size, own = struct.unpack_from("<BBHIIII", image, offset)
        (crc,) = struct.unpack_from("<I", image, offset + 28)
        names = ("opcode", "flags", "layer", "k", "n_out")
        for name, value, wanted in zip(names, (code, flags, layer, k, n_out), expected, strict=True):
            _expect(f"packets[{index}].{name}", value, int(wanted))
        k_channels = fields["kv_heads"] * fields["head_pad"]
        _expect(f"packets[{index}].payload_bytes", size, payload_bytes(code, k, n_out, n, align, k_channels))
        _expect(f"packets[{index}].index", own, index)
        start = offset + align
        if start + size > len(image):
            raise ValueError(f"Tape field 'image_bytes' is too small for packet {index}")
        content = image[offset : offset + 28] + image[start : start + size]
        _expect(f"packets[{index}].crc", crc, zlib.crc32(content))
        packets.append(Packet(offset, start, Opcode(code), flags, layer, k, n_out, size, own, crc))
        offset = start + size
    _expect("head_offset", fields["head_offset"], packets[-4].offset)
    _expect("end_offset", fields["end_offset"], packets[-1].offset)
    _expect("program_end", fields["program_end"], offset)
    _expect("rope_offset", fields["rope_offset"], round_up(offset, align))
    after_rope = fields["rope_offset"] + fields["context"] * fields["rope_stride"]
    _expect("embed_offset", fields["embed_offset"], round_up(after_rope, align))
    _expect("image_bytes", len(image), fields["embed_offset"] + fields["vocab"] * fields["embed_stride"])
    return tuple(packets)


class _Reader:
    """Takes arrays out of an image whose structure was checked."""

    def __init__(self, image: bytes, fields: dict[str, int]):
        self.bytes = np.frombuffer(image, dtype=np.uint8)
        self.fields = fields

    def blocks(self, packet: Packet, mean_blocks: int = 0) -> tuple[Matrix, NDArray[np.int16]]:
        """The matrix of a packet without block padding, and the k means of its first blocks in a row."""
        n = self.fields["n"]
        depth, count = -(-packet.k // n), -(-packet.n_out // n)
        start = packet.payload_offset
        scales, means, codes = [], [np.zeros(0, dtype=np.int16)], []
        for blocks, extra in ((mean_blocks, 2 * n), (count - mean_blocks, 0)):
            size = 2 * n + extra + depth * n * n
            data = self.bytes[start : start + blocks * size].reshape(blocks, size)
            scales.append(data[:, : 2 * n].copy().view("<u2").reshape(-1))
            means.append(data[:, 2 * n : 2 * n + extra].copy().view("<i2").reshape(-1))
            tiles = data[:, 2 * n + extra :].view(np.int8).reshape(blocks, depth, n, n)
            codes.append(tiles.transpose(0, 3, 1, 2).reshape(blocks * n, depth * n))
            start += blocks * size
        all_codes, all_scales = np.concatenate(codes), np.concatenate(scales)
        tail = self.bytes[start : packet.payload_offset + packet.payload_bytes]
        rest = (all_codes[packet.n_out :], all_codes[:, packet.k :], all_scales[packet.n_out :], tail)
        self._zero(packet, "padding", *rest)
        matrix = Matrix(all_codes[: packet.n_out, : packet.k], all_scales[: packet.n_out].astype(np.uint16))
        return matrix, np.concatenate(means).astype(np.int16)

    def heads(self, packet: Packet, matrix: Matrix) -> list[Matrix]:
        """The k, v and q matrices of a QKV packet, without head padding."""
        pad, kv, head_dim = (self.fields[name] for name in ("head_pad", "kv_heads", "head_dim"))
        codes = matrix.codes.reshape(-1, pad, packet.k)
        scales = matrix.scales.reshape(-1, pad)
        self._zero(packet, "head padding", codes[:, head_dim:], scales[:, head_dim:])
        spans = (slice(kv), slice(kv, 2 * kv), slice(2 * kv, None))
        return [
            Matrix(codes[span, :head_dim].reshape(-1, packet.k), scales[span, :head_dim].reshape(-1))
            for span in spans
        ]

    def means(self, packet: Packet, means: NDArray[np.int16]) -> NDArray[np.int16]:
        """k means, [kv_heads, head_dim]."""
        pad, kv, head_dim = (self.fields[name] for name in ("head_pad", "kv_heads", "head_dim"))
        own = means[: kv * pad].reshape(kv, pad)
        self._zero(packet, "padding of the k means", means[kv * pad :], own[:, head_dim:])
        return own[:, :head_dim]

    def head_inputs(self, packet: Packet, matrix: Matrix) -> Matrix:
        """The output projection without the padding of its inputs."""
        codes = matrix.codes.reshape(packet.n_out, -1, self.fields["head_pad"])
        self._zero(packet, "head padding", codes[..., self.fields["head_dim"] :])
        return Matrix(codes[..., : self.fields["head_dim"]].reshape(packet.n_out, -1), matrix.scales)

    def embedding(self) -> Matrix:
        """The embedding table."""
        rows = self._rows("embed_offset", "vocab", "embed_stride")
        codes = rows[:, self.fields["align"] :].view(np.int8)
        scales = rows[:, :2].copy().view("<u2").reshape(-1)
        if rows[:, 2 : self.fields["align"]].any() or codes[:, self.fields["dim"] :].any():
            raise ValueError("Tape field 'embedding table' must have zeros as padding")
        return Matrix(codes[:, : self.fields["dim"]], scales.astype(np.uint16))

    def rope(self) -> NDArray[np.int16]:
        """The RoPE table."""
        rows = self._rows("rope_offset", "context", "rope_stride")
        size, pairs = 2 * self.fields["head_pad"], self.fields["head_dim"] // 2
        table = rows[:, :size].copy().view("<i2").reshape(len(rows), -1, 2)
        rest = table[:, pairs:]
        if rows[:, size:].any() or (rest[..., 0] != 32767).any() or rest[..., 1].any():
            raise ValueError("Tape field 'RoPE table' must have pairs (32767, 0) and then zeros as padding")
        return table[:, :pairs].astype(np.int16)

    def _rows(self, offset: str, count: str, stride: str) -> NDArray[np.uint8]:
        start, rows, width = (self.fields[name] for name in (offset, count, stride))
        return self.bytes[start : start + rows * width].reshape(rows, width)

    def _zero(self, packet: Packet, what: str, *arrays: NDArray) -> None:
        if any(array.any() for array in arrays):
            raise ValueError(f"Tape field 'packets[{packet.index}].payload' must have zeros as {what}")
