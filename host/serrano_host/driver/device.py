# SPDX-License-Identifier: Apache-2.0
"""The driver: requests and completions through the rings of docs/rings.md."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from serrano_host.errors import DeviceTimeout, DriverError, RequestError, RingFull, TapeError
from serrano_host.tape import DESCRIPTOR_BYTES, Descriptor

from . import registers as r
from .handles import Event, Fault, Handle, Limits, Stats, fault_text
from .limits import LIMITS, array_sizes, misfits
from .registers import Register
from .rings import FLAGS_OFFSET, NO_SEQUENCE, RECORD_BYTES, WORD, Arena, Completion, Entry, Flags, MemoryMap
from .transport import Transport, words

__all__ = ["Device", "Event", "Fault", "Handle", "Limits", "Stats", "fault_text"]

IDENTITY = int.from_bytes(b"SRNO", "little")
MAJOR = 1
ALL_INTERRUPTS = r.IRQ_COMPLETION | r.IRQ_FAULT | r.IRQ_LOADED
TAPE_PIECE = 1 << 20
POLL_CYCLES = 20_000
# What a device does in that time without a sign of it, it does not do at all.
PATIENCE_CYCLES = 2_000_000
PROBES = 1000
NO_REQUEST = WORD


def _split(address: int) -> tuple[int, int]:
    return address & WORD, address >> 32


class Device:
    """An accelerator behind a transport.

    One object at a time drives an accelerator. None of its methods returns before what it says is done, but
    requests go on by themselves: the accelerator needs no call between a request's submission and its end.
    What has come is taken over whenever a method waits.

    Parameters
    ----------
    transport : Transport
        The way to it; closed by :meth:`close`.
    submit_size, complete_size : int
        Entries of the rings, powers of two. A request needs ``max_new + 1`` completion records.
    prompts_bytes : int, optional
        Room in memory for prompts that are not finished; without it, for 32 of the model's context.
    kv_blocks : int, optional
        KV blocks at most; without it, all that memory has room for and the accelerator can manage.
    watchdog : int
        Cycles without progress after which the accelerator gives up a step; 0: never.
    poll_cycles : int
        How long to wait for an interrupt before looking again.
    patience : int
        Cycles without any sign of progress after which waiting is given up.

    Raises
    ------
    DriverError
        If there is no accelerator of this version, or it is busy with what somebody else gave it.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        submit_size: int = 64,
        complete_size: int = 1024,
        prompts_bytes: int | None = None,
        kv_blocks: int | None = None,
        watchdog: int = 0,
        poll_cycles: int = POLL_CYCLES,
        patience: int = PATIENCE_CYCLES,
    ):
        self.transport = transport
        self.limits = self._identify()
        self.descriptor: Descriptor | None = None
        self.map: MemoryMap | None = None
        self.faults: list[Fault] = []
        self._sizes = {
            "submit_size": submit_size,
            "complete_size": complete_size,
            "prompts_bytes": prompts_bytes,
        }
        self._kv_blocks, self._watchdog = kv_blocks, watchdog
        self._poll_cycles, self._patience = poll_cycles, patience
        self._running: dict[int, Handle] = {}
        self._prompts: dict[int, int] = {}
        self._arena = Arena(0, 0)
        self._watching = False
        self._can_cancel: bool | None = None
        self._first = self._submitted = self._taken = self._read(Register.SUBMIT_HEAD)
        self._consumed = self._told = self._read(Register.COMPLETE_TAIL)
        self._ended = self._tokens = 0
        self._quiet, self._marks = 0, None

    # Registers

    def _read(self, register: int) -> int:
        return self.transport.read_register(int(register))

    def _write(self, register: int, value: int) -> None:
        self.transport.write_register(int(register), value & WORD)

    def _identify(self) -> Limits:
        count = (Register.ATTENTION_ROWS_MAX - Register.ID) // 4 + 1
        values = self.transport.read_registers(Register.ID, count)
        found = {Register(4 * index).name: value for index, value in enumerate(values)}
        if found["ID"] != IDENTITY:
            raise DriverError(f"no accelerator: register ID is {found['ID']:#010x}, not {IDENTITY:#010x}")
        version = (found["VERSION"] >> 16, found["VERSION"] & 0xFFFF)
        if version[0] != MAJOR:
            raise DriverError(f"the accelerator's registers have version {version[0]}, not {MAJOR}")
        if self._read(Register.STATUS) & r.STATUS_BUSY:
            raise DriverError("the accelerator is busy with earlier requests; wait, or reset it")
        names = ("GEOMETRY", "ID", "VERSION", "TAPE_ALIGN")
        limits = {name.lower(): value for name, value in found.items() if name not in names}
        return Limits(version, *array_sizes(found["GEOMETRY"]), found["TAPE_ALIGN"], **limits)

    # The tape

    def load(self, tape: bytes | str | Path) -> Descriptor:
        """Put a tape into memory and let the accelerator load it; the KV cache is empty afterwards.

        Parameters
        ----------
        tape : bytes or path
            The image, or its file.

        Raises
        ------
        TapeError
            If it is no tape.
        DriverError
            If it does not fit the accelerator or memory, the accelerator refuses it, or requests are running.
        """
        image = tape if isinstance(tape, bytes) else Path(tape).read_bytes()
        descriptor = Descriptor.unpack(image[:DESCRIPTOR_BYTES])
        if len(image) != descriptor.image_bytes:
            raise TapeError(f"image_bytes is {descriptor.image_bytes}, the tape has {len(image)}")
        if self._running:
            raise DriverError(f"{len(self._running)} requests are running; a tape cannot be loaded now")
        limits = {name: getattr(self.limits, name) for name in (*LIMITS, "n", "align")}
        if problems := misfits(SimpleNamespace(**vars(descriptor)), limits):
            raise DriverError(f"the tape does not fit the accelerator: {'; '.join(problems)}")
        blocks = self.limits.blocks_max
        plan = MemoryMap.plan(
            descriptor,
            kv_blocks=blocks if self._kv_blocks is None else min(blocks, self._kv_blocks),
            memory_bytes=self.transport.memory_bytes,
            **self._sizes,
        )
        for start in range(0, len(image), TAPE_PIECE):
            piece = image[start : start + TAPE_PIECE]
            self.transport.write_memory(plan.tape_address + start, piece)
        self._configure(plan)
        self._write(Register.CONTROL, r.CONTROL_LOAD)
        self._wait_loaded()
        self._write(Register.CONTROL, r.CONTROL_CLEAR_COUNTERS)
        self.descriptor, self.map = descriptor, plan
        self._arena = Arena(plan.prompts_address, plan.prompts_bytes)
        return descriptor

    def _configure(self, plan: MemoryMap) -> None:
        self.descriptor = self.map = None
        write = self.transport.write_registers
        addresses = (*_split(plan.tape_address), *_split(plan.kv_address))
        write(Register.TAPE_ADDRESS_LO, [*addresses, plan.kv_blocks, self._watchdog])
        write(Register.SUBMIT_ADDRESS_LO, [*_split(plan.submit_address), plan.submit_size])
        write(Register.COMPLETE_ADDRESS_LO, [*_split(plan.complete_address), plan.complete_size])
        write(Register.KV_BUFFER_LO, _split(plan.buffer_address))
        self.transport.write_memory(plan.complete_address, plan.empty_completions())
        self._write(Register.COMPLETE_HEAD, self._consumed)
        self._told = self._consumed
        ring_bytes = plan.complete_size * RECORD_BYTES
        self._watching = self.transport.watch(plan.complete_address, ring_bytes)
        self._write(Register.IRQ, ALL_INTERRUPTS)
        self._write(Register.FAULT_CLEAR, 1)
        self._write(Register.IRQ_ENABLE, ALL_INTERRUPTS)

    def _wait_loaded(self) -> None:
        waited = 0
        while not self.transport.wait(self._poll_cycles):
            waited += self._poll_cycles
            if waited > self._patience:
                raise DeviceTimeout(f"no interrupt {waited:,} cycles after LOAD; {self._state()}")
        pending, status = self._read(Register.IRQ), self._read(Register.STATUS)
        self._write(Register.IRQ, pending)
        fault = self._take_fault() if pending & r.IRQ_FAULT else None
        if not status & r.STATUS_LOADED:
            raise DriverError(f"the accelerator did not load the tape: {fault or self._state()}")

    # Requests

    @property
    def running(self) -> list[Handle]:
        """Requests that have not ended, in order of submission."""
        return list(self._running.values())

    def submit(
        self,
        prompt_ids: Sequence[int],
        max_new: int,
        eos: int | None = None,
        tenant: int = 0,
        *,
        adopt: int | None = None,
        keep: bool = False,
        block: bool = True,
    ) -> Handle:
        """Submit a request.

        The accelerator judges it: what it refuses ends with a status, like what fails later.

        Parameters
        ----------
        prompt_ids : sequence of int
            The prompt.
        max_new : int
            Tokens wanted.
        eos : int, optional
            Token that ends the generation as well.
        tenant : int
            Owner of its KV blocks, 0 to 255.
        adopt : int, optional
            KV sequence to go on in, prepared by :meth:`kv_command`.
        keep : bool
            Whether the KV sequence stays open.
        block : bool
            Whether to wait for room in the submission ring and for the prompt.

        Raises
        ------
        RequestError
            If it cannot be written down: a value has no place in its field, or the prompt in memory.
        RingFull
            If there is no room and ``block`` is not set.
        """
        plan = self._loaded()
        try:
            prompt = words(prompt_ids)
        except Exception as error:
            raise RequestError("token ids must fit unsigned words of 32 bits") from error
        flags = (Flags.KEEP if keep else Flags(0)) | (Flags(0) if adopt is None else Flags.ADOPT)
        number = self._submitted & WORD
        entry = Entry(number, tenant, 0, len(prompt_ids), max_new, eos, flags, adopt or 0)
        entry.pack()
        address = self._room(len(prompt_ids), block)
        entry = Entry(number, tenant, address, len(prompt_ids), max_new, eos, flags, adopt or 0)
        if prompt:
            self.transport.write_memory(address, prompt)
        self.transport.write_memory(plan.entry_address(self._submitted), entry.pack())
        handle = Handle(number, len(prompt_ids), max_new, tenant)
        self._running[number], self._prompts[number] = handle, address
        self._submitted += 1
        self._write(Register.SUBMIT_TAIL, self._submitted)
        handle.submitted = self.transport.cycles()
        return handle

    def _loaded(self) -> MemoryMap:
        if self.map is None:
            raise DriverError("no tape has been loaded")
        return self.map

    def _room(self, tokens: int, block: bool) -> int:
        """A place for a prompt, with a free entry in the submission ring."""
        while True:
            if self._submitted - self._taken >= self._sizes["submit_size"]:
                taken = self._read(Register.SUBMIT_HEAD)
                self._taken += (taken - self._taken) & WORD
            if self._submitted - self._taken < self._sizes["submit_size"]:
                address = self._arena.take(tokens)
                if address is not None:
                    return address
                why = "for the prompt in memory"
            else:
                why = "in the submission ring"
            if not block:
                raise RingFull(f"there is no room {why} at the moment")
            self.poll(self._poll_cycles)

    def cancel(self, handle: Handle) -> bool:
        """Ask that a request ends; whether it was still running.

        It ends with status REQUEST_CANCELLED, or as it would have if it was just about to.

        Raises
        ------
        DriverError
            If the accelerator cannot cancel.
        """
        plan = self._loaded()
        if handle.ended or self._running.get(handle.number) is not handle:
            return False
        if self._can_cancel is None:
            # No request has this number for long. Where there is no such register, it reads as 0.
            self._write(Register.CANCEL, NO_REQUEST)
            self._can_cancel = self._read(Register.CANCEL) == NO_REQUEST
        if not self._can_cancel:
            raise DriverError("this accelerator cannot cancel requests")
        number = self._submitted - ((self._submitted - handle.number) & WORD)
        if self._submitted - number <= plan.submit_size:
            # Its entry has not been written over, whether it has been taken or not.
            flags = self.transport.read_memory(plan.entry_address(number) + FLAGS_OFFSET, 4)
            flags = int.from_bytes(flags, "little") | Flags.CANCELLED
            self.transport.write_memory(plan.entry_address(number) + FLAGS_OFFSET, words([flags]))
        self._probe("CANCEL_BUSY stays set", lambda: not self._read(Register.CANCEL_BUSY))
        self._write(Register.CANCEL, handle.number)
        return True

    # Waiting

    def poll(self, cycles: int = 0) -> list[Event]:
        """Take over what has come; if nothing has, wait up to so many cycles for something.

        Returns what this call has taken over. What others took is in the handles.

        Raises
        ------
        DeviceTimeout
            If requests are running, and calls have waited for ``patience`` cycles without a sign of progress.
        """
        self._loaded()
        events = self._take()
        if not events and cycles:
            high = self.transport.wait(cycles)
            events = self._take()
            if high:
                self._interrupt()
                events += self._take()
        if events or not self._running:
            self._quiet, self._marks = 0, None
        else:
            self._quiet += cycles
            if self._quiet > self._patience:
                self._check_progress()
        return events

    def _check_progress(self) -> None:
        """Tells a long time without tokens, such as that of a long prompt, from none that will come."""
        counters = self._counters()
        # These stand still where nothing is read, the others may count the waiting.
        marks = [counters[name] for name in ("steps", "bytes_weights", "bytes_kv_read")]
        if marks == self._marks:
            raise DeviceTimeout(
                f"nothing happened for {self._quiet:,} cycles, {len(self._running)} requests are running;"
                f" {self._state()}"
            )
        self._quiet, self._marks = 0, marks

    def events(self) -> Iterator[Event]:
        """Everything that comes until no request is running, in order."""
        while self._running:
            yield from self.poll(self._poll_cycles)

    def stream(self, handle: Handle) -> Iterator[int]:
        """The tokens of a request as they come. Several streams may be taken in turn.

        Raises
        ------
        DriverError
            After the last token, if the request ended with a fault. A cancelled one just ends.
        """
        shown = 0
        while True:
            while shown < len(handle.tokens):
                shown += 1
                yield handle.tokens[shown - 1]
            if handle.ended:
                break
            self.poll(self._poll_cycles)
        if handle.status and not handle.cancelled:
            raise DriverError(f"request {handle.number}: {handle.error}")

    def wait(self, handles: Iterable[Handle] | None = None) -> None:
        """Wait until some requests have ended; all without ``handles``."""
        for handle in self.running if handles is None else list(handles):
            while not handle.ended:
                self.poll(self._poll_cycles)

    def _take(self) -> list[Event]:
        """Takes over the completion records that are new."""
        records = list(self._watched_records() if self._watching else self._told_records())
        if not records:
            return []
        cycle = self.transport.cycles()
        events = [self._event(record, cycle) for record in records]
        self._consumed += len(records)
        # The accelerator may be waiting for records, which matters when requests end.
        if any(e.ended for e in events) or self._consumed - self._told >= self.map.complete_size // 4:
            self._write(Register.COMPLETE_HEAD, self._consumed)
            self._told = self._consumed
        return events

    def _watched_records(self) -> Iterator[Completion]:
        number = self._consumed + 1
        while True:
            raw = self.transport.read_memory(self.map.record_address(number), RECORD_BYTES)
            record = Completion.unpack(raw)
            if record.number != number & WORD:
                return
            yield record
            number += 1

    def _told_records(self) -> Iterator[Completion]:
        count = (self._read(Register.COMPLETE_TAIL) - self._consumed) & WORD
        if count > self.map.complete_size:
            raise DriverError(f"{count:,} completion records at once; was the accelerator reset?")
        number, end = self._consumed + 1, self._consumed + 1 + count
        while number < end:
            place = (number - 1) % self.map.complete_size
            length = min(end - number, self.map.complete_size - place)
            raw = self.transport.read_memory(self.map.record_address(number), length * RECORD_BYTES)
            for start in range(0, len(raw), RECORD_BYTES):
                record = Completion.unpack(raw[start : start + RECORD_BYTES])
                if record.number != number & WORD:
                    raise DriverError(f"completion record {number} has the number {record.number}")
                yield record
                number += 1

    def _event(self, record: Completion, cycle: int | None) -> Event:
        handle = self._running.get(record.id)
        if handle is None:
            raise DriverError(f"completion record {record.number} is of request {record.id}, not running")
        if record.sequence != NO_SEQUENCE:
            handle.sequence = record.sequence
        if record.token is not None:
            handle.tokens.append(record.token)
            handle.cycles.append(cycle)
            self._tokens += 1
        if record.ended:
            handle.ended, handle.status, handle.ended_at = True, record.status, cycle
            self._arena.free(self._prompts.pop(handle.number))
            del self._running[handle.number]
            self._ended += 1
        return Event(handle, record.token, record.ended, cycle)

    def _interrupt(self) -> None:
        pending = self._read(Register.IRQ)
        self._write(Register.IRQ, pending)
        if pending & r.IRQ_FAULT:
            self._take_fault()

    def _take_fault(self) -> Fault | None:
        count = (Register.FAULT_COUNT - Register.FAULT_CODE) // 4 + 1
        code, packet, sequence, detail, low, high, number = self.transport.read_registers(
            Register.FAULT_CODE, count
        )
        self._write(Register.FAULT_CLEAR, 1)
        if not number:
            return None
        self.faults.append(Fault(code, packet, sequence, detail, low | high << 32, number))
        return self.faults[-1]

    # The state

    def settle(self) -> None:
        """Wait until all has ended and been put away; KV blocks are free a little after a request's end."""
        self.wait()
        self._probe("STATUS stays busy", lambda: not self._read(Register.STATUS) & r.STATUS_BUSY)

    def _counters(self) -> dict[str, int]:
        self._write(Register.CONTROL, r.CONTROL_SNAPSHOT)
        values = self.transport.read_registers(r.COUNTER_BASE, 2 * len(r.COUNTERS))
        return {name: values[2 * i] | values[2 * i + 1] << 32 for i, name in enumerate(r.COUNTERS)}

    def stats(self) -> Stats:
        """Counters, KV blocks, requests and faults."""
        plan = self._loaded()
        taken = self._read(Register.SUBMIT_HEAD)
        self._taken += (taken - self._taken) & WORD
        used, peak = self.transport.read_registers(Register.KV_USED, 2)
        return Stats(
            counters=self._counters(),
            kv_blocks=plan.kv_blocks,
            kv_used=used,
            kv_peak=peak,
            submitted=self._submitted - self._first,
            taken=self._taken - self._first,
            ended=self._ended,
            running=len(self._running),
            tokens=self._tokens,
            faults=tuple(self.faults),
        )

    def kv_command(
        self, opcode: int, sequence: int = 0, tenant: int = 0, argument0: int = 0, argument1: int = 0
    ) -> tuple[int, int]:
        """Give a command to the KV controller (docs/blocks/kvcache.md): its status and auxiliary value."""
        self.transport.write_registers(Register.KV_ARGUMENT0, [argument0, argument1])
        self._write(Register.KV_COMMAND, opcode | sequence << 8 | tenant << 24)
        answer = [0, 0]

        def answered() -> bool:
            answer[:] = self.transport.read_registers(Register.KV_RESPONSE, 2)
            return bool(answer[0] & r.KV_RESPONSE_VALID)

        self._probe(f"no response to KV command {opcode:#x}", answered)
        return answer[0] & r.KV_RESPONSE_STATUS, answer[1]

    def _probe(self, problem: str, done: Callable[[], bool]) -> None:
        """Looks until something is done, less and less often; it may have to wait for the end of a step."""
        for attempt in range(PROBES):
            if done():
                return
            if self.transport.wait(min(16 << min(attempt, 16), self._poll_cycles)):
                self._interrupt()
        raise DeviceTimeout(f"{problem}; {self._state()}")

    def _state(self) -> str:
        names = ("STATUS", "IRQ", "FAULT_CODE", "SUBMIT_HEAD", "COMPLETE_TAIL")
        return ", ".join(f"{name} {self._read(Register[name]):#x}" for name in names)

    def close(self) -> None:
        """Close the transport."""
        self.transport.close()

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        # What went wrong first says more than what follows from it.
        with contextlib.suppress(*([DriverError] if kind else [])):
            self.close()
