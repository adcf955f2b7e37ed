"""Progress on the terminal: a bar with time left where there is one, plain lines elsewhere; always on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from nanogen.log import say


class Progress:
    """Steps done of `last`, with the newest numbers."""

    def __init__(self, first: int, last: int) -> None:
        self.last = last
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal and first < last:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[numbers]}"), console=console)
            self._task = self._bar.add_task("", total=last, completed=first, numbers="")
            self._bar.start()

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Tell the numbers of a step."""
        shown = ("images_per_second", "grad_norm")
        text = "  ".join(
            f"{name.removeprefix('loss/').replace('images_per_second', 'images/s')} {value:.4g}"
            for name, value in numbers.items()
            if name.startswith("loss/") or name in shown
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=text)
        elif step % max(1, self.last // 20) == 0 or step == self.last:
            say(f"step {step}/{self.last}  {text}")

    def close(self) -> None:
        if self._bar is not None:
            # The terminal may be gone.
            with suppress(OSError):
                self._bar.stop()
