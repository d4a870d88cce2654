# SPDX-License-Identifier: Apache-2.0
"""Tiles of K and V for the array."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.kvcache.payloads import last_shift
from serrano.matmul.payloads import TileUnit
from serrano.stream.pipeline import PipelineControl, delayed
from serrano.stream.slices import sliced

from .forward import ForwardReadPort
from .payloads import AttendCommand, Operation, chunk_count, told_ahead
from .records import HEADER_BYTES, RecordReadPort

__all__ = ["TileFeeder"]


class TileFeeder(wiring.Component):
    """Reads the tiles of each operation from records and from the step's own k and v.

    For each chunk, token tile: a tile whose vectors are tokens, columns for K and rows for V. In the last
    chunk of a head, whose tokens are packed in a record, they are spread again; bytes beyond ``head_dim`` are
    zero. Of a tile nothing is loaded behind the last token that there is, but at least one unit: what the
    array has in its place is multiplied by zero, or masked.

    One unit per cycle, ``latency`` (3, with ``config.registered`` 5). A unit waits until its bytes of the
    record have come, the last one of V until all of the record has, which is then freed.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(AttendCommand(config))``
        The command; constant while operations are on their way, and with ``config.registered`` a cycle before
        them.
    chunks : ``In(range)``
        Chunks of a head (count).
    operations : ``In(stream.Signature(Operation(config)))``
        The operations; taken with their last unit, or with ``config.registered`` before that.
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
        self.latency = 3 + 2 * int(config.registered)
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
        read = stream.Signature(_UnitRead(self)).create(path=("found",))
        self._build_order(m, read)
        read = sliced(m, "found", read, registered=self.config.registered)
        # A slice is one of the cycles.
        registered = self.config.registered
        m.submodules.control = control = PipelineControl(
            self.latency - int(registered), registered=registered
        )
        unit, waits, taken = read.payload, Signal(), Signal()
        m.d.comb += [
            waits.eq((unit.from_memory & ~self.records.present) | (unit.whole & ~self.records.complete)),
            control.i_valid.eq(read.valid & ~waits),
            read.ready.eq(control.i_ready & ~waits),
            self.wait_record.eq(read.valid & waits),
            taken.eq(control.i_valid & control.i_ready),
            self.free.eq(taken & unit.whole),
            # With registers something is read in every cycle: what is not wanted matters to nobody.
            self.records.en.eq(control.advance if registered else taken & unit.from_memory),
            self.records.slot.eq(unit.slot),
            self.records.serial.eq(unit.serial),
            self.records.unit.eq(unit.unit),
            self.forward.en.eq(taken),
            self.forward.advance.eq(control.advance),
            self.forward.values.eq(unit.values),
            self.forward.row.eq(unit.row),
            self.forward.head.eq(unit.head),
            self.forward.chunk.eq(unit.chunk),
        ]
        self._build_data(m, control, unit)
        return m

    def _build_order(self, m: Module, read: Any) -> None:
        """The units of the operations, one after the other."""
        config, unit = self.config, read.payload
        vectors = config.load_vectors
        operation, item = self.operations.payload, self.operations.payload.item
        # A unit is `vectors` tokens of a chunk; `index` counts the units of a chunk.
        index = Signal(exact_log2(GROUP_TOKENS // vectors))
        chunk = Signal.like(self.chunks)
        start, chunk_start = Signal.like(self.records.unit), Signal.like(self.records.unit)
        taken, last_unit, last_index = Signal(), Signal(), Signal()
        end = Signal()
        # Units of a tile are counted by the lower bits of the index.
        in_tile = min(config.tile_units, 1 << len(index)) - 1
        token = Signal(range(GROUP_TOKENS))
        late = {"cycles": int(config.registered), "enable": Const(1)}
        last_chunk = told_ahead(
            m,
            chunk,
            self.chunks,
            rests=~self.operations.valid,
            step=taken & last_index,
            registered=config.registered,
            name="last_chunk",
        )
        # Tokens of the last chunk are 2**narrow times as narrow as n.
        narrow = Signal.like(unit.packed)
        m.d.comb += narrow.eq(exact_log2(config.n) - last_shift(config, self.command.head_dim))
        narrow = delayed(m, narrow, name="narrow", **late)

        def is_last(index: Value) -> Value:
            return (~index & in_tile == 0) | ((index << exact_log2(vectors)) + vectors >= item.tokens)

        # Whether a unit is a tile's last one is found with the unit before it, but for an item's first one.
        following, kept = Signal.like(index), Signal()
        ahead = [Signal.like(index, name=f"ahead_{k}") for k in range(2)]
        m.d.comb += [
            read.valid.eq(self.operations.valid),
            taken.eq(read.valid & read.ready),
            token.eq(index << exact_log2(vectors)),
            ahead[0].eq(index + 1),
            ahead[1].eq((index | in_tile) + 1),
            following.eq(Mux(last_unit, ahead[1], ahead[0])),
            last_unit.eq(Mux(index == 0, is_last(Const(0, len(index))), kept)),
            last_index.eq(last_unit & (index | in_tile).all()),
            end.eq(last_index & last_chunk),
            self.operations.ready.eq(taken & end),
            chunk_start.eq(Mux(chunk == 0, self._run(operation.values), start)),
            unit.slot.eq(item.slot),
            unit.serial.eq(item.serial),
            unit.from_memory.eq(token < item.committed),
            unit.whole.eq(operation.values & item.memory & end),
            unit.unit.eq(chunk_start + (index >> unit.packed)),
            unit.values.eq(operation.values),
            unit.row.eq(self.command.row + token - item.base),
            unit.head.eq(item.head),
            unit.chunk.eq(chunk),
            unit.packed.eq(Mux(last_chunk, narrow, 0)),
            unit.offset.eq((index << exact_log2(config.load_bytes)) >> unit.packed),
            unit.ends.eq(last_unit),
            unit.final.eq(end & operation.values & item.final),
        ]
        for vector in range(vectors):
            place = token + vector
            m.d.comb += unit.sources[vector].eq(Cat(place < item.committed, place < item.tokens))
        with m.If(taken):
            m.d.sync += [
                index.eq(following),
                kept.eq(Mux(last_unit, is_last(ahead[1]), is_last(ahead[0]))),
            ]
            with m.If(last_index):
                units = GROUP_TOKENS // vectors
                m.d.sync += [chunk.eq(Mux(last_chunk, 0, chunk + 1)), start.eq(chunk_start + units)]

    def _run(self, values: Value) -> Value:
        """The first unit of a record's K run, or of its V run."""
        run_bytes = self.command.head_dim << exact_log2(GROUP_TOKENS)
        return (HEADER_BYTES + Mux(values, run_bytes, 0)) >> exact_log2(self.config.load_bytes)

    def _build_data(self, m: Module, control: Any, read: Any) -> None:
        """Cycle 1: read. Cycle 2: move a packed unit's tokens to the front. Cycle 3: spread and choose.

        With ``config.registered`` there is a register behind the memory of records, and one in front of the
        other.
        """
        config, enable, late = self.config, control.advance, int(self.config.registered)
        vectors, n = config.load_vectors, config.n
        front = Signal(8 * config.load_bytes, reset_less=True)
        codes = delayed(m, Value.cast(self.records.data), late, enable=enable, name="codes")
        early = delayed(m, read, 1 + late, enable=enable, name="read")
        with m.If(enable):
            m.d.sync += front.eq(codes >> (early.offset << 3))
        known = delayed(m, early, 1, enable=enable, name="known")
        given = delayed(m, known, 1, enable=enable, name="given")
        forward = delayed(m, self.forward.data, 1, enable=enable, name="forward")
        unit = Signal(TileUnit(config)["vectors"].shape, reset_less=True)
        for vector in range(vectors):
            spread = Signal(8 * n, name=f"spread_{vector}")
            keep = Signal(8 * n, name=f"keep_{vector}")
            with m.Switch(known.packed):
                for shift in range(exact_log2(n)):
                    width = 8 * (n >> shift)
                    with m.Case(shift):
                        m.d.comb += [
                            spread.eq(front[vector * width : (vector + 1) * width]),
                            keep.eq((1 << width) - 1),
                        ]
            from_memory, from_step = known.sources[vector]
            with m.If(enable):
                m.d.sync += Value.cast(unit[vector]).eq(
                    Mux(from_memory, spread, Mux(from_step, Value.cast(forward[vector]) & keep, 0))
                )
        m.d.comb += [
            self.tiles.valid.eq(control.o_valid),
            control.o_ready.eq(self.tiles.ready),
            self.tiles.payload.vectors.eq(unit),
            self.tiles.payload.by_column.eq(~given.values),
            self.tiles.payload.ends.eq(given.ends),
            self.loaded.eq(self.tiles.valid & self.tiles.ready & given.final),
        ]


class _UnitRead(data.StructLayout):
    """A unit of a tile, and where it is read.

    ``from_memory``: its bytes of the record are needed; ``whole``: all of the record is, for the
    last time. ``sources`` tells of each token whether it comes from memory, and else whether there is one.
    """

    def __init__(self, feeder: TileFeeder):
        config, records, forward = feeder.config, feeder.records, feeder.forward
        super().__init__(
            {
                "slot": records.slot.shape(),
                "serial": records.serial.shape(),
                "unit": records.unit.shape(),
                "from_memory": 1,
                "whole": 1,
                "values": 1,
                "row": forward.row.shape(),
                "head": forward.head.shape(),
                "chunk": forward.chunk.shape(),
                "packed": range(exact_log2(config.n) + 1),
                "offset": exact_log2(config.load_bytes),
                "sources": data.ArrayLayout(2, config.load_vectors),
                "ends": 1,
                "final": 1,
            }
        )
