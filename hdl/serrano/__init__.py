# SPDX-License-Identifier: Apache-2.0
"""Serrano's hardware, written in Amaranth."""
