"""Signals that ask a training to end: it finishes its step, writes a checkpoint, and ends with 128 + signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from diffusionbench.errors import Stopped
from nanogen import parallel

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stop:
    """Takes signals while it is entered: raises `Stopped` at once, or where `deferred` at the next `check`.

    A second signal is not deferred.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._number = 0
        self._deferred = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # What the caller ignores, as nohup and a shell's background do, stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A loader process, which ends with the training.
            return
        again, self._number = self._number, number
        if again or not self._deferred:
            self._stop(number)

    @contextmanager
    def deferred(self, deferred: bool = True) -> Iterator[None]:
        """While it is entered, signals wait for `check`; or not, where one process alone can end at any moment."""
        before = self._deferred
        self._deferred = deferred or parallel.world_size() > 1
        try:
            if self._number and not self._deferred:
                self._stop(self._number)
            yield
        finally:
            self._deferred = before

    def check(self) -> None:
        """End where a signal has come, to any of the processes; all of them call it.

        Raises:
            Stopped: the same in every process.
        """
        number = int(parallel.all_max(torch.tensor(float(self._number))).item())
        if number:
            self._stop(number)

    def _stop(self, number: int) -> None:
        raise Stopped(f"received {signal.Signals(number).name}. The same command continues.", number)
