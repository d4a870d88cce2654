# SPDX-License-Identifier: Apache-2.0
"""All proofs."""

from __future__ import annotations

from .of_buses import BUSES
from .of_controller import CONTROLLER
from .of_lookups import LOOKUPS
from .of_records import RECORDS
from .of_streams import STREAMS
from .proofs import Proof

__all__ = ["PROOFS"]

PROOFS: tuple[Proof, ...] = (*STREAMS, *BUSES, *LOOKUPS, *RECORDS, *CONTROLLER)
