# SPDX-License-Identifier: Apache-2.0
"""Many texts as they come: side by side on a terminal, one line per token elsewhere."""

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from serrano_host.driver import Event

from .session import Served

__all__ = ["Display"]

PANEL_WIDTH = 36
PANEL_LINES = 12


def _state(served: Served) -> str:
    if served.error:
        return "failed"
    if served.ended:
        return "done"
    if served.handle is None:
        return "to come"
    return "running" if served.tokens else "waiting"


def visible(text: str) -> str:
    """Text without what a terminal would take for a command: control characters become their pictures."""

    def shown(c: str) -> str:
        if "\x7f" <= c < "\xa0":
            return "\N{REPLACEMENT CHARACTER}"
        return chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c

    return "".join(shown(c) for c in text)


STYLES = {"failed": "red", "done": "green", "to come": "dim", "running": "bold", "waiting": "cyan"}


class Display:
    """Shows what :func:`~serrano_host.serving.session.serve` tells.

    Parameters
    ----------
    console : rich console
        Where to.
    """

    def __init__(self, console: Console):
        self.console = console
        self.all: Sequence[Served] = ()
        self.start: int | None = None
        self._status = Spinner("dots", text="")
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._told = ""

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._live.__exit__(None, None, None)
        for served in self.all:
            text = Text()
            text.append(f"[{served.index}] {self._prompt(served)}", style="dim")
            text.append(visible(served.text), style="bold")
            if served.error:
                text.append(f" ({served.error})", style="red")
            self.console.print(text, soft_wrap=True)

    def stage(self, text: str) -> None:
        """Says what is being done."""
        if self.console.is_terminal:
            self._status.update(text=text)
            self._refresh()
        elif text != self._told:
            self.console.print(text, highlight=False)
        self._told = text

    def begin(self, all_served: Sequence[Served], start: int | None) -> None:
        """Serving begins."""
        self.all, self.start = all_served, start
        if not self.console.is_terminal:
            for served in all_served:
                self._line("", served, f"{len(served.wanted.prompt_ids)} tokens: {self._prompt(served)!r}")

    def submitted(self, served: Served) -> None:
        """A prompt has been submitted, or could not be."""
        if served.problem and not self.console.is_terminal:
            self._line("", served, served.problem)

    def event(self, served: Served, event: Event, piece: str) -> None:
        """Something came from the accelerator."""
        if self.console.is_terminal:
            return
        cycle = "" if event.cycle is None else f"{event.cycle - (self.start or 0):,}"
        if event.token is not None:
            self._line(cycle, served, f"{len(served.tokens):4}/{served.wanted.max_new}  {piece!r}")
        if event.ended:
            self._line(cycle, served, f"ended{': ' + served.error if served.error else ''}")

    def idle(self, cycle: int | None) -> None:
        """Some time has passed."""
        if self.console.is_terminal:
            done, tokens = sum(s.ended for s in self.all), sum(len(s.tokens) for s in self.all)
            text = f"{done}/{len(self.all)} requests, {tokens:,} tokens"
            if cycle is not None:
                text += f", {cycle - (self.start or 0):,} cycles"
            self._status.update(text=text)
            self._refresh()

    def _line(self, cycle: str, served: Served, text: str) -> None:
        self.console.print(f"{cycle:>14}  [{served.index}]  {text}", markup=False, highlight=False)

    @staticmethod
    def _prompt(served: Served) -> str:
        if served.wanted.text is not None:
            return visible(served.wanted.text)
        return "".join(f"{token} " for token in served.wanted.prompt_ids)

    def _refresh(self) -> None:
        parts: list[RenderableType] = [self.render(), self._status] if self.all else [self._status]
        self._live.update(Group(*parts))

    def render(self) -> RenderableType:
        """All texts as they are now: panels if there is room for them side by side, else a line each."""
        if len(self.all) * PANEL_WIDTH <= self.console.width:
            width = self.console.width // len(self.all)
            return Columns([self._panel(served, width) for served in self.all], padding=0)
        return self._table()

    def _panel(self, served: Served, width: int) -> Panel:
        state = _state(served)
        text = Text()
        text.append(self._prompt(served), style="dim")
        text.append(visible(served.text), style="bold")
        lines = text.wrap(self.console, width - 4)
        body = Text("\n").join(lines[-PANEL_LINES:])
        title = f"{served.index}: {len(served.tokens)}/{served.wanted.max_new} {state}"
        return Panel(body, title=title, width=width, border_style=STYLES[state])

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1), expand=True)
        for name, justify in (("#", "right"), ("tokens", "right"), ("", "left")):
            table.add_column(name, justify=justify, no_wrap=True)
        table.add_column("text", ratio=1, no_wrap=True)
        room = max(1, self.console.height - 5)
        # Those that move come first, and then in the order of the prompts.
        urgency = {"running": 0, "waiting": 1, "to come": 2, "failed": 3, "done": 3}
        shown = sorted(self.all, key=lambda served: (urgency[_state(served)], served.index))[:room]
        for served in sorted(shown, key=lambda served: served.index):
            state = _state(served)
            text = (self._prompt(served) + visible(served.text)).replace("\n", "\N{RETURN SYMBOL}")
            tail = Text(text[-max(10, self.console.width - 30) :])
            count = f"{len(served.tokens)}/{served.wanted.max_new}"
            table.add_row(str(served.index), count, Text(state, style=STYLES[state]), tail)
        if len(shown) < len(self.all):
            table.add_row("", "", "", Text(f"and {len(self.all) - len(shown)} more", style="dim"))
        return table
