# SPDX-License-Identifier: Apache-2.0
"""Cells that a target may replace with its own: on-chip memories and multipliers."""
