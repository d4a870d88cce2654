# SPDX-License-Identifier: Apache-2.0
"""Stream plumbing: buffers and slices that know nothing of what they carry."""

from .fifo import StreamFIFO
from .register import StreamRegister

__all__ = ["StreamFIFO", "StreamRegister"]
