# SPDX-License-Identifier: Apache-2.0
"""The random bench with golden models that do one thing differently: what it says of each.

Since the bench knows of two parties only that they differ, this shows that it would notice a controller that
does the same.
"""

import json
import os

import cocotb

from serrano_sim.cocotb.bench_kvcache import play, report
from serrano_sim.golden.block_manager import BlockManager, Kind, Status

_release, _advance, _take, _move = (
    BlockManager._release,
    BlockManager._advance,
    BlockManager._take,
    BlockManager._move,
)
_trim, _share, _execute = BlockManager._trim, BlockManager._share, BlockManager.execute


def released_in_order(self, numbers):
    return _release(self, numbers[::-1])


def generations_wrap(self, block):
    block.generation = (block.generation + 1) & self.generation_max


def keeps_the_seal(self, tenant):
    sealed = self.states[self.free[0]].sealed
    number = _take(self, tenant)
    self.states[number].sealed = sealed
    return number


def keeps_the_tenant(self, tenant):
    return _take(self, self.states[self.free[0]].tenant or tenant)


def copies_are_not_made(self, move):
    return move.kind == Kind.COPY or _move(self, move)


def trim_forgets_written_counts(self, sequence, length):
    freed = _trim(self, sequence, length)
    if length % 16 and sequence.held:
        self.states[sequence.table[-1]].written = length % 16
    return freed


def free_list_in_order_of_numbers(self, sequence, number, generation):
    length = _share(self, sequence, number, generation)
    self.free = sorted(self.free)
    return length


def no_space_for_never_fits(self, opcode, seq, tenant, arg0=0, arg1=0):
    status, aux = _execute(self, opcode, seq, tenant, arg0, arg1)
    return (Status.NO_SPACE, 0) if status == Status.NEVER_FITS else (status, aux)


def any_generation(self, sequence, number, generation):
    if number < len(self.states) and self.states[number].generation != self.generation_max:
        generation = self.states[number].generation
    return _share(self, sequence, number, generation)


FAULTS = {
    "released_in_order": ("_release", released_in_order),
    "generations_wrap": ("_advance", generations_wrap),
    "keeps_the_seal": ("_take", keeps_the_seal),
    "keeps_the_tenant": ("_take", keeps_the_tenant),
    "copies_are_not_made": ("_move", copies_are_not_made),
    "trim_forgets_written_counts": ("_trim", trim_forgets_written_counts),
    "free_list_in_order_of_numbers": ("_share", free_list_in_order_of_numbers),
    "no_space_for_never_fits": ("execute", no_space_for_never_fits),
    "any_generation": ("_share", any_generation),
}


@cocotb.test()
async def differences(dut) -> None:
    """The first mismatch of each fault."""
    plan = json.loads(os.environ["PLAN"])
    found = {}
    for name, (method, replacement) in FAULTS.items():
        original = getattr(BlockManager, method)
        setattr(BlockManager, method, replacement)
        found[name] = (await play(dut, plan, most=1))["mismatches"]
        setattr(BlockManager, method, original)
    report(found)
