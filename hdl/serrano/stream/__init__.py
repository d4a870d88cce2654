# SPDX-License-Identifier: Apache-2.0
"""Stream plumbing: buffers, slices and width changes that know nothing of what they carry."""

from .fifo import StreamFIFO
from .fork import Fork
from .gearbox import ByteWord, Gearbox
from .register import ForwardRegister, HalfRegister, PromptRegister, StreamRegister, StreamSlice

__all__ = [
    "ByteWord",
    "Fork",
    "ForwardRegister",
    "Gearbox",
    "HalfRegister",
    "PromptRegister",
    "StreamFIFO",
    "StreamRegister",
    "StreamSlice",
]
