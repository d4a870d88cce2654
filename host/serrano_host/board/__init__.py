# SPDX-License-Identifier: Apache-2.0
"""Boards behind a serial line: frames, the link, a transport for the driver, a self-test."""

from .link import Link
from .transport import SerialTransport

__all__ = ["Link", "SerialTransport"]
