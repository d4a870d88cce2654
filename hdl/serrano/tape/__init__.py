# SPDX-License-Identifier: Apache-2.0
"""The tape: its packets, the reader that checks them, and the unpacker of weight blocks."""
