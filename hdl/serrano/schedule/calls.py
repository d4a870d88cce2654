# SPDX-License-Identifier: Apache-2.0
"""Commands to the KV controller from inside a state machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amaranth import *

from serrano.config import AcceleratorConfig
from serrano.kvcache.commands import Status
from serrano.kvcache.payloads import KVPort
from serrano.stream.pace import settled

__all__ = ["judged", "kv_call", "share_kv"]


@contextmanager
def kv_call(
    m: Module,
    port: Any,
    state: str,
    opcode: Any,
    sequence: Value,
    tenant: Value,
    argument: Any = 0,
) -> Iterator[Any]:
    """States ``state`` and ``state``_WAIT: a command is given, then answered.

    The body says what follows from the answer, its payload, in the one cycle in which it is there.
    """
    command, response = port.commands, port.responses
    # These are the same in all of a port's commands.
    m.d.comb += [command.payload.seq.eq(sequence), command.payload.tenant.eq(tenant)]
    with m.State(state):
        m.d.comb += [
            command.valid.eq(1),
            command.payload.opcode.eq(opcode),
            command.payload.arg0.eq(argument),
        ]
        with m.If(command.ready):
            m.next = f"{state}_WAIT"
    with m.State(f"{state}_WAIT"):
        m.d.comb += response.ready.eq(1)
        with m.If(response.valid):
            yield response.payload


def judged(m: Module, config: AcceleratorConfig, port: Any, *statuses: Status) -> dict[Status, Any]:
    """Whether a status is that of the response at ``port``; with registers, known when it is valid."""
    found = port.responses.payload.status
    return {
        status: settled(m, config, found == status, f"answers_{status.name.lower()}") for status in statuses
    }


def share_kv(m: Module, config: AcceleratorConfig, port: Any, users: list[Any]) -> None:
    """Connects users of which one at a time has a command under way.

    If the accelerator is ``registered``, a command comes to the port three cycles later and its response to
    the user two cycles later, all through registers; the response may be looked at in the cycle before.
    """
    if config.registered:
        port = _register_kv(m, config, port)
    for index, user in enumerate(users):
        m.d.comb += [
            user.commands.ready.eq(port.commands.ready),
            user.responses.valid.eq(port.responses.valid),
            user.responses.payload.eq(port.responses.payload),
        ]
        # Its payload stays while it waits.
        with m.If(settled(m, config, user.commands.valid, f"calls_{index}")):
            m.d.comb += [port.commands.valid.eq(1), port.commands.payload.eq(user.commands.payload)]
        with m.If(user.responses.ready):
            m.d.comb += port.responses.ready.eq(1)


def _register_kv(m: Module, config: AcceleratorConfig, port: Any) -> Any:
    """A port before ``port``."""
    before = KVPort().create(path=("before_kv",))
    command, response = port.commands, port.responses
    given = settled(m, config, before.commands.valid, "given")
    payload = settled(m, config, before.commands.payload, "given_payload")
    under_way, answered = Signal(name="under_way"), Signal(name="answered")
    m.d.comb += [
        # What was given is there for some cycles more; it counts once.
        before.commands.ready.eq(given & ~under_way),
        response.ready.eq(under_way & ~answered),
        before.responses.valid.eq(answered & settled(m, config, answered, "answered_before")),
    ]
    with m.If(~under_way):
        m.d.sync += [command.payload.eq(payload), command.valid.eq(given), under_way.eq(given)]
    with m.Elif(command.ready):
        m.d.sync += command.valid.eq(0)
    with m.If(~answered):
        m.d.sync += before.responses.payload.eq(response.payload)
    with m.If(response.valid & response.ready):
        m.d.sync += answered.eq(1)
    with m.If(before.responses.valid & before.responses.ready):
        m.d.sync += [answered.eq(0), under_way.eq(0)]
    return before
