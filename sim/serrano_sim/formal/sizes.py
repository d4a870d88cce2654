# SPDX-License-Identifier: Apache-2.0
"""The configuration of the proofs."""

from serrano.config import AcceleratorConfig

from .reference import Sizes

__all__ = ["CONFIG", "SIZES"]

SIZES = Sizes(blocks=4, sequences=2, entries=3, reference_bits=2, generation_bits=2)

CONFIG = AcceleratorConfig(
    name="formal", n=4, port_bytes=4, lanes=2, rows_max=2, dim_max=8, ffn_max=8, heads_max=2, kv_width_max=8,
    head_dim_max=8, vocab_max=16, context_max=16 * SIZES.entries, blocks_max=SIZES.blocks,
    sequences_max=SIZES.sequences, attention_rows_max=2, address_bits=16, tape_fifo_bytes=64,
    read_burst_bytes=32, memory_latency=4,
)  # fmt: skip
"""Four blocks, two sequences of three entries, a memory port of four bytes."""
