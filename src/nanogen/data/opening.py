"""From names and paths to one data set: the entry that training and the text cache use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from diffusionbench.errors import ConfigError, DataError
from nanogen import hub, parallel
from nanogen.data import Dataset
from nanogen.data.corrupt import Skipping
from nanogen.data.memory import ArrayDataset
from nanogen.data.mixture import Mixture, with_template
from nanogen.data.stored import MAX_DEFECTS
from nanogen.datasets import DATASETS
from nanogen.log import say


def open_dataset(
    name: str,
    path: str | Sequence[str] | None,
    *,
    image_size: int,
    split: str = "train",
    weights: Sequence[float] | None = None,
    template: str | None = None,
    corrupt: Literal["stop", "skip"] = "stop",
) -> Dataset:
    """Open a data set by its name in `DATASETS`: one path, or several that are mixed.

    Args:
        name: of the row; all paths are of its kind.
        path: file, pattern or folder; None where the data needs none; or a list to mix.
        image_size: side of the images in pixels.
        split: "train" or another split that the data has.
        weights: shares of the paths, above 0, in any unit; None mixes in proportion to their sizes.
        template: caption of class data, such as "a photo of a {class}"; None leaves the data as it is.
        corrupt: "stop" raises DataError for a sample that cannot be read, incomplete ones when opening; "skip" lets
            the next good one stand in and tells it in `Example.corrupt`.

    Raises:
        DataError: if the data is missing, unreadable or incomplete.
        ConfigError: if paths, weights or template do not fit.
    """
    paths = [path] if path is None or isinstance(path, str) else list(path)
    if weights is not None and (isinstance(path, str) or path is None):
        raise ConfigError("data.weights mixes a list of paths, and data.path is none. Write data.path as a list.")
    _check_mixture(paths, weights)
    opened = [_open_path(name, one, image_size, split, corrupt) for one in paths]
    if template is not None:
        opened = [with_template(dataset, template, name) for dataset in opened]
    data = opened[0] if len(opened) == 1 else Mixture(opened, weights or [len(dataset) for dataset in opened])
    # Images in memory are decoded: none can be corrupt.
    return Skipping(data) if corrupt == "skip" and not isinstance(data, ArrayDataset) else data


def _check_mixture(paths: Sequence[str | None], weights: Sequence[float] | None) -> None:
    if not paths:
        raise ConfigError("data.path is an empty list. Give a path, or null for data that needs none.")
    if weights is not None and (len(weights) != len(paths) or not all(weight > 0 for weight in weights)):
        raise ConfigError(
            f"data.weights has {len(weights)} values ({', '.join(map(str, weights))}) for {len(paths)} paths. "
            "Give one above 0 for each path, or null for shares by size."
        )
    places = [os.path.realpath(one) for one in paths if one]
    twice = next((one for one, place in zip(paths, places, strict=False) if places.count(place) > 1), None)
    if twice is not None:
        raise ConfigError(f"data.path names {twice} twice. Name it once, and set its share in data.weights.")


def _open_path(name: str, path: str | None, image_size: int, split: str, corrupt: Literal["stop", "skip"]) -> Dataset:
    row, kind = DATASETS[name], f"data set '{name}'"
    if row.takes_path and not path:
        raise DataError(f"{kind} needs a path, and none was given. Set data.path or use --data PATH.")
    if path and not row.takes_path:
        raise DataError(f"{kind} reads no path, but got {path}. Leave data.path out.")
    place = Path(path) if path else None
    if path and hub.is_hub(path):
        place = hub.data_of(path)[1]
    dataset: Dataset = DATASETS.load(name)(place, image_size, split)
    if dataset.left_out is not None and parallel.is_main():
        say(dataset.left_out)
    if dataset.defects and corrupt == "stop":
        count = f"at least {MAX_DEFECTS}" if len(dataset.defects) == MAX_DEFECTS else f"{len(dataset.defects)}"
        raise DataError(
            f"{dataset.defects[0]} Incomplete samples: {count}; data.corrupt=skip trains without them, naming each."
        )
    return dataset
