# SPDX-License-Identifier: Apache-2.0
"""The host's reader of tapes: every byte of descriptor and packets that is wrong is named."""

import dataclasses
import re
import struct
import zlib

import pytest

from serrano_host.checkpoints import open_checkpoint
from serrano_host.compile import Geometry, compile_tape
from serrano_host.errors import TapeError
from serrano_host.quantize import quantize
from serrano_host.tape import Opcode, head_pad, open_tape, read_tape
from support.checkpoint_files import Shape, random_weights, write_hugging_face

SHAPE = Shape(dim=24, ffn=20, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=300, context=20)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = write_hugging_face(tmp_path_factory.mktemp("tape") / "model", SHAPE, random_weights(SHAPE))
    return compile_tape(quantize(open_checkpoint(folder)), Geometry(8, 32))


def patched(image, offset, raw, crc=True):
    out = bytearray(image)
    out[offset : offset + len(raw)] = raw
    if crc:
        struct.pack_into("<I", out, 252, zlib.crc32(out[:252]))
    return bytes(out)


def test_right_tape(image):
    tape = read_tape(image)
    d = tape.descriptor
    assert (d.n, d.align, d.dim, d.vocab, d.bos, d.eos, d.name) == (8, 32, 24, 300, 1, 2, "model")
    layer = ["NORM", "QKV", "ATTEND", "MATMUL residual", "NORM", "GATE_UP", "MATMUL residual"]
    wanted = ["EMBED", *layer, *layer, "NORM", "MATMUL logits", "SAMPLE", "END"]
    assert [packet.label for packet in tape.packets] == wanted
    # Lengths by hand: QKV has 64 outputs, thus 8 blocks, two of them with k means.
    assert tape.packets[2].payload_bytes == 8 * (16 + 3 * 64) + 2 * 16
    assert tape.packets[4].payload_bytes == 3 * (16 + 4 * 64) + 16
    assert d.record_bytes == 16 * 20 and d.block_bytes == 4 * 16 * 20
    assert d.head_offset == tape.packets[15].offset and d.end_offset == tape.packets[18].offset
    assert d.program_end == d.end_offset + 32 and d.image_bytes == len(image)


@pytest.mark.parametrize(
    ("head_dim", "n", "wanted"),
    [(48, 16, 48), (48, 32, 64), (8, 16, 8), (4, 16, 8), (2, 64, 32), (6, 8, 8), (6, 16, 8), (24, 16, 32)],
)
def test_head_padding(head_dim, n, wanted):
    assert head_pad(head_dim, n) == wanted


@pytest.mark.parametrize(
    ("offset", "raw", "message"),
    [
        (0, b"GGUF", "not a tape: magic must be b'SRNO', not b'GGUF'"),
        (4, b"\2\0", "descriptor: major version must be 1, not 2"),
        (8, struct.pack("<I", 512), "descriptor: descriptor_bytes must be 256, not 512"),
        (16, struct.pack("<H", 12), "descriptor: n must be a power of two in 4 to 64, not 12"),
        (18, struct.pack("<H", 16), "descriptor: align must be a power of two of at least 32, not 16"),
        (20, struct.pack("<H", 32), "descriptor: group must be 16, not 32"),
        (22, struct.pack("<H", 32), "descriptor: block_size must be 16, not 32"),
        (24, struct.pack("<I", 0), "descriptor: dim must be positive, not 0"),
        (40, struct.pack("<I", 3), "descriptor: heads must be a multiple of kv_heads 3, not 4"),
        (44, struct.pack("<I", 7), "descriptor: head_dim must be positive and even, not 7"),
        (44, struct.pack("<I", 14), "descriptor: head_dim must be 0 or a power of two modulo n 8, not 14"),
        (48, struct.pack("<I", 16), "descriptor: head_pad must be 8, not 16"),
        (64, struct.pack("<I", 300), "descriptor: bos must be none or below vocab 300, not 300"),
        (72, struct.pack("<I", 288), "descriptor: program_offset must be 256, not 288"),
        (92, struct.pack("<I", 64), "descriptor: rope_stride must be 32, not 64"),
        (104, struct.pack("<I", 20), "descriptor: packets must be 19, not 20"),
        (108, struct.pack("<I", 0), "descriptor: record_bytes must be 320, not 0"),
        (112, struct.pack("<I", 64), "descriptor: block_bytes must be 1280, not 64"),
    ],
)
def test_wrong_descriptor(image, offset, raw, message):
    with pytest.raises(TapeError, match=f"^{re.escape(message)}$"):
        read_tape(patched(image, offset, raw))


