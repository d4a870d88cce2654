# SPDX-License-Identifier: Apache-2.0
"""Everything that holds data of a step."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.attention import Attention
from serrano.bus import ReadPort, WritePort
from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.kvcache.appender import Appender
from serrano.kvcache.commands import Status
from serrano.kvcache.gather import Gather
from serrano.kvcache.payloads import GatherCommand, KVGeometry, TranslatePort
from serrano.layouts import EpilogueBeat, ReadRequest
from serrano.matmul import Engine
from serrano.schedule.descriptor import ModelInfo
from serrano.schedule.embed import EmbedCommand, Embedder
from serrano.schedule.issuer import Issuer
from serrano.schedule.recovery import PacketFault
from serrano.schedule.sequencer import Route, Sequencer
from serrano.schedule.spans import Span, StepCommand
from serrano.stream import Fork, HalfRegister, StreamFIFO, StreamRegister
from serrano.stream.slices import later, slice_before, sliced
from serrano.tape.packets import BlockScales
from serrano.tape.reader import TapeReader
from serrano.tape.unpacker import Unpacker
from serrano.vector.activation_buffer import ActivationBuffer
from serrano.vector.argmax import Argmax
from serrano.vector.dequantizer import Dequantizer
from serrano.vector.gate_up import GateUp
from serrano.vector.heads import Heads
from serrano.vector.payloads import CodesBeat, HeadCodes, HeadScale, Token, WrittenBeat
from serrano.vector.residual import Residual
from serrano.vector.row_feeder import RowFeeder
from serrano.vector.row_quantizer import RowQuantizer
from serrano.vector.staging import Staging

__all__ = ["Activity", "Datapath", "Results"]

SCALES_AHEAD = 4
"""Blocks whose scales may wait for their results."""


class Activity(data.Struct):
    """What the parts do in this cycle."""

    active: unsigned(1)
    """A row enters it."""
    wait_tile: unsigned(1)
    """A row waits for its tile."""
    wait_results: unsigned(1)
    """A row waits for room among the results."""
    attending: unsigned(1)
    """The packet being executed is an ATTEND."""
    progress: unsigned(1)
    """Something moved anywhere."""
    staged: unsigned(1)
    """Values are staged."""
    quantizing: unsigned(1)
    """The row quantizer has a command."""
    gathering: unsigned(1)
    """KV records are asked for, or on their way."""
    appending: unsigned(1)
    """New k and v are not acknowledged by memory."""


class Results(data.StructLayout):
    """Results as they are produced, each with its valid bit, for the trace."""

    def __init__(self, config: AcceleratorConfig):
        shapes = {
            "residual": WrittenBeat(config),
            "codes": CodesBeat(config),
            "heads": HeadCodes(config),
            "logits": EpilogueBeat(config),
            "token": Token(config),
        }
        super().__init__(
            {name: data.StructLayout({"valid": 1, "beat": shape}) for name, shape in shapes.items()}
        )


class Datapath(wiring.Component):
    """Executes steps. May be reset as a whole at any time: nothing that outlives a step is in here.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    model : ``In(ModelInfo)``
        The loaded model.
    tape : ``In(config.address_bits)``
        Address of the tape.
    geometry : ``In(KVGeometry(config))``
        Where the KV blocks lie.
    span : ``In(stream.Signature(Span(config)))``
        The sequences of the next step, before it.
    step : ``In(stream.Signature(StepCommand(config)))``
        Steps.
    embed : ``In(stream.Signature(EmbedCommand(config)))``
        Rows of a step, after it.
    tokens : ``Out(stream.Signature(Token(config)))``
        Sampled tokens.
    done : ``Out(1)``
        The step has been executed.
    packet : ``Out(32)``
        Index of the packet being executed.
    kv_memory, tape_memory, embed_memory : ``Out(ReadPort(config))``
        Ports to memory.
    kv_writes : ``Out(WritePort(config))``
        Port to memory.
    translate : ``Out(TranslatePort(config)).array(2)``
        Look-ups for gather and append.
    tape_fault, execution_fault : ``Out(PacketFault)``
        Held from the first fault on.
    activity : ``Out(Activity)``
        What the parts do.
    results : ``Out(Results(config))``
        For the trace.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "model": In(ModelInfo),
                "tape": In(config.address_bits),
                "geometry": In(KVGeometry(config)),
                "span": In(stream.Signature(Span(config))),
                "step": In(stream.Signature(StepCommand(config))),
                "embed": In(stream.Signature(EmbedCommand(config))),
                "tokens": Out(stream.Signature(Token(config))),
                "done": Out(1),
                "packet": Out(32),
                "kv_memory": Out(ReadPort(config)),
                "tape_memory": Out(ReadPort(config, config.load_beats)),
                "embed_memory": Out(ReadPort(config)),
                "kv_writes": Out(WritePort(config)),
                "translate": Out(TranslatePort(config)).array(2),
                "tape_fault": Out(PacketFault),
                "execution_fault": Out(PacketFault),
                "activity": Out(Activity),
                "results": Out(Results(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.sequencer = self._sequencer = Sequencer(config)
        m.submodules.engine = self._engine = Engine(config)
        m.submodules.dequantizer = self._dequantizer = Dequantizer(config)
        m.submodules.residual = self._residual = Residual(config)
        m.submodules.staging = self._staging = Staging(config)
        m.submodules.quantizer = self._quantizer = RowQuantizer(config)
        m.submodules.heads = self._heads = Heads(config)
        m.submodules.argmax = self._argmax = Argmax(config)
        m.submodules.attention = self._attention = Attention(config)
        # Nothing of an ATTEND comes in its first cycle, and nothing of what follows it in theirs.
        # With registers each of those who choose by that has one for itself, a cycle after the one before.
        self._attending = Signal()
        m.d.sync += self._attending.eq(self._sequencer.attending)
        self._rows_attending = self._later(m, self._attending)
        self._staged_attending = self._later(m, self._rows_attending)
        self._build_tape(m)
        self._build_embedding(m)
        self._build_rows(m)
        self._build_results(m)
        self._build_kv(m)
        self._build_sequencing(m)
        self._build_trace(m)
        return m

    def _build_tape(self, m: Module) -> None:
        """From the tape to tiles, scales and packets."""
        config, sequencer, attention = self.config, self._sequencer, self._attention
        m.submodules.reader = reader = TapeReader(config)
        m.submodules.issuer = issuer = Issuer(config)
        m.submodules.unpacker = unpacker = Unpacker(config)
        m.submodules.scales = scales = StreamFIFO(BlockScales(config), SCALES_AHEAD, paused=config.registered)
        # Both runs of a step are handed over at once, though the first one takes as long as the step.
        m.submodules.runs = runs = StreamFIFO(ReadRequest(config), 2)
        wiring.connect(m, sequencer.runs, runs.i)
        wiring.connect(m, runs.o, wiring.flipped(self.tape_memory.request))
        wiring.connect(m, self._slice(m, "units", wiring.flipped(self.tape_memory.data)), reader.units)
        wiring.connect(m, self._slice(m, "headers", reader.headers, HalfRegister), issuer.headers)
        wiring.connect(m, self._slice(m, "packets", issuer.packets, HalfRegister), sequencer.packets)
        wiring.connect(m, issuer.unpack, unpacker.command)
        wiring.connect(m, reader.payload, unpacker.payload)
        wiring.connect(m, unpacker.scales, scales.i)
        wiring.connect(m, scales.o, self._dequantizer.scales)
        # Tiles come from the KV cache between the command of an ATTEND and its last tile.
        from_kv = Signal()
        with m.If(attention.loaded):
            m.d.sync += from_kv.eq(0)
        with m.Elif(attention.command.valid & attention.command.ready):
            m.d.sync += from_kv.eq(1)
        tiles = self._sliced(m, "tiles", self._engine.tiles)
        unpacked = self._slice(m, "unpacked", unpacker.tiles)
        self._select(m, from_kv, attention.tiles, unpacked, tiles)
        # Of attention there are no others, so its pipeline moves on whoever is chosen.
        m.d.comb += attention.tiles.ready.eq(tiles.ready)
        m.d.comb += [
            reader.start.eq(self._later(m, sequencer.reader_start)),
            reader.last_index.eq(self.model.packets - 1),
            sequencer.checked.eq(reader.checked),
            issuer.model.eq(self.model),
            issuer.attended.eq(attention.loaded),
        ]
        found = Signal(PacketFault)
        with m.If(reader.fault.valid):
            m.d.comb += [
                found.valid.eq(1),
                found.code.eq(reader.fault.code),
                found.index.eq(reader.fault.index),
            ]
        with m.Elif(unpacker.fault):
            m.d.comb += [
                found.valid.eq(1),
                found.code.eq(FaultCode.PACKET_LENGTH),
                found.index.eq(sequencer.packet),
            ]
        with m.Elif(issuer.fault.valid):
            m.d.comb += found.eq(issuer.fault)
        found = later(m, found, registered=config.registered, name="late_tape_fault")
        m.d.comb += self.tape_fault.eq(found)

    def _build_embedding(self, m: Module) -> None:
        config, sequencer = self.config, self._sequencer
        m.submodules.embedder = embedder = Embedder(config)
        m.submodules.rows = rows = Fork(EmbedCommand(config), 2)
        embed = self._slice(m, "embed", wiring.flipped(self.embed), HalfRegister)
        wiring.connect(m, embed, rows.i)
        wiring.connect(m, rows.o[0], embedder.command)
        self._places = rows.o[1]
        wiring.connect(m, embedder.memory, wiring.flipped(self.embed_memory))
        wiring.connect(m, embedder.beats, self._residual.load)
        wiring.connect(m, embedder.rope, self._heads.rope)
        missing = Signal(range(config.rows_max + 1))
        went = Signal()
        m.d.comb += went.eq(embed.valid & embed.ready)
        went = self._later(m, went)
        with m.If(self.step.valid & self.step.ready):
            m.d.sync += [missing.eq(self.step.payload.rows)]
        with m.Elif(went):
            m.d.sync += missing.eq(missing - 1)
        m.d.comb += [
            embedder.model.eq(self.model),
            embedder.tape.eq(self.tape),
            # What the residual still writes, the embedder had until the cycle before.
            sequencer.embedded.eq((missing == 0) & embedder.idle & self._later(m, self._residual.idle)),
        ]

    def _build_rows(self, m: Module) -> None:
        """From residual and staging buffer through the quantizer to the array."""
        config, sequencer, quantizer = self.config, self._sequencer, self._quantizer
        m.submodules.activations = activations = ActivationBuffer(config)
        m.submodules.feeder = feeder = RowFeeder(config)
        wiring.connect(m, quantizer.residual, self._residual.read)
        wiring.connect(m, quantizer.staged, self._staging.read)
        wiring.connect(m, quantizer.codes, activations.codes)
        wiring.connect(m, feeder.read, activations.read)
        wiring.connect(m, sequencer.feed, feeder.command)
        wiring.connect(m, sequencer.quantize, quantizer.command)
        rows = self._sliced(m, "rows", self._engine.rows)
        self._select(m, self._rows_attending, self._attention.rows, feeder.rows, rows)
        m.d.comb += [
            quantizer.residual_maxima.eq(self._residual.maxima),
            quantizer.staged_maxima.eq(self._staging.maxima),
            self._dequantizer.row_scales.eq(quantizer.row_scales),
        ]

    def _build_results(self, m: Module) -> None:
        """From the array to where the packet wants its results."""
        config, sequencer, dequantizer = self.config, self._sequencer, self._dequantizer
        m.submodules.gate_up = gate_up = GateUp(config)
        self._route(
            m,
            self._engine.results,
            {0: dequantizer.results, 1: self._attention.results},
            self._attending,
        )
        self._beats = beats = self._slice(m, "linear", dequantizer.beats, HalfRegister)
        # With registers a cycle later: in that cycle the slice is empty, but its payload is the same.
        self._beat_taken = beats.valid & beats.ready
        if config.registered:
            self._beat_taken = self._later(m, beats.valid) & ~beats.valid
        self._route(
            m,
            self._beats,
            {
                Route.RESIDUAL: self._residual.add,
                Route.HEADS: self._heads.beats,
                Route.GATE_UP: gate_up.beats,
                Route.LOGITS: self._argmax.beats,
            },
            sequencer.route,
            registered=config.registered,
        )
        staged = self._attention.staged, gate_up.staged
        self._select(m, self._staged_attending, *staged, self._staging.writes)
        wiring.connect(m, sequencer.dequantize, dequantizer.command)
        wiring.connect(m, sequencer.heads, self._heads.command)
        wiring.connect(m, sequencer.argmax, self._argmax.command)
        tokens = self._argmax.tokens
        given = self._sliced(m, "tokens", wiring.flipped(self.tokens), HalfRegister)
        self._given = given
        m.d.comb += [
            given.valid.eq(tokens.valid & sequencer.sampling),
            given.payload.eq(tokens.payload),
            tokens.ready.eq(given.ready & sequencer.sampling),
        ]
        m.d.comb += [
            self._residual.start.eq(sequencer.residual_start),
            self._staging.start.eq(self._later(m, sequencer.staging_start)),
        ]

    def _build_kv(self, m: Module) -> None:
        config, sequencer, attention = self.config, self._sequencer, self._attention
        m.submodules.gather = gather = Gather(config)
        m.submodules.appender = self._appender = appender = Appender(config)
        # All of a layer's heads are asked for before the first record is used.
        m.submodules.gathers = gathers = StreamFIFO(GatherCommand(config), max(2, config.heads_max))
        m.submodules.codes = codes = Fork(HeadCodes(config), 2)
        m.submodules.head_scales = head_scales = Fork(HeadScale(config), 2)
        wiring.connect(m, self._heads.codes, codes.i)
        wiring.connect(m, codes.o[0], attention.codes)
        wiring.connect(m, codes.o[1], appender.codes)
        wiring.connect(m, self._heads.scales, head_scales.i)
        wiring.connect(m, head_scales.o[0], attention.scales)
        wiring.connect(m, head_scales.o[1], appender.scales)
        wiring.connect(m, sequencer.gather, gathers.i)
        wiring.connect(m, self._slice(m, "gather_command", gathers.o, HalfRegister), gather.command)
        wiring.connect(m, sequencer.append, appender.command)
        wiring.connect(m, sequencer.attend, attention.command)
        wiring.connect(m, gather.memory, wiring.flipped(self.kv_memory))
        wiring.connect(m, gather.translate, wiring.flipped(self.translate[0]))
        wiring.connect(m, appender.memory, wiring.flipped(self.kv_writes))
        wiring.connect(m, appender.translate, wiring.flipped(self.translate[1]))
        wiring.connect(m, gather.records, attention.records)
        m.d.comb += [
            self.activity.gathering.eq(gathers.o.valid | gather.command.valid | ~gather.idle),
            self.activity.appending.eq(appender.pending),
        ]
        m.d.comb += [
            gather.geometry.eq(self.geometry),
            # Records that attention cannot take yet wait in the buffer of the read port, which is asked for
            # room before each burst: so many small ones are under way that memory's latency does not show.
            gather.room.eq(1),
            attention.head_pad.eq(self.model.head_pad),
            appender.geometry.eq(self.geometry),
            appender.places.valid.eq(self._places.valid),
            appender.places.payload.row.eq(self._places.payload.row),
            appender.places.payload.seq.eq(self._places.payload.sequence),
            appender.places.payload.position.eq(self._places.payload.position),
            self._places.ready.eq(appender.places.ready),
        ]

        fault = self.execution_fault
        ended = later(m, gather.ended, registered=config.registered, name="late_ended")
        # It loads what would be told, until something is.
        with m.If(~fault.valid):
            m.d.sync += [
                fault.valid.eq((ended.valid & (ended.status != Status.OK)) | appender.fault.valid),
                fault.code.eq(FaultCode.KV_MAP),
                fault.index.eq(sequencer.packet),
                fault.detail.eq(Mux(appender.fault.valid, appender.fault.status, ended.status)),
            ]

    def _build_sequencing(self, m: Module) -> None:
        sequencer, engine = self._sequencer, self._engine
        beats, staged, scales = self._beats, self._staging.writes, self._heads.scales
        wiring.connect(m, self._slice(m, "span", wiring.flipped(self.span), HalfRegister), sequencer.span)
        wiring.connect(m, self._slice(m, "step", wiring.flipped(self.step), HalfRegister), sequencer.step)
        # The last of the rows that are sampled.
        given = self._given
        sampled, last_row = Signal(), Signal.like(self.tokens.payload.row)
        with m.If(self.step.valid & self.step.ready):
            m.d.sync += last_row.eq(self.step.payload.sampled - 1)
        with m.If(given.valid & given.ready & (given.payload.row == last_row)):
            m.d.sync += sampled.eq(1)
        with m.If(self.done):
            m.d.sync += sampled.eq(0)
        m.d.comb += [
            sequencer.model.eq(self.model),
            sequencer.tape.eq(self.tape),
            sequencer.beat_last.eq(self._beat_taken & beats.payload.last),
            sequencer.staged_last.eq(staged.valid & staged.ready & staged.payload.last),
            sequencer.head_last.eq(scales.valid & scales.ready & scales.payload.last),
            sequencer.quantized.eq(self._later(m, self._quantizer.done)),
            sequencer.sampled.eq(sampled),
            sequencer.residual_idle.eq(self._residual.idle),
            sequencer.staging_idle.eq(self._staging.idle),
            sequencer.writes_pending.eq(self._later(m, self._appender.pending)),
            self.done.eq(sequencer.done),
            self.packet.eq(sequencer.packet),
            self.activity.active.eq(engine.active),
            self.activity.wait_tile.eq(engine.wait_tile),
            self.activity.wait_results.eq(engine.wait_results),
            self.activity.attending.eq(sequencer.attending),
            self.activity.progress.eq(
                engine.active | self._residual.written | self.results.codes.valid | self.results.heads.valid
            ),
            self.activity.staged.eq(staged.valid & staged.ready),
        ]
        quantizing, command = self.activity.quantizing, sequencer.quantize
        with m.If(command.valid & command.ready):
            m.d.sync += quantizing.eq(1)
        with m.Elif(self._quantizer.done):
            m.d.sync += quantizing.eq(0)

    def _build_trace(self, m: Module) -> None:
        results, beats, codes = self.results, self._beats, self._quantizer.codes
        heads, tokens = self._heads.codes, self.tokens
        m.d.comb += [
            results.residual.valid.eq(self._residual.written),
            results.residual.beat.eq(self._residual.written_beat),
            results.codes.valid.eq(codes.valid & codes.ready),
            results.codes.beat.eq(codes.payload),
            results.heads.valid.eq(heads.valid & heads.ready),
            results.heads.beat.eq(heads.payload),
            results.logits.valid.eq(self._beat_taken & (self._sequencer.route == Route.LOGITS)),
            results.logits.beat.eq(beats.payload),
            results.token.valid.eq(tokens.valid & tokens.ready),
            results.token.beat.eq(tokens.payload),
        ]

    def _later(self, m: Module, event: Signal) -> Signal:
        """The event, a cycle later in a configuration with registers."""
        return later(m, event, registered=self.config.registered, name=f"late_{event.name}")

    def _slice(self, m: Module, name: str, source: Any, kind: Any = StreamRegister) -> Any:
        """The stream behind a register slice, in a configuration with registers."""
        return sliced(m, f"{name}_slice", source, registered=self.config.registered, kind=kind)

    def _sliced(self, m: Module, name: str, target: Any, kind: Any = StreamRegister) -> Any:
        """What to drive instead of ``target``: a register slice, in a configuration with registers."""
        return slice_before(m, f"{name}_slice", target, registered=self.config.registered, kind=kind)

    def _select(self, m: Module, choice: Value, one: Any, other: Any, target: Any) -> None:
        """Connect ``one`` to ``target`` while ``choice``, else ``other``."""
        for source, chosen in ((one, choice), (other, ~choice)):
            m.d.comb += source.ready.eq(target.ready & chosen)
        m.d.comb += [
            target.valid.eq(Mux(choice, one.valid, other.valid)),
            target.payload.eq(Mux(choice, Value.cast(one.payload), Value.cast(other.payload))),
        ]

    def _route(
        self, m: Module, source: Any, targets: dict[Any, Any], choice: Any, *, registered: bool = False
    ) -> None:
        """Connect ``source`` to the target that ``choice`` names, with ``registered`` a cycle ago."""
        for key, target in targets.items():
            chosen = later(m, choice == key, registered=registered, name=f"to_{key}")
            m.d.comb += [target.valid.eq(source.valid & chosen), target.payload.eq(source.payload)]
            with m.If(chosen):
                m.d.comb += source.ready.eq(target.ready)
