# SPDX-License-Identifier: Apache-2.0
"""Figures of the KV controller and its data path, measured on the RTL: ``python -m serrano_sim.kv_bench``."""
