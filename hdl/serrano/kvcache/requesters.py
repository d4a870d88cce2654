# SPDX-License-Identifier: Apache-2.0
"""The two requesters of the KV controller and whose turn it is."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from serrano.config import AcceleratorConfig
from serrano.stream.pace import settled

from .commands import UNLOCKED, Opcode, Stat, Status
from .payloads import KVCommand, KVPort

__all__ = ["Requesters", "argument_bits", "sequence_bits"]


def sequence_bits(config: AcceleratorConfig) -> int:
    """Bits that tell the sequences, and a number that none has."""
    return bits_for(config.sequences_max)


OPCODE_BITS = bits_for(max(opcode.value for opcode in Opcode) + 1)
"""Bits of an opcode: the largest one is none."""


def argument_bits(config: AcceleratorConfig) -> int:
    """Bits of a first argument: twice what any length, block, sequence or kind can be, and is refused."""
    return (
        bits_for(
            max(config.context_max, config.blocks_max, config.sequences_max, *(kind.value for kind in Stat))
        )
        + 1
    )


def _limited(value: Value, bits: int) -> Value:
    """The value, or the largest one of so many bits if it is larger."""
    return Mux(value[bits:].any(), (1 << bits) - 1, value[:bits])


class Requesters(wiring.Component):
    """Keeps one command and one response of each requester, and offers the commands in turn.

    A command is offered when its requester's last response has been taken, so that a response always finds
    room and nobody waits for another's. Where both have a command, the one that was not served last comes
    first. A command of the host that touches a sequence in ``locked`` is not offered, unless it only looks.
    If the accelerator is ``registered``, ``offered`` follows three cycles later; ``take`` comes at least
    three cycles after ``respond``, and after ``take``.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    host, steps : ``In(KVPort())``
        The requesters: the host through registers, and the step loop.
    locked : ``In(sequences_max)``
        Sequences of the running step.
    offered : ``Out(1)``
        There is a command.
    command : ``Out(KVCommand)``
        The command, its requester's next one. Of an operation and a sequence that there cannot be, and of a
        first argument that is larger than any command takes, only that is left.
    take : ``In(1)``
        It is taken; only with ``offered``, and not again before its response.
    respond : ``In(1)``
        The response to the command that was taken last is given.
    status : ``In(Status)``
        Its status.
    aux : ``In(32)``
        Its auxiliary value.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "host": In(KVPort()),
                "steps": In(KVPort()),
                "locked": In(config.sequences_max),
                "offered": Out(1),
                "command": Out(KVCommand),
                "take": In(1),
                "respond": In(1),
                "status": In(Status),
                "aux": In(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        ports = (self.host, self.steps)
        full, waiting = Signal(2), Signal(2)
        served, chosen = Signal(), Signal()
        tag = Signal(8)
        commands = []
        for index, port in enumerate(ports):
            command = Signal(KVCommand, name=f"command_{index}")
            commands.append(command)
            # With registers it is seen two cycles after the command came whether it has to wait.
            held = settled(m, self.config, self._held(index, command), f"held_{index}")
            known = settled(m, self.config, full[index], f"known_{index}")
            ready = full[index] & known & ~port.responses.valid & ~held
            m.d.comb += [
                port.commands.ready.eq(~full[index]),
                waiting[index].eq(settled(m, self.config, ready, f"waiting_{index}")),
            ]
            with m.If(port.commands.valid & port.commands.ready):
                m.d.sync += [
                    command.eq(port.commands.payload),
                    command.opcode.eq(_limited(port.commands.payload.opcode, OPCODE_BITS)),
                    command.seq.eq(_limited(port.commands.payload.seq, sequence_bits(self.config))),
                    command.arg0.eq(_limited(port.commands.payload.arg0, argument_bits(self.config))),
                    full[index].eq(1),
                ]
            with m.If(self.take & (chosen == index)):
                m.d.sync += full[index].eq(0)
            with m.If(port.responses.ready):
                m.d.sync += port.responses.valid.eq(0)
            with m.If(self.respond & (served == index)):
                m.d.sync += port.responses.valid.eq(1)
            # What is loaded before does not count.
            with m.If(~port.responses.valid):
                m.d.sync += [
                    port.responses.payload.tag.eq(tag),
                    port.responses.payload.status.eq(self.status),
                    port.responses.payload.aux.eq(self.aux),
                ]
        m.d.comb += [
            # Both wait: the other one's turn.
            chosen.eq(settled(m, self.config, Mux(waiting.all(), ~served, waiting[1]), "chosen_before")),
            self.offered.eq(settled(m, self.config, waiting.any(), "offered_before")),
            self.command.eq(Mux(chosen, Value.cast(commands[1]), Value.cast(commands[0]))),
        ]
        with m.If(self.take):
            m.d.sync += [served.eq(chosen), tag.eq(self.command.tag)]
        return m

    def _held(self, index: int, command: Any) -> Any:
        """Whether a command must wait for the end of the step."""
        if index == 1:
            return Const(0)
        free = Cat(command.opcode == opcode for opcode in UNLOCKED).any()

        def locked(seq: Value) -> Value:
            return (seq < self.config.sequences_max) & self.locked.bit_select(seq, 1)

        return (~free & locked(command.seq)) | ((command.opcode == Opcode.FORK) & locked(command.arg0))
