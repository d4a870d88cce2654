# SPDX-License-Identifier: Apache-2.0
"""The greedy token: section 3 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig
from serrano.layouts import EpilogueBeat
from serrano.primitives.memory import OnChipMemory
from serrano.stream.pipeline import delayed

from .payloads import ArgmaxCommand, Token

__all__ = ["Argmax", "Candidate"]


class Candidate(data.StructLayout):
    """A token that may be the best; ``valid`` if there is one at all."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"value": signed(32), "token": ceil_log2(config.vocab_max), "valid": 1})


class Argmax(wiring.Component):
    """Finds the lowest index of the largest logit of each row, over indices below ``vocab``.

    Takes one beat per cycle, with ``config.registered`` one in every other cycle; the first token is there
    ``latency`` cycles after the last beat.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature(ArgmaxCommand(config)))``
        What follows; taken when all tokens of the command before have been.
    beats : ``In(stream.Signature(EpilogueBeat(config)))``
        Logits; each row's in rising order of columns. The one with ``last`` is the last one.
    tokens : ``Out(stream.Signature(Token(config)))``
        One for each row, in order.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        # Masked, the levels of the tree, and the comparison with the row's best; with registers three
        # cycles for this.
        self.settling = 3 * int(config.registered)
        self.latency = 1 + ceil_log2(config.lanes) + 1 + self.settling
        super().__init__(
            {
                "command": In(stream.Signature(ArgmaxCommand(config))),
                "beats": In(stream.Signature(EpilogueBeat(config))),
                "tokens": Out(stream.Signature(Token(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        todo = Signal(ArgmaxCommand(config))
        row = Signal.like(self.tokens.payload.row)
        taken, rests = Signal(), Signal()
        if self.settling:
            m.d.sync += rests.eq(taken)
        winner = self._build_tree(m, todo.vocab)
        depth = self.latency - 1 - self.settling
        valid = Signal(depth)
        beat = self.beats.payload
        place, early = Signal.like(row), Signal.like(row)
        ends = Signal()
        m.d.comb += early.eq(delayed(m, beat.row, depth - 1, enable=1, name="early"))
        m.d.comb += Cat(ends, place).eq(
            Cat(
                delayed(m, beat.last, depth, enable=1, name="ends"),
                delayed(m, early, 1, enable=1, name="place"),
            )
        )
        m.d.sync += valid.eq(Cat(taken, valid))
        # The row's best is read a cycle before it is compared; what is written then goes around the memory.
        m.submodules.memory = memory = OnChipMemory(
            Candidate(config), max(2, config.rows_max), transparent=True
        )
        best = Signal(Candidate(config))
        seen = Signal(config.rows_max)
        old = Signal(Candidate(config))
        m.d.comb += [
            Value.cast(best).eq(memory.r_data),
            old.value.eq(best.value),
            old.token.eq(best.token),
            old.valid.eq(seen.bit_select(place, 1)),
            memory.r_en.eq(1),
            memory.r_addr.eq(early),
            taken.eq(self.beats.valid & self.beats.ready),
            self.tokens.payload.row.eq(row),
            # A row without any valid token gives zeros.
            self.tokens.payload.token.eq(Mux(seen.bit_select(row, 1), best.token, 0)),
            self.tokens.payload.value.eq(Mux(seen.bit_select(row, 1), best.value, 0)),
        ]
        if self.settling:
            self._build_comparison(m, memory, valid[-1] & winner.valid, place, winner, old)
        else:
            m.d.comb += [
                memory.w_en.eq(valid[-1] & self._is_better(old, winner)),
                memory.w_addr.eq(place),
                memory.w_data.eq(winner),
            ]
        with m.If(memory.w_en):
            m.d.sync += seen.bit_select(memory.w_addr, 1).eq(1)
        ended = Signal(1 + self.settling)
        m.d.comb += ended[0].eq(valid[-1] & ends)
        m.d.sync += ended[1:].eq(ended)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += [todo.eq(self.command.payload), row.eq(0)]
                with m.If(self.command.valid):
                    m.d.sync += seen.eq(0)
                    m.next = "LOGITS"
            with m.State("LOGITS"):
                m.d.comb += self.beats.ready.eq(~rests)
                with m.If(taken & beat.last):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(ended[-1]):
                    m.d.comb += memory.r_addr.eq(row)
                    m.next = "TOKENS"
            with m.State("TOKENS"):
                m.d.comb += [self.tokens.valid.eq(1), memory.r_addr.eq(row)]
                with m.If(self.tokens.ready):
                    m.d.comb += memory.r_addr.eq(row + 1)
                    m.d.sync += row.eq(row + 1)
                    with m.If(row == todo.rows - 1):
                        m.next = "IDLE"
        return m

    @staticmethod
    def _is_better(old: Any, new: Any) -> Value:
        """Whether ``new``, of higher index, takes the place of ``old``."""
        return new.valid & (~old.valid | (new.value > old.value))

    def _build_comparison(
        self, m: Module, memory: OnChipMemory, valid: Value, place: Value, winner: Any, old: Any
    ) -> None:
        """Compares a cycle after the read, chooses in the next and then writes; what the two winners before
        have made of the row's best goes around the memory. Between two winners there is a cycle."""
        now, chooses, follows, wins = (Signal(name=name) for name in ("now", "chooses", "follows", "wins"))
        row, written = (Signal.like(place, name=name, reset_less=True) for name in ("row", "written"))
        new, kept, best = (
            Signal(Candidate(self.config), name=name, reset_less=True) for name in ("new", "kept", "best")
        )
        earlier = Mux(follows, Value.cast(best), Value.cast(kept))
        m.d.comb += [memory.w_addr.eq(written), memory.w_data.eq(best)]
        around = memory.w_en & (written == place)
        with m.If(~now):
            m.d.sync += [
                row.eq(place),
                new.eq(winner),
                kept.eq(Mux(around, Value.cast(best), Value.cast(old))),
                follows.eq(chooses & (row == place)),
            ]
        m.d.sync += [
            now.eq(valid),
            # Both comparisons at once: which of them counts has been known for longer than they take.
            wins.eq(Mux(follows, new.value > best.value, ~kept.valid | (new.value > kept.value))),
            chooses.eq(now),
            memory.w_en.eq(chooses),
            written.eq(row),
        ]
        with m.If(chooses):
            m.d.sync += best.eq(Mux(wins, Value.cast(new), earlier))

    def _build_tree(self, m: Module, vocab: Value) -> Any:
        config = self.config
        beat = self.beats.payload
        level = []
        for lane in range(config.lanes):
            entry = Signal(Candidate(config), name=f"lane_{lane}", reset_less=True)
            column = beat.column | lane
            m.d.sync += [
                entry.value.eq(beat.values[lane]),
                entry.token.eq(column),
                entry.valid.eq(column < vocab),
            ]
            level.append(entry)
        while len(level) > 1:
            winners = []
            for index in range(0, len(level), 2):
                low, high = level[index : index + 2]
                better = Signal(Candidate(config), name=f"best_of_{len(level)}_{index}", reset_less=True)
                m.d.sync += better.eq(Mux(self._is_better(low, high), Value.cast(high), Value.cast(low)))
                winners.append(better)
            level = winners
        return level[0]
