# SPDX-License-Identifier: Apache-2.0
"""What the simulation's end does with what it is told."""

import shutil

import pytest

from serrano.config import preset
from serrano_host.errors import TransportError
from serrano_sim.transport.server import SOCKET_FILE
from serrano_sim.transport.simulation import SimulationTransport

SIZE = 1 << 16


def test_a_command_that_there_is_not():
    transport = SimulationTransport(preset("tiny"), SIZE)
    assert (transport.folder / SOCKET_FILE).exists()
    with pytest.raises(TransportError, match=r"the simulation ended: .*has no attribute '_dance'"):
        transport._call("dance")
    transport.close()
    shutil.rmtree(transport.folder)


def test_waiting_ends_with_watched_writes_only():
    """The simulated memory's own counter tells; here it is moved by hand, as a write would."""
    with SimulationTransport(preset("tiny"), SIZE) as transport:
        assert transport.watch(0x1000, 64)
        before = transport.cycles()
        transport.write_memory(0x1000, bytes(64))  # the host's own writes are none
        assert not transport.wait(100)
        assert transport.cycles() - before >= 100
        before = transport.cycles()
        transport._memory._words["watch_hits"][0, 0] += 4
        assert not transport.wait(100)
        assert transport.cycles() == before
        assert not transport.wait(100)
        assert transport.cycles() - before >= 100
