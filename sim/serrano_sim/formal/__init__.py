# SPDX-License-Identifier: Apache-2.0
"""Proofs of the KV controller and of the streams and buses around it: ``docs/formal.md``."""
