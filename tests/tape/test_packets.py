# SPDX-License-Identifier: Apache-2.0
"""The header's layout is the one of the tape format."""

import struct

from serrano.tape.packets import Header, Opcode
from serrano_sim.golden import tape as golden


def test_header_layout() -> None:
    raw = struct.pack("<BBHIIIIQI", 5, 1, 2, 3, 4, 64, 7, 0, 0xDEADBEEF)
    header = Header.from_bits(int.from_bytes(raw, "little"))
    assert (header.opcode, header.flags, header.layer, header.k) == (5, 1, 2, 3)
    assert (header.n_out, header.payload_bytes, header.index, header.crc) == (4, 64, 7, 0xDEADBEEF)


def test_opcodes_are_those_of_the_golden_reader() -> None:
    assert {op.name: op.value for op in Opcode} == {op.name: int(op) for op in golden.Opcode}
