# SPDX-License-Identifier: Apache-2.0
"""Frames of the UART bridge, as bytes."""

import random
import zlib

import pytest

from serrano.boards import frames as hardware
from serrano_host.board import frames
from serrano_host.board.frames import PAYLOAD_MAX, Command, Decoder, Frame, Identity, Status, encode


def test_layout():
    """As docs/uart-bridge.md has it."""
    found = encode(Frame(0x21, Command.READ, 1, bytes.fromhex("00010000 40000000"), 3))
    content = bytes.fromhex("21 01 01 03 0800 00010000 40000000")
    assert found == b"\xa5\x5e" + content + zlib.crc32(content).to_bytes(4, "little")


def test_there_and_back():
    rng = random.Random(1)
    sizes = [0, 1, 2, 3, 100, PAYLOAD_MAX, *(rng.randrange(40) for _ in range(50))]
    sent = [Frame(*rng.randbytes(3), payload=rng.randbytes(size), state=rng.randrange(256)) for size in sizes]
    data = b"".join(encode(frame) for frame in sent)
    decoder, found = Decoder(), []
    while data:
        size = rng.randrange(1, 30)
        found += decoder.feed(data[:size])
        data = data[size:]
    assert found == sent
    assert (decoder.dropped, decoder.bad, decoder.waiting) == (0, 0, 0)


@pytest.mark.parametrize("place", range(2, 20))
def test_one_wrong_bit(place):
    data = bytearray(encode(Frame(1, 2, 3, b"12345678")))
    assert len(data) == 20
    data[place] ^= 0x10
    after = encode(Frame(7, 0))
    decoder = Decoder()
    # A length that became larger takes bytes of what follows, until it is found wrong.
    found = decoder.feed(bytes(data) + b"\0" * 4200 + after)
    assert found == [Frame(7, 0)]
    assert decoder.bad >= 1


def test_garbage_before_and_between():
    decoder = Decoder()
    data = b"\xa5 \x5e\xa5" + encode(Frame(1, 0)) + b"\xa5\x5e\x00\x00\x00\x00\xff\xff" + encode(Frame(2, 0))
    assert [frame.sequence for frame in decoder.feed(data)] == [1, 2]
    assert decoder.dropped == 4 + 8
    decoder.feed(b"\xa5\x5e\x01")
    assert decoder.waiting == 3
    decoder.forget()
    assert decoder.waiting == 0


def test_too_long():
    with pytest.raises(ValueError, match=r"^a payload has at most 1028 bytes, not 1029$"):
        encode(Frame(0, 0, 0, bytes(1029)))


def test_identity():
    identity = Identity(1, 1028, 32 << 20, 10**8, 10**6, 2, 3, 4)
    assert len(identity.pack()) == 28
    assert Identity.unpack(identity.pack()) == identity
    with pytest.raises(ValueError, match=r"^no identity of a bridge: 00$"):
        Identity.unpack(b"\0")


def test_hardware_has_the_same_numbers():
    assert hardware.SYNC == frames.SYNC
    assert hardware.VERSION == frames.VERSION
    assert hardware.DATA_MAX + 4 == PAYLOAD_MAX
    assert {c.name: c.value for c in hardware.BridgeCommand} == {c.name: c.value for c in Command}
    assert {s.name: s.value for s in hardware.BridgeStatus} == {s.name: s.value for s in Status}
