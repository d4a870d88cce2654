# SPDX-License-Identifier: Apache-2.0
import struct
import zlib

import numpy as np
import pytest

from serrano_sim.golden import tape
from serrano_sim.golden.synthetic import random_model, write_tape

MODEL = random_model(3, layers=2, eos=5)
IMAGE = write_tape(MODEL, 16, 64)
PACKETS = tape.read_tape(IMAGE).packets


def patched(at, data, descriptor=False):
    """The image with other bytes at an offset; the descriptor's CRC is mended if it was meant."""
    image = bytearray(IMAGE)
    image[at : at + len(data)] = data
    if descriptor:
        image[252:256] = struct.pack("<I", zlib.crc32(image[:252]))
    return bytes(image)


def mended(image, index):
    """The image after packet `index` got the CRC that its bytes ask for."""
    packet = PACKETS[index]
    image = bytearray(image)
    payload = image[packet.payload_offset : packet.payload_offset + packet.payload_bytes]
    crc = zlib.crc32(image[packet.offset : packet.offset + 28] + payload)
    image[packet.offset + 28 : packet.offset + 32] = struct.pack("<I", crc)
    return bytes(image)


def test_reads_every_field():
    read = tape.read_tape(IMAGE)
    assert read.model.same(MODEL)
    assert tape.load_model(IMAGE).same(MODEL)
    assert (read.n, read.align, read.model.eos, read.model.bos) == (16, 64, 5, None)
    assert [packet.index for packet in read.packets] == list(range(19))
    names = [packet.opcode.name for packet in read.packets]
    layer = ["NORM", "QKV", "ATTEND", "MATMUL", "NORM", "GATE_UP", "MATMUL"]
    assert names == ["EMBED", *layer, *layer, "NORM", "MATMUL", "SAMPLE", "END"]
    assert [packet.layer for packet in read.packets] == [0xFFFF, *[0] * 7, *[1] * 7, *[0xFFFF] * 4]
    assert [packet.flags for packet in read.packets].count(1) == 1


@pytest.mark.parametrize(
    ("at", "kind", "value", "name"),
    [
        (0, "I", 1, "magic"),
        (4, "H", 2, "major"),
        (8, "I", 128, "descriptor_bytes"),
        (12, "I", 77, "image_bytes"),
        (16, "H", 12, "n"),
        (16, "H", 128, "n"),
        (18, "H", 48, "align"),
        (18, "H", 16, "align"),
        (20, "H", 32, "group"),
        (22, "H", 32, "block_size"),
        (24, "I", 0, "dim"),
        (24, "I", 63, "packets[0].n_out"),
        (28, "I", 100, "packets[6].n_out"),
        (32, "I", 3, "block_bytes"),
        (40, "I", 3, "kv_heads"),
        (44, "I", 9, "head_dim"),
        (44, "I", 4, "record_bytes"),
        (44, "I", 22, "head_dim"),
        (48, "I", 16, "head_pad"),
        (52, "I", 96, "packets[16].n_out"),
        (64, "I", 97, "bos"),
        (68, "I", 97, "eos"),
        (72, "I", 0, "program_offset"),
        (76, "I", 0, "head_offset"),
        (80, "I", 0, "end_offset"),
        (84, "I", 0, "program_end"),
        (88, "I", 0, "rope_offset"),
        (92, "I", 128, "rope_stride"),
        (96, "I", 0, "embed_offset"),
        (100, "I", 64, "embed_stride"),
        (104, "I", 12, "packets"),
        (108, "I", 16, "record_bytes"),
        (112, "I", 64, "block_bytes"),
        (200, "I", 0xFFFFFFFF, "name"),
    ],
)
def test_wrong_descriptor(at, kind, value, name):
    image = patched(at, struct.pack("<" + kind, value), descriptor=True)
    with pytest.raises(ValueError) as error:
        tape.read_tape(image)
    assert str(error.value).startswith(f"Tape field {name!r} must ")


def test_a_higher_minor_version_is_read():
    image = patched(6, struct.pack("<H", 7), descriptor=True)
    image = bytearray(image)
    image[116:120] = b"more"
    image[252:256] = struct.pack("<I", zlib.crc32(image[:252]))
    assert tape.load_model(bytes(image)).same(MODEL)


def test_descriptor_crc():
    with pytest.raises(ValueError, match=r"^Tape field 'crc' must be \d+, not \d+$"):
        tape.read_tape(patched(150, b"x"))


@pytest.mark.parametrize("size", [0, 255, 256, 1000, len(IMAGE) - 1])
def test_truncated(size):
    with pytest.raises(ValueError, match=r"^Tape field '(descriptor|image_bytes)' must "):
        tape.read_tape(IMAGE[:size])


