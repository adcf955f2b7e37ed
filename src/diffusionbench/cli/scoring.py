"""The stages of an evaluation as verbs: sample, judge, score, all of them as run, and merge for parts made apart."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffusionbench.cli.options import (
    Device,
    DryRun,
    Generator,
    Json,
    Metrics,
    Out,
    PartOf,
    ReferenceOptions,
    Store,
    StoreFolder,
)
from diffusionbench.errors import DataError, RequestError
from diffusionbench.shown import printable
from diffusionbench.verbs import with_groups
from diffusionbench.writing import check_place

if TYPE_CHECKING:
    from diffusionbench.benchmarks.simpleeval.claims import ClaimFile
    from diffusionbench.parts import Part
    from diffusionbench.prompts import PromptChoice
    from diffusionbench.record import Record
    from diffusionbench.request import Evaluation
    from diffusionbench.source import ImageSource

Images = Annotated[
    Path,
    typer.Argument(help="folder or .tar of images, .npz with arr_0, or module:function (docs/python.md)"),
]


def register(app: typer.Typer) -> None:
    """Add the verbs to a program."""
    for verb in (run, sample, judge, score):
        app.command()(with_groups(verb))
    app.command()(merge)


def run(
    images: Images,
    generator: Generator,
    real: ReferenceOptions,
    metrics: Metrics = "",
    store: Store = None,
    part: PartOf = None,
    keep: Annotated[
        Literal["moments", "features"],
        typer.Option("--keep", help="with --store: 'moments' keeps no arrays of features on the disk"),
    ] = "features",
    out: Out = None,
    device: Device = "cpu",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Score images of any generator, and write a record.

    Examples:

      diffusionbench run samples/ --reference digits --metrics fd_digits,accuracy_digits --out record.json

      diffusionbench run images.npz --reference real/ --metrics fid,precision,recall --store work/

      diffusionbench run images.npz --reference stats.npz --reference-extractor inception --metrics fid --dry-run

      diffusionbench run images.npz --reference digits --reference inception=stats.npz --metrics fid,fd_digits

      diffusionbench run images.npz --reference digits --metrics fd_digits --store work/ --part 2/8

      diffusionbench run samples/ --axis t2i --metrics simpleeval_shapes_v1 --claim claim.yaml

      diffusionbench run grids/ --axis t2i --metrics simpleeval_v1 --layout grid:2x2

      diffusionbench run samples/ --axis t2i --prompts geneval:1x --metrics geneval_ssd

      diffusionbench run my_model:generate --classes 10 --num 1000 --metrics accuracy_digits
    """
    from diffusionbench import runner
    from diffusionbench.api import noted
    from diffusionbench.views.terminal import progress_line

    chosen = _part(part, store, out, keep)
    _check_options(out, store)
    evaluation, source, notes = _asked(images, generator, real, _names(metrics))
    if dry_run:
        print(evaluation.request.model_dump_json(indent=2))
        return
    evaluation = _examined(evaluation, source, chosen)
    with _file_errors(store or images):
        if chosen is not None and store is not None:
            found = runner.run_part(evaluation, source, store, chosen, device, progress_line())
            print(f"{found.folder}: part {part} is made and judged; `diffusionbench merge` unites parts")
            return
        record = runner.run(evaluation, source, store, device, progress_line(), keep)
    _finish(noted(record, notes), out, as_json)


def sample(
    images: Images,
    generator: Generator,
    real: ReferenceOptions,
    store: Store = None,
    part: PartOf = None,
    dry_run: DryRun = False,
) -> None:
    """Make or read images and keep them in a store, for `judge` and `score`; a store is filled further.

    A reference plays no part but for its classes.

    Examples:

      diffusionbench sample samples/ --store work/

      diffusionbench sample images.npz --store work/ --num 50000 --part 3/8

      diffusionbench sample samples/ --store work/ --axis t2i --prompts simpleeval_shapes_v1

      diffusionbench sample my_model:generate --store work/ --classes 10 --num 1000 --version 1 --part 1/4
    """
    from diffusionbench import runner
    from diffusionbench.parts import WHOLE
    from diffusionbench.views.terminal import progress_line

    if store is None:
        raise RequestError("images are kept in a store, and none was named. Name a folder with --store.")
    chosen = _part(part, store)
    _check_options(None, store)
    evaluation, source, _ = _asked(images, generator, real, ())
    if dry_run:
        print(evaluation.request.model_dump_json(indent=2))
        return
    evaluation = _examined(evaluation, source, chosen)
    with _file_errors(store):
        kept = runner.open_store(evaluation, source, store)
        runner.fill(evaluation, source, kept, progress=progress_line(), part=chosen or WHOLE)
    count = evaluation.request.count
    print(f"{kept.folder}: {sum(found < count for found in kept.ids()):,} of {count:,} images")


