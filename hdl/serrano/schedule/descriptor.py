# SPDX-License-Identifier: Apache-2.0
"""Reading and checking the model descriptor at the head of a tape."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus import ReadPort
from serrano.config import GROUP_TOKENS, AcceleratorConfig
from serrano.faults import FaultCode
from serrano.layouts import PackedScale
from serrano.stream.gearbox import Gearbox
from serrano.stream.pace import paced, settled, take_turns
from serrano.stream.slices import connect_reads
from serrano.tape.crc import crc32_step
from serrano.vector.arithmetic import multiplied

__all__ = ["DescriptorLoader", "ModelInfo"]

MAGIC = 0x4F4E5253
MAJOR = 1
DESCRIPTOR_BYTES = 256


class ModelInfo(data.Struct):
    """What the hardware keeps of a model descriptor, and what follows from it."""

    dim: unsigned(16)
    ffn: unsigned(16)
    layers: unsigned(16)
    heads: unsigned(8)
    kv_heads: unsigned(8)
    group: unsigned(8)
    """Query heads per KV head."""
    head_dim: unsigned(16)
    head_pad: unsigned(16)
    vocab: unsigned(32)
    context: unsigned(32)
    """Limited to the accelerator's own."""
    s_eps: PackedScale
    s_score: PackedScale
    program_offset: unsigned(32)
    head_offset: unsigned(32)
    end_offset: unsigned(32)
    program_end: unsigned(32)
    rope_offset: unsigned(32)
    rope_stride: unsigned(16)
    embed_offset: unsigned(32)
    embed_stride: unsigned(16)
    packets: unsigned(32)
    record_bytes: unsigned(16)
    block_bytes: unsigned(32)


WORDS = {
    24: "dim",
    28: "ffn",
    32: "layers",
    36: "heads",
    40: "kv_heads",
    44: "head_dim",
    48: "head_pad",
    52: "vocab",
    56: "context",
    72: "program_offset",
    76: "head_offset",
    80: "end_offset",
    84: "program_end",
    88: "rope_offset",
    92: "rope_stride",
    96: "embed_offset",
    100: "embed_stride",
    104: "packets",
    108: "record_bytes",
    112: "block_bytes",
}
"""Field by offset of its 32-bit word."""

SECOND_HALF = 18
"""The first word of those that say where things are."""


