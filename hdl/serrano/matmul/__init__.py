# SPDX-License-Identifier: Apache-2.0
"""The systolic array with its tile loader and accumulators."""

from .engine import Engine
from .payloads import RowBeat, TileUnit

__all__ = ["Engine", "RowBeat", "TileUnit"]
