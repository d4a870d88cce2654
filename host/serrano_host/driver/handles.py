# SPDX-License-Identifier: Apache-2.0
"""What the driver tells of requests and of the accelerator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .registers import FAULT_TEXTS, FaultCode

__all__ = ["Event", "Fault", "Handle", "Limits", "Stats", "fault_text"]


def fault_text(code: int) -> str:
    """A fault code for people."""
    if code in FAULT_TEXTS:
        return f"{FaultCode(code).name}: {FAULT_TEXTS[FaultCode(code)]}"
    return f"fault {code:#04x}"


@dataclass(eq=False)
class Handle:
    """A request that was submitted. The driver fills it in; only read it.

    Parameters
    ----------
    number : int
        Index of its entry in the submission ring since reset, modulo 2^32; its id as well.
    prompt_tokens, max_new, tenant : int
        As it was submitted.
    submitted : int or None
        Cycle of the doorbell, where the transport knows cycles; likewise in what follows.
    tokens : list of int
        What has come so far.
    cycles : list of (int or None)
        When each token was seen.
    status : int
        0, or the fault code that ended it.
    ended : bool
        Whether it is over.
    ended_at : int or None
        When that was seen.
    sequence : int or None
        The KV sequence it has or had, once a record has told.
    """

    number: int
    prompt_tokens: int
    max_new: int
    tenant: int = 0
    submitted: int | None = None
    tokens: list[int] = field(default_factory=list)
    cycles: list[int | None] = field(default_factory=list)
    status: int = 0
    ended: bool = False
    ended_at: int | None = None
    sequence: int | None = None

    @property
    def cancelled(self) -> bool:
        """Whether it ended because it was cancelled."""
        return self.status == FaultCode.REQUEST_CANCELLED

    @property
    def error(self) -> str | None:
        """Why it ended before its time, for people; ``None`` if it did not."""
        return fault_text(self.status) if self.status else None


@dataclass(frozen=True)
class Event:
    """Something that came from the accelerator: a token, the end of a request, or both.

    ``token`` is ``None`` in an end without one; ``cycle`` is when the driver saw it.
    """

    handle: Handle
    token: int | None
    ended: bool
    cycle: int | None


@dataclass(frozen=True)
class Fault:
    """The first fault since the one before, and how many there were."""

    code: int
    packet: int
    sequence: int
    detail: int
    address: int
    count: int

    def __str__(self):
        more = f", and {self.count - 1} more" if self.count > 1 else ""
        return (
            f"{fault_text(self.code)} (packet {self.packet}, sequence {self.sequence}, detail"
            f" {self.detail:#x}, address {self.address:#x}){more}"
        )


@dataclass(frozen=True)
class Limits:
    """The constant registers of an accelerator."""

    version: tuple[int, int]
    n: int
    port_bytes: int
    load_bytes: int
    lanes: int
    align: int
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


@dataclass(frozen=True)
class Stats:
    """Where the accelerator and the driver stand.

    Parameters
    ----------
    counters : mapping
        All counters of docs/registers.md by name, as of one moment, since the tape was loaded.
    kv_blocks, kv_used, kv_peak : int
        KV blocks there are, in use, and most in use since the tape was loaded; NULL counts in the first only.
    submitted, taken, ended, running : int
        Requests submitted, taken by the accelerator, ended, and neither; since the device was opened.
    tokens : int
        Tokens received.
    faults : sequence of Fault
        What was found at interrupts.
    """

    counters: Mapping[str, int]
    kv_blocks: int
    kv_used: int
    kv_peak: int
    submitted: int
    taken: int
    ended: int
    running: int
    tokens: int
    faults: Sequence[Fault]
