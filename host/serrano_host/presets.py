# SPDX-License-Identifier: Apache-2.0
"""What the host knows of the hardware's presets: for tapes, estimates, and to know a board's accelerator.

A test compares this with the hardware's configurations.
"""

from dataclasses import dataclass

__all__ = ["MACHINES", "Machine"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The numbers of an accelerator that decide how long a step takes; names as in its configuration."""

    n: int
    port_bytes: int
    lanes: int
    rows_max: int
    attention_rows_max: int
    tape_fifo_bytes: int
    read_burst_bytes: int
    lookahead: int = 4
    memory_latency: int = 60
    multiplier_latency: int = 1
    registered: bool = False

    @property
    def load_bytes(self) -> int:
        """Width of the path that fills the array."""
        return 2 * self.port_bytes if self.port_bytes == self.n else max(self.n, self.port_bytes)

    @property
    def read_burst_beats(self) -> int:
        """Beats of the port in the longest burst."""
        return self.read_burst_bytes // self.port_bytes

    @property
    def cover_beats(self) -> int:
        """Beats on their way that keep the port busy."""
        return min(self.memory_latency + (12 if self.registered else 4), 15 * self.read_burst_beats)

    @property
    def queue_beats(self) -> int:
        """Beats on their way below which more of the tape is asked for."""
        return max(3 * self.read_burst_beats // 2, self.cover_beats)

    @property
    def kv_fifo_beats(self) -> int:
        """Beats of KV records that are buffered at the port, or on their way."""
        return self.read_burst_beats + max(self.read_burst_beats, self.cover_beats)

    @property
    def align(self) -> int:
        """Alignment of a tape."""
        return max(32, self.load_bytes)


MACHINES = {
    "tiny": Machine(
        n=4, port_bytes=4, lanes=2, rows_max=4, attention_rows_max=8, tape_fifo_bytes=1024,
        read_burst_bytes=256,
    ),
    "small": Machine(
        n=4, port_bytes=2, lanes=1, rows_max=4, attention_rows_max=8, tape_fifo_bytes=1024,
        read_burst_bytes=256, multiplier_latency=3, registered=True,
    ),
    "lean": Machine(
        n=4, port_bytes=2, lanes=1, rows_max=4, attention_rows_max=8, tape_fifo_bytes=1024,
        read_burst_bytes=256, multiplier_latency=3,
    ),
    "ulx3s": Machine(
        n=8, port_bytes=2, lanes=2, rows_max=16, attention_rows_max=32, tape_fifo_bytes=2048,
        read_burst_bytes=512, multiplier_latency=3, registered=True,
    ),
    "base": Machine(
        n=16, port_bytes=16, lanes=8, rows_max=16, attention_rows_max=16, tape_fifo_bytes=16384,
        read_burst_bytes=2048,
    ),
    "wide": Machine(
        n=32, port_bytes=64, lanes=16, rows_max=64, attention_rows_max=64, tape_fifo_bytes=32768,
        read_burst_bytes=4096,
    ),
}  # fmt: skip
"""The presets."""
