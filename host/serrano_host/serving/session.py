# SPDX-License-Identifier: Apache-2.0
"""Submitting prompts when they arrive, and following all of them at once."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serrano_host.checkpoints.base import TextStream, Tokenizer
from serrano_host.driver import Device, Event, Handle
from serrano_host.errors import DriverError, RequestError, RingFull

from .prompts import Wanted

__all__ = ["Listener", "Served", "serve"]

POLL_CYCLES = 20_000


@dataclass(eq=False)
class Served:
    """What became of a prompt.

    Parameters
    ----------
    index : int
        Its place among the prompts.
    wanted : Wanted
        The prompt.
    arrival : int or None
        Cycle in which it arrived, by the accelerator's count; ``None`` where there is none.
    handle : Handle or None
        Its request, once it has been submitted.
    problem : str or None
        Why it could not be submitted.
    text : str
        What was generated, as text or as token ids.
    """

    index: int
    wanted: Wanted
    arrival: int | None
    handle: Handle | None = None
    problem: str | None = None
    text: str = ""
    _stream: TextStream | None = field(default=None, repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.problem is not None or (self.handle is not None and self.handle.ended)

    @property
    def error(self) -> str | None:
        """Why it ended before its time, for people."""
        return self.problem or (self.handle.error if self.handle else None)

    @property
    def tokens(self) -> list[int]:
        """Tokens so far."""
        return self.handle.tokens if self.handle else []

    def push(self, event: Event) -> str:
        """The piece of text that an event adds."""
        piece = ""
        if event.token is not None:
            piece = f"{event.token} " if self._stream is None else self._stream.push(event.token)
        if event.ended and self._stream is not None:
            piece += self._stream.finish()
        self.text += piece
        return piece


class Listener(Protocol):
    """Is told what happens while prompts are served."""

    def begin(self, all_served: Sequence[Served], start: int | None) -> None:
        """Serving begins, in a cycle by the accelerator's count."""

    def submitted(self, served: Served) -> None:
        """A prompt has been submitted, or could not be."""

    def event(self, served: Served, event: Event, piece: str) -> None:
        """Something came from the accelerator."""

    def idle(self, cycle: int | None) -> None:
        """Some time has passed."""


def serve(
    device: Device,
    prompts: Sequence[Wanted],
    listener: Listener,
    tokenizer: Tokenizer | None = None,
    poll_cycles: int = POLL_CYCLES,
) -> list[Served]:
    """Serve prompts until the last has ended.

    Parameters
    ----------
    device : Device
        With a tape, and nothing running.
    prompts : sequence of Wanted
        In any order; each is submitted when it arrives, or as soon as the ring has room for it.
    listener : Listener
        Is told.
    tokenizer : Tokenizer, optional
        For text; without it, tokens are shown as ids.
    poll_cycles : int
        How long to wait at a time.

    Raises
    ------
    DriverError
        If the device fails, or prompts have arrivals and its transport knows no cycles. A request that
        fails does not raise.
    """
    start = device.transport.cycles()
    if start is None and any(wanted.arrival for wanted in prompts):
        raise DriverError("prompts cannot arrive at given cycles: this transport does not know cycles")
    everything = [
        Served(index, wanted, None if start is None else start + wanted.arrival)
        for index, wanted in enumerate(prompts)
    ]
    for served in everything:
        if tokenizer is not None:
            ids = [i for i in served.wanted.prompt_ids if i < tokenizer.vocab]
            served._stream = tokenizer.decode_stream(ids)
    listener.begin(everything, start)
    waiting = deque(sorted(everything, key=lambda served: served.wanted.arrival))
    by_handle: dict[Handle, Served] = {}
    while waiting or device.running:
        pause = _submit(device, waiting, by_handle, listener, poll_cycles)
        for event in device.poll(pause):
            served = by_handle[event.handle]
            listener.event(served, event, served.push(event))
        listener.idle(device.transport.cycles())
    return everything


def _submit(
    device: Device,
    waiting: deque[Served],
    by_handle: dict[Handle, Served],
    listener: Listener,
    poll_cycles: int,
) -> int:
    """Submits what has arrived; returns how long to wait until there may be more to submit."""
    while waiting:
        served, now = waiting[0], device.transport.cycles()
        if now is not None and served.arrival > now:
            return min(poll_cycles, served.arrival - now)
        wanted = served.wanted
        try:
            served.handle = device.submit(
                wanted.prompt_ids, wanted.max_new, wanted.eos, wanted.tenant, block=False
            )
            by_handle[served.handle] = served
        except RingFull:
            return poll_cycles
        except RequestError as error:
            served.problem = str(error)
        waiting.popleft()
        listener.submitted(served)
    return poll_cycles if device.running else 0
