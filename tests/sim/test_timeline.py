# SPDX-License-Identifier: Apache-2.0
"""The pieces of the timeline, and the recording of the word of activity; a whole run is in tests/top."""

import numpy as np
import pytest

from serrano.config import preset
from serrano.trace import ActivityWord
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.timeline import GRAIN, Activity, Runs
from serrano_sim.top.layout import Request
from serrano_sim.top.simulate import Options, plan_job, prepare, simulate
from support.playback import fake_design, script

CONFIG = preset("base")
MODEL = random_model(3, dim=36, ffn=44, layers=1, heads=4, kv_heads=2, head_dim=8, vocab=45, context=64)
NAMES = ("a", "b", "c")


def word(**fields):
    layout = ActivityWord.as_shape()
    return sum(value << layout[name].offset for name, value in fields.items())


def runs_of(states):
    """From the state of each cycle, beginning with cycle 0."""
    states = np.array(states)
    return Runs.of(NAMES, np.arange(len(states)), states, len(states))


def drawn(seed):
    """Runs of random states, about half of them short."""
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random(60) < 0.5, rng.integers(1, GRAIN), rng.integers(GRAIN, 200, 60))
    return np.repeat(rng.integers(-1, len(NAMES), 60), lengths)


@pytest.mark.parametrize("seed", range(4))
def test_runs_are_states_over_time(seed):
    states = drawn(seed)
    runs = runs_of(states)
    assert (np.diff(runs.states) != 0).all()
    assert np.array_equal(np.repeat(runs.states, np.diff(runs.edges)), states)


@pytest.mark.parametrize("seed", range(4))
def test_cycles_between_bounds(seed):
    states = drawn(seed)
    bounds = np.sort(np.random.default_rng(seed).integers(0, len(states) + 1, 30))
    for start, end, cycles in zip(bounds, bounds[1:], runs_of(states).within(bounds), strict=False):
        counted = {name: int((states[start:end] == state).sum()) for state, name in enumerate(NAMES)}
        assert cycles == {name: number for name, number in counted.items() if number}


@pytest.mark.parametrize("seed", range(4))
def test_slices_leave_nothing_out(seed):
    states = drawn(seed)
    slices = list(runs_of(states).slices())
    assert len(slices) < len(runs_of(states).states)
    left, before = states != -1, 0
    for start, end, cycles in slices:
        assert before <= start < end
        counted = {name: int((states[start:end] == state).sum()) for state, name in enumerate(NAMES)}
        assert cycles == {name: number for name, number in counted.items() if number}
        assert states[start] != -1 and states[end - 1] != -1
        # Whatever was joined is short.
        assert len(cycles) == 1 or np.diff(np.flatnonzero(np.diff(states[start:end]))).max(initial=0) < GRAIN
        left[start:end], before = False, end
    assert not left.any()


def test_short_runs_are_joined_and_long_ones_are_not():
    states = [0] * 40 + [1, 0] * 5 + [-1] * 3 + [2] * 4 + [-1] * 40 + [1] * 3 + [2] * 32
    assert list(runs_of(states).slices()) == [
        (0, 40, {"a": 40}),
        (40, 57, {"b": 5, "a": 5, "c": 4}),
        (97, 100, {"b": 3}),
        (100, 132, {"c": 32}),
    ]


def test_fields_of_the_word():
    words = [word(packet=7, stepping=1, array_serial=1), word(packet=7, port_kv=1, appending=1), 0]
    activity = Activity(np.array([3, 5, 9]), np.array(words, np.uint64), 12)
    assert activity.field("packet").tolist() == [7, 7, 0]
    assert activity.field("appending").tolist() == [0, 1, 0]
    port = activity.runs(("port_weights", "port_kv"))
    assert port.names == ("weights", "kv")
    assert port.states.tolist() == [-1, 1, -1]
    assert port.edges.tolist() == [3, 5, 9, 12]
    assert activity.packets().states.tolist() == [7, -1]
    assert activity.packets().edges.tolist() == [3, 5, 12]


@pytest.mark.parametrize("wanted", [True, False])
def test_changes_are_recorded_if_wanted(tmp_path, wanted):
    # The stand-in gives the number of its action in the place of the packet.
    tape = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
    job = plan_job(CONFIG, tape, [Request((5, 7), 2)], activity=wanted)
    path = prepare(job, tape, tmp_path / "run")
    made = script(job, MODEL)
    made.write_to(path)
    simulate(fake_design(tmp_path / "fake"), path, Options(timeout=120))
    if wanted:
        activity = Activity.read(100_000, path)
        assert (np.diff(activity.cycles) > 0).all()
        assert activity.field("packet").tolist() == list(range(1, len(made.actions) + 2))
    else:
        with pytest.raises(ValueError, match="was not recorded"):
            Activity.read(100_000, path)
