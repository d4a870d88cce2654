# SPDX-License-Identifier: Apache-2.0
"""``make conformance``: recorded operations of software block managers on the KV controller's RTL."""

from .recording import Malformed
from .rtl import DEFAULT, Result, replay

__all__ = ["DEFAULT", "Malformed", "Result", "replay"]