def test_too_small_for_its_program():
    short = bytearray(IMAGE[:4096])
    short[12:16] = struct.pack("<I", 4096)
    short[252:256] = struct.pack("<I", zlib.crc32(short[:252]))
    with pytest.raises(ValueError, match=r"^Tape field 'image_bytes' is too small for packet 2$"):
        tape.read_tape(bytes(short))


@pytest.mark.parametrize(
    ("at", "kind", "value", "name"),
    [
        (0, "B", 0x08, "opcode"),
        (1, "B", 1, "flags"),
        (2, "H", 1, "layer"),
        (4, "I", 65, "k"),
        (8, "I", 127, "n_out"),
        (12, "I", 64, "payload_bytes"),
        (16, "I", 3, "index"),
        (28, "I", 0, "crc"),
    ],
)
def test_wrong_packet(at, kind, value, name):
    image = patched(PACKETS[2].offset + at, struct.pack("<" + kind, value))
    with pytest.raises(ValueError) as error:
        tape.read_tape(image)
    assert str(error.value).startswith(f"Tape field 'packets[2].{name}' must be ")


def test_flipped_payload_bit():
    packet = PACKETS[6]
    at = packet.payload_offset + 1000
    with pytest.raises(ValueError, match=r"^Tape field 'packets\[6\].crc' must be \d+, not \d+$"):
        tape.read_tape(patched(at, bytes([IMAGE[at] ^ 1])))


def test_padding_must_be_zero():
    # The last block of the head: vocabulary 97, 1 of 16 channels in use.
    head = PACKETS[-3]
    last = head.payload_offset + 6 * (32 + 4 * 256)
    for at in (last + 2, last + 32 + 1):
        image = mended(patched(at, b"\1"), head.index)
        with pytest.raises(
            ValueError, match=r"^Tape field 'packets\[16\].payload' must have zeros as padding$"
        ):
            tape.read_tape(image)
    fields = tape.read_tape(IMAGE).fields
    with pytest.raises(ValueError, match=r"^Tape field 'embedding table' must have zeros as padding$"):
        tape.read_tape(patched(fields["embed_offset"] + 2, b"\1"))
    with pytest.raises(
        ValueError, match=r"^Tape field 'RoPE table' must have pairs \(32767, 0\) and then zeros"
    ):
        tape.read_tape(patched(fields["rope_offset"] + 2 * fields["head_pad"], b"\1"))


def test_head_padding_must_be_zero():
    model = random_model(4, layers=1, head_dim=4, heads=4, kv_heads=2)
    image = bytearray(write_tape(model, 16, 32))
    packet = tape.read_tape(bytes(image)).packets[2]
    # Head 0 of k has channels 0 to 3 of a block, 4 to 7 are padding: their scales, k means and codes.
    for at, what in ((8, "head padding"), (32 + 8, "padding of the k means"), (64 + 4, "head padding")):
        wrong = bytearray(image)
        wrong[packet.payload_offset + at] = 1
        payload = wrong[packet.payload_offset : packet.payload_offset + packet.payload_bytes]
        crc = zlib.crc32(wrong[packet.offset : packet.offset + 28] + payload)
        wrong[packet.offset + 28 : packet.offset + 32] = struct.pack("<I", crc)
        with pytest.raises(
            ValueError, match=rf"^Tape field 'packets\[2\].payload' must have zeros as {what}$"
        ):
            tape.read_tape(bytes(wrong))


@pytest.mark.parametrize(
    ("head_dim", "n", "pad"),
    [
        (8, 4, 8),
        (8, 16, 8),
        (8, 32, 16),
        (4, 16, 8),
        (6, 8, 8),
        (20, 16, 32),
        (48, 16, 48),
        (48, 32, 64),
        (2, 64, 32),
    ],
)
def test_head_pad(head_dim, n, pad):
    assert tape.head_pad(head_dim, n) == pad


def test_payload_bytes():
    assert tape.payload_bytes(tape.Opcode.NORM, 64, 0, 16, 64) == 0
    assert tape.payload_bytes(tape.Opcode.MATMUL, 17, 17, 16, 64) == -(-2 * (32 + 512) // 64) * 64
    assert tape.payload_bytes(tape.Opcode.QKV, 16, 64, 16, 64, 20) == -(-(4 * (32 + 256) + 2 * 32) // 64) * 64


def test_large_values_survive():
    # Codes of -128 and every packed scale come back as they are.
    codes = np.arange(97 * 64).reshape(97, 64).astype(np.int8)
    head = tape.Matrix(codes, np.arange(97, dtype=np.uint16) * 675)
    model = tape.dataclasses.replace(MODEL, head=head)
    assert tape.load_model(write_tape(model, 8, 32)).same(model)
