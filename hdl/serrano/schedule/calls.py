# SPDX-License-Identifier: Apache-2.0
"""Commands to the KV controller from inside a state machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amaranth import *

__all__ = ["kv_call", "share_kv"]


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
    with m.State(state):
        m.d.comb += [
            command.valid.eq(1),
            command.payload.opcode.eq(opcode),
            command.payload.seq.eq(sequence),
            command.payload.tenant.eq(tenant),
            command.payload.arg0.eq(argument),
        ]
        with m.If(command.ready):
            m.next = f"{state}_WAIT"
    with m.State(f"{state}_WAIT"):
        m.d.comb += response.ready.eq(1)
        with m.If(response.valid):
            yield response.payload


def share_kv(m: Module, port: Any, users: list[Any]) -> None:
    """Connects users of which one at a time has a command under way."""
    for user in users:
        m.d.comb += [
            user.commands.ready.eq(port.commands.ready),
            user.responses.valid.eq(port.responses.valid),
            user.responses.payload.eq(port.responses.payload),
        ]
        with m.If(user.commands.valid):
            m.d.comb += [port.commands.valid.eq(1), port.commands.payload.eq(user.commands.payload)]
        with m.If(user.responses.ready):
            m.d.comb += port.responses.ready.eq(1)
