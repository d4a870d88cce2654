# SPDX-License-Identifier: Apache-2.0
"""One flipped constant in the Verilog: `make sim` says so, and names the first element that differs."""

import json
import re

from serrano.config import preset
from serrano_host.checkpoints import open_checkpoint
from serrano_sim import run
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.tape import load_model
from serrano_sim.top.design import top_design
from support.checkpoint_files import Shape, random_weights, write_hugging_face
from support.top import flipped

SHAPE = Shape(dim=32, ffn=44, layers=1, heads=4, kv_heads=2, head_dim=8, vocab=300, context=40)
PROMPT = [7, 21, 3]
# In the unit that rotates k and q: lane 0 lets v pass as it is. Flipped, it rotates v and passes k.
KIND_IS_V = r"(?s)module serrano_top_rotator\(.*?== 1'h(1);"
FIRST = (
    r"step (\d+) \(request 0, position (\d+)\), packet (\d+) \((.+?)\), row (\d+),"
    r" element (\d+) \((\w+ head \d), channel (\d)\): expected (-?\d+), found (-?\d+)"
)


def test_it_is_found_and_named(tmp_path, capsys) -> None:
    folder = write_hugging_face(tmp_path / "small", SHAPE, random_weights(SHAPE))

    def source(config, waiting):
        return flipped(top_design(config), tmp_path / "flipped", KIND_IS_V)

    report = tmp_path / "sim.json"
    options = f"--preset tiny --tokens 3 --model {folder} --json {report}".split()
    status = run.main([*options, "--prompt-ids", " ".join(map(str, PROMPT))], source)
    assert status == 1
    told = json.loads(report.read_text())
    assert told["bit_exact"] is False
    found = re.fullmatch(FIRST, told["errors"][0])
    assert found, told["errors"]
    assert "not bit exact" in capsys.readouterr().out

    step, position, packet, name, row, element, head, channel, expected, other = found.groups()
    assert (packet, name) == ("2", "QKV of layer 0")
    # The prompt is one chunk.
    assert step == "0" and row == position
    number = {"k head": 0, "v head": SHAPE.kv_heads, "q head": 2 * SHAPE.kv_heads}[head[:-2]] + int(head[-1])
    assert int(element) == number * SHAPE.head_dim + int(channel)
    assert head[0] in "kv"
    # What was expected is what the golden model has at this place.
    config, codes = preset("tiny"), []
    tape = run.compiled_tape(open_checkpoint(folder), config)

    def keep(packet, opcode, layer, values):
        if packet == 2:
            codes.append(values[0])

    Decoder(load_model(tape), config.n, trace=keep).generate(PROMPT, 3)
    assert codes[int(position)][int(element)] == int(expected) != int(other)
