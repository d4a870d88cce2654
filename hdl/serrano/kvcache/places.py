# SPDX-License-Identifier: Apache-2.0
"""Where the tokens of a step's rows go."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.primitives.memory import OnChipMemory
from serrano.primitives.multiplier import Multiplier
from serrano.stream import StreamFIFO
from serrano.stream.pipeline import delayed

from .commands import Status
from .payloads import SLOT_BITS, KVGeometry, Place, TranslatePort, block_bits, sequence_bits

__all__ = ["PlaceEntry", "Places"]

AHEAD = 8
"""Look-ups under way."""


class PlaceEntry(data.StructLayout):
    """A row's sequence, block (``address`` of its first byte) and slot; nothing may be written unless
    ``mapped``."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "address": config.address_bits,
                "slot": SLOT_BITS,
                "mapped": 1,
                "seq": sequence_bits(config),
            }
        )


class Places(wiring.Component):
    """Looks up the block of each row's token once, and keeps ``base + block * block_bytes`` and the slot.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    geometry : ``In(KVGeometry(config))``
        Addresses and sizes.
    places : ``In(stream.Signature(Place(config)))``
        Which token a row is. Replaces what the row was before.
    translate : ``Out(TranslatePort(config))``
        To the controller.
    busy : ``Out(1)``
        A look-up is under way.
    fault : ``Out({"valid", "status"})``
        Valid for one cycle per look-up that failed.
    r_en : ``In(1)``
        Read an entry; not while ``busy``.
    r_row : ``In(ceil_log2(rows_max))``
        Which row.
    r_entry : ``Out(PlaceEntry(config))``
        The entry, in the next cycle, until the next reading.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "geometry": In(KVGeometry(config)),
                "places": In(stream.Signature(Place(config))),
                "translate": Out(TranslatePort(config)),
                "busy": Out(1),
                "fault": Out(data.StructLayout({"valid": 1, "status": Status})),
                "r_en": In(1),
                "r_row": In(ceil_log2(config.rows_max)),
                "r_entry": Out(PlaceEntry(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, geometry = self.config, self.geometry
        latency = config.multiplier_latency
        target = data.StructLayout({"row": len(self.r_row), "slot": SLOT_BITS, "seq": sequence_bits(config)})
        m.submodules.wanted = wanted = StreamFIFO(target, AHEAD)
        m.submodules.entries = entries = OnChipMemory(
            PlaceEntry(config), max(2, config.rows_max), transparent=False
        )
        m.submodules.product = product = Multiplier(
            block_bits(config) + 1, len(geometry.block_bytes) + 1, latency=latency
        )
        place, request, answer = self.places.payload, self.translate.request, self.translate.response
        stage = Signal(data.StructLayout({"target": target, "mapped": 1}))
        valid = Signal(latency)
        m.d.comb += [
            request.valid.eq(self.places.valid & wanted.i.ready),
            request.payload.seq.eq(place.seq),
            request.payload.index.eq(place.position >> SLOT_BITS),
            self.places.ready.eq(request.ready & wanted.i.ready),
            wanted.i.valid.eq(request.valid & request.ready),
            wanted.i.payload.row.eq(place.row),
            wanted.i.payload.slot.eq(place.position[:SLOT_BITS]),
            wanted.i.payload.seq.eq(place.seq),
            wanted.o.ready.eq(answer.valid),
            stage.target.eq(wanted.o.payload),
            stage.mapped.eq(answer.status == Status.OK),
            product.a.eq(answer.block),
            product.b.eq(geometry.block_bytes),
        ]
        late = delayed(m, stage, latency, enable=Const(1), name="product_stage")
        m.d.sync += [
            # An answer that nobody waits for was asked for before a reset.
            valid.eq(Cat(answer.valid & wanted.o.valid, valid)),
            self.fault.valid.eq(answer.valid & wanted.o.valid & ~stage.mapped),
            self.fault.status.eq(answer.status),
        ]
        m.d.comb += [
            self.busy.eq((wanted.level != 0) | valid.any()),
            entries.w_en.eq(valid[-1]),
            entries.w_addr.eq(late.target.row),
            entries.w_data.address.eq(geometry.base + product.p),
            entries.w_data.slot.eq(late.target.slot),
            entries.w_data.seq.eq(late.target.seq),
            entries.w_data.mapped.eq(late.mapped),
            entries.r_en.eq(self.r_en),
            entries.r_addr.eq(self.r_row),
            self.r_entry.eq(entries.r_data),
        ]
        return m
