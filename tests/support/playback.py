# SPDX-License-Identifier: Apache-2.0
"""What an accelerator would show and write, played back from the golden model.

Written apart from the comparison: every beat is made by itself, element by element.
"""

import itertools
import json
import re
from pathlib import Path

import numpy as np

from serrano.csr.registers import constants
from serrano.csr.table import COUNTERS, REGISTERS, register
from serrano.emit.boundary import Port
from serrano_sim.golden.block_manager import BlockManager, Kind, Opcode
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.sample import greedy
from serrano_sim.memory.handle import AxiMemory
from serrano_sim.top.design import Design, write_ports
from serrano_sim.top.layout import Completion
from serrano_sim.top.simulate import load_result, prepare
from serrano_sim.top.trace import record_dtype

LANES = 8
FAKE = Path(__file__).parents[1] / "sim" / "fake_top.sv"
TRACE, WRITE, DONE, WAIT, FAULT, HANG, REGISTER = range(1, 8)
ROW_CYCLES = 1000


def beat(kind, packet, row, column, values, lanes=LANES):
    record = np.zeros((), record_dtype(lanes))
    record["kind"], record["packet"], record["row"], record["column"] = kind, packet, row, column
    record["values"][: len(values)] = np.array(values, dtype=np.int64).astype(np.uint32).view(np.int32)
    return record


