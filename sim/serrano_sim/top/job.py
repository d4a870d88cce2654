# SPDX-License-Identifier: Apache-2.0
"""What a run of the accelerator is to do, as the simulation's process is told, and what came of it."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serrano.config import AcceleratorConfig

from .layout import Completion, MemoryLayout, Request

__all__ = [
    "BusError",
    "Job",
    "KVAnswer",
    "KVCommand",
    "Later",
    "MemorySettings",
    "Phase",
    "PhaseResult",
    "phase_results",
    "read_events",
]

JOB_FILE = "job.json"
EVENTS_FILE = "events.jsonl"
MEMORY = "memory"
TRACE = "trace"
ACTIVITY = "activity"


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """How the memory behaves: as :meth:`~serrano_sim.memory.handle.AxiMemory.configure` takes it."""

    read_latency: int = 1
    write_latency: int = 1
    read_bandwidth: tuple[int, int] = (0, 0)
    write_bandwidth: tuple[int, int] = (0, 0)
    shared_port: bool = False
    max_reads: int = 16
    max_writes: int = 16
    stall: float | Mapping[str, float] = 0.0
    seed: int = 0
    dram: str = ""

    def __post_init__(self):
        for name in ("read_bandwidth", "write_bandwidth"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def of(cls, latency: int, stall: float = 0.0, seed: int = 0) -> "MemorySettings":
        """The same latency for reads and writes, the same stalls on all channels."""
        return cls(read_latency=latency, write_latency=latency, stall=stall, seed=seed)


@dataclass(frozen=True, kw_only=True)
class BusError:
    """Error responses: as :meth:`~serrano_sim.memory.handle.AxiMemory.inject_error` takes them."""

    response: str
    on: str = "both"
    low: int = 0
    high: int = 2**63
    after: int = 0
    limit: int = 1
    chance: float = 1.0


@dataclass(frozen=True)
class KVCommand:
    """A command to the KV controller: docs/blocks/kvcache.md.

    ``opcode`` may be a number or an :class:`~serrano.kvcache.commands.Opcode`.
    """

    opcode: int
    sequence: int = 0
    tenant: int = 0
    argument0: int = 0
    argument1: int = 0

    def __post_init__(self):
        object.__setattr__(self, "opcode", int(getattr(self.opcode, "value", self.opcode)))


@dataclass(frozen=True)
class KVAnswer:
    """What came of a command, and in which cycles it was given and found answered."""

    status: int
    aux: int
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Later:
    """Something that the host does so many ``cycles`` after the first doorbell, give or take a few hundred.

    Parameters
    ----------
    cycles : :class:`int`
        When.
    cancel : :class:`int` or ``None``
        The request to be cancelled, by its place in the phase; it must have been submitted.
    address : :class:`int` or ``None``
        Where bytes are put into memory.
    data : :class:`bytes`
        The bytes.
    """

    cycles: int
    cancel: int | None = None
    address: int | None = None
    data: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What happens between two visits of the host, in this order.

    Parameters
    ----------
    pokes : sequence of (address, bytes)
        Bytes put into memory.
    errors : sequence of :class:`BusError`
        Errors from now on to the end of the phase.
    registers : mapping of :class:`str` to :class:`int`
        Registers written, beyond the usual ones before the first phase.
    load : :class:`bool`
        Whether the tape is loaded.
    commands : sequence of :class:`KVCommand`
        Commands given to the KV controller through the registers, one after another.
    requests : sequence of :class:`~serrano_sim.top.layout.Request`
        Requests, submitted with one doorbell.
    meanwhile : sequence of (:class:`int`, :class:`KVCommand`)
        Commands given while the requests are served: each when so many of the phase's completion records
        have come and the command before it has been answered.
    cancel : sequence of (:class:`int`, :class:`int`)
        Requests that the host cancels, by their place in the phase: each when so many of the phase's
        completion records have come.
    arrivals : sequence of :class:`int`
        Cycles from the first doorbell to that of each request, not falling; without it, one for all.
    later : sequence of :class:`Later`
        What the host does while the requests are served, by time. What is not due when they have ended it
        does not do.
    peeks : sequence of (address, size)
        Bytes of memory that are kept as they are at the end of the phase.
    """

    pokes: tuple[tuple[int, bytes], ...] = ()
    errors: tuple[BusError, ...] = ()
    registers: Mapping[str, int] = field(default_factory=dict)
    load: bool = False
    commands: tuple[KVCommand, ...] = ()
    requests: tuple[Request, ...] = ()
    meanwhile: tuple[tuple[int, KVCommand], ...] = ()
    cancel: tuple[tuple[int, int], ...] = ()
    arrivals: tuple[int, ...] = ()
    later: tuple[Later, ...] = ()
    peeks: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        if self.arrivals and len(self.arrivals) != len(self.requests):
            raise ValueError(f"{len(self.requests)} requests cannot have {len(self.arrivals)} arrivals")
        if list(self.arrivals) != sorted(self.arrivals):
            raise ValueError("Arrivals must be in the order of the requests")

    def to_json(self) -> dict[str, Any]:
        """For a job file."""
        values = dataclasses.asdict(self)
        values["pokes"] = [[address, bytes(data).hex()] for address, data in self.pokes]
        for one in values["later"]:
            one["data"] = bytes(one["data"]).hex()
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Phase":
        """From a job file."""
        return cls(
            pokes=tuple((address, bytes.fromhex(data)) for address, data in values["pokes"]),
            errors=tuple(BusError(**error) for error in values["errors"]),
            registers=values["registers"],
            load=values["load"],
            commands=tuple(KVCommand(**command) for command in values["commands"]),
            requests=tuple(Request(**request) for request in values["requests"]),
            meanwhile=tuple((records, KVCommand(**command)) for records, command in values["meanwhile"]),
            cancel=tuple((records, place) for records, place in values["cancel"]),
            arrivals=tuple(values["arrivals"]),
            later=tuple(Later(**one | {"data": bytes.fromhex(one["data"])}) for one in values["later"]),
            peeks=tuple((address, size) for address, size in values["peeks"]),
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run: the accelerator, what lies in memory, how the memory behaves, and what the host does.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    layout : :class:`~serrano_sim.top.layout.MemoryLayout`
        Memory, filled by whoever starts the run.
    phases : sequence of :class:`Phase`
        What the host does. Prompts of all phases follow each other in the layout.
    memory : :class:`MemorySettings`
        How the memory behaves.
    watchdog : :class:`int`
        Value of the register WATCHDOG.
    patience : :class:`int`
        Cycles without a beat of the trace after which the run is given up.
    alarm_period : :class:`int`
        Cycles between two reports of progress.
    check_tape : :class:`bool`
        Whether the run fails if the accelerator's registers say that the tape does not fit.
    activity : :class:`bool`
        Whether it is recorded what each part does: :mod:`serrano_sim.timeline`.
    enough : (:class:`int`, :class:`int`, :class:`int`) or ``None``
        Rows of a step, how many of them are sampled, and a number of steps. The run is cut short behind so
        many such steps, one after another, as soon as the next one has begun; its phase then has no result.
    """

    config: AcceleratorConfig
    layout: MemoryLayout
    phases: tuple[Phase, ...]
    memory: MemorySettings = MemorySettings()
    watchdog: int = 0
    patience: int = 1_000_000
    alarm_period: int = 20_000
    check_tape: bool = True
    activity: bool = False
    enough: tuple[int, int, int] | None = None

    def __post_init__(self):
        if self.enough is not None:
            object.__setattr__(self, "enough", tuple(self.enough))
        count = sum(len(phase.requests) for phase in self.phases)
        if count != len(self.layout.prompts):
            raise ValueError(
                f"The layout has {len(self.layout.prompts)} prompts, the phases {count} requests"
            )

    @property
    def requests(self) -> tuple[Request, ...]:
        """Requests of all phases, in order; a request's id is its place here."""
        return tuple(request for phase in self.phases for request in phase.requests)

    def write(self, folder: Path | str) -> None:
        """Writes the job file."""
        values = {
            "config": dataclasses.asdict(self.config),
            "layout": self.layout.to_json(),
            "phases": [phase.to_json() for phase in self.phases],
            "memory": dataclasses.asdict(self.memory),
            **{name: getattr(self, name) for name in _PLAIN},
        }
        (Path(folder) / JOB_FILE).write_text(json.dumps(values, indent=1))

    @classmethod
    def read(cls, folder: Path | str = ".") -> "Job":
        """Reads the job file."""
        values = json.loads((Path(folder) / JOB_FILE).read_text())
        return cls(
            config=AcceleratorConfig(**values["config"]),
            layout=MemoryLayout.from_json(values["layout"]),
            phases=tuple(Phase.from_json(phase) for phase in values["phases"]),
            memory=MemorySettings(**values["memory"]),
            **{name: values[name] for name in _PLAIN},
        )


_PLAIN = ("watchdog", "patience", "alarm_period", "check_tape", "activity", "enough")


@dataclass(frozen=True, kw_only=True)
class PhaseResult:
    """What came of a phase.

    Parameters
    ----------
    loaded : :class:`bool` or ``None``
        Whether LOAD left a model loaded; ``None`` if the phase has no LOAD.
    load_fault : :class:`int`
        FAULT_CODE after LOAD.
    answers : sequence of (:class:`int`, :class:`int`)
        Status and auxiliary value of each command to the KV controller.
    command_cycles : :class:`int`
        Cycles that the host spent on them, most of them at the registers.
    meanwhile : sequence of :class:`KVAnswer`
        Answers to the commands given while the requests were served.
    completions : sequence of (cycle, :class:`~serrano_sim.top.layout.Completion`)
        Records in order, with the cycle in which they came.
    irq : :class:`bool`
        Whether the interrupt line was high when the last request had ended.
    axil_handshakes : :class:`int`
        AXI4-Lite handshakes between the doorbell and the last completion, apart from those of ``meanwhile``
        and ``cancel``.
    registers : mapping
        Registers by name at the end: STATUS, IRQ, the rings', FAULT_*, KV_USED, KV_PEAK; and the counters.
    begin, end : :class:`int`
        Cycles of the doorbell and of the last completion.
    submitted : sequence of :class:`int`
        Cycle in which the doorbell of each request began to be rung.
    cancels : sequence of (:class:`int`, :class:`int`)
        Cycle in which a request was cancelled, and its number.
    done : sequence of (:class:`int`, :class:`int`)
        What was done of the phase's ``later``: its place there, and the cycle.
    peeks : sequence of :class:`bytes`
        What was in the places to be kept.
    """

    loaded: bool | None = None
    load_fault: int = 0
    answers: tuple[tuple[int, int], ...] = ()
    command_cycles: int = 0
    meanwhile: tuple[KVAnswer, ...] = ()
    completions: tuple[tuple[int, Completion], ...] = ()
    irq: bool = False
    axil_handshakes: int = 0
    registers: Mapping[str, int] = field(default_factory=dict)
    begin: int = 0
    end: int = 0
    submitted: tuple[int, ...] = ()
    cancels: tuple[tuple[int, int], ...] = ()
    done: tuple[tuple[int, int], ...] = ()
    peeks: tuple[bytes, ...] = ()

    def of(self, identity: int) -> list[Completion]:
        """The records of one request."""
        return [record for _, record in self.completions if record.id == identity]


def read_events(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The events that the simulation's process has written, one JSON object in a line."""
    for line in lines:
        if line.endswith("\n"):
            yield json.loads(line)


def phase_results(events: Sequence[Mapping[str, Any]]) -> list[PhaseResult]:
    """Results of the phases that have ended."""
    results: list[PhaseResult] = []
    current: dict[str, Any] = {"completions": []}
    for event in events:
        match event["event"]:
            case "load":
                current |= {"loaded": event["loaded"], "load_fault": event["fault"]}
            case "commands":
                answers = tuple((status, aux) for status, aux in event["answers"])
                current |= {"answers": answers, "command_cycles": event["cycles"]}
            case "meanwhile":
                answer = KVAnswer(event["status"], event["aux"], event["begin"], event["cycle"])
                current["meanwhile"] = (*current.get("meanwhile", ()), answer)
            case "doorbell":
                cycles = (event.get("since", event["cycle"]),) * event["requests"]
                current["submitted"] = (*current.get("submitted", ()), *cycles)
            case "cancel":
                cancel = (event["cycle"], event["number"])
                current["cancels"] = (*current.get("cancels", ()), cancel)
            case "later":
                done = (event["place"], event["cycle"])
                current["done"] = (*current.get("done", ()), done)
            case "completion":
                current["completions"].append((event["cycle"], Completion(**event["record"])))
            case "phase":
                names = ("irq", "axil_handshakes", "registers", "begin", "end")
                current |= {name: event[name] for name in names}
                current["completions"] = tuple(current["completions"])
                current["peeks"] = tuple(bytes.fromhex(found) for found in event.get("peeks", ()))
                results.append(PhaseResult(**current))
                current = {"completions": []}
    return results
