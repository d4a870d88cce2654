# SPDX-License-Identifier: Apache-2.0
"""The host of the accelerator inside the simulation: it carries out a job and reports every event.

Between the doorbell and the last completion it touches no register: tokens are seen in memory, waited for by
the memory's event. The handshakes of the register port are counted in the bench, not here.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cocotb.triggers import FallingEdge, First, ValueChange

from serrano.csr.registers import constants
from serrano.csr.table import COUNTERS, register
from serrano_host.errors import TapeError
from serrano_host.tape import DESCRIPTOR_BYTES, Descriptor

from ..cocotb.axilite import AxiLite, reset
from ..memory.handle import AxiMemory
from .job import EVENTS_FILE, MEMORY, TRACE, Job, KVCommand, Later, Phase
from .layout import Completion, Request
from .limits import LIMITS, misfits
from .trace import StepWatch, last_beat, trace_length

__all__ = ["Device"]

LOAD, SNAPSHOT, CLEAR_COUNTERS = 1, 2, 4
ALL_INTERRUPTS = 7
TICK = 256
SETTLE_CYCLES = 2000
END_REGISTERS = (
    "STATUS IRQ SUBMIT_HEAD COMPLETE_TAIL FAULT_CODE FAULT_PACKET FAULT_SEQUENCE FAULT_DETAIL"
    " FAULT_ADDRESS_LO FAULT_ADDRESS_HI FAULT_COUNT KV_USED KV_PEAK"
).split()


class _Enough(Exception):
    """The run has shown what it was made for."""


class Device:
    """Drives the bench through a job in the current folder.

    Parameters
    ----------
    dut : cocotb handle
        The bench of :mod:`serrano_sim.top.design`.
    job : :class:`~serrano_sim.top.job.Job`
        The job; its memory has been filled.
    """

    def __init__(self, dut: Any, job: Job):
        self.dut, self.job, self.layout = dut, job, job.layout
        settings = {name: getattr(job.memory, name) for name in vars(job.memory)}
        self.memory = AxiMemory(MEMORY, **settings, alarm_period=job.alarm_period)
        self.bus = AxiLite(dut, "s_axi")
        dut.activity_enable.value = int(job.activity)
        for name in ("s_axi_awprot", "s_axi_arprot"):
            if hasattr(dut, name):
                getattr(dut, name).value = 0
        self._clk, self._irq = dut.clk, dut.irq
        self._event, self._alarm = dut.memory_event, dut.memory_alarm
        self._handshakes = dut.axil_handshakes
        self._started = time.perf_counter()
        self._submitted = 0
        self._completed = 0
        self._seen = (0, 0)
        self._watch = None if job.enough is None else StepWatch(job.config.lanes, *job.enough)
        self._checked = 0
        self._events = Path(EVENTS_FILE).open("a", buffering=1)  # noqa: SIM115 - open as long as the run

    def _report(self, event: str, **values: Any) -> None:
        values = {"cycle": self.memory.cycles} | values
        values["seconds"] = round(time.perf_counter() - self._started, 3)
        self._events.write(json.dumps({"event": event, **values}) + "\n")

    # Registers

    async def _write(self, name: str, value: int) -> None:
        await self.bus.write(register(name).offset, value)

    async def _read(self, name: str) -> int:
        return await self.bus.read(register(name).offset)

    async def _write_address(self, name: str, value: int) -> None:
        await self._write(f"{name}_LO", value & 0xFFFFFFFF)
        await self._write(f"{name}_HI", value >> 32)

    async def _read_counters(self) -> dict[str, int]:
        await self._write("CONTROL", SNAPSHOT)
        values = {}
        for name, _ in COUNTERS:
            low = await self._read(f"COUNTER_{name.upper()}_LO")
            values[name] = low | await self._read(f"COUNTER_{name.upper()}_HI") << 32
        return values

    # A job

    async def run(self) -> None:
        """Carries out all phases."""
        await reset(self.dut)
        self._report("reset")
        await self._check_identity()
        await self._configure()
        with contextlib.suppress(_Enough):
            for phase in self.job.phases:
                await self._run_phase(phase)
        self._report("end")

    async def _check_identity(self) -> None:
        """The accelerator is the one of the configuration, and the tape fits it."""
        expected = constants(self.job.config)
        found = {name: await self._read(name) for name in expected}
        wrong = [
            f"{name} is {value:#x}, not {expected[name]:#x}"
            for name, value in found.items()
            if value != expected[name]
        ]
        if wrong:
            raise AssertionError(f"registers: {'; '.join(wrong)}")
        limits = {name: found[name.upper()] for name in LIMITS}
        limits |= {"n": found["GEOMETRY"] & 0xFF, "align": found["TAPE_ALIGN"]}
        raw = self.memory.read(self.layout.tape_address, DESCRIPTOR_BYTES)
        try:
            problems = misfits(SimpleNamespace(**vars(Descriptor.unpack(raw))), limits)
        except TapeError as error:
            problems = [str(error)]
        if problems and self.job.check_tape:
            raise AssertionError(f"the tape does not fit: {'; '.join(problems)}")
        self._report("identity", registers=found, misfits=problems)

    async def _configure(self) -> None:
        layout = self.layout
        await self._write_address("TAPE_ADDRESS", layout.tape_address)
        await self._write_address("KV_ADDRESS", layout.kv_address)
        await self._write("KV_BLOCKS", layout.kv_blocks)
        await self._write_address("KV_BUFFER", layout.buffer_address)
        await self._write("WATCHDOG", self.job.watchdog)
        await self._write_address("SUBMIT_ADDRESS", layout.submit_address)
        await self._write("SUBMIT_SIZE", layout.submit_size)
        await self._write_address("COMPLETE_ADDRESS", layout.complete_address)
        await self._write("COMPLETE_SIZE", layout.complete_size)
        await self._write("IRQ_ENABLE", ALL_INTERRUPTS)
        end = layout.complete_address + 16 * layout.complete_size
        self.memory.watch(layout.complete_address, end)

    async def _run_phase(self, phase: Phase) -> None:
        for address, data in phase.pokes:
            self.memory.write(address, data)
        for error in phase.errors:
            self.memory.inject_error(**vars(error))
        for name, value in phase.registers.items():
            await self._write(name, value)
        if phase.load and not await self._load() and phase.requests:
            raise AssertionError(f"no model was loaded; {await self._state()}")
        if phase.commands:
            since = self.memory.cycles
            answers = [await self._command(command) for command in phase.commands]
            self._report("commands", answers=answers, cycles=self.memory.cycles - since)
        if not phase.requests:
            begin = end = self.memory.cycles
            handshakes, irq = 0, bool(int(self._irq.value))
        else:
            begin, end, handshakes, irq = await self._serve(phase)
        registers = {name: await self._read(name) for name in END_REGISTERS}
        registers |= await self._read_counters()
        await self._write("COMPLETE_HEAD", self._completed % 2**32)
        await self._write("FAULT_CLEAR", 1)
        await self._write("IRQ", ALL_INTERRUPTS)
        self.memory.clear_errors()
        if await self._read("IRQ"):
            raise AssertionError(f"IRQ is {await self._read('IRQ'):#x} after it was cleared")
        peeks = [self.memory.read(*peek).hex() for peek in phase.peeks]
        results = {"irq": irq, "axil_handshakes": handshakes, "registers": registers, "peeks": peeks}
        self._report("phase", **results, begin=begin, end=end)

    async def _load(self) -> bool:
        """Loads the tape, and sets the counters to zero; whether a model is loaded now."""
        await self._write("CONTROL", LOAD)
        if not await self._wait_irq():
            raise AssertionError(f"no interrupt after LOAD; {await self._state()}")
        pending, status = await self._read("IRQ"), await self._read("STATUS")
        if not pending & 4:
            raise AssertionError(f"IRQ is {pending:#x} after LOAD, without LOADED")
        fault = await self._read("FAULT_CODE")
        self._report("load", loaded=bool(status & 2), fault=fault, irq=pending)
        # What the load left is told apart from what the requests leave.
        await self._write("IRQ", pending)
        await self._write("CONTROL", CLEAR_COUNTERS)
        return bool(status & 2)

    async def _command(self, command: KVCommand) -> tuple[int, int]:
        """Gives a command to the KV controller and waits for its answer: status and auxiliary value."""
        await self._write("KV_ARGUMENT0", command.argument0)
        await self._write("KV_ARGUMENT1", command.argument1)
        word = command.opcode | command.sequence << 8 | command.tenant << 24
        await self._write("KV_COMMAND", word)
        begun = self.memory.cycles
        while not (response := await self._read("KV_RESPONSE")) >> 31:
            if self.memory.cycles - begun > self.job.patience:
                raise AssertionError(f"no response to {command}; {await self._state()}")
        return response & 0xFF, await self._read("KV_AUX")

    async def _wait_irq(self) -> bool:
        """Waits until the interrupt line is high; False if patience ends first."""
        since = self.memory.cycles
        while not int(self._irq.value):
            if self.memory.cycles - since > SETTLE_CYCLES + self.job.patience:
                return False
            await First(ValueChange(self._irq), ValueChange(self._alarm))
        return True

    async def _settle(self) -> bool:
        """Some cycles for the interrupt to follow the last completion; whether it is high."""
        for _ in range(SETTLE_CYCLES):
            if int(self._irq.value):
                return True
            await FallingEdge(self._clk)
        return False

    async def _serve(self, phase: Phase) -> tuple[int, int, int, bool]:
        """Submits requests and waits for their ends: cycles of doorbell and end, handshakes, interrupt."""
        waiting, before_all, commands = len(phase.requests), self._completed, list(phase.meanwhile)
        first, cancels, spent = self._submitted, list(phase.cancel), 0
        arrivals = phase.arrivals or (0,) * waiting
        at_once = sum(arrival <= arrivals[0] for arrival in arrivals)
        await self._submit(phase.requests[:at_once])
        begin, before = self.memory.cycles, int(self._handshakes.value)
        self._seen = (begin, trace_length(TRACE))
        timed = [(cycles, 0, number) for number, cycles in enumerate(arrivals) if number >= at_once]
        timed += [(one.cycles, 1, place) for place, one in enumerate(phase.later)]
        timed.sort()
        self.memory.configure(alarm_period=TICK if timed else self.job.alarm_period)
        alarm = int(self._alarm.value)
        while (waiting := waiting - self._take_completions()) > 0:
            came, own = self._completed - before_all, int(self._handshakes.value)
            if cancels and came >= cancels[0][0]:
                await self._cancel(first + cancels.pop(0)[1])
                spent += await self._passed(own)
                continue
            if timed and self.memory.cycles - begin >= timed[0][0]:
                _, what, place = timed.pop(0)
                if what:
                    await self._do(phase.later[place], place, first)
                else:
                    await self._submit(phase.requests[place : place + 1])
                spent += await self._passed(own)
                continue
            if commands and came >= commands[0][0]:
                given = self.memory.cycles
                status, aux = await self._command(commands.pop(0)[1])
                self._report("meanwhile", status=status, aux=aux, begin=given)
                spent += await self._passed(own)
                continue
            await First(ValueChange(self._event), ValueChange(self._alarm))
            if int(self._alarm.value) != alarm:
                alarm = int(self._alarm.value)
                await self._check_progress()
        end, handshakes = self.memory.cycles, int(self._handshakes.value) - before - spent
        irq = await self._settle()
        if commands or cancels:
            raise AssertionError(f"the requests ended before the commands {[*commands, *cancels]} were given")
        for _ in range(SETTLE_CYCLES):
            if not await self._read("STATUS") & 1:
                break
        else:
            raise AssertionError(f"STATUS.BUSY stays set after the last completion; {await self._state()}")
        return begin, end, handshakes, irq

    async def _submit(self, requests: Sequence[Request]) -> None:
        """Submits the next requests with one doorbell."""
        for request in requests:
            number = self._submitted
            self.layout.submit(self.memory, number, request, self.layout.prompts[number])
            self._submitted += 1
        since = self.memory.cycles
        await self._write("SUBMIT_TAIL", self._submitted % 2**32)
        self._report("doorbell", requests=len(requests), since=since)

    async def _do(self, one: Later, place: int, first: int) -> None:
        """Does what is due by time; ``first`` is the number of the phase's first request."""
        self._report("later", place=place)
        if one.address is not None:
            self.memory.write(one.address, one.data)
        if one.cancel is not None:
            await self._cancel(first + one.cancel)

    async def _cancel(self, number: int) -> None:
        """Cancels a request by the number of its entry."""
        self.layout.cancel(self.memory, number)
        while await self._read("CANCEL_BUSY"):
            pass
        await self._write("CANCEL", number)
        self._report("cancel", number=number)

    async def _passed(self, before: int) -> int:
        """Handshakes since there were so many, the last one included."""
        for _ in range(2):
            await FallingEdge(self._clk)
        return int(self._handshakes.value) - before

    def _take_completions(self) -> int:
        """Reports the records that are new; returns how many requests ended with them."""
        ended = 0
        while record := self._next_completion():
            self._completed += 1
            ended += record.ended
            self._report("completion", record=vars(record))
        return ended

    def _next_completion(self) -> Completion | None:
        return self.layout.completion(self.memory, self._completed + 1)

    async def _check_progress(self) -> None:
        cycle = self.memory.cycles
        if cycle - self._checked < self.job.alarm_period:
            return
        self._checked, length = cycle, trace_length(TRACE)
        self._report("progress", beats=length)
        if self._watch is not None and self._watch.seen(length):
            raise _Enough
        if length != self._seen[1]:
            self._seen = (cycle, length)
        elif cycle - self._seen[0] > self.job.patience:
            raise AssertionError(
                f"nothing happened for {cycle - self._seen[0]} cycles; last beat of the trace:"
                f" {last_beat(self.job.config.lanes)}; {await self._state()}"
            )

    async def _state(self) -> str:
        names = ("STATUS", "IRQ", "FAULT_CODE", "FAULT_PACKET", "FAULT_DETAIL", "KV_USED")
        return ", ".join([f"{name} {await self._read(name):#x}" for name in names])
