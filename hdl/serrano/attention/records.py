# SPDX-License-Identifier: Apache-2.0
"""KV records between memory and the array."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, flipped
from amaranth.utils import ceil_log2

from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.kvcache.payloads import RecordBeat
from serrano.layouts import PackedScale
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later, sliced

from .payloads import record_slots, serial_bits

__all__ = ["HEADER_BYTES", "RecordBuffer", "RecordReadPort", "RecordScalesPort", "record_units"]

PIECE_BITS = 4
"""Width at which an FPGA's block memory is deep enough for all words."""

HEADER_BYTES = 4 * GROUP_TOKENS
"""Bytes of a record's scales."""


def record_units(config: AcceleratorConfig) -> int:
    """Load-path units of the largest record."""
    return -(-(HEADER_BYTES + 2 * GROUP_TOKENS * config.head_dim_max) // config.load_bytes)


class RecordReadPort(wiring.Signature):
    """Read port for ``load_bytes`` bytes of a record, as the reader sees it.

    ``present`` says in the same cycle whether unit ``unit`` of the record with number ``serial`` has come,
    ``complete`` whether all of it has. In a cycle with ``en`` the reader asks for the unit in slot ``slot``;
    ``data`` has it from the next cycle on, until the next read.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "en": Out(1),
                "slot": Out(ceil_log2(record_slots(config))),
                "serial": Out(serial_bits(config)),
                "unit": Out(ceil_log2(record_units(config))),
                "present": In(1),
                "complete": In(1),
                "data": In(data.ArrayLayout(signed(8), config.load_bytes)),
            }
        )


class RecordScalesPort(wiring.Signature):
    """Read port for the scales of a record, timed as :class:`RecordReadPort`.

    With ``config.registered``, ``data`` is what lay in slot ``slot`` a cycle ago, whoever asks or not: that
    of a cycle with ``en``, and of the one behind it, is the record's.
    """

    def __init__(self, config: AcceleratorConfig):
        scales = data.ArrayLayout(PackedScale, GROUP_TOKENS)
        super().__init__(
            {
                "en": Out(1),
                "slot": Out(ceil_log2(record_slots(config))),
                "serial": Out(serial_bits(config)),
                "present": In(1),
                "data": In(data.StructLayout({"k": scales, "v": scales})),
            }
        )


class RecordBuffer(wiring.Component):
    """A ring of ``lookahead + 2`` records, each in a slot as large as the largest record.

    A record is read while it still comes. Records are numbered, modulo a power of two that tells those in the
    ring apart; the scales at the head of each are kept a second time, in a memory that gives all of them at
    once. Both memories are freed in the order in which they were filled, each by its own reader: the scales
    of a record when they are read, its codes by ``free``, whichever comes first. A record begins only if it
    has a slot in both. Nothing is read before it is written, nor written while it is read.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    records : ``In(stream.Signature(RecordBeat(config)))``
        Records, the last beat of each marked.
    free_records : ``Out(range)``
        Records that can begin. Who has asked for fewer records than this which have not begun to come, can
        ask for another: it will be taken without a pause. With ``config.registered`` a record begins to come
        only behind a register slice.
    free : ``In(1)``
        The codes of the oldest record, which is complete, are not needed any more.
    read : ``In(RecordReadPort(config))``
        Reads codes.
    read_scales : ``In(RecordScalesPort(config))``
        Reads scales, those of each record once.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "records": In(stream.Signature(RecordBeat(config))),
                "free_records": Out(range(record_slots(config) + 1)),
                "free": In(1),
                "read": In(RecordReadPort(config)),
                "read_scales": In(RecordScalesPort(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        slots, units = record_slots(config), record_units(config)
        beats_per_unit = config.load_bytes // config.port_bytes
        header_beats = max(1, HEADER_BYTES // config.port_bytes)
        bits = ceil_log2(beats_per_unit)
        m.submodules.scales = scales = OnChipMemory(
            unsigned(8 * HEADER_BYTES),
            slots,
            granularity=8 * HEADER_BYTES // header_beats,
            transparent=False,
            collides=False,
        )
        source = sliced(m, "slice", flipped(self.records), registered=config.registered)
        given = source.payload
        base = Array(slot * units for slot in range(slots))
        slot, serial = Signal(range(slots)), Signal(serial_bits(config))
        beat = Signal(range(units * beats_per_unit))
        inside, write, claim, end = Signal(), Signal(), Signal(), Signal()
        content = Value.cast(given.bytes)
        free_codes, free_scales = (
            Signal(range(slots + 1), init=slots, name=name) for name in ("free_codes", "free_scales")
        )
        room = (free_codes != 0) & (free_scales != 0)
        # With registers a cycle late: a record has more than one beat.
        room = later(m, room, registered=config.registered, name="room")
        w_codes, w_addr = Signal(beats_per_unit), (base[slot] + beat[bits:])[: ceil_log2(slots * units)]
        w_scales = Signal.like(scales.w_en)
        late = {"cycles": int(config.registered), "enable": Const(1)}
        content = delayed(m, content, name="content", **late)
        m.d.comb += [
            source.ready.eq(inside | room),
            write.eq(source.valid & source.ready),
            claim.eq(write & ~inside),
            end.eq(write & given.last),
            w_codes.eq(write << beat[:bits]),
            w_scales.eq(Mux(write & (beat < header_beats), 1 << beat[: ceil_log2(header_beats)], 0)),
            scales.w_en.eq(delayed(m, w_scales, name="w_scales", **late)),
            scales.w_addr.eq(delayed(m, slot, name="w_slot", **late)),
            scales.w_data.eq(content.replicate(header_beats)),
        ]
        m.d.comb += self.free_records.eq(Mux(free_codes < free_scales, free_codes, free_scales))
        m.d.sync += [
            free_codes.eq(free_codes - claim + self.free),
            free_scales.eq(free_scales - claim + self.read_scales.en),
        ]
        with m.If(write):
            m.d.sync += [beat.eq(beat + 1), inside.eq(1)]
        with m.If(end):
            last_slot = slot == slots - 1
            m.d.sync += [
                beat.eq(0),
                inside.eq(0),
                serial.eq(serial + 1),
                slot.eq(Mux(last_slot, 0, slot + 1)),
            ]
        self._build_codes(
            m,
            delayed(m, w_codes, name="w_codes", **late),
            delayed(m, w_addr, name="w_addr", **late),
            content.replicate(beats_per_unit),
            base[self.read.slot] + self.read.unit,
        )
        read, pair = self.read, self.read_scales
        # Readers see what is written, with registers a cycle after it has come.
        written = later(m, beat[bits:], registered=config.registered, name="written")
        headed = later(m, beat >= header_beats, registered=config.registered, name="headed")
        serial = later(m, serial, registered=config.registered, name="seen")

        def present(wanted: Value, so_far: Value) -> Value:
            """Of a record before the one that is coming, or of that one and come ``so_far``."""
            behind = (serial - wanted)[: len(serial)]
            return Mux(behind == 0, so_far, behind <= slots)

        m.d.comb += [
            read.present.eq(present(read.serial, read.unit < written)),
            read.complete.eq(present(read.serial, Const(0))),
            pair.present.eq(present(pair.serial, headed)),
            scales.r_en.eq(pair.en | late["cycles"]),
            scales.r_addr.eq(pair.slot),
            pair.data.eq(scales.r_data),
        ]
        return m

    def _build_codes(self, m: Module, w_en: Value, w_addr: Value, w_data: Value, r_addr: Value) -> None:
        """The records' memory; with registers in narrow pieces, so that no block has to be chosen from."""
        config, beat_bits = self.config, 8 * self.config.port_bytes
        bits = PIECE_BITS if config.registered else len(w_data)
        for start in range(0, len(w_data), bits):
            m.submodules[f"codes_{start // bits}"] = codes = OnChipMemory(
                unsigned(bits),
                record_slots(config) * record_units(config),
                granularity=min(bits, beat_bits),
                transparent=False,
                collides=False,
            )
            m.d.comb += [
                codes.w_en.eq(w_en[start // beat_bits :]),
                codes.w_addr.eq(w_addr),
                codes.w_data.eq(w_data[start:]),
                codes.r_en.eq(self.read.en),
                codes.r_addr.eq(r_addr),
                Value.cast(self.read.data)[start : start + bits].eq(codes.r_data),
            ]
