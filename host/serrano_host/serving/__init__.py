# SPDX-License-Identifier: Apache-2.0
"""Serving many prompts with the driver and saying how it went: `serrano run`."""
