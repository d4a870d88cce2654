# SPDX-License-Identifier: Apache-2.0
"""Fault codes: distinct, stable, eight bits."""

from serrano.faults import FaultCode


def test_codes_are_distinct_and_fit() -> None:
    values = [code.value for code in FaultCode]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 256 for value in values)


def test_released_values() -> None:
    assert FaultCode.NONE.value == 0
    assert FaultCode.BUS_DECERR.value == 0x02
    assert FaultCode.DESCRIPTOR_MAGIC.value == 0x10
    assert FaultCode.PACKET_CRC.value == 0x24
    assert FaultCode.REQUEST_EMPTY.value == 0x40
