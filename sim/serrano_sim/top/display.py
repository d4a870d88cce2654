# SPDX-License-Identifier: Apache-2.0
"""The text as it comes, with progress below it; one line per token where nobody watches."""

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

__all__ = ["Display"]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


class Display:
    """Shows one generation, or several in turn.

    Parameters
    ----------
    console : rich console
        Where to.
    """

    def __init__(self, console: Console):
        self.console = console
        self.text = Text()
        self.tokens = self.wanted = 0
        self._status = Spinner("dots", text="")
        self._live = Live(console=console, refresh_per_second=10, transient=False)
        self._told = ""

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._live.update(self.text)
            self._live.__exit__(None, None, None)

    def begin(self, prompt: str, wanted: int, title: str = "") -> None:
        """Begins with another prompt, of which so many tokens are wanted at most."""
        self.tokens, self.wanted = 0, wanted
        if title and self.console.is_terminal:
            self.text.append(f"\n\n{title}\n" if self.text else f"{title}\n", style="cyan")
        elif title:
            self.console.print(f"{title}: {prompt!r}", markup=False, highlight=False)
        self.text.append(prompt, style="dim")

    def stage(self, text: str) -> None:
        """Says what is being done; nothing if it was said just before."""
        if self.console.is_terminal:
            self._status.update(text=text)
            self._live.update(Group(self.text, self._status))
        elif text != self._told:
            self.console.print(text)
        self._told = text

    def progress(self, cycles: int, rate: float, left: float | None, *, told: bool = False) -> None:
        """Shows how far the run is. Where nobody watches only if ``told`` is set."""
        text = f"{self.tokens}/{self.wanted} tokens, {cycles:,} cycles, {rate:,.0f} cycles/s"
        if left is not None:
            text += f", {_duration(left)} left"
        if self.console.is_terminal or told:
            self.stage(text)

    def token(self, piece: str, cycles: int, rate: float, left: float | None) -> None:
        """Shows the text that a token completes, and the progress."""
        self.tokens += 1
        self.text.append(piece, style="bold")
        if self.console.is_terminal:
            self.progress(cycles, rate, left)
        else:
            self.console.print(
                f"{self.tokens:4}/{self.wanted}  {cycles:>12,} cycles  {rate:>9,.0f} cycles/s  {piece!r}",
                markup=False,
                highlight=False,
            )