def place(model, n, opcode, element):
    """Column of an element of a golden result."""
    head_dim = model.head_dim
    if head_dim >= n:
        pad = -(-head_dim // n) * n
    else:
        pad = next(size for size in (2, 4, 8, 16, 32) if size >= head_dim and 2 * size >= n)
    if opcode.name in ("QKV", "ATTEND"):
        return element // head_dim * pad + element % head_dim
    return element


def kind_of(opcode, layer):
    if opcode.name == "MATMUL":
        return 4 if layer == 0xFFFF else 1
    return {"EMBED": 1, "NORM": 2, "QKV": 3, "ATTEND": 2, "GATE_UP": 2, "SAMPLE": 5}[opcode.name]


def packet_beats(model, n, packet, opcode, layer, result, lanes=LANES):
    """The beats of one packet, in order of rows and columns."""
    beats, kind = [], kind_of(opcode, layer)
    for row, values in enumerate(result.reshape(len(result), -1)):
        last = place(model, n, opcode, len(values) - 1)
        padded = [0] * (-(-(last + 1) // n) * n)
        for element, value in enumerate(values):
            padded[place(model, n, opcode, element)] = int(value)
        for column in range(0, len(padded), lanes):
            beats.append(beat(kind, packet, row, column, padded[column : column + lanes], lanes))
    return beats


class Slot:
    """A request that is being served."""

    def __init__(self, number, request, sequence, position):
        self.number, self.request, self.sequence, self.position = number, request, sequence, position
        self.fed, self.made = list(request.prompt), []

    @property
    def decoding(self):
        return self.position + 1 >= len(self.request.prompt)


class Script:
    """Actions of the fake accelerator for one job without faults, with the golden model's results.

    It serves requests as docs/rings.md has it, several at a time. KV memory and the completion records are
    written at the end of each phase.
    """

    def __init__(self, job, model, row_cycles=ROW_CYCLES, failing=None):
        self.row_cycles = row_cycles
        # Requests that end with a fault before their first step: their numbers and the codes.
        self.failing = failing or {}
        self.job, self.model, self.n = job, model, job.config.n
        self.lanes = job.config.lanes
        self.actions = []
        self.late = []
        self.results = []
        self.decoder = Decoder(model, self.n, job.layout.kv_blocks, trace=self._keep)
        self.number = 0
        self.cycles = self.mark = 0
        self.steps = self.rows = 0
        self.tokens = []
        self.answers = []
        config = job.config
        sizes = (config.blocks_max, config.sequences_max, config.table_entries)
        self.pool = BlockManager(0, *sizes, mover=self._copy)
        self.copies = []
        self.kept = 0
        self.next_sequence = self.turn = 0
        self.running = {}

    def _keep(self, packet, opcode, layer, result):
        if opcode.name == "SAMPLE":
            logits = self.results[-1][3]
            result = np.stack([result, logits[np.arange(len(result)), result]], axis=1)
        self.results.append((packet, opcode, layer, np.array(result)))

    def _copy(self, move):
        assert move.kind is Kind.COPY
        self.decoder.kv.copy(move.source, move.destination, move.high)
        self.copies.append(move.destination)
        return True

    def trace(self, record):
        self.actions.append((TRACE, int.from_bytes(record.tobytes(), "little")))
        self.cycles += 1

    def show(self, kind, column, values, row=0):
        self.trace(beat(kind, 0, row, column, values, self.lanes))

    def write(self, address, data, strobe=0xFFFF):
        self.late.append((WRITE, address | int.from_bytes(data, "little") << 40 | strobe << 168))

    def flush(self):
        """What was to be written comes now."""
        self.actions += self.late
        self.late = []

    def counter_values(self):
        """Both partitions add up; how the parts lie does not matter."""
        cycles, rows = self.row_cycles, self.rows
        values = dict.fromkeys((name for name, _ in COUNTERS), 0)
        values |= {"cycles": rows * cycles, "steps": self.steps, "tokens": len(self.tokens)}
        values |= {"array_busy": rows * 600, "array_serial": rows * (cycles - 600)}
        values |= {"port_weights": rows * 900, "port_latency": rows * (cycles - 900)}
        values |= {"bytes_weights": rows * 14400, "rows_issued": rows * 600}
        return values | {"bytes_kv_write": rows * 100}

    def counters(self):
        values = self.counter_values()
        for index, (name, _) in enumerate(COUNTERS):
            self.show(8, index, [values[name] & 0xFFFFFFFF, values[name] >> 32])

    def step(self, spans):
        """A step that ends row_cycles cycles for each row after the last one did; spans are (slot, rows)."""
        self.results.clear()
        first, chosen = 0, []
        for slot, rows in spans:
            self.show(10, slot.position, [slot.sequence | rows << 16, slot.number], first)
            first += rows
            if slot.position + rows >= len(slot.request.prompt):
                chosen.append(first - 1)
        parts = [(slot.sequence, slot.fed[slot.position : slot.position + rows]) for slot, rows in spans]
        logits = self.decoder.step_batch(parts, bool(chosen))
        self.show(6, 0, [first, len(chosen)])
        for packet, opcode, layer, result in self.results:
            if layer == 0xFFFF and opcode.name in ("MATMUL", "SAMPLE"):
                result = result[chosen]
            for record in packet_beats(self.model, self.n, packet, opcode, layer, result, self.lanes):
                self.trace(record)
        self.steps += 1
        self.rows += first
        # A wait of w cycles takes one cycle more.
        wait = self.mark + first * self.row_cycles - self.cycles - 2
        assert wait > 0
        self.actions.append((WAIT, wait))
        self.cycles += wait + 1
        self.show(7, 0, [first])
        self.mark = self.cycles
        tokens = greedy(logits)[chosen] if chosen else []
        for (slot, rows), token in itertools.zip_longest(spans, tokens):
            self.commit(slot, rows, token)
        self.counters()

    def commit(self, slot, rows, token):
        self.pool_command(slot.request, slot.sequence, Opcode.APPEND, rows)
        self.pool_command(slot.request, slot.sequence, Opcode.COMMIT, rows)
        slot.position += rows
        if token is None:
            return
        slot.fed.append(int(token))
        slot.made.append(int(token))
        self.tokens.append(int(token))
        ended = len(slot.made) == slot.request.max_new or token == slot.request.eos
        if ended:
            self.end(slot)
        identity, sequence = slot.number, slot.sequence
        self.complete(id=identity, token=int(token), status=0, ended=ended, sequence=sequence)

    def end(self, slot, code=0):
        """Closes a request's sequence."""
        self.keep_kv()
        if slot.request.keep:
            length = self.decoder.kv.length(slot.sequence)
            self.pool_command(slot.request, slot.sequence, Opcode.TRIM, length)
        else:
            self.pool_command(slot.request, slot.sequence, Opcode.FREE)
        self.decoder.close(slot.sequence)
        self.show(12, 0, [slot.sequence | code << 16, slot.number])
        del self.running[slot.sequence]

    def complete(self, **fields):
        self.number += 1
        record = Completion(**fields, number=self.number)
        self.write(self.job.layout.complete_address + 16 * (self.number - 1), record.pack())

    def set_register(self, name, value):
        self.actions.append((REGISTER, register(name).offset // 4 | value << 10))

    def keep_kv(self):
        """Keeps what the sequences have in KV memory now."""
        kv = self.decoder.kv
        mask = kv.written()
        # A copy is of a whole block.
        copies, self.kept = self.copies[self.kept :], len(self.copies)
        mask[copies] = True
        image, mask = kv.image.reshape(-1, 16), mask.reshape(-1, 16)
        for index in np.flatnonzero(mask.any(axis=1)):
            strobe = int(np.packbits(mask[index], bitorder="little").view("<u2")[0])
            self.write(self.job.layout.kv_address + 16 * int(index), image[index].tobytes(), strobe)

    def pool_command(self, request, sequence, opcode, argument=0):
        status, aux = self.pool.execute(opcode, sequence, request.tenant, argument)
        assert status == 0
        return aux

    def admit(self, number, request):
        """Gives a request its sequence and blocks; whether there were enough."""
        limit, total = self.job.config.sequences_max, len(request.prompt) + request.max_new
        if request.adopt:
            sequence = request.sequence
            length = self.pool_command(request, sequence, Opcode.APPEND)
            if self.pool.execute(Opcode.APPEND, sequence, request.tenant, total - length)[0]:
                return False
            self.pool_command(request, sequence, Opcode.ABORT)
        else:
            order = [(self.next_sequence + place) % limit for place in range(limit)]
            free = [place for place in order if place not in self.pool.sequences]
            if not free or len(self.pool.free) < -(-total // 16):
                return False
            sequence, length = free[0], 0
            self.next_sequence = (sequence + 1) % limit
            self.pool_command(request, sequence, Opcode.OPEN)
            self.pool_command(request, sequence, Opcode.ALLOC, total)
        self.decoder.open(sequence, self.pool.sequences[sequence].table, length)
        slot = self.running[sequence] = Slot(number, request, sequence, length)
        self.show(11, 0, [sequence, number])
        if code := self.failing.get(number, 0):
            self.end(slot, code)
            self.complete(id=number, token=None, status=code, ended=True, sequence=sequence)
        self.set_register("FAULT_CODE", code)
        return True

    def form(self):
        """The spans of the next step."""
        rows_max, limit = self.job.config.rows_max, self.job.config.sequences_max
        prompts = [slot for slot in self.running.values() if not slot.decoding]
        decoding = [slot for slot in self.running.values() if slot.decoding]
        decoding.sort(key=lambda slot: (slot.sequence - self.turn) % limit)
        room = rows_max - bool(prompts)
        if len(decoding) > room:
            self.turn = decoding[room].sequence
        spans = [(slot, 1) for slot in decoding[:room]]
        if prompts:
            oldest = min(prompts, key=lambda slot: slot.number)
            left = len(oldest.request.prompt) - oldest.position
            spans.append((oldest, min(left, rows_max - len(spans))))
        return spans

    def serve(self, waiting):
        """Serves requests, (number, request) each."""
        while waiting or self.running:
            while waiting and self.admit(*waiting[0]):
                waiting = waiting[1:]
            if self.running:
                self.step(self.form())
            else:
                assert not waiting

    def phase(self, phase, identity):
        """One visit of the host, whose first request has that number; what is in registers at its end."""
        if phase.load:
            self.pool.initialize(self.job.layout.kv_blocks)
        for c in phase.commands:
            status, aux = self.pool.execute(c.opcode, c.sequence, c.tenant, c.argument0, c.argument1)
            self.answers.append((int(status), aux))
        self.serve(list(enumerate(phase.requests, identity)))
        if phase.requests:
            self.flush()
            self.set_register("KV_USED", self.pool.used)
            self.set_register("SUBMIT_HEAD", identity + len(phase.requests))
            self.set_register("COMPLETE_TAIL", self.number)
            for name, value in self.counter_values().items():
                self.set_register(f"COUNTER_{name.upper()}_LO", value & 0xFFFFFFFF)

    def write_to(self, folder):
        """Writes playback and registers into a run's folder."""
        values = dict.fromkeys(range(1024), 0)
        for name, value in constants(self.job.config).items():
            values[register(name).offset // 4] = value
        values[register("KV_PEAK").offset // 4] = 7
        lines = [f"{value:08x}" for value in values.values()]
        (Path(folder) / "registers.hex").write_text("\n".join(lines) + "\n")
        lines = [f"{status:08x}{aux:08x}" for status, aux in [*self.answers, (1, 0)]]
        (Path(folder) / "answers.hex").write_text("\n".join(lines) + "\n")
        self.flush()
        actions = [*self.actions, (DONE, 0), (HANG, 0)]
        lines = [f"{what | value << 8:082x}" for what, value in actions]
        (Path(folder) / "playback.hex").write_text("\n".join(lines) + "\n")


def script(job, model, row_cycles=ROW_CYCLES, failing=None):
    """The script of a job."""
    made, identity = Script(job, model, row_cycles, failing), 0
    for number, phase in enumerate(job.phases):
        if number and phase.requests:
            made.actions.append((DONE, 0))
        made.phase(phase, identity)
        identity += len(phase.requests)
    return made


def fake_design(folder):
    """The fake accelerator as a design."""
    folder.mkdir(parents=True, exist_ok=True)
    text = FAKE.read_text()
    file = folder / FAKE.name
    file.write_text(text)
    found = re.findall(r"^    (input|output) +\w+ +(?:\[ *(\d+):0\])? *(\w+)", text, re.MULTILINE)
    ports = [Port(name, direction, int(high or 0) + 1) for direction, high, name in found]
    write_ports(folder, [file], ports)
    return Design((file,), tuple(ports))


def write_recording(folder, cycles, records, lanes, name="trace"):
    """A file as the trace sink writes it."""
    size = record_dtype(lanes).itemsize
    header = np.zeros(8, dtype="<u8")
    header[:5] = 0x3145434152545253, 1, 8 * size, 8 + -(-size // 8) * 8, len(records)
    lines = [
        int(cycle).to_bytes(8, "little") + record.tobytes().ljust(int(header[3]) - 8, b"\0")
        for cycle, record in zip(cycles, records, strict=True)
    ]
    (Path(folder) / f"{name}.trace").write_bytes(header.tobytes() + b"".join(lines))


class _Host:
    """The events that the host would have reported."""

    def __init__(self, job, answers, registers):
        self.job, self.answers, self.changes = job, list(answers), registers or {}
        self.phases = list(job.phases)
        self.registers = dict.fromkeys((entry.name for entry in REGISTERS), 0) | {"KV_PEAK": 7}
        self.events = []
        self.cycle = 1000

    def report(self, event, seconds=0.5, **values):
        self.events.append({"event": event, "cycle": self.cycle, "seconds": seconds, **values})

    def begin(self):
        """What comes before the next doorbell; phases without requests are over at once."""
        while self.phases:
            phase = self.phases[0]
            if phase.load:
                self.report("load", 0.0, loaded=True, fault=0)
            answers, self.answers = self.answers[: len(phase.commands)], self.answers[len(phase.commands) :]
            if phase.commands:
                self.report("commands", answers=answers, cycles=25 * len(answers))
            self.start = self.cycle
            if phase.requests:
                self.report("doorbell", requests=len(phase.requests))
                return
            self.end()

    def end(self):
        self.phases.pop(0)
        registers = self.registers | {
            name: self.registers[f"COUNTER_{name.upper()}_LO"] for name, _ in COUNTERS
        }
        registers |= self.changes
        self.report(
            *("phase", 1.0),
            irq=True,
            axil_handshakes=0,
            begin=self.start,
            end=self.cycle,
            registers=registers,
        )


def play(job, tape, made, folder, registers=None):
    """Plays a script without any simulation and returns the result, as a run would leave it.

    `made` is the script; `registers` change what is read at the end of every phase.
    """
    path = prepare(job, tape, folder)
    memory = AxiMemory("memory", folder=path)
    host = _Host(job, made.answers, registers)
    host.begin()
    made.flush()
    cycles, records, found = [], [], 0
    names = {entry.offset // 4: entry.name for entry in REGISTERS}
    for what, data in made.actions:
        host.cycle += 1
        if what == TRACE:
            raw = data.to_bytes(record_dtype(job.config.lanes).itemsize, "little")
            cycles.append(host.cycle)
            records.append(np.frombuffer(raw, record_dtype(job.config.lanes))[0])
        elif what == WAIT:
            host.cycle += data
        elif what == REGISTER:
            host.registers[names[data & 0x3FF]] = data >> 10
        elif what == DONE:
            host.end()
            host.begin()
        elif what == WRITE:
            address, strobe = data & (1 << 40) - 1, data >> 168
            mask = np.unpackbits(np.array([strobe], "<u2").view(np.uint8), bitorder="little").astype(bool)
            view = memory.array(address, np.uint8, 16)
            view[mask] = np.frombuffer((data >> 40 & (1 << 128) - 1).to_bytes(16, "little"), np.uint8)[mask]
            while record := job.layout.completion(memory, found + 1):
                found += 1
                host.report("completion", record=vars(record))
    host.end()
    host.begin()
    write_recording(path, cycles, records, job.config.lanes)
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in host.events))
    return load_result(path, tape)
