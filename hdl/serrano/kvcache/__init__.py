# SPDX-License-Identifier: Apache-2.0
"""The paged KV cache: block manager, gather, append, and moves of blocks."""

from .appender import Appender
from .commands import Opcode, Stat, Status
from .controller import Controller
from .gather import Gather
from .mover import BlockMover
from .payloads import (
    BLOCK_SIZE,
    AppendCommand,
    GatherCommand,
    KVCommand,
    KVGeometry,
    KVPort,
    KVResponse,
    Place,
    RecordBeat,
    TranslatePort,
    TranslateRequest,
    Translation,
)

__all__ = [
    "BLOCK_SIZE",
    "AppendCommand",
    "Appender",
    "BlockMover",
    "Controller",
    "Gather",
    "GatherCommand",
    "KVCommand",
    "KVGeometry",
    "KVPort",
    "KVResponse",
    "Opcode",
    "Place",
    "RecordBeat",
    "Stat",
    "Status",
    "TranslatePort",
    "TranslateRequest",
    "Translation",
]
