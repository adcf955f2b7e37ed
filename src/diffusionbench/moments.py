"""Feature matrices, and their mean and covariance from a stream or a file.

Source: Chan, Golub and LeVeque 1983, for merging centred sums.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from diffusionbench.archives import Archive
from diffusionbench.errors import DataError, RequestError
from diffusionbench.shown import few

BLOCK: Final = 1000
"""Rows whose products are summed at once. Whole blocks, in the order seen, keep the sum independent of batch size to
the last bit; parts of a set begin at multiples of this number."""

# Of statistics that are read: twice the widest extractor in use.
_MOST_WIDTH: Final = 8192
# Names under which files of statistics keep a mean and a covariance, the preferred ones first.
MOMENT_KEYS: Final = (("mu", "sigma"), ("ref_mu", "ref_sigma"))


def as_matrix(values: Any, what: str, min_rows: int = 1) -> np.ndarray:
    """Return a NumPy array or torch tensor [n, d] as an array of the same type; half precisions become float32.

    Args:
        values: what a caller gave.
        what: what it is, in words, for messages ("generated features").
        min_rows: the fewest rows allowed.

    Raises:
        RequestError: if it is not two-dimensional, has fewer rows, or holds a value that is not finite.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values if values.dtype == torch.float64 else values.float()).numpy()
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise RequestError(f"{what}: need an array [n, d] with one row for each image, got shape {array.shape}.")
    if len(array) < min_rows:
        raise RequestError(f"{what}: need at least {min_rows} images, got {len(array)}. Give more images.")
    # Part by part: a mask of all numbers would be a quarter of their size.
    parts = (array[start : start + BLOCK] for start in range(0, len(array), BLOCK))
    bad = len(array) - sum(int(np.isfinite(part).all(axis=1).sum()) for part in parts)
    if bad:
        raise RequestError(
            f"{what}: {bad} of {len(array)} rows hold a value that is not finite. Leave those images out."
        )
    return array


def check_width(generated: np.ndarray, reference: np.ndarray) -> None:
    """Refuse features of different networks.

    Raises:
        RequestError: if the widths differ.
    """
    if generated.shape[1] != reference.shape[1]:
        raise RequestError(
            f"generated features have width {generated.shape[1]}, reference features {reference.shape[1]}. "
            f"Take both from the same judge."
        )