@pytest.mark.parametrize(("offset", "name"), [(76, "head_offset"), (80, "end_offset"), (84, "program_end")])
def test_wrong_offsets(image, offset, name):
    (value,) = struct.unpack_from("<I", image, offset)
    wrong = patched(image, offset, struct.pack("<I", value + 1))
    with pytest.raises(TapeError, match=r"descriptor: .* must be"):
        read_tape(wrong)


def test_descriptor_crc(image):
    with pytest.raises(TapeError, match=r"^descriptor: crc must be 0x[0-9a-f]{8}, not 0x[0-9a-f]{8}$"):
        read_tape(patched(image, 30, b"\1", crc=False))


def test_higher_minor_version_is_accepted(image):
    assert read_tape(patched(image, 6, b"\7\0")).descriptor.minor == 7


def test_truncated_and_longer(image):
    for length in (0, 3, 255):
        with pytest.raises(TapeError, match=rf"truncated in the descriptor: {length} bytes, needs 256"):
            read_tape(image[:length])
    for length in (256, 5000, len(image) - 1):
        with pytest.raises(
            TapeError, match=f"^truncated: image_bytes is {len(image)}, the file has {length}$"
        ):
            read_tape(image[:length])
    with pytest.raises(TapeError, match=r"^bytes behind its end: image_bytes is"):
        read_tape(image + b"\0")


def test_each_payload_is_guarded(image):
    for packet in read_tape(image).packets:
        if packet.payload_bytes:
            last = packet.offset + 32 + packet.payload_bytes - 1
            wrong = bytearray(image)
            wrong[last] ^= 0x80
            message = rf"^packet {packet.index} at offset {packet.offset} \({packet.label}\): crc must be"
            with pytest.raises(TapeError, match=message):
                read_tape(wrong)


@pytest.mark.parametrize(
    ("at", "raw", "message"),
    [
        (0, b"\x09", "opcode must be 0x03 (QKV), not 0x09"),
        (1, b"\x01", "flags must be 0, not 1"),
        (2, b"\x05\x00", "layer must be 0, not 5"),
        (4, b"\xff", "k must be 24, not 255"),
        (8, b"\xff", "n_out must be 64, not 255"),
        (12, b"\x00", "payload_bytes must be 1696, not 1536"),
        (16, b"\x07", "index must be 2, not 7"),
        (20, b"\x01", " (QKV): crc must be"),
    ],
)
def test_wrong_packet_header(image, at, raw, message):
    offset = read_tape(image).packets[2].offset
    with pytest.raises(TapeError, match=re.escape(message)):
        read_tape(patched(image, offset + at, raw))


def test_open_tape_names_the_file(tmp_path, image):
    path = tmp_path / "a.tape"
    path.write_bytes(image[:100])
    with pytest.raises(TapeError, match=re.escape(f"{path}: truncated in the descriptor")):
        open_tape(path)
    with pytest.raises(TapeError, match=r"b\.tape: No such file or directory"):
        open_tape(tmp_path / "b.tape")
    path.write_bytes(image)
    assert open_tape(path).packets[1].opcode is Opcode.NORM


def test_descriptor_survives(image):
    d = read_tape(image).descriptor
    assert d.pack() == image[:256]
    without = dataclasses.replace(d, bos=None, eos=None)
    assert type(d).unpack(without.pack()) == without
