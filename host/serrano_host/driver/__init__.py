# SPDX-License-Identifier: Apache-2.0
"""The host's side of the accelerator: requests in, tokens out, over any transport (docs/driver.md)."""

from .device import Device, Event, Fault, Handle, Limits, Stats, fault_text
from .transport import Transport

__all__ = ["Device", "Event", "Fault", "Handle", "Limits", "Stats", "Transport", "fault_text"]
