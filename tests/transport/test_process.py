# SPDX-License-Identifier: Apache-2.0
"""The simulation's process on its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from serrano.config import preset
from serrano_host.errors import TransportError
from serrano_sim.top.design import top_design
from serrano_sim.transport import process
from serrano_sim.transport.simulation import SimulationTransport

CONFIG = preset("tiny")


def test_it_says_why_it_fails(tmp_path):
    assert process.BENCH == "serrano_sim.cocotb.bench_live"
    options = {"design": str(top_design(CONFIG).files[-1].parent), "name": CONFIG.name}
    (tmp_path / process.OPTIONS_FILE).write_text(json.dumps(options))
    with subprocess.Popen(
        [sys.executable, "-m", process.__name__, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as started:
        assert "No such file or directory: 'socket.path'" in started.stdout.readline()
        started.stdout.read()
        assert started.wait() == 1


def test_it_ends_with_its_parent():
    transport = SimulationTransport(CONFIG, 1 << 16)
    assert not transport.wait(10)
    transport._process.stdin.close()
    assert transport._process.wait(10) != 0
    with pytest.raises(TransportError, match="the simulation ended: its process ended with status -9"):
        transport.wait(10)
    transport.close()
    shutil.rmtree(transport.folder)