def judge(
    store: StoreFolder,
    metrics: Metrics = "",
    part: PartOf = None,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="by the judges installed here, whatever evidence says of others"),
    ] = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Judge stored images for some metrics and keep the evidence in the store; what is judged stays so.

    Examples:

      diffusionbench judge work/ --metrics fd_digits,accuracy_digits

      diffusionbench judge work/ --metrics fid --part 3/8 --json

      diffusionbench judge work/ --metrics fid --anew
    """
    from diffusionbench import runner
    from diffusionbench.views.terminal import progress_line

    chosen = _part(part, store)
    with _file_errors(store):
        found = runner.judge(store, _names(metrics), chosen, anew, device, progress_line())
    if as_json:
        print(json.dumps({name: {"judged": now, "images": of} for name, (now, of) in found.items()}))
        return
    for name, (now, of) in found.items():
        print(f"{name}: {now:,} images judged now, of {of:,} here")


def score(
    store: StoreFolder,
    real: ReferenceOptions,
    metrics: Metrics = "",
    verify: Annotated[
        bool, typer.Option("--verify", help="read and hash all images first, also those that judges have seen")
    ] = False,
    out: Out = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Score stored images, also with other metrics or another reference; no image is made, none is judged twice.

    Examples:

      diffusionbench score work/ --metrics kd_digits

      diffusionbench score outputs/demo/evals/images/0123456789abcdef --metrics precision_digits --out pr.json

      diffusionbench score work/0123456789abcdef --metrics fid --reference real/ --json
    """
    from diffusionbench.runner import rescore
    from diffusionbench.views.terminal import progress_line

    _check_options(out)
    with _file_errors(store):
        record = rescore(
            store,
            _names(metrics),
            device=device,
            progress=progress_line(),
            command=_command(),
            verify=verify,
            **_real_images(real),
        )
    _finish(record, out, as_json)


def merge(
    out: Annotated[Path, typer.Argument(help="folder for the store of all images")],
    parts: Annotated[list[Path], typer.Argument(help="the stores of all parts")],
) -> None:
    """Unite the images and the evidence of parts that were made apart, for `score`.

    Examples:

      diffusionbench merge whole/ part1/ part2/ part3/

      diffusionbench merge whole/ parts/*/

      diffusionbench merge whole/ a/0123456789abcdef b/0123456789abcdef
    """
    from diffusionbench.parts import merge as unite

    check_place(out, "folder")
    with _file_errors(out):
        store = unite(out, parts)
    print(f"{store.folder}: {len(store.ids()):,} images of {len(parts)} parts")


def _part(
    text: str | None, store: Path | None, out: Path | None = None, keep: Literal["moments", "features"] = "features"
) -> Part | None:
    """Return the part that was asked for, None for all."""
    from diffusionbench.parts import Part

    if keep == "moments" and store is None:
        raise RequestError("--keep says what a store keeps, and none was named. Name one with --store.")
    if text is None:
        return None
    if store is None:
        raise RequestError("a part is kept in a store, and none was named. Name a folder with --store.")
    if out is not None:
        raise RequestError("a part has no record. Leave --out out; `diffusionbench score` writes one of merged parts.")
    if keep == "moments":
        raise RequestError(
            "--keep moments keeps no features on the disk, and parts are merged from what is there. Leave out "
            "--keep or --part."
        )
    return Part.parse(text)


def _asked(
    images: Path, generator: Generator, real: ReferenceOptions, metrics: tuple[str, ...]
) -> tuple[Evaluation, ImageSource, list[str]]:
    """Return a checked evaluation, its images, and what was left out of files, which is also said."""
    from diffusionbench.api import Options, left_out, opened
    from diffusionbench.benchmarks.simpleeval.claims import read_claim
    from diffusionbench.benchmarks.simpleeval.verification import compare_again

    for option, text in (("method", generator.name), ("title", generator.title), ("family", generator.family)):
        _check_text(option, text)
    for judge in generator.trained_with or ():
        _check_text("trained-with", judge)
    claim = None if generator.claim is None else read_claim(generator.claim)
    _check_generator(images, generator)
    given = {name: value for name, value in vars(generator).items() if value is not None and name != "claim"}
    if claim is not None:
        given["prompts"] = _claimed(claim, generator.prompts, metrics)
    references = _real_images(real)
    given["reference_extractor"] = references.pop("reference_extractors")
    given["reference_role"] = references.pop("reference_role")
    evaluation, source = opened(images, metrics, references, Options(**given))
    evaluation = evaluation.updated(command=_command())
    if metrics:
        evaluation.check(source)
    else:
        evaluation.check_images(source)
    if claim is not None and claim.again is not None:
        evaluation = compare_again(evaluation, source, claim.folder / claim.again)
    notes = left_out(evaluation, source)
    for note in notes:
        print(note, file=sys.stderr)
    return evaluation, source, notes


