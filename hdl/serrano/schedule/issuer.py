# SPDX-License-Identifier: Apache-2.0
"""Checking packets and starting the unpacking of their weights, ahead of their execution."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.schedule.descriptor import ModelInfo
from serrano.schedule.recovery import PacketFault
from serrano.stream import StreamFIFO
from serrano.tape.packets import WITH_PAYLOAD, Header, Opcode
from serrano.tape.unpacker import UnpackCommand
from serrano.vector.arithmetic import multiplied

__all__ = ["Issuer"]

AHEAD = 4
"""Headers kept ahead of execution."""

TO_LOGITS = 1
"""Flag of a MATMUL whose outputs are logits."""


class Issuer(wiring.Component):
    """Hands headers on, and lets the unpacker begin with a packet's weights before the packet is executed.

    The dimensions of every packet are compared with the model's. Weights behind an ATTEND wait until
    ``attended``: the array's tiles are loaded in the order of execution, and ATTEND's own come from the KV
    cache. With ``config.registered`` a header is looked at for ``judging`` (3) cycles first.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    model : ``In(ModelInfo)``
        The loaded model.
    headers : ``In(stream.Signature(Header))``
        Headers from the tape.
    attended : ``In(1)``
        The ATTEND being executed has loaded its last tile.
    unpack : ``Out(stream.Signature(UnpackCommand(config)))``
        Commands for the unpacker.
    packets : ``Out(stream.Signature(Header))``
        Packets to be executed.
    fault : ``Out(PacketFault)``
        Held from the first packet whose dimensions are wrong.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.judging = 3 * int(config.registered)
        super().__init__(
            {
                "model": In(ModelInfo),
                "headers": In(stream.Signature(Header)),
                "attended": In(1),
                "unpack": Out(stream.Signature(UnpackCommand(config))),
                "packets": Out(stream.Signature(Header)),
                "fault": Out(PacketFault),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.fifo = fifo = StreamFIFO(Header, AHEAD, paused=self.config.registered)
        wiring.connect(m, fifo.o, wiring.flipped(self.packets))
        header, n = self.headers.payload, self.config.n
        carries, attends = Signal(), Signal()
        unpacked, waiting = Signal(), Signal()
        # What follows from the header: with registers step by step, while it stays.
        self._domain = m.d.sync if self.judging else m.d.comb
        judged = self._build_judging(m)
        # The model stays: what follows from it is kept, so that the products are on no path.
        self._width, k_width = (
            multiplied(
                m, heads, self.model.head_pad, enable=Const(1), registered=bool(self.judging), name=name
            )
            for name, heads in (("width", self.model.heads), ("kv_width", self.model.kv_heads))
        )
        self._qkv_width = Signal(26, reset_less=True)
        m.d.sync += self._qkv_width.eq(self._width + (k_width << 1))
        fits, good, bad = self._fits(), Signal(), Signal()
        # Of this header: taken back when the next one comes.
        staying = judged & ~self.headers.ready if self.judging else self.headers.valid
        self._domain += [
            good.eq(staying & fits & ~waiting),
            # A header that does not fit stays for ever.
            bad.eq(staying & ~fits & ~waiting),
        ]
        self._domain += [
            carries.eq(Cat(header.opcode == opcode.value for opcode in WITH_PAYLOAD).any()),
            attends.eq(header.opcode == Opcode.ATTEND.value),
            self.unpack.payload.blocks.eq((header.n_out + (n - 1)) >> exact_log2(n)),
            self.unpack.payload.tiles.eq((header.k + (n - 1)) >> exact_log2(n)),
            self.unpack.payload.kmean_blocks.eq(
                Mux(header.opcode == Opcode.QKV.value, (k_width + (n - 1)) >> exact_log2(n), 0)
            ),
        ]
        m.d.comb += fifo.i.payload.eq(header)
        with m.If(self.attended):
            m.d.sync += waiting.eq(0)
        # It loads what would be told, until something is.
        with m.If(~self.fault.valid):
            m.d.sync += [
                self.fault.valid.eq(bad),
                self.fault.code.eq(FaultCode.PACKET_DIMENSION),
                self.fault.index.eq(header.index),
            ]
        with m.If(good):
            # The unpacker may be busy with an earlier packet: the header goes ahead, and stays here.
            m.d.comb += [
                fifo.i.valid.eq(~unpacked),
                self.unpack.valid.eq(carries & (unpacked | fifo.i.ready)),
                self.headers.ready.eq((unpacked | fifo.i.ready) & (~carries | self.unpack.ready)),
            ]
            m.d.sync += unpacked.eq((unpacked | fifo.i.ready) & ~self.headers.ready)
            with m.If(self.headers.ready & attends):
                m.d.sync += waiting.eq(1)
        return m

    def _build_judging(self, m: Module) -> Value:
        """Whether there is a header, and what follows from it is known."""
        if not self.judging:
            return self.headers.valid
        seen = Signal(self.judging)
        m.d.sync += seen.eq(Cat(self.headers.valid, seen))
        with m.If(self.headers.ready):
            m.d.sync += seen.eq(0)
        return seen[-1]

    def _known(self, value: Value, name: str) -> Signal:
        known = Signal(name=name)
        self._domain += known.eq(value)
        return known

    def _equal(self, number: Value, value: Any, name: str) -> Signal:
        """Byte by byte first: with registers in two steps."""
        wide = Cat(value, Const(0, len(number)))
        bytes_equal = (
            self._known(number.word_select(byte, 8) == wide.word_select(byte, 8), f"{name}_{byte}")
            for byte in range(len(number) // 8)
        )
        return self._known(Cat(bytes_equal).all(), name)

    def _fits(self) -> Value:
        """Whether ``k`` and ``n_out`` are those of such a packet of the loaded model."""
        header, model = self.headers.payload, self.model
        dimensions = {
            "nothing": 0,
            "dim": model.dim,
            "width": self._width,
            "ffn": model.ffn,
            "pairs": model.ffn << 1,
            "qkv": self._qkv_width,
            "vocab": model.vocab,
        }
        k, n_out = (
            {name: self._equal(number, value, f"{field}_{name}") for name, value in dimensions.items()}
            for field, number in (("k", header.k), ("n_out", header.n_out))
        )
        logits = (header.flags & TO_LOGITS) != 0
        rules = {
            Opcode.EMBED: k["nothing"] & n_out["dim"],
            Opcode.NORM: k["dim"] & n_out["nothing"],
            Opcode.QKV: k["dim"] & n_out["qkv"],
            Opcode.ATTEND: k["nothing"] & n_out["width"],
            Opcode.MATMUL: Mux(logits, k["dim"] & n_out["vocab"], (k["width"] | k["ffn"]) & n_out["dim"]),
            Opcode.GATE_UP: k["dim"] & n_out["pairs"],
            Opcode.SAMPLE: k["nothing"] & n_out["vocab"],
            Opcode.END: k["nothing"] & n_out["nothing"],
        }
        return self._known(
            Cat((header.opcode == opcode.value) & rule for opcode, rule in rules.items()).any(), "fits"
        )
