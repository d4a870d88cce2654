# SPDX-License-Identifier: Apache-2.0
"""The register table is consistent."""

import pytest

from serrano.csr.table import COUNTERS, REGISTERS, Access, register


def test_offsets_and_names_are_unique_and_ordered() -> None:
    offsets = [entry.offset for entry in REGISTERS]
    assert offsets == sorted(set(offsets))
    assert all(offset % 4 == 0 and offset < 4096 for offset in offsets)
    assert len({entry.name for entry in REGISTERS}) == len(REGISTERS)


def test_fields_fit_and_do_not_overlap() -> None:
    for entry in REGISTERS:
        used = 0
        for name, low, width, _ in entry.fields:
            bits = ((1 << width) - 1) << low
            assert bits < 1 << 32 and not used & bits, f"{entry.name}.{name}"
            used |= bits


def test_every_counter_has_two_registers() -> None:
    for name, _ in COUNTERS:
        low, high = register(f"COUNTER_{name.upper()}_LO"), register(f"COUNTER_{name.upper()}_HI")
        assert high.offset == low.offset + 4 and low.offset % 8 == 0
        assert low.access is Access.READ_ONLY


def test_unknown_register() -> None:
    with pytest.raises(KeyError, match="no register is called 'NOTHING'"):
        register("NOTHING")
