# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the accelerator behind the driver's transport: rings, registers and time, but no model."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from serrano_host.driver import registers as r
from serrano_host.driver.registers import FaultCode, Register
from serrano_host.driver.rings import ENTRY_BYTES, RECORD_BYTES, Completion, Entry, Flags, memory_needed
from serrano_host.driver.transport import Transport
from serrano_host.errors import TransportError
from serrano_host.tape import DESCRIPTOR_BYTES, Descriptor, TapeError

WORD = 0xFFFFFFFF
CANCELLED = int(FaultCode.REQUEST_CANCELLED)


def next_token(tokens, vocab):
    """The token that the stand-in generates behind others."""
    return (7 * sum(tokens) + 3 * len(tokens) + 1) % vocab


def continuation(prompt, count, vocab, eos=None):
    """What a request generates."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, vocab))
        if tokens[-1] == eos:
            break
    return tokens[len(prompt) :]


@dataclass
class Running:
    entry: Entry
    tokens: list
    sequence: int
    made: int = 0
    keep: bool = False


@dataclass
class FakeDevice(Transport):
    """Takes requests, makes one token for each of up to `sequences` of them every `step` cycles.

    `start` is the value of the ring counters at the beginning, `watches` whether the transport can watch
    memory, `cancels` whether there are cancel registers, `failing` the fault code with which a request's
    number ends after its first token. `dead` makes every access fail, `stuck` stops all progress.
    """

    memory_bytes: int = 1 << 20
    n: int = 4
    align: int = 32
    sequences: int = 4
    step: int = 100
    start: int = 0
    watches: bool = True
    knows_cycles: bool = True
    cancels: bool = True
    failing: dict = field(default_factory=dict)
    blocks_max: int = 64
    version: int = 0x0001_0000
    identity: int = int.from_bytes(b"SRNO", "little")
    dead: bool = False
    stuck: bool = False
    closed: bool = False

    def __post_init__(self):
        self.memory = bytearray(self.memory_bytes)
        self.now, self.calls, self.most_running = 0, [], 0
        self.running, self.taken, self.records, self.outstanding = [], self.start, self.start, 0
        self.next_step = None
        self.descriptor = None
        self.watched, self.written = None, False
        self.counters = dict.fromkeys(r.COUNTERS, 0)
        self.faults = []
        self.sampled = []
        self.values = dict.fromkeys(Register, 0)
        self.values |= {
            Register.ID: self.identity,
            Register.VERSION: self.version,
            Register.GEOMETRY: self.n | 4 << 8 | 8 << 16 | 2 << 24,
            Register.TAPE_ALIGN: self.align,
            Register.BLOCKS_MAX: self.blocks_max,
            Register.CONTEXT_MAX: 64,
            Register.ROWS_MAX: 4,
            Register.SEQUENCES_MAX: self.sequences,
            Register.SUBMIT_TAIL: self.start,
            Register.COMPLETE_HEAD: self.start,
        }
        for name in "DIM FFN HEADS KV_WIDTH HEAD_DIM VOCAB ATTENTION_ROWS".split():
            self.values[Register[f"{name}_MAX"]] = 1024

    # The transport

    def _call(self, *what):
        self.calls.append(what)
        if self.dead:
            raise TransportError("the line is dead")

    def read_register(self, offset):
        self._call("read_register", offset)
        return self._value(offset)

    def read_registers(self, offset, count):
        self._call("read_registers", offset, count)
        return [self._value(offset + 4 * index) for index in range(count)]

    def write_register(self, offset, value):
        assert 0 <= value <= WORD
        self._call("write_register", offset, value)
        self._write(offset, value)

    def write_registers(self, offset, values):
        self._call("write_registers", offset, list(values))
        for index, value in enumerate(values):
            self._write(offset + 4 * index, value)

    def read_memory(self, address, size):
        self._call("read_memory", address, size)
        assert address >= 0 and address + size <= len(self.memory)
        return bytes(self.memory[address : address + size])

    def write_memory(self, address, data):
        self._call("write_memory", address, len(data))
        assert address >= 0 and address + len(data) <= len(self.memory)
        self.memory[address : address + len(data)] = data

    def watch(self, address, size):
        self.watched = (address, address + size) if self.watches else None
        return self.watches

    def wait(self, cycles):
        assert cycles > 0
        self._call("wait", cycles)
        end = self.now + cycles
        while not self.high and not self.written and self.now < end:
            self._admit()
            if self.next_step is None or self.next_step > end:
                self.now = end
            else:
                self.now = self.next_step
                self._run_step()
        self.written = False
        return self.high

    def cycles(self):
        return self.now if self.knows_cycles else None

    def close(self):
        self.closed = True

    # Registers

    @property
    def high(self):
        return bool(self.values[Register.IRQ] & self.values[Register.IRQ_ENABLE])

    def _value(self, offset):
        self.now += 1
        match offset:
            case Register.SUBMIT_HEAD:
                self._admit()
                return self.taken & WORD
            case Register.COMPLETE_TAIL:
                return self.records & WORD
            case Register.STATUS:
                return bool(self.running) | (self.descriptor is not None) << 1
            case Register.FAULT_CODE:
                return self.faults[0] if self.faults else 0
            case Register.FAULT_COUNT:
                return len(self.faults)
            case Register.KV_RESPONSE:
                return r.KV_RESPONSE_VALID | 5
            case Register.KV_AUX:
                return self.values.get(Register.KV_COMMAND, 0)
            case Register.KV_USED:
                return len(self.running)
        return self.values.get(offset, 0)

    def _write(self, offset, value):
        self.now += 1
        match offset:
            case Register.IRQ:
                self.values[offset] &= ~value
                return
            case Register.FAULT_CLEAR:
                self.faults.clear()
            case Register.CONTROL:
                self._control(value)
            case Register.CANCEL:
                if not self.cancels:
                    return
                for running in list(self.running):
                    if running.entry.id == value:
                        self._finish(running, None, CANCELLED)
        self.values[offset] = value

    def _control(self, value):
        if value & r.CONTROL_CLEAR_COUNTERS:
            self.counters = dict.fromkeys(r.COUNTERS, 0)
        if value & r.CONTROL_SNAPSHOT:
            for index, count in enumerate(self.counters.values()):
                self.values[r.COUNTER_BASE + 8 * index] = count & WORD
                self.values[r.COUNTER_BASE + 8 * index + 4] = count >> 32
        if value & r.CONTROL_LOAD and not self.stuck:
            address = self._address("TAPE")
            try:
                self.descriptor = Descriptor.unpack(bytes(self.memory[address : address + DESCRIPTOR_BYTES]))
                assert self.descriptor.n == self.n
            except (TapeError, AssertionError):
                self.descriptor = None
                self._fault(FaultCode.DESCRIPTOR_GEOMETRY)
            self.values[Register.IRQ] |= r.IRQ_LOADED

    def _address(self, name):
        return self.values[Register[f"{name}_ADDRESS_LO"]] | self.values[Register[f"{name}_ADDRESS_HI"]] << 32

    # The rings

    def _admit(self):
        size = self.values[Register.SUBMIT_SIZE]
        tail = self.values[Register.SUBMIT_TAIL]
        while self.taken & WORD != tail and not self.stuck and len(self.running) < self.sequences:
            address = self._address("SUBMIT") + self.taken % size * ENTRY_BYTES
            entry = Entry.unpack(bytes(self.memory[address : address + ENTRY_BYTES]))
            if refused := self._refusal(entry):
                self.taken += 1
                self._fault(refused)
                self._record(Completion(entry.id, None, int(refused), True, 0xFFFF, 0))
                continue
            used = (self.records - self.values[Register.COMPLETE_HEAD]) & WORD
            if self.values[Register.COMPLETE_SIZE] - used - self.outstanding < entry.max_new + 1:
                return
            self.outstanding += entry.max_new + 1
            raw = self.memory[entry.prompt : entry.prompt + 4 * entry.prompt_tokens]
            tokens = list(memoryview(bytes(raw)).cast("I"))
            self.taken += 1
            free = set(range(self.sequences)) - {other.sequence for other in self.running}
            self.running.append(Running(entry, tokens, min(free)))
            self.most_running = max(self.most_running, len(self.running))
            if self.next_step is None:
                self.next_step = self.now + self.step

    def _refusal(self, entry):
        if entry.flags & Flags.CANCELLED:
            return CANCELLED
        if not entry.prompt_tokens or not entry.max_new:
            return FaultCode.REQUEST_EMPTY
        if entry.prompt_tokens + entry.max_new > self.descriptor.context:
            return FaultCode.REQUEST_LENGTH
        return 0

    def _run_step(self):
        self.counters["steps"] += 1
        self.counters["cycles"] += self.step
        self.counters["bytes_weights"] += 5 << 32
        for running in list(self.running):
            if running.made == 1 and running.entry.id in self.failing:
                self._fault(self.failing[running.entry.id])
                self._finish(running, None, int(self.failing[running.entry.id]))
                continue
            token = next_token(running.tokens, self.descriptor.vocab)
            self.sampled.append((running.entry.id, len(running.tokens) - 1, token))
            running.tokens.append(token)
            running.made += 1
            self.counters["tokens"] += 1
            if running.made == running.entry.max_new or token == running.entry.eos:
                self._finish(running, token, 0)
            else:
                self.outstanding -= 1
                self._record(Completion(running.entry.id, token, 0, False, running.sequence, 0))
        self.next_step = self.now + self.step if self.running else None

    def _finish(self, running, token, status):
        self.outstanding -= running.entry.max_new + 1 - running.made + (token is not None)
        self.running.remove(running)
        self._record(Completion(running.entry.id, token, status, True, running.sequence, 0))

    def _record(self, record):
        size = self.values[Register.COMPLETE_SIZE]
        assert (self.records - self.values[Register.COMPLETE_HEAD]) & WORD < size, "the ring overflows"
        address = self._address("COMPLETE") + self.records % size * RECORD_BYTES
        self.records += 1
        raw = Completion(**(vars(record) | {"number": self.records & WORD})).pack()
        self.memory[address : address + RECORD_BYTES] = raw
        self.written |= self.watched is not None
        if record.ended:
            self.values[Register.IRQ] |= r.IRQ_COMPLETION

    def _fault(self, code):
        self.faults.append(int(code))
        self.values[Register.IRQ] |= r.IRQ_FAULT

    def count(self, name):
        """Calls of a method."""
        return sum(call[0] == name for call in self.calls)

    def lengths(self, name):
        """How long blocks of equal calls were, for tests of the number of transfers."""
        return [
            len(list(group)) for key, group in itertools.groupby(self.calls, lambda c: c[0]) if key == name
        ]


class WithLogits(FakeDevice):
    """One that shows logits: the position at the place of the token, 0 elsewhere; and padding."""

    def logits(self):
        vocab = self.descriptor.vocab
        for number, position, token in self.sampled:
            row = np.zeros(vocab + 5, dtype=np.int32)
            row[token] = position << 16
            yield number, position, row


def open_fake(preset, descriptor, options, progress, **sizes):
    """A transport for `serrano run`, with options of the stand-in."""
    progress("opening the stand-in")
    kind = WithLogits if options.pop("logits", "0") == "1" else FakeDevice
    n = {"tiny": 4, "ulx3s": 8, "base": 16, "wide": 32}[preset]
    values = {name: int(value) for name, value in options.items()}
    return kind(n=n, memory_bytes=memory_needed(descriptor, 64, **sizes), **values)