class Moments:
    """Mean and covariance of a stream of features in float64, in memory that does not grow with their number.

    Blocks are centred before their products are summed, so a mean far from zero costs no digits.

    Args:
        dim: feature width d, or None to take it from the first rows.
    """

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim
        self._folded = 0
        self._mean, self._scatter = np.empty(0), np.empty((0, 0))
        self._pending: list[np.ndarray] = []
        self._waiting = 0

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._folded + self._waiting

    def update(self, features: Any) -> Moments:
        """Take rows [n, d], NumPy or torch; returns itself.

        Raises:
            RequestError: if the width differs from the rows before, or a value is not finite.
        """
        rows = as_matrix(features, "features", min_rows=0)
        self._check_dim(rows.shape[1])
        while len(rows):
            part, rows = rows[: BLOCK - self._waiting], rows[BLOCK - self._waiting :]
            # Callers may reuse their buffer.
            self._pending.append(part.copy())
            self._waiting += len(part)
            if self._waiting == BLOCK:
                self._fold()
        return self

    def merge(self, other: Moments) -> Moments:
        """Take all that another accumulator has seen, which stays as it is; returns itself.

        Raises:
            RequestError: if the widths differ.
        """
        if other.dim is not None:
            self._check_dim(other.dim)
        # The loop below would not end on its own growing list.
        pending = list(other._pending)
        if other._folded:
            self._combine(other._folded, other._mean, other._scatter)
        for rows in pending:
            self.update(rows)
        return self

    def compute(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean float64 [d] and unbiased covariance (divisor n - 1) float64 [d, d] of everything seen.

        Raises:
            RequestError: if fewer than two rows were seen.
        """
        if self.count < 2:
            raise RequestError(f"a covariance needs at least 2 images, got {self.count}. Give more images.")
        whole = self._settled()
        return whole._mean, whole._scatter / (whole._folded - 1)

    def without(self, part: Moments) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of all rows but those of a part that was merged into this.

        Raises:
            RequestError: if fewer than two rows are left.
        """
        left = self.count - part.count
        if left < 2:
            raise RequestError(f"a covariance needs at least 2 images, got {left}. Give more images.")
        whole, taken = self._settled(), part._settled()
        if not taken._folded:
            return self.compute()
        mean = whole._mean + (whole._mean - taken._mean) * (taken._folded / left)
        scaled = (taken._mean - mean) * np.sqrt(left * taken._folded / whole._folded)
        scatter = whole._scatter - taken._scatter
        scatter -= np.outer(scaled, scaled)
        scatter /= left - 1
        return mean, scatter

    def _settled(self) -> Moments:
        """Return the same with nothing pending: itself, or a copy."""
        if not self._waiting:
            return self
        whole = Moments(self.dim).merge(self)
        whole._fold()
        return whole

    def _check_dim(self, dim: int) -> None:
        if self.dim is None:
            self.dim = dim
        elif self.dim != dim:
            raise RequestError(f"features have width {dim}, those before had {self.dim}. Use one judge throughout.")

    def _fold(self) -> None:
        if self._waiting:
            rows = np.concatenate(self._pending).astype(np.float64)
            self._pending, self._waiting = [], 0
            mean = rows.mean(axis=0)
            rows -= mean
            self._combine(len(rows), mean, rows.T @ rows)

    def _combine(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if not self._folded:
            self._folded, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        total = self._folded + count
        shift = mean - self._mean
        self._scatter += scatter
        # One factor on both sides, so that the sum stays symmetric to the bit.
        scaled = shift * np.sqrt(self._folded * count / total)
        self._scatter += np.outer(scaled, scaled)
        self._mean += shift * (count / total)
        self._folded = total


def moments(features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return mean float64 [d] and unbiased covariance float64 [d, d] of features [n, d].

    Raises:
        RequestError: if there are fewer than two rows, or a value is not finite.
    """
    return Moments().update(features).compute()


def has_moments(keys: Iterable[str]) -> bool:
    """Return whether arrays of these names are a mean and a covariance."""
    return any({*pair} <= {*keys} for pair in MOMENT_KEYS)


def load_moments(path: str | Path, first: tuple[str, str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean float64 [d] and covariance float64 [d, d] from an `.npz` file of reference statistics.

    The keys are (`mu`, `sigma`), else (`ref_mu`, `ref_sigma`).

    Args:
        first: a pair of keys that goes before these where it is there.

    Raises:
        DataError: if the file cannot be read, has neither pair of keys, or does not hold a mean and a covariance.
    """
    path, what = Path(path), f"reference statistics {path}"
    if not path.exists():
        raise DataError(f"{what}: no such file. Give the path of an .npz file.")
    with Archive(path) as archive:
        for keys in (*((first,) if first else ()), *MOMENT_KEYS):
            if set(keys) <= set(archive.keys):
                _check_heads(archive, keys, what)
                try:
                    mean, cov = checked_moments(archive.read(keys[0]), archive.read(keys[1]), what)
                except RequestError as error:
                    raise DataError(str(error)) from None
                if len(cov) and cov.diagonal().min() < 0:
                    raise DataError(f"{what}: a variance is {cov.diagonal().min():.3g}. Compute the covariance again.")
                return mean, cov
    raise DataError(
        f"{what}: need the keys mu and sigma (or ref_mu and ref_sigma), found {few(archive.keys) or 'none'}. Give a "
        "file of means and covariances."
    )


def _check_heads(archive: Archive, keys: tuple[str, str], what: str) -> None:
    """Refuse arrays that can be no moments before they are read: a few bytes unfold to gigabytes."""
    (_, mean, mean_type, _), (_, cov, cov_type, _) = map(archive.open, keys)
    if not {mean_type.kind, cov_type.kind} <= set("fiu"):
        raise DataError(f"{what}: hold {mean_type} and {cov_type}. Give real numbers.")
    if len(mean) != 1 or cov != 2 * mean:
        raise DataError(f"{what}: need a mean [d] and a covariance [d, d], got shapes {mean} and {cov}.")
    if mean[0] > _MOST_WIDTH:
        raise DataError(f"{what}: have width {mean[0]:,}, and at most {_MOST_WIDTH:,} are read.")


def checked_moments(mean: Any, cov: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, the covariance exactly symmetric.

    Raises:
        RequestError: if they cannot be moments; `what` names them.
    """
    mean, cov = np.asarray(mean, dtype=np.float64), np.asarray(cov, dtype=np.float64)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise RequestError(f"{what}: need a mean [d] and a covariance [d, d], got shapes {mean.shape} and {cov.shape}.")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise RequestError(f"{what}: hold a value that is not finite. Compute them again from finite features.")
    if np.array_equal(cov, cov.T):
        return mean, cov
    if np.abs(cov - cov.T).max() > 1e-5 * np.abs(cov).max():
        raise RequestError(f"{what}: the covariance is not symmetric. Compute it again.")
    return mean, (cov + cov.T) / 2
