# SPDX-License-Identifier: Apache-2.0
"""The tape format (docs/tape.md): descriptor, packet headers, and a reader that checks all of it."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path

from serrano_host.errors import TapeError

MAGIC = b"SRNO"
MAJOR, MINOR = 1, 0
DESCRIPTOR_BYTES = 256
HEADER_BYTES = 32
NAME_BYTES = 52
GROUP = BLOCK_SIZE = 16
NO_TOKEN = 0xFFFFFFFF
NO_LAYER = 0xFFFF
FLAG_LOGITS = 1

_DESCRIPTOR = struct.Struct("<4sHHIIHHHH9IHH13I84x52sI")
_HEADER = struct.Struct("<BBHIIII8xI")


class Opcode(IntEnum):
    """What a packet tells the device to do."""

    EMBED = 0x01
    NORM = 0x02
    QKV = 0x03
    ATTEND = 0x04
    MATMUL = 0x05
    GATE_UP = 0x06
    SAMPLE = 0x07
    END = 0x0F


def round_up(value: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-value // unit) * unit


def power_of_two(value: int) -> bool:
    """True for 1, 2, 4 ..."""
    return value > 0 and value & (value - 1) == 0


def head_pad(head_dim: int, n: int) -> int:
    """Channels of one head in the tape (section 3)."""
    if head_dim >= n:
        return round_up(head_dim, n)
    return max(1 << (head_dim - 1).bit_length(), n // 2)


@dataclass(frozen=True)
class Descriptor:
    """The first 256 bytes, field by field in the order of docs/tape.md (magic, sizes and CRC aside)."""

    image_bytes: int
    n: int
    align: int
    dim: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    head_pad: int
    vocab: int
    context: int
    s_eps: int
    s_score: int
    bos: int | None
    eos: int | None
    program_offset: int
    head_offset: int
    end_offset: int
    program_end: int
    rope_offset: int
    rope_stride: int
    embed_offset: int
    embed_stride: int
    packets: int
    record_bytes: int
    block_bytes: int
    name: str
    group: int = GROUP
    block_size: int = BLOCK_SIZE
    major: int = MAJOR
    minor: int = MINOR

    def pack(self) -> bytes:
        """The bytes, CRC included."""
        name = self.name.encode()[:NAME_BYTES].decode(errors="ignore").encode()
        bos, eos = (NO_TOKEN if t is None else t for t in (self.bos, self.eos))
        raw = _DESCRIPTOR.pack(
            *(MAGIC, self.major, self.minor, DESCRIPTOR_BYTES, self.image_bytes),
            *(self.n, self.align, self.group, self.block_size, self.dim, self.ffn, self.layers, self.heads),
            *(
                self.kv_heads,
                self.head_dim,
                self.head_pad,
                self.vocab,
                self.context,
                self.s_eps,
                self.s_score,
            ),
            *(bos, eos, self.program_offset, self.head_offset, self.end_offset, self.program_end),
            *(self.rope_offset, self.rope_stride, self.embed_offset, self.embed_stride),
            *(self.packets, self.record_bytes, self.block_bytes, name, 0),
        )
        return raw[:-4] + struct.pack("<I", zlib.crc32(raw[:-4]))

    @classmethod
    def unpack(cls, raw: bytes) -> "Descriptor":
        """Read and check the descriptor at the start of `raw`."""
        if raw[:4] != MAGIC[: len(raw[:4])]:
            raise TapeError(f"not a tape: magic must be {MAGIC!r}, not {bytes(raw[:4])!r}")
        if len(raw) < DESCRIPTOR_BYTES:
            raise TapeError(f"truncated in the descriptor: {len(raw)} bytes, needs {DESCRIPTOR_BYTES}")
        raw = bytes(raw[:DESCRIPTOR_BYTES])
        v = list(_DESCRIPTOR.unpack(raw))
        if v[1] != MAJOR:
            raise TapeError(f"descriptor: major version must be {MAJOR}, not {v[1]}")
        if v[-1] != zlib.crc32(raw[:-4]):
            raise TapeError(f"descriptor: crc must be {zlib.crc32(raw[:-4]):#010x}, not {v[-1]:#010x}")
        if v[3] != DESCRIPTOR_BYTES:
            raise TapeError(f"descriptor: descriptor_bytes must be {DESCRIPTOR_BYTES}, not {v[3]}")
        named = dict(
            zip(
                "major minor descriptor_bytes image_bytes n align group block_size dim ffn layers heads"
                " kv_heads head_dim head_pad vocab context s_eps s_score bos eos program_offset head_offset"
                " end_offset program_end rope_offset rope_stride embed_offset embed_stride packets"
                " record_bytes block_bytes".split(),
                v[1:-2],
                strict=True,
            )
        )
        del named["descriptor_bytes"]
        for token in ("bos", "eos"):
            named[token] = None if named[token] == NO_TOKEN else named[token]
        found = cls(name=v[-2].rstrip(b"\0").decode(errors="replace"), **named)
        found.check()
        return found

    def check(self) -> None:
        """Refuse fields that contradict each other or the format."""
        rules: list[tuple[str, bool, str]] = [
            ("n", power_of_two(self.n) and 4 <= self.n <= 64, "a power of two in 4 to 64"),
            ("align", power_of_two(self.align) and self.align >= 32, "a power of two of at least 32"),
            ("group", self.group == GROUP, f"{GROUP}"),
            ("block_size", self.block_size == BLOCK_SIZE, f"{BLOCK_SIZE}"),
        ]
        rules += [
            (name, getattr(self, name) > 0, "positive")
            for name in ("dim", "ffn", "layers", "heads", "kv_heads", "vocab", "context")
        ]
        rules.append(("head_dim", self.head_dim > 0 and self.head_dim % 2 == 0, "positive and even"))
        self._apply(rules)
        tail = self.head_dim % self.n
        self._apply(
            [
                ("heads", self.heads % self.kv_heads == 0, f"a multiple of kv_heads {self.kv_heads}"),
                ("head_dim", tail == 0 or power_of_two(tail), f"0 or a power of two modulo n {self.n}"),
                ("bos", self.bos is None or self.bos < self.vocab, f"none or below vocab {self.vocab}"),
                ("eos", self.eos is None or self.eos < self.vocab, f"none or below vocab {self.vocab}"),
            ]
        )
        end = self.embed_offset + self.vocab * self.embed_stride
        record = self.block_size * (2 * self.head_dim + 4)
        block = round_up(self.layers * self.kv_heads * record, 64)
        expected = {
            "head_pad": head_pad(self.head_dim, self.n),
            "program_offset": round_up(DESCRIPTOR_BYTES, self.align),
            "rope_offset": round_up(self.program_end, self.align),
            "rope_stride": round_up(2 * head_pad(self.head_dim, self.n), self.align),
            "embed_offset": round_up(self.rope_offset + self.context * self.rope_stride, self.align),
            "embed_stride": round_up(self.align + self.dim, self.align),
            "packets": 7 * self.layers + 5,
            "record_bytes": record,
            "block_bytes": block,
            "image_bytes": end,
        }
        self._apply([(name, getattr(self, name) == value, str(value)) for name, value in expected.items()])

    def _apply(self, rules: list[tuple[str, bool, str]]) -> None:
        for name, right, rule in rules:
            if not right:
                value = getattr(self, name)
                raise TapeError(
                    f"descriptor: {name} must be {rule}, not {'none' if value is None else value}"
                )

    def program(self) -> Iterator["Packet"]:
        """The packets that this model's program consists of, in order, with their offsets; CRCs are 0."""
        wide = self.heads * self.head_pad
        qkv = (2 * self.kv_heads + self.heads) * self.head_pad
        layer = [
            (Opcode.NORM, 0, self.dim, 0),
            (Opcode.QKV, 0, self.dim, qkv),
            (Opcode.ATTEND, 0, 0, wide),
            (Opcode.MATMUL, 0, wide, self.dim),
            (Opcode.NORM, 0, self.dim, 0),
            (Opcode.GATE_UP, 0, self.dim, 2 * self.ffn),
            (Opcode.MATMUL, 0, self.ffn, self.dim),
        ]
        outside = [
            [(Opcode.EMBED, 0, 0, self.dim)],
            [
                (Opcode.NORM, 0, self.dim, 0),
                (Opcode.MATMUL, FLAG_LOGITS, self.dim, self.vocab),
                (Opcode.SAMPLE, 0, 0, self.vocab),
                (Opcode.END, 0, 0, 0),
            ],
        ]
        parts = [(NO_LAYER, outside[0]), *((i, layer) for i in range(self.layers)), (NO_LAYER, outside[1])]
        offset, index = round_up(DESCRIPTOR_BYTES, self.align), 0
        for number, packets in parts:
            for opcode, flags, k, n_out in packets:
                size = self.payload_bytes(opcode, k, n_out)
                yield Packet(offset, opcode, flags, number, k, n_out, size, index, 0)
                offset += self.align + size
                index += 1

    def payload_bytes(self, opcode: Opcode, k: int, n_out: int) -> int:
        """Length of a packet's payload (section 3)."""
        if opcode not in (Opcode.QKV, Opcode.MATMUL, Opcode.GATE_UP):
            return 0
        blocks, tiles = -(-n_out // self.n), -(-k // self.n)
        size = blocks * (2 * self.n + tiles * self.n**2)
        if opcode is Opcode.QKV:
            size += 2 * self.n * -(-self.kv_heads * self.head_pad // self.n)
        return round_up(size, self.align)


@dataclass(frozen=True)
class Packet:
    """A packet's header, and where in the image it lies."""

    offset: int
    opcode: Opcode
    flags: int
    layer: int
    k: int
    n_out: int
    payload_bytes: int
    index: int
    crc: int

    @property
    def label(self) -> str:
        """For people: the operation and what it computes."""
        if self.opcode is not Opcode.MATMUL:
            return self.opcode.name
        return "MATMUL logits" if self.flags & FLAG_LOGITS else "MATMUL residual"

    def header(self, align: int, payload: bytes | memoryview) -> bytes:
        """The header of `align` bytes, with the CRC over itself and the payload."""
        raw = _HEADER.pack(
            self.opcode, self.flags, self.layer, self.k, self.n_out, self.payload_bytes, self.index, 0
        )[:-4]
        return (raw + struct.pack("<I", zlib.crc32(payload, zlib.crc32(raw)))).ljust(align, b"\0")


@dataclass(frozen=True)
class Tape:
    """A checked tape."""

    descriptor: Descriptor
    packets: list[Packet]


def read_packet(image: memoryview, expected: Packet, align: int) -> Packet:
    """Read and check the packet that belongs at an offset."""
    where = f"packet {expected.index} at offset {expected.offset}"
    values = _HEADER.unpack(image[expected.offset : expected.offset + HEADER_BYTES])
    named = dict(zip("opcode flags layer k n_out payload_bytes index crc".split(), values, strict=True))
    for name, value in named.items():
        if name != "crc" and value != getattr(expected, name):
            text, right = str(value), str(int(getattr(expected, name)))
            if name == "opcode":
                text, right = f"{value:#04x}", f"{expected.opcode:#04x} ({expected.opcode.name})"
            raise TapeError(f"{where}: {name} must be {right}, not {text}")
    body = image[expected.offset : expected.offset + align + expected.payload_bytes]
    crc = zlib.crc32(body[align:], zlib.crc32(body[:28]))
    if crc != named["crc"]:
        raise TapeError(f"{where} ({expected.label}): crc must be {crc:#010x}, not {named['crc']:#010x}")
    return Packet(**{f.name: getattr(expected, f.name) for f in fields(Packet)} | {"crc": crc})


def read_tape(image: bytes | memoryview) -> Tape:
    """Check a whole image and list its packets.

    Raises
    ------
    TapeError
        Naming the descriptor's field, or the packet and its field, that is wrong.
    """
    image = memoryview(image)
    descriptor = Descriptor.unpack(bytes(image[:DESCRIPTOR_BYTES]))
    if len(image) != descriptor.image_bytes:
        kind = "truncated" if len(image) < descriptor.image_bytes else "bytes behind its end"
        raise TapeError(f"{kind}: image_bytes is {descriptor.image_bytes}, the file has {len(image)}")
    program = list(descriptor.program())
    expected = {
        "head_offset": program[-4].offset,
        "end_offset": program[-1].offset,
        "program_end": program[-1].offset + descriptor.align,
    }
    descriptor._apply([(name, getattr(descriptor, name) == v, str(v)) for name, v in expected.items()])
    return Tape(descriptor, [read_packet(image, packet, descriptor.align) for packet in program])


def open_tape(path: str | Path) -> Tape:
    """Read and check a tape file."""
    path = Path(path)
    try:
        return read_tape(path.read_bytes())
    except OSError as error:
        raise TapeError(f"{path}: {error.strerror or error}") from error
    except TapeError as error:
        raise TapeError(f"{path}: {error}") from error
