# SPDX-License-Identifier: Apache-2.0
"""Who listens to a net."""

from serrano_sim.synthesis.netlist import loads_of


def test_inputs_in_the_order_of_names() -> None:
    directions = {"A": "input", "Z": "output"}
    cells = {
        name: {"port_directions": directions, "connections": {"A": inputs, "Z": [output]}}
        for name, inputs, output in (("b", [2, 3], 4), ("a", [4, 2], 5))
    }
    assert loads_of(cells) == {2: [("a", "A", 1), ("b", "A", 0)], 3: [("b", "A", 1)], 4: [("a", "A", 0)]}
