"""Images of a trained run as a grid, a folder or an archive."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.files import are_folder_names, read_lines
from diffusionbench.images import encode_png, grid, save_png
from diffusionbench.writing import (
    check_gives_way,
    check_place,
    lock,
    make_folder,
    remove,
    sweep,
    temporary_name,
    whole_folder,
    write_atomic,
    write_errors,
)
from nanogen import evaluate, parallel, threads
from nanogen.conditions import SampleSpec
from nanogen.log import say
from nanogen.pipeline import Loaded, open_weights

DEFAULT_NUM = 64
# Text that every grid and archive of samples holds, and no other file.
MARKS = {".png": "tEXtconfig_hash", ".npz": "NanoGen samples"}


def read_prompts(file: Path) -> list[str]:
    """Read the prompts of a text file, one a line, without blanks around them; empty lines are skipped.

    Raises:
        DataError: if it cannot be read or is not UTF-8.
        RequestError: if it holds none, or holds one twice.
    """
    lines = [line.strip() for line in read_lines(file, "prompt file")]
    places: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line and places.setdefault(line, number) != number:
            raise RequestError(
                f"prompt file {file}: line {number} repeats line {places[line]} ('{line}'). Keep each prompt once; "
                "--num asks for more images of it."
            )
    if not places:
        raise RequestError(f"prompt file {file} holds no prompt. Write one a line.")
    return list(places)


@dataclass(frozen=True)
class SampleRequest:
    """Images that a user asks for; image i depends on (weights, label or prompt, seed, i) only.

    Attributes:
        labels: classes such as "0-9", taken in turn.
        prompts: captions, taken in turn.
        num: images; None: 64, or one for each prompt if there are more.
        seed: of the noise.
        batch_size: images at once; None: the run's.
    """

    labels: str = ""
    prompts: Sequence[str] = ()
    num: int | None = None
    seed: int = 0
    batch_size: int | None = None


def sample_run(path: Path, overrides: Sequence[str], request: SampleRequest, out: Path) -> bool:
    """Make images and write them; under torchrun the processes share the work, on one machine or one file system.

    Args:
        path: run folder or weights file.
        overrides: of sampler.*, guidance.* and eval.*.
        out: `.png` for a grid, `.npz` for an archive (arr_0 images, arr_1 labels or prompts), else a folder of PNG
            files in one subfolder per class or prompt: the class's name where the run knows names that folders can
            have, else the number. PNG files hold what was asked for in their metadata.

    Returns:
        True in the process that wrote them.

    Raises:
        UserError: for whatever is wrong with the request.
    """
    _check_out(out)
    with parallel.processes() as device:
        with parallel.agreed():
            loaded = open_weights(path, device)
            pipeline, conditioner = loaded.pipeline(overrides), loaded.components.conditioner
            specs = conditioner.parse_specs(request.labels, request.prompts)
        num = request.num or max(DEFAULT_NUM, len(request.prompts))
        wanted = [specs[index % len(specs)] for index in range(num)]
        # Whole batches in the order of one process: equal batches give equal bits.
        size = request.batch_size or pipeline.config.eval.batch_size
        mine = range(0, num, size)[parallel.rank() :: parallel.world_size()]
        made = ((start, pipeline.in_batches(wanted[start : start + size], request.seed, size, start)) for start in mine)
        facts: dict[str, Any] = {"seed": request.seed, "guidance": pipeline.config.guidance.scale, "step": loaded.step}
        facts["config_hash"] = pipeline.config.hash
        classes = None if loaded.run is None else loaded.run.facts.get("classes")
        written = partial(write_errors, f"--out {out}")
        kept = None if loaded.run is None else loaded.run.facts.get("threads")
        with threads.as_trained(kept, device), ExitStack() as held:

            def begin() -> Path:
                with written():
                    return held.enter_context(_opened(out, num, loaded))

            # Every process writes what it makes; nothing is gathered.
            target = parallel.from_main(begin)
            with parallel.agreed(), written():
                for start, images in made:
                    if out.suffix:
                        np.load(target, mmap_mode="r+")[start : start + len(images)] = images
                    else:
                        write_folder(images, wanted[start : start + len(images)], target, facts, classes, start)
            with parallel.agreed(), written():
                if parallel.is_main():
                    if out.suffix:
                        write_file(np.load(target, mmap_mode="r"), wanted, out, facts)
                    held.close()
                    for note in conditioner.notes():
                        say(note)
        return parallel.is_main()


@contextmanager
def _opened(out: Path, num: int, loaded: Loaded) -> Iterator[Path]:
    """Give where processes put their images: the folder itself, unfinished, or an array beside the file."""
    if not out.suffix:
        with whole_folder(out, _check_out) as made:
            yield made
        return
    make_folder(out.parent)
    sweep(out.parent)
    place, side = temporary_name(out.parent), loaded.components.derived.image_size
    with place.open("xb") as file:
        # Nobody takes it for what a killed process left.
        lock(file.fileno())
        try:
            np.lib.format.open_memmap(place, "w+", np.uint8, (num, side, side, 3))
            yield place
        finally:
            remove(place)


def _check_out(out: Path) -> None:
    """Check that images can be written to a place, where nothing but an earlier grid or archive gives way."""
    if out.suffix not in ("", *MARKS):
        raise RequestError(f"--out {out}: expected grid.png, a folder, or images.npz, found '{out.suffix}'.")
    check_place(out, "file" if out.suffix else "folder")
    if out.suffix:
        check_gives_way(out, MARKS[out.suffix])
    elif out.is_dir() and (any(out.iterdir()) or out.is_mount()):
        found = "a disk of its own" if out.is_mount() else "not empty"
        raise RequestError(f"--out {out} is {found}. Name a new folder.")


def write_file(images: np.ndarray, specs: Sequence[SampleSpec], out: Path, facts: dict[str, Any]) -> None:
    """Write images of as many specs as a grid or an archive; see `sample_run`."""
    _check_out(out)
    if out.suffix == ".png":
        kinds = len(set(specs))
        columns = min(evaluate.COLUMNS, len(images), kinds if kinds > 1 else evaluate.COLUMNS)
        save_png(grid(images, columns), out, {**facts, **evaluate.metadata(specs)})
    else:
        (texts,) = evaluate.metadata(specs).values()
        write_atomic(out, lambda file: _save_archive(file, {"arr_0": images, "arr_1": np.array(texts)}))


def write_folder(
    images: np.ndarray,
    specs: Sequence[SampleSpec],
    folder: Path,
    facts: dict[str, Any],
    classes: Sequence[str] | None,
    first: int = 0,
) -> None:
    """Write images number `first`, `first` + 1, ... as PNG files into a folder that is being made; see `sample_run`."""
    is_named = classes is not None and are_folder_names(classes)
    for index, (image, spec) in enumerate(zip(images, specs, strict=True), first):
        shown = {"label": spec.label} if spec.caption is None else {"prompt": spec.caption}
        # By its name a class is found again in a reference, whose numbers may be others.
        name = classes[spec.label] if classes and is_named and spec.label is not None else spec.folder
        file = folder / name / f"{index:06d}.png"
        file.parent.mkdir(exist_ok=True)
        # The folder is brought to the disk as a whole.
        file.write_bytes(encode_png(image, {**facts, "index": index, **shown}))


def _save_archive(file: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
    """Write as `numpy.savez` does, which can leave no mark."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.comment = MARKS[".npz"].encode()
