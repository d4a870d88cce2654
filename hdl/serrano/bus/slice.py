# SPDX-License-Identifier: Apache-2.0
"""Register slices in the channels of AXI."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.stream import StreamRegister

__all__ = ["AXISlice"]


class AXISlice(wiring.Component):
    """Cuts every combinational path between a manager and a subordinate; a cycle in each channel, no pause.

    Parameters
    ----------
    signature : :class:`~serrano.bus.AXI4Read` or :class:`~serrano.bus.AXI4Write`
        The channels, as the manager sees them.

    Members
    -------
    i : ``In(signature)``
        From the manager.
    o : ``Out(signature)``
        To the subordinate.
    """

    def __init__(self, signature: wiring.Signature):
        self.channels = signature
        super().__init__({"i": In(signature), "o": Out(signature)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        members = self.channels.members
        for valid in [name for name in members if name.endswith("valid")]:
            channel = valid.removesuffix("valid")
            ready = f"{channel}ready"
            fields = [name for name in members if name.startswith(channel) and name not in (valid, ready)]
            payload = data.StructLayout({name: members[name].shape for name in fields})
            m.submodules[channel] = register = StreamRegister(payload)
            source, target = (self.i, self.o) if members[valid].flow == Out else (self.o, self.i)
            m.d.comb += [
                register.i.valid.eq(getattr(source, valid)),
                getattr(source, ready).eq(register.i.ready),
                getattr(target, valid).eq(register.o.valid),
                register.o.ready.eq(getattr(target, ready)),
            ]
            for name in fields:
                m.d.comb += [
                    register.i.payload[name].eq(getattr(source, name)),
                    getattr(target, name).eq(register.o.payload[name]),
                ]
        return m
