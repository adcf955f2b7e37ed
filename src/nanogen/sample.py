"""Images of a trained run as a grid, a folder or an archive."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.files import are_folder_names, read_lines
from diffusionbench.folders import whole_folder
from diffusionbench.images import encode_png, grid, save_png
from diffusionbench.writing import check_gives_way, check_place, write_atomic, write_errors
from nanogen import evaluate, parallel
from nanogen.conditions import SampleSpec
from nanogen.log import say
from nanogen.pipeline import ImagePipeline, open_weights

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
    """Make images and write them; under torchrun the processes share the work.

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
            config, conditioner = loaded.changed(overrides), loaded.components.conditioner
            specs = conditioner.parse_specs(request.labels, request.prompts)
        num = request.num or max(DEFAULT_NUM, len(request.prompts))
        wanted = [specs[index % len(specs)] for index in range(num)]
        pipeline = ImagePipeline.from_config(loaded.net, loaded.components, config)
        # Whole batches in the order of one process: equal batches give equal bits.
        size = request.batch_size or config.eval.batch_size
        with parallel.agreed():
            mine = {
                start: pipeline.in_batches(wanted[start : start + size], request.seed, size, start)
                for start in range(0, num, size)[parallel.rank() :: parallel.world_size()]
            }
        parts = parallel.gather(mine)
        with parallel.agreed():
            if parts is not None:
                facts = {"seed": request.seed, "guidance": config.guidance.scale, "step": loaded.step}
                classes = None if loaded.run is None else loaded.run.facts.get("classes")
                images = np.concatenate([parts[start] for start in sorted(parts)])
                write_samples(images, wanted, out, {**facts, "config_hash": config.hash}, classes)
                for note in conditioner.notes():
                    say(note)
        return parts is not None


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


def write_samples(
    images: np.ndarray, specs: Sequence[SampleSpec], out: Path, facts: dict[str, object], classes: Sequence[str] | None
) -> None:
    """Write images of as many specs, with the facts in the metadata of PNG files; see `sample_run`."""
    with write_errors(f"--out {out}"):
        if out.suffix:
            _check_out(out)
        if out.suffix == ".png":
            kinds = len(set(specs))
            columns = min(evaluate.COLUMNS, len(images), kinds if kinds > 1 else evaluate.COLUMNS)
            save_png(grid(images, columns), out, {**facts, **evaluate.metadata(specs)})
        elif out.suffix == ".npz":
            (texts,) = evaluate.metadata(specs).values()
            write_atomic(out, lambda file: _save_archive(file, {"arr_0": images, "arr_1": np.array(texts)}))
        else:
            is_named = classes is not None and are_folder_names(classes)
            with whole_folder(out, _check_out) as made:
                for index, (image, spec) in enumerate(zip(images, specs, strict=True)):
                    shown = {"label": spec.label} if spec.caption is None else {"prompt": spec.caption}
                    # By its name a class is found again in a reference, whose numbers may be others.
                    name = classes[spec.label] if classes and is_named and spec.label is not None else spec.folder
                    file = made / name / f"{index:06d}.png"
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
