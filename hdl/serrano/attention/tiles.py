# SPDX-License-Identifier: Apache-2.0
"""Tiles of K and V for the array."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.kvcache.payloads import last_shift
from serrano.matmul.payloads import TileUnit
from serrano.stream.pipeline import PipelineControl, delayed

from .forward import ForwardReadPort
from .payloads import AttendCommand, Operation, chunk_count
from .records import HEADER_BYTES, RecordReadPort

__all__ = ["TileFeeder"]


class TileFeeder(wiring.Component):
    """Reads the tiles of each operation from records and from the step's own k and v.

    For each chunk, token tile: a tile whose vectors are tokens, columns for K and rows for V. In the last
    chunk of a head, whose tokens are packed in a record, they are spread again; bytes beyond ``head_dim`` are
    zero. Of a tile nothing is loaded behind the last token that there is, but at least one unit: what the
    array has in its place is multiplied by zero, or masked.

    One unit per cycle, ``latency`` (3). A unit waits until its bytes of the record have come, the last one of
    V until all of the record has, which is then freed.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(AttendCommand(config))``
        The command; constant while operations are on their way.
    chunks : ``In(range)``
        Chunks of a head (count).
    operations : ``In(stream.Signature(Operation(config)))``
        The operations; taken with their last unit.
    records : ``Out(RecordReadPort(config))``
        Reads records.
    forward : ``Out(ForwardReadPort(config))``
        Reads k and v of the step.
    free : ``Out(1)``
        The oldest record is not needed any more.
    tiles : ``Out(stream.Signature(TileUnit(config)))``
        The tiles.
    loaded : ``Out(1)``
        The last unit of a command is being taken.
    wait_record : ``Out(1)``
        A unit waits for its record.
    """

    latency = 3

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "command": In(AttendCommand(config)),
                "chunks": In(chunk_count(config)),
                "operations": In(stream.Signature(Operation(config))),
                "records": Out(RecordReadPort(config)),
                "forward": Out(ForwardReadPort(config)),
                "free": Out(1),
                "tiles": Out(stream.Signature(TileUnit(config))),
                "loaded": Out(1),
                "wait_record": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        vectors = config.load_vectors
        m.submodules.control = control = PipelineControl(self.latency)
        operation, item = self.operations.payload, self.operations.payload.item
        # A unit is `vectors` tokens of a chunk; `index` counts the units of a chunk.
        index = Signal(exact_log2(GROUP_TOKENS // vectors))
        chunk = Signal.like(self.chunks)
        start, chunk_start = Signal.like(self.records.unit), Signal.like(self.records.unit)
        taken, last_unit, last_index = Signal(), Signal(), Signal()
        last_chunk, end = Signal(), Signal()
        # Units of a tile are counted by the lower bits of the index.
        in_tile = min(config.tile_units, 1 << len(index)) - 1
        waits = Signal()
        packed = Signal(range(exact_log2(config.n) + 1))
        token = Signal(range(GROUP_TOKENS))
        from_memory = Signal()
        m.d.comb += [
            last_chunk.eq(chunk == self.chunks - 1),
            # Tokens of the last chunk are 2**packed times as narrow as n.
            packed.eq(Mux(last_chunk, exact_log2(config.n) - last_shift(config, self.command.head_dim), 0)),
            token.eq(index << exact_log2(vectors)),
            from_memory.eq(item.memory & (token < item.base)),
            waits.eq(from_memory & ~self.records.present),
            control.i_valid.eq(self.operations.valid & ~waits),
            self.wait_record.eq(self.operations.valid & waits),
            taken.eq(control.i_valid & control.i_ready),
            last_unit.eq(
                (~index & in_tile == 0)
                | (token + vectors >= item.base + self.command.skip + self.command.rows)
            ),
            last_index.eq(last_unit & (index | in_tile).all()),
            end.eq(taken & last_index & last_chunk),
            self.operations.ready.eq(end),
            self.free.eq(end & operation.values & item.memory),
            self.records.en.eq(taken & from_memory),
            self.records.slot.eq(item.slot),
            self.records.serial.eq(item.serial),
            chunk_start.eq(Mux(chunk == 0, self._run(operation.values), start)),
            self.records.unit.eq(chunk_start + (index >> packed)),
            self.forward.en.eq(taken),
            self.forward.values.eq(operation.values),
            self.forward.row.eq(self.command.row + token - item.base),
            self.forward.head.eq(item.head),
            self.forward.chunk.eq(chunk),
        ]
        with m.If(operation.values & item.memory & last_index & last_chunk & ~self.records.complete):
            m.d.comb += waits.eq(1)
        with m.If(taken):
            m.d.sync += index.eq(Mux(last_unit, index | in_tile, index) + 1)
            with m.If(last_index):
                units = GROUP_TOKENS // vectors
                m.d.sync += [chunk.eq(Mux(last_chunk, 0, chunk + 1)), start.eq(chunk_start + units)]
        final = end & operation.values & item.final
        self._build_data(m, control, token, index, packed, Cat(~operation.values, last_unit, final))
        return m

    def _run(self, values: Value) -> Value:
        """The first unit of a record's K run, or of its V run."""
        run_bytes = self.command.head_dim << exact_log2(GROUP_TOKENS)
        return (HEADER_BYTES + Mux(values, run_bytes, 0)) >> exact_log2(self.config.load_bytes)

    def _build_data(
        self, m: Module, control: Any, token: Value, index: Value, packed: Value, flags: Value
    ) -> None:
        """Cycle 1: read. Cycle 2: move a packed unit's tokens to the front. Cycle 3: spread and choose."""
        config, enable = self.config, control.advance
        vectors, n = config.load_vectors, config.n
        base = self.operations.payload.item.base
        end = base + self.command.skip + self.command.rows
        sources = []
        for vector in range(vectors):
            place = token + vector
            sources += [place < base, (place >= base) & (place < end)]
        offset = Signal(exact_log2(config.load_bytes), reset_less=True)
        front = Signal(8 * config.load_bytes, reset_less=True)
        with m.If(enable):
            m.d.sync += [
                offset.eq((index << exact_log2(config.load_bytes)) >> packed),
                front.eq(Value.cast(self.records.data) >> (offset << 3)),
            ]
        late_packed = delayed(m, packed, 2, enable=enable, name="packed")
        late_sources = delayed(m, Cat(sources), 2, enable=enable, name="sources")
        late_flags = delayed(m, flags, 3, enable=enable, name="flags")
        forward = delayed(m, self.forward.data, 1, enable=enable, name="forward")
        unit = Signal(TileUnit(config)["vectors"].shape, reset_less=True)
        for vector in range(vectors):
            spread = Signal(8 * n, name=f"spread_{vector}")
            keep = Signal(8 * n, name=f"keep_{vector}")
            with m.Switch(late_packed):
                for shift in range(exact_log2(n)):
                    width = 8 * (n >> shift)
                    with m.Case(shift):
                        m.d.comb += [
                            spread.eq(front[vector * width : (vector + 1) * width]),
                            keep.eq((1 << width) - 1),
                        ]
            from_memory, from_step = late_sources[2 * vector], late_sources[2 * vector + 1]
            with m.If(enable):
                m.d.sync += Value.cast(unit[vector]).eq(
                    Mux(from_memory, spread, Mux(from_step, Value.cast(forward[vector]) & keep, 0))
                )
        m.d.comb += [
            self.tiles.valid.eq(control.o_valid),
            control.o_ready.eq(self.tiles.ready),
            self.tiles.payload.vectors.eq(unit),
            self.tiles.payload.by_column.eq(late_flags[0]),
            self.tiles.payload.ends.eq(late_flags[1]),
            self.loaded.eq(self.tiles.valid & self.tiles.ready & late_flags[2]),
        ]