class DescriptorLoader(wiring.Component):
    """On ``start``, reads the 256 bytes of the descriptor at ``address``, checks them and keeps the fields.

    Checks in this order: magic, major version, CRC, geometry, limits. ``done`` is set for one cycle at the
    end, with ``code`` NONE if the model can be run.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    start : ``In(1)``
        Load; ignored while loading.
    address : ``In(config.address_bits)``
        Address of the tape.
    memory : ``Out(ReadPort(config))``
        Port to memory.
    model : ``Out(ModelInfo)``
        The fields; valid while ``loaded``.
    loaded : ``Out(1)``
        A model that can be run has been loaded.
    done : ``Out(1)``
        Loading has ended.
    code : ``Out(FaultCode)``
        What is wrong, valid with ``done``.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "address": In(config.address_bits),
                "memory": Out(ReadPort(config)),
                "model": Out(ModelInfo),
                "loaded": Out(1),
                "done": Out(1),
                "code": Out(FaultCode),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.words = words = Gearbox(self.config.port_bytes, 4)
        memory = ReadPort(self.config).create(path=("port",))
        connect_reads(m, memory, wiring.flipped(self.memory), registered=self.config.registered)
        m.d.comb += [
            words.i.valid.eq(memory.data.valid),
            words.i.payload.bytes.eq(memory.data.payload.bytes),
            words.i.payload.last.eq(memory.data.payload.last),
            memory.data.ready.eq(words.i.ready),
            memory.request.payload.address.eq(self.address),
            memory.request.payload.bytes.eq(DESCRIPTOR_BYTES),
        ]
        index = Signal(6)
        word = words.o.payload.bytes
        crc = Signal(32)
        crc_ok, faulty = Signal(), Signal()
        head = Signal(data.StructLayout({"magic": 1, "version": 1, "geometry": 1}))
        large = Signal()
        # The product of group and KV heads; whether something that has long been known is too large.
        product, over = Signal(16), self._build_limits(m)
        below = settled(m, self.config, product < self.model.heads, "below")
        differs = settled(m, self.config, product != self.model.heads, "differs")
        endless = settled(m, self.config, (self.model.kv_heads == 0) | self.model.group.all(), "endless")
        many = settled(m, self.config, self.model.group > self.config.attention_rows_max, "many")
        acts = take_turns(m, self.config)
        self._build_capture(m, index, word, words.o.valid & words.o.ready, head, large)

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [index.eq(0), crc.eq(0xFFFFFFFF), head.eq(0), faulty.eq(0), large.eq(0)]
                with m.If(self.start):
                    m.d.sync += self.loaded.eq(0)
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += memory.request.valid.eq(1)
                with m.If(memory.request.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += words.o.ready.eq(1)
                with m.If(memory.data.valid & memory.data.payload.error):
                    m.d.sync += faulty.eq(1)
                with m.If(words.o.valid):
                    m.d.sync += [index.eq(index + 1), crc_ok.eq(~crc == word)]
                    m.d.sync += crc.eq(crc32_step(crc, word, 4))
                    with m.If(words.o.payload.last):
                        m.next = "GROUP"
                # They have long been known with the last word.
                m.d.sync += [self.model.group.eq(1), product.eq(self.model.kv_heads)]
            with paced(m, "GROUP", acts):
                # heads / kv_heads by counting; the product is also the check that it divides.
                with m.If(below):
                    m.d.sync += [
                        self.model.group.eq(self.model.group + 1),
                        product.eq(product + self.model.kv_heads),
                    ]
                with m.Else():
                    with m.If(differs):
                        m.d.sync += large.eq(1)
                    m.next = "LIMITS"
                with m.If(endless):
                    m.d.sync += large.eq(1)
                    m.next = "LIMITS"
            with m.State("LIMITS"):
                with m.If(over | many):
                    m.d.sync += large.eq(1)
                with m.If(self.model.context > self.config.context_max):
                    m.d.sync += self.model.context.eq(self.config.context_max)
                m.next = "VERDICT"
            with m.State("VERDICT"):
                m.d.comb += self.done.eq(1)
                self._build_verdict(m, head, crc_ok, faulty, large)
                m.d.sync += self.loaded.eq(self.code == FaultCode.NONE)
                m.next = "IDLE"
        return m

    def _build_capture(
        self, m: Module, index: Signal, word: Value, valid: Value, head: Any, large: Signal
    ) -> None:
        """Keeps what a word says, two or three cycles after it has come: more come behind the last field."""
        taken, number, came = Signal(32, reset_less=True), Signal.like(index), Signal()
        m.d.sync += [taken.eq(word), number.eq(index), came.eq(valid)]
        # The fields lie far apart: of each word a register says that it is there.
        content, chosen = Signal(32, reset_less=True), {}
        m.d.sync += content.eq(taken)
        for place in (0, 1, 4, 5, 15, *(offset // 4 for offset in WORDS)):
            chosen[place] = Signal(name=f"is_word_{place}")
            m.d.sync += chosen[place].eq(came & (number == place))
        # The second half of the fields takes it a cycle later, from a register beside them.
        late, late_chosen = Signal.like(content), {}
        m.d.sync += late.eq(content)
        for place, known in chosen.items():
            if place >= SECOND_HALF:
                late_chosen[place] = Signal(name=f"is_late_word_{place}")
                m.d.sync += late_chosen[place].eq(known)
        words = {place: (known, content) for place, known in chosen.items()}
        words |= {place: (known, late) for place, known in late_chosen.items()}
        self._build_fields(m, words, head, large)

    def _build_fields(
        self, m: Module, words: dict[int, tuple[Signal, Signal]], head: Any, large: Signal
    ) -> None:
        model, config = self.model, self.config
        chosen, word = {place: known for place, (known, _) in words.items()}, words[0][1]
        with m.If(chosen[0]):
            m.d.sync += head.magic.eq(word == MAGIC)
        with m.If(chosen[1]):
            m.d.sync += head.version.eq(word[:16] == MAJOR)
        with m.If(chosen[4]):
            m.d.sync += head.geometry.eq(word == (config.n | config.tape_align << 16))
        with m.If(chosen[5] & (word != (GROUP_TOKENS | GROUP_TOKENS << 16))):
            m.d.sync += head.geometry.eq(0)
        with m.If(chosen[15]):
            m.d.sync += Cat(model.s_eps, model.s_score).eq(word)
        for offset, name in WORDS.items():
            field = getattr(model, name)
            known, word = words[offset // 4]
            with m.If(known):
                m.d.sync += field.eq(word)
                with m.If((word >> len(Value.cast(field))).any() | ((word == 0) & (offset != 72))):
                    m.d.sync += large.eq(1)

    def _build_limits(self, m: Module) -> Value:
        """Whether a field is over its limit, five cycles after the last of them is there."""
        model, config = self.model, self.config
        always = {"enable": Const(1), "registered": config.registered}
        kv_width = multiplied(m, model.kv_heads, model.head_pad, name="kv_width", **always)
        width = multiplied(m, model.heads, model.head_pad, name="width", **always)
        conditions = Cat(
            model.dim > config.dim_max,
            model.ffn > config.ffn_max,
            model.heads > config.heads_max,
            model.head_pad > config.head_dim_max,
            model.head_dim > model.head_pad,
            kv_width > config.kv_width_max,
            width > config.dim_max,
            model.vocab > config.vocab_max,
        )
        over = Signal.like(conditions, name="over", reset_less=True)
        some = Signal(name="some_over", reset_less=True)
        m.d.sync += [over.eq(conditions), some.eq(over.any())]
        return some

    def _build_verdict(self, m: Module, head: Any, crc_ok: Signal, faulty: Signal, large: Signal) -> None:
        with m.If(faulty):
            m.d.comb += self.code.eq(FaultCode.BUS_SLVERR)
        with m.Elif(~head.magic):
            m.d.comb += self.code.eq(FaultCode.DESCRIPTOR_MAGIC)
        with m.Elif(~head.version):
            m.d.comb += self.code.eq(FaultCode.DESCRIPTOR_VERSION)
        with m.Elif(~crc_ok):
            m.d.comb += self.code.eq(FaultCode.DESCRIPTOR_CRC)
        with m.Elif(~head.geometry):
            m.d.comb += self.code.eq(FaultCode.DESCRIPTOR_GEOMETRY)
        with m.Elif(large):
            m.d.comb += self.code.eq(FaultCode.DESCRIPTOR_LIMIT)
        with m.Else():
            m.d.comb += self.code.eq(FaultCode.NONE)
