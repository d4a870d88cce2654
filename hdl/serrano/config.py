# SPDX-License-Identifier: Apache-2.0
"""The configuration of an accelerator: what a user chooses, what follows from it, and the named presets."""

from dataclasses import dataclass

__all__ = ["PRESETS", "READS_MAX", "AcceleratorConfig", "preset"]

GROUP_TOKENS = 16
"""Tokens in a softmax group, a constant of the tape format."""

READS_MAX = 16
"""Bursts that are read at a time."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Build-time parameters of one accelerator.

    Everything about a *model* is a run-time value that comes from the tape; the ``*_max`` fields here only
    size buffers.

    Parameters
    ----------
    name : :class:`str`
        Name of the preset, for messages and file names.
    n : :class:`int`
        The array has ``n * n`` processing elements. A power of two from 4 to 64.
    port_bytes : :class:`int`
        Width of the memory port in bytes (``W``). A power of two from 2 to 64.
    lanes : :class:`int`
        Epilogue lanes (``L``): results handled per cycle. A power of two from 1 to
        ``n // 2``; attention takes at most 16.
    rows_max : :class:`int`
        Rows (tokens) in a step (``M_max``).
    dim_max, ffn_max : :class:`int`
        Largest model dimension and FFN dimension. Multiples of ``n``.
    heads_max : :class:`int`
        Most query heads.
    kv_width_max : :class:`int`
        Largest ``kv_heads * head_pad``. A multiple of ``n``.
    head_dim_max : :class:`int`
        Largest padded head dimension. A multiple of ``n``.
    vocab_max : :class:`int`
        Largest vocabulary.
    context_max : :class:`int`
        Longest sequence, in tokens. A multiple of 16.
    blocks_max : :class:`int`
        Most KV blocks, the NULL block included.
    sequences_max : :class:`int`
        Sequences open at a time.
    attention_rows_max : :class:`int`
        Rows (query tokens times query heads per KV head) of one attention item (``R_att``).
    lookahead : :class:`int`
        Items by which K tiles run ahead of their V tiles (``A``), covering the latency of softmax.
    address_bits : :class:`int`
        Width of a memory address.
    tape_fifo_bytes, read_burst_bytes : :class:`int`
        Capacity of the tape FIFO and the length of a full tape burst. The FIFO holds at least two bursts.
    memory_latency : :class:`int`
        Cycles from the address of a read to its first beat, up to which long reads take a beat in every
        cycle: it sizes the buffer of KV records, and what of the tape is asked for ahead. For weights the
        tape FIFO has to hold as many beats and two bursts.
    multiplier_latency : :class:`int`
        Cycles from operands to product in the array's multipliers; depends on the target's DSP blocks.
    held_weights : :class:`bool`
        The weight in use lies in an operand register of the array's multiplier, as DSP blocks have them,
        instead of in one of two planes. Less logic, but a tile is loaded only once the one before it is in
        use. Needs a ``multiplier_latency`` of at least 2.
    registered : :class:`bool`
        More registers where FPGAs need them: between the large blocks of the data path, behind memories with
        much logic, in products, in the scheduler's decisions, and in the KV controller, whose states take
        four cycles each. They cost latency, and no rate where the port is narrower than the array: some
        units take what comes in every other cycle at most.

    Raises
    ------
    ValueError
        If a field is out of range or fields do not fit each other.
    """

    name: str
    n: int
    port_bytes: int
    lanes: int
    rows_max: int
    dim_max: int
    ffn_max: int
    heads_max: int
    kv_width_max: int
    head_dim_max: int
    vocab_max: int
    context_max: int
    blocks_max: int
    sequences_max: int
    attention_rows_max: int
    lookahead: int = 4
    address_bits: int = 32
    tape_fifo_bytes: int = 4096
    read_burst_bytes: int = 1024
    memory_latency: int = 60
    multiplier_latency: int = 1
    held_weights: bool = False
    registered: bool = False

    def __post_init__(self) -> None:
        for field, low, high in (("n", 4, 64), ("port_bytes", 2, 64), ("lanes", 1, self.n // 2)):
            value = getattr(self, field)
            if not _power_of_two(value) or not low <= value <= high:
                raise ValueError(f"{field} must be a power of two from {low} to {high}, not {value!r}")
        for field in ("dim_max", "ffn_max", "kv_width_max", "head_dim_max"):
            value = getattr(self, field)
            if value <= 0 or value % self.n:
                raise ValueError(f"{field} must be a positive multiple of n ({self.n}), not {value!r}")
        if self.context_max <= 0 or self.context_max % GROUP_TOKENS:
            raise ValueError(f"context_max must be a positive multiple of 16, not {self.context_max!r}")
        if self.kv_width_max > self.dim_max * 2 or self.head_dim_max > self.kv_width_max:
            raise ValueError(
                f"head_dim_max ({self.head_dim_max!r}) must not exceed kv_width_max ({self.kv_width_max!r}), "
                f"nor that twice dim_max ({self.dim_max!r})"
            )
        for field in (
            "rows_max",
            "heads_max",
            "vocab_max",
            "sequences_max",
            "attention_rows_max",
            "lookahead",
            "memory_latency",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)!r}")
        if self.blocks_max < 2:
            raise ValueError(f"blocks_max must be at least 2 (block 0 is NULL), not {self.blocks_max!r}")
        if self.read_burst_bytes > 256 * self.port_bytes or self.read_burst_bytes > 4096:
            raise ValueError(
                f"read_burst_bytes must be at most 256 beats and 4096 bytes, not {self.read_burst_bytes!r}"
            )
        if self.held_weights and self.multiplier_latency < 2:
            raise ValueError(
                f"multiplier_latency must be at least 2 with held_weights, not {self.multiplier_latency!r}"
            )
        if self.tape_fifo_bytes < 2 * self.read_burst_bytes:
            raise ValueError(
                f"tape_fifo_bytes must hold two bursts ({2 * self.read_burst_bytes}), "
                f"not {self.tape_fifo_bytes!r}"
            )

    @property
    def read_burst_beats(self) -> int:
        """Beats of the port in the longest burst."""
        return self.read_burst_bytes // self.port_bytes

    @property
    def cover_beats(self) -> int:
        """Beats on their way that keep the port busy, also until one that has come makes room for another.

        No more than can be on their way.
        """
        most = (READS_MAX - 1) * self.read_burst_beats
        return min(self.memory_latency + (12 if self.registered else 4), most)

    @property
    def queue_beats(self) -> int:
        """Beats on their way below which more of the tape is asked for."""
        return max(3 * self.read_burst_beats // 2, self.cover_beats)

    @property
    def kv_fifo_beats(self) -> int:
        """Beats of KV records that are buffered at the port, or on their way."""
        return self.read_burst_beats + max(self.read_burst_beats, self.cover_beats)

    @property
    def load_bytes(self) -> int:
        """Width of the path that fills the array (``Wl``): twice the port where the port is ``n`` wide."""
        if self.port_bytes == self.n:
            return 2 * self.port_bytes
        return max(self.n, self.port_bytes)

    @property
    def load_beats(self) -> int:
        """Beats of the port in a unit of the load path."""
        return self.load_bytes // self.port_bytes

    @property
    def load_vectors(self) -> int:
        """Rows or columns of a tile that are written per cycle."""
        return self.load_bytes // self.n

    @property
    def tile_units(self) -> int:
        """Load-path units in a tile of ``n * n`` bytes."""
        return self.n * self.n // self.load_bytes

    @property
    def tape_align(self) -> int:
        """Alignment of a tape compiled for this accelerator."""
        return max(32, self.load_bytes)

    @property
    def input_max(self) -> int:
        """Longest reduction of a projection."""
        return max(self.dim_max, self.ffn_max)

    @property
    def head_chunks_max(self) -> int:
        """Chunks of ``n`` dimensions in the largest head."""
        return self.head_dim_max // self.n

    @property
    def group_tiles(self) -> int:
        """Tiles (along tokens) that a group of 16 tokens takes."""
        return -(-GROUP_TOKENS // self.n)

    @property
    def tile_tokens(self) -> int:
        """Tokens of a group in a tile; a larger array leaves the rest of it unused."""
        return min(GROUP_TOKENS, self.n)

    @property
    def table_entries(self) -> int:
        """Block-table entries per sequence."""
        return self.context_max // GROUP_TOKENS


PRESETS: dict[str, AcceleratorConfig] = {
    config.name: config
    for config in (
        AcceleratorConfig(
            name="tiny", n=4, port_bytes=4, lanes=2, rows_max=4, dim_max=256, ffn_max=1024, heads_max=16,
            kv_width_max=256, head_dim_max=128, vocab_max=65536, context_max=1024, blocks_max=128,
            sequences_max=8, attention_rows_max=8, tape_fifo_bytes=1024, read_burst_bytes=256,
        ),
        AcceleratorConfig(
            name="small", n=4, port_bytes=2, lanes=1, rows_max=4, dim_max=288, ffn_max=768, heads_max=8,
            kv_width_max=288, head_dim_max=64, vocab_max=32768, context_max=512, blocks_max=128,
            sequences_max=4, attention_rows_max=8, address_bits=25, tape_fifo_bytes=1024,
            read_burst_bytes=256, multiplier_latency=3, held_weights=True, registered=True,
        ),
        AcceleratorConfig(
            name="lean", n=4, port_bytes=2, lanes=1, rows_max=4, dim_max=288, ffn_max=768, heads_max=8,
            kv_width_max=288, head_dim_max=64, vocab_max=32768, context_max=512, blocks_max=128,
            sequences_max=4, attention_rows_max=8, address_bits=25, tape_fifo_bytes=1024,
            read_burst_bytes=256, multiplier_latency=3, held_weights=True,
        ),
        AcceleratorConfig(
            name="ulx3s", n=8, port_bytes=2, lanes=2, rows_max=16, dim_max=512, ffn_max=1536, heads_max=16,
            kv_width_max=512, head_dim_max=128, vocab_max=65536, context_max=2048, blocks_max=1024,
            sequences_max=32, attention_rows_max=32, tape_fifo_bytes=2048, read_burst_bytes=512,
            multiplier_latency=3, held_weights=True, registered=True,
        ),
        AcceleratorConfig(
            name="base", n=16, port_bytes=16, lanes=8, rows_max=16, dim_max=2048, ffn_max=8192, heads_max=64,
            kv_width_max=1024, head_dim_max=128, vocab_max=1 << 18, context_max=4096, blocks_max=4096,
            sequences_max=32, attention_rows_max=16, address_bits=40, tape_fifo_bytes=16384,
            read_burst_bytes=2048,
        ),
        AcceleratorConfig(
            name="wide", n=32, port_bytes=64, lanes=16, rows_max=64, dim_max=4096, ffn_max=16384,
            heads_max=64, kv_width_max=1024, head_dim_max=128, vocab_max=1 << 18, context_max=4096,
            blocks_max=8192, sequences_max=128, attention_rows_max=64, address_bits=40,
            tape_fifo_bytes=32768, read_burst_bytes=4096,
        ),
    )
}  # fmt: skip
"""Named configurations."""


def preset(name: str) -> AcceleratorConfig:
    """Return the preset called ``name``.

    Raises
    ------
    ValueError
        If there is no such preset; the message lists those that exist.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}") from None
