# SPDX-License-Identifier: Apache-2.0
"""The accelerator: instances and connections."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.bus import AXI4Lite, AXI4Read, AXI4Write, ReadArbiter, ReadClient, WriteArbiter
from serrano.config import AcceleratorConfig
from serrano.csr import COUNTERS, ControlRegisters
from serrano.csr.counters import Counters
from serrano.csr.registers import ADDRESS_BITS
from serrano.datapath import Datapath
from serrano.emit.boundary import axi_port_names
from serrano.faults import FaultCode
from serrano.kvcache import BlockMover, Controller
from serrano.kvcache.payloads import KVGeometry
from serrano.schedule.descriptor import DescriptorLoader
from serrano.schedule.recovery import Recovery
from serrano.schedule.rings import CompletionRing, SubmissionRing
from serrano.schedule.scheduler import Scheduler
from serrano.stream.pace import settled
from serrano.stream.slices import later
from serrano.trace import ActivityWord, TraceBeat, Tracer
from serrano.vector.arithmetic import multiplied

__all__ = ["Accelerator"]

KV, EMBED, PROMPT, RING, DESCRIPTOR, TAPE, MOVE = range(7)
"""Clients of the read port, in descending priority: the tape takes all that others leave."""

APPEND, COMPLETION, MOVE_WRITES = range(3)
"""Clients of the write port."""

IRQ_COMPLETION, IRQ_FAULT, IRQ_LOADED = range(3)
"""Bits of the IRQ register."""


class Accelerator(wiring.Component):
    """An LLM-inference accelerator behind an AXI4 manager and an AXI4-Lite subordinate port.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    m_axi_read : ``Out(AXI4Read)``
        Read channels of the memory port.
    m_axi_write : ``Out(AXI4Write)``
        Write channels of the memory port.
    s_axi : ``In(AXI4Lite(12))``
        Registers.
    irq : ``Out(1)``
        Interrupt, level.
    trace_valid : ``Out(1)``
        A beat of the trace is shown.
    trace : ``Out(TraceBeat(config))``
        The beat.
    trace_activity : ``Out(width of ActivityWord)``
        What each part does in this cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "m_axi_read": Out(AXI4Read(config.address_bits, config.port_bytes)),
                "m_axi_write": Out(AXI4Write(config.address_bits, config.port_bytes)),
                "s_axi": In(AXI4Lite(ADDRESS_BITS)),
                "irq": Out(1),
                "trace_valid": Out(1),
                "trace": Out(TraceBeat(config)),
                "trace_activity": Out(ActivityWord.as_shape().size),
            }
        )

    @property
    def port_names(self) -> dict[str, str]:
        """Names of the ports of the Verilog module, by their names here."""
        names = {
            **axi_port_names(self, "m_axi_read", "m_axi"),
            **axi_port_names(self, "m_axi_write", "m_axi"),
            **axi_port_names(self, "s_axi", "s_axi"),
        }
        for field, _ in TraceBeat(self.config):
            names[f"trace__{field}"] = f"trace_{field}"
        return names

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.registers = self._registers = ControlRegisters(config)
        m.submodules.reads = self._reads = ReadArbiter(config, self._read_clients())
        m.submodules.writes = self._writes = WriteArbiter(
            config, ["append", "completion", "move"], apart=["completion", "move"]
        )
        m.submodules.recovery = self._recovery = Recovery(config, (TAPE, EMBED), KV, APPEND)
        m.submodules.loader = self._loader = DescriptorLoader(config)
        m.submodules.scheduler = self._scheduler = Scheduler(config)
        m.submodules.controller = self._controller = Controller(config)
        m.submodules.mover = self._mover = BlockMover(config)
        m.submodules.counters = self._counters = Counters(registered=config.registered)
        m.submodules.tracer = self._tracer = Tracer(config)
        self._datapath = Datapath(config)
        self._geometry = Signal(KVGeometry(config))
        # It has a register of its own, amid what it resets; nothing of the step moves before or after it. As
        # it begins a cycle after the read port's, but ends with it, it is not one with that.
        flush = self._recovery.flush & settled(m, config, self._recovery.flush, "flush_begun")
        flush = settled(m, config, flush, "datapath_flush")
        m.submodules.datapath = ResetInserter(flush)(self._datapath)
        self._build_ports(m)
        self._build_datapath(m)
        self._build_moves(m)
        self._build_requests(m)
        self._build_recovery(m)
        self._build_loading(m)
        self._build_kv_registers(m)
        self._build_counters(m)
        self._build_trace(m)
        return m

    def _read_clients(self) -> list[ReadClient]:
        config = self.config
        burst = config.read_burst_beats
        small = max(1, 64 // config.port_bytes)
        return [
            ReadClient("kv", burst, config.kv_fifo_beats),
            ReadClient("embed", burst, 2 * burst),
            ReadClient("prompt", small, 2 * small),
            ReadClient("ring", small, 2 * small),
            ReadClient("descriptor", small, 2 * small),
            ReadClient(
                "tape",
                burst,
                config.tape_fifo_bytes // config.port_bytes,
                word_beats=config.load_beats,
                queue_beats=config.queue_beats,
            ),
            ReadClient("move", 32, 128, apart=True),
        ]

    def _build_ports(self, m: Module) -> None:
        registers = self._registers
        wiring.connect(m, self._reads.axi, wiring.flipped(self.m_axi_read))
        wiring.connect(m, self._writes.axi, wiring.flipped(self.m_axi_write))
        wiring.connect(m, wiring.flipped(self.s_axi), registers.bus)
        m.d.comb += self.irq.eq((registers.irq & registers.irq_enable).any())

    def _address(self, name: str) -> Value:
        registers = self._registers
        pair = Cat(getattr(registers, f"{name}_lo"), getattr(registers, f"{name}_hi"))
        return pair[: self.config.address_bits]

    def _build_datapath(self, m: Module) -> None:
        datapath, scheduler, controller = self._datapath, self._scheduler, self._controller
        for member, client in (("kv_memory", KV), ("tape_memory", TAPE), ("embed_memory", EMBED)):
            wiring.connect(m, getattr(datapath, member), self._reads.ports[client])
        wiring.connect(m, datapath.kv_writes, self._writes.ports[APPEND])
        for index in range(2):
            wiring.connect(m, datapath.translate[index], controller.translate[index])
        wiring.connect(m, scheduler.span, datapath.span)
        wiring.connect(m, scheduler.step, datapath.step)
        wiring.connect(m, scheduler.embed, datapath.embed)
        m.d.comb += [
            datapath.model.eq(self._loader.model),
            datapath.tape.eq(self._address("tape_address")),
            datapath.geometry.eq(self._geometry),
            scheduler.tokens.valid.eq(datapath.tokens.valid),
            scheduler.tokens.payload.row.eq(datapath.tokens.payload.row),
            scheduler.tokens.payload.token.eq(datapath.tokens.payload.token),
            datapath.tokens.ready.eq(scheduler.tokens.ready),
            # A step that is being given up may come to its end all the same: the last answers of the memory
            # are all that it waits for.
            scheduler.done.eq(datapath.done & ~self._recovery.stop),
        ]

    def _build_moves(self, m: Module) -> None:
        """What moves the bytes of KV blocks is no part of a step, nor reset with it."""
        mover, controller, model = self._mover, self._controller, self._loader.model
        wiring.connect(m, controller.moves, mover.moves)
        wiring.connect(m, mover.reads, self._reads.ports[MOVE])
        wiring.connect(m, mover.writes, self._writes.ports[MOVE_WRITES])
        always = {"enable": Const(1), "registered": self.config.registered}
        records = multiplied(m, model.layers, model.kv_heads, name="geometry_records", **always)
        m.d.comb += [
            self._geometry.records.eq(records),
            self._geometry.base.eq(settled(m, self.config, self._address("kv_address"), "kv_base")),
            self._geometry.block_bytes.eq(model.block_bytes),
            self._geometry.head_dim.eq(model.head_dim),
            mover.geometry.eq(self._geometry),
            mover.buffer.eq(self._address("kv_buffer")),
            controller.records.eq(self._geometry.records),
        ]

    def _build_requests(self, m: Module) -> None:
        registers, scheduler = self._registers, self._scheduler
        m.submodules.submissions = submissions = SubmissionRing(self.config)
        m.submodules.completions = completions = CompletionRing(self.config)
        wiring.connect(m, submissions.memory, self._reads.ports[RING])
        wiring.connect(m, submissions.requests, scheduler.requests)
        wiring.connect(m, scheduler.memory, self._reads.ports[PROMPT])
        wiring.connect(m, scheduler.completions, completions.records)
        wiring.connect(m, completions.memory, self._writes.ports[COMPLETION])
        wiring.connect(m, scheduler.kv, self._controller.steps)
        # It begins long before a model is loaded.
        initializing = settled(m, self.config, self._controller.initializing, "initializing")
        m.d.comb += [
            # The ring is read only while no step runs, so that a flush never hits it.
            submissions.enable.eq(self._loader.loaded & scheduler.taking & ~initializing),
            scheduler.waiting.eq(submissions.waiting),
            scheduler.reading.eq(submissions.reading),
            scheduler.cancel_write.eq(registers.cancel_write),
            scheduler.cancel_number.eq(registers.cancel),
            registers.cancel_busy.eq(scheduler.cancel_busy),
            submissions.address.eq(self._address("submit_address")),
            submissions.size.eq(registers.submit_size),
            submissions.tail.eq(registers.submit_tail),
            registers.submit_head.eq(submissions.head),
            completions.address.eq(self._address("complete_address")),
            completions.size.eq(registers.complete_size),
            completions.head.eq(registers.complete_head),
            registers.complete_tail.eq(completions.tail),
            scheduler.model.eq(self._loader.model),
            scheduler.ring_size.eq(registers.complete_size),
            scheduler.ring_free.eq(completions.free),
        ]

    def _build_recovery(self, m: Module) -> None:
        registers, recovery, scheduler = self._registers, self._recovery, self._scheduler
        self._stepping = running = Signal()
        with m.If(scheduler.begin):
            m.d.sync += running.eq(1)
        with m.Elif(scheduler.done | recovery.failed):
            m.d.sync += running.eq(0)
        # A cycle later than it was found: what the scheduler refuses is at the end of long paths.
        self._refused = refused = Signal.like(recovery.refused, name="refused")
        m.d.sync += [
            refused.valid.eq(scheduler.refused.valid),
            refused.code.eq(scheduler.refused.code),
            refused.detail.eq(scheduler.refused.detail),
        ]
        m.d.comb += [
            recovery.refused.valid.eq(refused.valid),
            recovery.refused.code.eq(refused.code),
            recovery.refused.detail.eq(refused.detail),
            recovery.refused.index.eq(self._datapath.packet),
            recovery.running.eq(running),
            recovery.progress.eq(self._datapath.activity.progress | scheduler.begin),
            recovery.watchdog.eq(registers.watchdog),
            recovery.packet.eq(self._datapath.packet),
            recovery.sequence.eq(scheduler.sequence),
            recovery.tape.eq(self._datapath.tape_fault),
            recovery.execution.eq(self._datapath.execution_fault),
            recovery.read.eq(self._reads.fault),
            recovery.write.eq(self._writes.fault),
            recovery.idle.eq(self._reads.idle & self._writes.idle),
            self._reads.stop.eq(recovery.stop),
            self._reads.flush.eq(recovery.flush),
            self._writes.stop.eq(recovery.stop),
            scheduler.failed.eq(recovery.failed),
            scheduler.retry.eq(recovery.retry),
            scheduler.code.eq(recovery.code),
            scheduler.own.eq(recovery.own),
            scheduler.fault_sequence.eq(recovery.own_sequence),
            recovery.clear.eq(registers.fault_clear_write),
            registers.fault_code.eq(recovery.record.code),
            registers.fault_packet.eq(recovery.record.packet),
            registers.fault_sequence.eq(recovery.record.sequence),
            registers.fault_detail.eq(recovery.record.detail),
            registers.fault_count.eq(recovery.record.count),
            Cat(registers.fault_address_lo, registers.fault_address_hi).eq(recovery.record.address),
        ]

    def _build_loading(self, m: Module) -> None:
        registers, loader, scheduler = self._registers, self._loader, self._scheduler
        loading, wanted = Signal(), Signal()
        wiring.connect(m, loader.memory, self._reads.ports[DESCRIPTOR])
        with m.If(registers.control_write & registers.control[0]):
            m.d.sync += wanted.eq(1)
        with m.If(loader.start):
            m.d.sync += [wanted.eq(0), loading.eq(1)]
        with m.If(loader.done):
            m.d.sync += loading.eq(0)
        # Until the scheduler has heard of it, it may begin something.
        heard = settled(m, self.config, wanted, "heard")
        quiet = wanted & heard & ~loading & ~scheduler.busy
        completed = scheduler.completions.valid & scheduler.completions.ready
        failed = settled(m, self.config, loader.done & (loader.code != FaultCode.NONE), "load_failed")
        code = settled(m, self.config, loader.code, "load_code")
        with m.If(failed):
            m.d.sync += [self._refused.valid.eq(1), self._refused.code.eq(code)]
        m.d.comb += [
            # Once a request is paused for it, nothing begins any more.
            loader.start.eq(settled(m, self.config, quiet, "quiet") & ~loading),
            scheduler.pause.eq(wanted | loading),
            loader.address.eq(self._address("tape_address")),
            self._controller.initialize.eq(loader.start),
            self._controller.blocks.eq(registers.kv_blocks),
            registers.status.eq(Cat(scheduler.busy | wanted | loading, loader.loaded)),
            registers.irq_set[IRQ_COMPLETION].eq(
                settled(m, self.config, completed & scheduler.completions.payload.ended, "ended")
            ),
            registers.irq_set[IRQ_FAULT].eq(
                settled(m, self.config, self._recovery.recorded.valid, "recorded")
            ),
            registers.irq_set[IRQ_LOADED].eq(settled(m, self.config, loader.done, "load_done")),
        ]

    def _build_kv_registers(self, m: Module) -> None:
        registers, host = self._registers, self._controller.host
        command = registers.kv_command
        waiting, answered = Signal(), Signal()
        status = Signal(8)
        with m.If(registers.kv_command_write):
            m.d.sync += [waiting.eq(1), answered.eq(0)]
        with m.Elif(host.commands.ready):
            m.d.sync += waiting.eq(0)
        with m.If(host.responses.valid):
            m.d.sync += [
                answered.eq(1),
                status.eq(host.responses.payload.status),
                registers.kv_aux.eq(host.responses.payload.aux),
            ]
        m.d.comb += [
            host.commands.valid.eq(waiting),
            host.commands.payload.opcode.eq(command[:8]),
            host.commands.payload.seq.eq(command[8:24]),
            host.commands.payload.tenant.eq(command[24:]),
            host.commands.payload.arg0.eq(registers.kv_argument0),
            host.commands.payload.arg1.eq(registers.kv_argument1),
            host.responses.ready.eq(1),
            self._controller.locked.eq(self._scheduler.locked),
            registers.kv_response.eq(Cat(status, Const(0, 23), answered)),
            registers.kv_used.eq(self._controller.used),
            registers.kv_peak.eq(self._controller.peak),
        ]

    def _build_counters(self, m: Module) -> None:
        registers, counters = self._registers, self._counters
        activity, reads, running = self._datapath.activity, self._reads, self._scheduler.running
        width = self.config.port_bytes
        # Those of the data path and of the read port, with registers as they were in the cycle before.
        active, tile, results, attending = (
            later(m, value, registered=self.config.registered, name="late_activity")
            for value in (
                activity.active,
                activity.wait_tile,
                activity.wait_results,
                activity.attending,
            )
        )
        others = Cat(reads.beats[index] for index in range(MOVE + 1) if index not in (KV, TAPE)).any()
        tape_beat, kv_beat, others, beat, idle, blocked = (
            later(m, value, registered=self.config.registered, name="late_port")
            for value in (
                reads.beats[TAPE],
                reads.beats[KV],
                others,
                reads.beats.any(),
                reads.idle,
                reads.blocked,
            )
        )
        events = {
            "cycles": running,
            "steps": self._scheduler.committed,
            "tokens": self._scheduler.completions.valid
            & self._scheduler.completions.ready
            & self._scheduler.completions.payload.has_token,
            "array_busy": running & active,
            "array_wait_tape": running & tile & ~attending,
            "array_wait_kv": running & tile & attending,
            "array_epilogue": running & results,
            "array_serial": running & ~(active | tile | results),
            "array_idle": 0,
            "port_weights": running & tape_beat,
            "port_kv": running & kv_beat,
            "port_other": running & others,
            "port_no_space": running & ~beat & idle & blocked,
            "port_latency": running & ~beat & ~idle,
            "port_no_request": running & ~beat & idle & ~blocked,
            "bytes_weights": Mux(tape_beat, width, 0),
            "bytes_kv_read": Mux(kv_beat, width, 0),
            "bytes_other": Mux(others, width, 0),
            "rows_issued": active,
        }
        written = Signal(range(width + 1))
        appends = self._datapath.kv_writes.request
        with m.If(appends.valid & appends.ready):
            m.d.comb += written.eq(sum(appends.payload.strobe))
        events["bytes_kv_write"] = written
        self._build_activity(m, events)
        for index, (name, _) in enumerate(COUNTERS):
            m.d.comb += counters.increments[index].eq(events[name])
        wiring.connect(m, registers.counters, counters.read)
        m.d.comb += [
            counters.snapshot.eq(registers.control_write & registers.control[1]),
            counters.clear.eq(registers.control_write & registers.control[2]),
            counters.report.eq(self._scheduler.committed),
        ]

    def _build_activity(self, m: Module, events: dict[str, Value]) -> None:
        """What the counters count, and what else is seen of the parts."""
        activity, results = self._datapath.activity, self._datapath.results
        values = {
            **events,
            "packet": self._datapath.packet,
            "stepping": self._stepping,
            "residual": results.residual.valid,
            "heads": results.heads.valid,
            "logits": results.logits.valid,
            "staged": activity.staged,
            "quantizing": activity.quantizing,
            "gathering": activity.gathering,
            "appending": activity.appending,
        }
        word = Signal(ActivityWord)
        m.d.comb += [getattr(word, name).eq(values[name]) for name, _ in ActivityWord.as_shape()]
        m.d.comb += self.trace_activity.eq(word)

    def _build_trace(self, m: Module) -> None:
        tracer, scheduler = self._tracer, self._scheduler
        wiring.connect(m, self._counters.reported, tracer.counters)
        recorded = self._recovery.recorded
        m.d.sync += [tracer.fault.valid.eq(recorded.valid), tracer.fault.code.eq(recorded.code)]
        m.d.comb += [
            tracer.model.eq(self._loader.model),
            tracer.packet.eq(self._datapath.packet),
            tracer.begin.eq(scheduler.begin),
            tracer.committed.eq(scheduler.committed),
            tracer.step.eq(scheduler.step.payload),
            tracer.span.valid.eq(scheduler.span.valid & scheduler.span.ready),
            tracer.span.beat.eq(scheduler.span.payload),
            tracer.number.eq(scheduler.number),
            tracer.admitted.eq(scheduler.admitted),
            tracer.ended.eq(scheduler.ended),
            tracer.fault.packet.eq(self._datapath.packet),
            self.trace_valid.eq(tracer.valid),
            self.trace.eq(tracer.beat),
        ]
        for name in ("residual", "codes", "heads", "logits", "token"):
            m.d.comb += getattr(tracer, name).eq(getattr(self._datapath.results, name))