def _check_generator(images: Path, generator: Generator) -> None:
    """Refuse options about making images where they exist already."""
    from diffusionbench.callables import is_named

    if is_named(str(images)):
        return
    options = ("classes", "seed", "batch", "version")
    if given := [f"--{option}" for option in options if getattr(generator, option) is not None]:
        raise RequestError(
            f"{', '.join(given)} is for functions that make images, and {images} is no module:function. Leave it out."
        )


def _examined(evaluation: Evaluation, source: ImageSource, part: Part | None) -> Evaluation:
    """Return an evaluation with what a function shows by making its first samples."""
    from diffusionbench.callables import CallableSource, examine

    if part is not None and isinstance(source, CallableSource) and source.version is None:
        raise RequestError("parts of a function's images belong together by their version. Name one with --version.")
    return examine(evaluation, source)


def _real_images(real: ReferenceOptions) -> dict[str, Any]:
    """Return the fields of a request that name real images and say whose and which they are."""
    from diffusionbench.references import references_by_judge

    for name in real.reference or ():
        _check_text("reference", name)
    fields = {**references_by_judge(real.reference or ()), "reference_extractors": tuple(real.extractors or ())}
    return {**fields, "reference_role": real.role}


def _check_options(out: Path | None, store: Path | None = None) -> None:
    """Check that results can be written."""
    from diffusionbench.record import check_record_place

    if out is not None:
        check_record_place(out)
    if store is not None:
        check_place(store, "folder")


def _check_text(option: str, text: str | None) -> None:
    """Check that a record can hold a text: a line of UTF-8 without controls."""
    if text is not None and printable(text) != text:
        raise RequestError(
            f"a record cannot hold --{option} {printable(text)}: it is no line of UTF-8 text. Choose another name; "
            "a link to a file or folder will do."
        )


def _claimed(claim: ClaimFile, prompts: str | None, metrics: Sequence[str]) -> PromptChoice:
    """Return the prompts of a claim, whose set is its own or the option's, else the one that a metric judges."""
    from diffusionbench.metrics import METRICS

    if prompts and claim.set and prompts != claim.set:
        raise RequestError(f"--prompts names the set '{prompts}' and the claim '{claim.set}'. Leave one of them out.")
    judged = next((METRICS[key].prompts for key in metrics if METRICS[key].prompts), None)
    name = prompts or claim.set or judged
    if name is None:
        raise RequestError("a claim is about a prompt set, and none was named. Name it with --prompts.")
    return claim.choice(name, next(iter(metrics), name))


@contextmanager
def _file_errors(place: Path) -> Iterator[None]:
    """Turn what reading and writing end in into one sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename or place
        raise RequestError(f"{where} cannot be read or written: {error.strerror or error}.") from None


def _finish(record: Record, out: Path | None, as_json: bool) -> None:
    """Save and print a record; raise an error where it is partial."""
    from diffusionbench.views.terminal import print_record

    try:
        if out is not None:
            record.save(out)
    finally:
        # A result that cannot be written is not lost.
        print_record(record, as_json)
    if out is not None:
        print(out, file=sys.stderr)
    if record.unscored and not record.extra["request"]["allow_partial"]:
        raise DataError(
            f"{len(record.unscored)} of {record.protocol.count} images were not scored; the first: "
            f"{record.unscored[0]}. The record is marked partial. Replace the files and score again."
        )


def _command() -> str:
    """Return the command line, as a record holds it."""
    return printable(shlex.join(["diffusionbench", *sys.argv[1:]]))


def _names(text: str) -> tuple[str, ...]:
    from diffusionbench.catalog import asked_metrics

    names = asked_metrics(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise RequestError("no metric was asked for. Name some with --metrics; see `diffusionbench ls metrics`.")
    return names
