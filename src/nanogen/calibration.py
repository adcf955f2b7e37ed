"""How fast this machine trains: four rates, measured once by `nanogen bench --calibrate` and kept in the cache folder.

The seconds of a step are a sum over its operations (matrix products), the bytes of activations that it keeps
(element-wise work), the parameters (optimizer and average), and 1 (what every step costs).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import Field, ValidationError

from diffusionbench.errors import RequestError
from diffusionbench.limits import read_small
from diffusionbench.schema import Strict
from diffusionbench.writing import cache_folder, write_atomic, write_errors

FILE: Final = "calibration.json"


class Rates(Strict):
    """What was measured on one device, in one precision.

    Attributes:
        device: its name, as a record's hardware begins.
        kind: "cpu" or "cuda".
        precision, compile: of the network.
        threads: of the processor.
        memory: bytes of the device.
        date, commit: of the measurement.
        per_flop, per_byte, per_parameter, per_step: seconds for each of them.
        error: largest relative error over the steps that were measured.
    """

    device: str
    kind: str
    precision: str
    compile: bool
    threads: int = Field(ge=1)
    memory: int = Field(ge=1)
    date: str
    commit: str | None
    per_flop: float = Field(gt=0)
    per_byte: float = Field(ge=0)
    per_parameter: float = Field(ge=0)
    per_step: float = Field(ge=0)
    error: float = Field(ge=0)

    def seconds(self, flops: float, kept_bytes: float, parameters: float) -> float:
        """Return the seconds of a step of so many operations, bytes of activations, and parameters."""
        images = flops * self.per_flop + kept_bytes * self.per_byte
        return images + parameters * self.per_parameter + self.per_step


class Calibration(Strict):
    """Contents of the file: one entry for each device, precision and way to compile."""

    version: int = 1
    rates: tuple[Rates, ...] = ()


def place() -> Path:
    """Return where the calibration of this machine lies."""
    return cache_folder() / FILE


def read() -> tuple[Rates, ...]:
    """Return what was measured on this machine; nothing where there is no file. RequestError if it is damaged."""
    try:
        return Calibration.model_validate_json(read_small(place())).rates
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError):
        raise RequestError(
            f"{place()} cannot be read or is of another version. Measure again: nanogen bench --calibrate."
        ) from None


def keep(rates: Rates) -> Path:
    """Write rates beside those of other devices, precisions and ways to compile; returns the file."""
    same = ("device", "precision", "compile")
    others = [one for one in read() if any(getattr(one, key) != getattr(rates, key) for key in same)]
    with write_errors(place()):
        write_atomic(place(), Calibration(rates=(*others, rates)).model_dump_json(indent=2) + "\n")
    return place()


def fit(measured: Sequence[tuple[float, float, float, float]]) -> tuple[np.ndarray, float]:
    """Return the four coefficients, none below 0, that give measured steps with the least relative error.

    Args:
        measured: of each step its operations, kept bytes, parameters and seconds.

    Returns:
        Seconds per operation, byte, parameter and step, float64 [4]; and the largest relative error.
    """
    rows = np.array(measured, np.float64)
    seconds = rows[:, 3]
    given = np.column_stack([rows[:, :3], np.ones(len(rows))]) / seconds[:, None]
    best: tuple[float, np.ndarray] = (np.inf, np.zeros(4))
    # Operations always count; the best of the eight ways to leave the others out.
    for chosen in itertools.product((True,), *[(True, False)] * 3):
        # Columns of like size: parameters are millions, seconds parts of one.
        columns = given[:, chosen]
        sizes = np.abs(columns).max(0)
        found = np.linalg.lstsq(columns / sizes, np.ones(len(rows)), rcond=None)[0] / sizes
        error = float(np.square(columns @ found - 1).sum())
        if (found >= 0).all() and error < best[0]:
            coefficients = np.zeros(4)
            coefficients[list(chosen)] = found
            best = error, coefficients
    return best[1], float(np.abs(given @ best[1] - 1).max())
