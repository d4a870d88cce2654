# SPDX-License-Identifier: Apache-2.0
"""Test vectors for the stand-alone test bench: a very small model, some requests, and what must come of them.

The expected records come from the golden model. Everything is a text file for ``$readmemh``, so that the
bench needs nothing but a Verilog simulator.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from serrano.config import AcceleratorConfig
from serrano.csr.registers import constants
from serrano.csr.table import COUNTER_BASE, register
from serrano.faults import FaultCode

from ..golden.decoder import Decoder
from ..golden.model import Model
from ..golden.synthetic import random_model, write_tape
from ..top.layout import Completion, MemoryLayout, Request

__all__ = ["Vectors", "make_vectors"]

SEED = 1
LATENCY = 20


@dataclass
class _Image:
    """The memory's contents; written as the memory of a simulation is."""

    data: bytearray = field(repr=False)

    def write(self, address: int, data: bytes | np.ndarray) -> None:
        raw = bytes(data)
        self.data[address : address + len(raw)] = raw


@dataclass(frozen=True)
class Vectors:
    """Files of the folder ``vectors`` by name, and the records that they expect."""

    files: dict[str, str]
    records: tuple[Completion, ...]


def _model(n: int) -> Model:
    """A small model, most of whose dimensions are no multiples of the array's size.

    The head dimension is one: codes that pad a head are multiplied by zero, whatever they are, and while that
    is so in hardware, a simulator for which nothing times unknown is unknown would not agree.
    """
    return random_model(
        SEED, dim=n + 2, ffn=2 * n + 3, layers=2, heads=2, kv_heads=1, head_dim=n, vocab=2 * n + 5, context=32
    )


def _requests(model: Model, n: int) -> list[tuple[Request, list[Completion]]]:
    """Requests with their records: to a limit, to an end-of-sequence token, and one that is refused."""
    texts: list[tuple[Sequence[int], int]] = [((1, 5, 2), 3), ((4,), 3)]
    pairs = []
    for number, (prompt, wanted) in enumerate(texts):
        tokens = Decoder(model, n).generate(prompt, wanted)
        # The second one ends itself, with the second of its tokens if that is not its first one again.
        eos = tokens[1] if number == 1 else None
        if eos is not None:
            tokens = tokens[: tokens.index(eos) + 1]
        records = [
            Completion(number, token, 0, place == len(tokens) - 1, 0, number)
            for place, token in enumerate(tokens)
        ]
        pairs.append((Request(prompt, wanted, eos=eos, tenant=number), records))
    refused = Request((model.vocab,), 2)
    pairs.append(
        (refused, [Completion(len(texts), None, FaultCode.REQUEST_TOKEN.value, True, 0, len(texts))])
    )
    return pairs


def _words(data: bytes, size: int) -> str:
    """One word of so many bytes in a line, its first byte rightmost."""
    return "".join(data[at : at + size][::-1].hex() + "\n" for at in range(0, len(data), size))


def _registers(values: Iterable[tuple[str, int]]) -> str:
    return "".join(f"{register(name).offset:04x}_{value:08x}\n" for name, value in values)


def _setup(layout: MemoryLayout) -> list[tuple[str, int]]:
    addresses = {
        "TAPE_ADDRESS": layout.tape_address,
        "KV_ADDRESS": layout.kv_address,
        "SUBMIT_ADDRESS": layout.submit_address,
        "COMPLETE_ADDRESS": layout.complete_address,
    }
    values = []
    for name, address in addresses.items():
        values += [(f"{name}_LO", address & 0xFFFFFFFF), (f"{name}_HI", address >> 32)]
    sizes = {
        "KV_BLOCKS": layout.kv_blocks,
        "SUBMIT_SIZE": layout.submit_size,
        "COMPLETE_SIZE": layout.complete_size,
        "IRQ_ENABLE": 7,
    }
    return values + list(sizes.items())


def make_vectors(config: AcceleratorConfig) -> Vectors:
    """The vectors for an accelerator; the same for equal configurations."""
    model = _model(config.n)
    pairs = _requests(model, config.n)
    requests = [request for request, _ in pairs]
    records = [record for _, some in pairs for record in some]
    tape = write_tape(model, config.n, config.tape_align)
    layout = MemoryLayout.plan(tape, requests, kv_blocks=1 + len(requests))
    image = _Image(bytearray(layout.size))
    layout.fill(image, tape, requests)
    for number, request in enumerate(requests):
        layout.submit(image, number, request, layout.prompts[number])
    starts = np.cumsum([0, *(len(some) for _, some in pairs)])
    setup, identity = _setup(layout), constants(config)
    final = {
        "STATUS": 2,
        "SUBMIT_HEAD": len(requests),
        "COMPLETE_TAIL": len(records),
        "FAULT_CODE": FaultCode.REQUEST_TOKEN.value,
        "FAULT_COUNT": 1,
        "KV_USED": 0,
    }
    numbers = {
        "ADDRESS_BITS": config.address_bits,
        "PORT_BYTES": config.port_bytes,
        "MEMORY_WORDS": layout.size // config.port_bytes,
        "LATENCY": LATENCY,
        # What LOAD clears, and as much again as the requests take.
        "MOST_CYCLES": 20_000 + 2 * config.sequences_max * config.table_entries,
        "COMPLETE_ADDRESS": layout.complete_address,
        "REQUEST_COUNT": len(requests),
        "RECORD_COUNT": len(records),
        "IDENTITY_COUNT": len(identity),
        "SETUP_COUNT": len(setup),
        "FINAL_COUNT": len(final),
        "CONTROL_LOAD": 1,
        "IRQ_LOADED": 4,
    }
    numbers["FIRST_COUNTER"] = COUNTER_BASE
    numbers |= {
        name: register(name).offset for name in ("CONTROL", "STATUS", "IRQ", "SUBMIT_TAIL", "COMPLETE_TAIL")
    }
    header = "// SPDX-License-Identifier: Apache-2.0\n" + "".join(
        f"localparam {name} = {value};\n" for name, value in numbers.items()
    )
    files = {
        "vectors.vh": header,
        "memory.hex": _words(bytes(image.data), config.port_bytes),
        "identity.hex": _registers(identity.items()),
        "setup.hex": _registers(setup),
        "final.hex": _registers(final.items()),
        "expected.hex": _words(b"".join(record.pack() for record in records), 16),
        "starts.hex": "".join(f"{start:08x}\n" for start in starts),
    }
    return Vectors(files, tuple(records))
