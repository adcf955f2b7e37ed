"""What a finished run gives: images as a grid, a folder or an archive, and records."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from diffusionbench.errors import CheckpointError, RequestError
from diffusionbench.files import are_folder_names, read_lines
from diffusionbench.folders import whole_folder
from diffusionbench.images import encode_png, grid, save_png
from diffusionbench.record import Record, check_record_place
from diffusionbench.writing import check_gives_way, check_place, write_atomic, write_errors
from nanogen import checkpoint, evaluate, parallel, precision
from nanogen import run as runs
from nanogen.conditions import SampleSpec
from nanogen.config import Config, changed
from nanogen.log import say
from nanogen.pipeline import ImagePipeline, Loaded, load

# What may differ between training and using a run.
_FREE_SECTIONS = ("sampler", "guidance", "eval")
DEFAULT_NUM = 64
# What stands in every grid and archive of samples, and in no other file.
MARKS = {".png": "tEXtconfig_hash", ".npz": "NanoGen samples"}


def open_weights(path: Path, device: str) -> tuple[Loaded, runs.Run | None]:
    """Return the newest intact weights of a run folder, or those in a file.

    Raises:
        CheckpointError: if there are none, or they do not belong to the run's config.
    """
    if path.is_file():
        _, header = checkpoint.read_weights(path)
        asked = header.get("precision", "auto")
        return load(path, None, device, precision.choose(asked, device)), None  # type: ignore[arg-type]
    run = runs.read(path)
    newest, damaged = checkpoint.newest(run.checkpoints)
    for problem in damaged:
        say(f"{problem}; using {newest.path.name if newest else 'none'}")
    if newest is None:
        raise CheckpointError(f"{path} has no intact checkpoint yet. Start its `nanogen train` command again.")
    return load(newest.weights, run.config, device, run.facts["precision"]), run


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


def sample_run(
    path: Path,
    overrides: Sequence[str],
    labels: str,
    prompts: Sequence[str],
    num: int | None,
    seed: int,
    batch_size: int | None,
    out: Path,
) -> bool:
    """Make images and write them; under torchrun the processes share the work.

    Args:
        path: run folder or weights file.
        overrides: of sampler.*, guidance.* and eval.*.
        labels: classes such as "0-9", taken in turn.
        prompts: captions, taken in turn.
        num: images; None: 64, or one for each prompt if there are more.
        seed: image i depends on (weights, label or prompt, seed, i) only.
        batch_size: images at once; None: the run's.
        out: `.png` for a grid, `.npz` for an archive (arr_0 images, arr_1 labels or prompts), else a folder of PNG
            files in one subfolder per class or prompt: the class's name where the run knows names that folders can
            have, else the number. PNG files hold what was asked for in their metadata.

    Returns:
        Whether this process wrote them.

    Raises:
        UserError: for whatever is wrong with the request.
    """
    _check_out(out)
    with parallel.processes() as device:
        with parallel.agreed():
            loaded, run = open_weights(path, device)
            config = changed(loaded.config, overrides, _FREE_SECTIONS, f"{path} is trained")
            asks = loaded.components.conditioner.parse_specs(labels, prompts)
        num = num or max(DEFAULT_NUM, len(prompts))
        wanted = [asks[index % len(asks)] for index in range(num)]
        pipeline = ImagePipeline.from_config(loaded.net, loaded.components, config)
        # Whole batches in the order of one process: equal batches give equal bits.
        size = batch_size or config.eval.batch_size
        starts = range(0, num, size)[parallel.rank() :: parallel.world_size()]
        with parallel.agreed():
            mine = {
                start: pipeline.in_batches(
                    wanted[start : start + size], seed, range(start, min(start + size, num)), size
                )
                for start in starts
            }
        parts = parallel.gather(mine)
        facts = {"seed": seed, "guidance": config.guidance.scale, "step": loaded.step, "config_hash": config.hash}
        classes = None if run is None else run.facts.get("classes")
        with parallel.agreed():
            if parts is not None:
                _write(np.concatenate([parts[start] for start in sorted(parts)]), wanted, out, facts, classes)
                for note in loaded.components.conditioner.notes():
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


def _write(
    images: np.ndarray, asks: Sequence[SampleSpec], out: Path, facts: dict[str, object], classes: Sequence[str] | None
) -> None:
    with write_errors(f"--out {out}"):
        if out.suffix:
            _check_out(out)
            _write_as(images, asks, out, facts, classes)
        else:
            with whole_folder(out, _check_out) as made:
                _write_as(images, asks, made, facts, classes)


def _write_as(
    images: np.ndarray, asks: Sequence[SampleSpec], out: Path, facts: dict[str, object], classes: Sequence[str] | None
) -> None:
    if out.suffix == ".png":
        columns = min(evaluate.COLUMNS, len(images), len(set(asks))) if len(set(asks)) > 1 else evaluate.COLUMNS
        save_png(grid(images, min(columns, len(images))), out, {**facts, **evaluate.asked(asks)})
    elif out.suffix == ".npz":
        (words,) = evaluate.asked(asks).values()
        write_atomic(out, lambda file: _save_archive(file, {"arr_0": images, "arr_1": np.array(words)}))
    else:
        is_named = classes is not None and are_folder_names(classes)
        for index, (image, ask) in enumerate(zip(images, asks, strict=True)):
            said = {"label": ask.label} if ask.caption is None else {"prompt": ask.caption}
            # By its name a class is found again in a reference, whose numbers may be others.
            folder = classes[ask.label] if classes and is_named and ask.label is not None else ask.folder
            file = out / folder / f"{index:06d}.png"
            file.parent.mkdir(exist_ok=True)
            # The folder is brought to the disk as a whole.
            file.write_bytes(encode_png(image, {**facts, "index": index, **said}))


def _save_archive(file: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
    """As `numpy.savez`, which can leave no mark."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.comment = MARKS[".npz"].encode()


def evaluate_run(path: Path, overrides: Sequence[str], tuned: bool, out: Path | None) -> Record | None:
    """Score a run's newest weights.

    Args:
        overrides: of sampler.*, guidance.* and eval.*.
        tuned: the method's tuned guidance on times [0, 0.9].
        out: where the caller will save the record, which is checked first; None: it is saved in the run's folder.

    Returns:
        The record, in the main process.
    """
    if out is not None:
        check_record_place(out)
    with parallel.processes() as device:
        with parallel.agreed():
            loaded, run = open_weights(path, device)
            if run is None:
                raise CheckpointError(f"{path} is a file. Give the run folder, so that the record can name its run.")
            config = changed(loaded.config, overrides, _FREE_SECTIONS, f"{path} is trained")
            if tuned:
                config = changed(config, _tuned(config), _FREE_SECTIONS, f"{path} is trained")
            if not config.eval.metrics:
                raise RequestError(f"{path} names no metric. Choose with --metrics; see `diffusionbench ls metrics`.")
        return evaluate.evaluate(loaded.net, loaded.components, config, run, loaded.step, save=out is None)


def _tuned(config: Config) -> list[str]:
    if config.eval.tuned_scale == 1:
        raise RequestError("this method has no tuned guidance scale (eval.tuned_scale is 1). Give --guidance.")
    return [f"guidance.scale={config.eval.tuned_scale}", "guidance.interval=[0.0, 0.9]"]
