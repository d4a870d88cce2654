# SPDX-License-Identifier: Apache-2.0
"""How the arbiters of the memory port report errors."""

from collections.abc import Sequence

from amaranth.lib import data

from serrano.config import AcceleratorConfig
from serrano.layouts import tag_bits

__all__ = ["BusFault", "client_bits"]

CLIENT_BITS = 4
"""Width of a client's number in a fault."""


def client_bits(names: Sequence[str]) -> int:
    """Width of the number of one of these clients: enough for a register with one.

    Raises
    ------
    ValueError
        If there are none, too many for a :class:`BusFault`, or two with the same name.
    """
    if not 1 <= len(names) <= 1 << CLIENT_BITS:
        raise ValueError(f"A port must have 1 to {1 << CLIENT_BITS} clients, not {len(names)}")
    if len(set(names)) != len(names):
        raise ValueError(f"Clients of a port must have names of their own, not {list(names)!r}")
    return max(1, (len(names) - 1).bit_length())


class BusFault(data.StructLayout):
    """An error response of the memory, in the cycles with ``valid``.

    ``client`` is the number of the arbiter's client that had asked, ``address`` that of the burst; ``decode``
    tells DECERR from SLVERR. ``apart``: the client is not part of a step. ``tag`` is that of the request.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "valid": 1,
                "client": CLIENT_BITS,
                "address": config.address_bits,
                "decode": 1,
                "apart": 1,
                "tag": tag_bits(config),
            }
        )
