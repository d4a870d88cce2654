# SPDX-License-Identifier: Apache-2.0
"""BusFault and the numbers of clients."""

import re

import pytest
from amaranth.lib import data

from serrano.bus.faults import BusFault, client_bits
from serrano.config import preset


def test_layout() -> None:
    for name in ("tiny", "base"):
        config = preset(name)
        fault = BusFault(config)
        assert isinstance(fault, data.StructLayout)
        assert fault["address"].width == config.address_bits
        # Every number of a client fits.
        assert client_bits([str(i) for i in range(16)]) == fault["client"].width == 4


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 4), (16, 4)])
def test_client_bits(count: int, bits: int) -> None:
    assert client_bits([f"c{i}" for i in range(count)]) == bits


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "A port must have 1 to 16 clients, not 0"),
        (["x"] * 17, "A port must have 1 to 16 clients, not 17"),
        (["x", "y", "x"], "Clients of a port must have names of their own, not ['x', 'y', 'x']"),
    ],
)
def test_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        client_bits(names)
