# SPDX-License-Identifier: Apache-2.0
"""The memory port: AXI4 signatures, and the arbiters that share its read and its write channels."""

from .axi import AXI4Lite, AXI4Read, AXI4Write
from .faults import BusFault
from .read import ReadArbiter, ReadBeat, ReadClient, ReadPort
from .slice import AXISlice
from .words import RECORD_BYTES, RecordWriter, WordReader
from .write import WriteArbiter, WritePort, WriteRequest

__all__ = [
    "RECORD_BYTES",
    "AXI4Lite",
    "AXI4Read",
    "AXI4Write",
    "AXISlice",
    "BusFault",
    "ReadArbiter",
    "ReadBeat",
    "ReadClient",
    "ReadPort",
    "RecordWriter",
    "WordReader",
    "WriteArbiter",
    "WritePort",
    "WriteRequest",
]
