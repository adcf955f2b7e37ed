"""The command line of DiffusionBench: parse, call the library, print.

A verb imports what it needs when it runs, so that --help answers at once and without torch.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusionbench import bounds
from diffusionbench.cli import benchmarks, prepare, records
from diffusionbench.errors import DataError, RequestError, RunError, UserError, run_program
from diffusionbench.provenance import check_device, examine
from diffusionbench.references import check_role, references_by_judge
from diffusionbench.shown import printable
from diffusionbench.writing import check_place

if TYPE_CHECKING:
    from diffusionbench.benchmarks.simpleeval.claims import ClaimFile
    from diffusionbench.prompts import PromptChoice
    from diffusionbench.record import Record
    from diffusionbench.request import EvalRequest, Evaluation
    from diffusionbench.source import GivenImages

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Score image generators and keep every number as a reproducible record.

Examples:

  diffusionbench run images/ --reference digits --metrics fd_digits,accuracy_digits

  diffusionbench board

  diffusionbench correlate --x fid --y geneval
""",
)

# What is scored.
Images = Annotated[Path, typer.Argument(help="folder of images, or .npz with arr_0 uint8 [N, H, W, 3]")]
Axis = Annotated[str, typer.Option("--axis", help="see `diffusionbench ls axes`")]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="file with one class label a line, in natural order of names")
]
Prompts = Annotated[str | None, typer.Option("--prompts", help="prompt set the images were made for")]
LayoutName = Annotated[
    str | None,
    typer.Option("--layout", help="how the images lie: flat, folder, geneval, grid:RxC, npz, tar; default by names"),
]
Claim = Annotated[
    Path | None, typer.Option("--claim", help="YAML file about prompt set and generator; see docs/simpleeval.md")
]
Count = Annotated[
    int | None, typer.Option("--num", min=1, max=bounds.IMAGES, help="score the first N images; default all")
]
# What the record says of the generator.
Method = Annotated[str | None, typer.Option("--method", help="name of the generator in the record")]
Title = Annotated[str | None, typer.Option("--title", help="name of the generator for display; default the method")]
Family = Annotated[str | None, typer.Option("--family", help="kind of generator, as on the board (pixel, vae, rae)")]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        min=0,
        max=bounds.GUIDANCE,
        callback=bounds.number,
        help="guidance scale the images were made with; 1 is none",
    ),
]
# How it is scored, and where results go.
Metrics = Annotated[str, typer.Option("--metrics", help="comma-separated; see `diffusionbench ls metrics`")]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--reference", help="name, or path of real images or statistics; JUDGE=REF for one judge alone; repeatable"
    ),
]
Extractors = Annotated[
    list[str] | None,
    typer.Option("--reference-extractor", help="judge whose statistics an unknown file holds, as you assert"),
]
RealRole = Annotated[
    str | None,
    typer.Option("--reference-role", help="split of the real images: train, val or test", callback=check_role),
]
Device = Annotated[str, typer.Option("--device", callback=check_device, help="of the judges: cpu, cuda, cuda:N or mps")]
Store = Annotated[Path | None, typer.Option("--store", help="keep decoded images here, to continue and to score again")]
Out = Annotated[Path | None, typer.Option("--out", help="record file; without it the record is only printed")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check the request, score nothing")]
Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
RecordFile = Annotated[Path, typer.Argument(help="a record's JSON file")]


def main() -> None:
    """Run a command; wrong use ends with exit code 2 and one sentence, a failed run with 1."""
    run_program(app, "interrupted; the same command continues, `run` where it has --store")


def _finish(record: Record, out: Path | None, as_json: bool) -> None:
    """Save and print a record; raise an error where it is partial or its judges failed their self-test."""
    from diffusionbench.views.terminal import print_record

    try:
        if out is not None:
            record.save(out)
    finally:
        # A result that cannot be written is not lost.
        print_record(record, as_json)
    if out is not None:
        print(out, file=sys.stderr)
    if record.unscored:
        raise DataError(
            f"{len(record.unscored)} of {record.protocol.count} images were not scored; the first: "
            f"{record.unscored[0]}. The record is marked partial. Replace the files and score again."
        )
    if record.provenance.selftest == "failed":
        raise RunError(
            "a judge gives other features on this machine than it was shipped with, which the record states; its "
            "scores do not compare. See `diffusionbench selftest`."
        )


@app.command()
def run(
    images: Images,
    metrics: Metrics = "",
    axis: Axis = "class_conditional",
    reference: References = None,
    reference_extractor: Extractors = None,
    reference_role: RealRole = None,
    labels: Labels = None,
    prompts: Prompts = None,
    layout: LayoutName = None,
    claim: Claim = None,
    count: Count = None,
    method: Method = None,
    title: Title = None,
    family: Family = None,
    guidance: GuidanceScale = None,
    store: Store = None,
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

      diffusionbench run samples/ --axis t2i --metrics simpleeval_shapes_v1 --claim claim.yaml
    """
    from diffusionbench.benchmarks.simpleeval.claims import read_claim
    from diffusionbench.record import Guidance
    from diffusionbench.request import EvalRequest, Sampling

    real = _real_images(reference, reference_extractor, reference_role)
    _check_options(out, store, method=method, title=title, family=family)
    names, claimed = _names(metrics), None if claim is None else read_claim(claim)
    choice = _prompt_choice(axis, labels, names[0], prompts, claimed)
    name = method or printable(images.resolve().stem) or "images"
    sampling = Sampling(guidance=None if guidance is None else Guidance(scale=guidance))
    generator: dict[str, Any] = {"method": name, "title": title or name, "family": family, "sampling": sampling}
    request = EvalRequest(
        axis=axis, metrics=names, prompts=choice, count=count or 1, command=_command(), **real, **generator
    )
    evaluation, source = _opened(request, images, labels, count, claimed, layout)
    notes = [*source.notes, *(note for one in evaluation.distinct_references for note in one.notes)]
    for note in notes:
        print(note, file=sys.stderr)
    if dry_run:
        print(evaluation.request.model_dump_json(indent=2))
        return
    _finish(_scored(evaluation, source, images, store, device, notes), out, as_json)


def _real_images(given: list[str] | None, extractors: list[str] | None, role: str | None) -> dict[str, Any]:
    """Return the fields of a request that name real images and say whose and which they are."""
    for name in given or ():
        _check_text("reference", name)
    fields = {**references_by_judge(given or ()), "reference_extractors": tuple(extractors or ())}
    return {**fields, "reference_role": role}


def _check_options(out: Path | None, store: Path | None = None, **texts: str | None) -> None:
    """Check that results can be written, and that a record can hold the texts: lines of UTF-8 without controls."""
    from diffusionbench.record import check_record_place

    if out is not None:
        check_record_place(out)
    if store is not None:
        check_place(store, "folder")
    for option, text in texts.items():
        if text is not None:
            _check_text(option, text)


def _check_text(option: str, text: str) -> None:
    if printable(text) != text:
        raise RequestError(
            f"a record cannot hold --{option} {printable(text)}: it is no line of UTF-8 text. Choose another name; "
            "a link to a file or folder will do."
        )


def _prompt_choice(
    axis: str, labels: Path | None, metric: str, prompts: str | None, claim: ClaimFile | None
) -> PromptChoice | None:
    """Return the prompts that the images were made for, where the axis asks for prompts.

    Their set is named by the option or the claim, else it is the one that the metric judges.
    """
    from diffusionbench.axes import AXES
    from diffusionbench.prompts import PROMPTS, PromptChoice

    if AXES[axis].asks != "prompts":
        if given := [name for name, value in (("--prompts", prompts), ("--claim", claim)) if value is not None]:
            raise RequestError(
                f"axis '{axis}' asks for classes, so {', '.join(given)} has no meaning there. Leave it out, or name an "
                "axis of prompts with --axis."
            )
        return None
    if labels is not None:
        raise RequestError(f"axis '{axis}' asks for prompts, so --labels has no meaning there. Leave it out.")
    claimed = None if claim is None else claim.set
    if prompts and claimed and prompts != claimed:
        raise RequestError(f"--prompts names the set '{prompts}' and the claim '{claimed}'. Leave one of them out.")
    name = prompts or claimed or (metric if metric in PROMPTS else None)
    if name is None:
        raise RequestError(
            f"axis '{axis}' needs to know which prompts the images were made for. Name them with --prompts; known: "
            f"{', '.join(sorted(PROMPTS))}."
        )
    return PromptChoice(name=name) if claim is None else claim.choice(name, metric)


def _opened(
    request: EvalRequest,
    images: Path,
    labels: Path | None,
    count: int | None,
    claim: ClaimFile | None,
    layout: str | None,
) -> tuple[Evaluation, GivenImages]:
    """Return a checked evaluation and its images, as the axis tells them apart; without a count, of all images."""
    from diffusionbench.benchmarks.simpleeval.verification import compare_again
    from diffusionbench.layouts import parse_layout
    from diffusionbench.request import Evaluation
    from diffusionbench.source import open_prompt_images, open_source, read_labels

    evaluation, lies = Evaluation(request), None if layout is None else parse_layout(layout)
    source: GivenImages
    if (prompts := evaluation.prompts) is not None:
        wanted = [*map(prompts.sample, range(prompts.count))]
        source, found = open_prompt_images(images, wanted, prompts.images_per_prompt, lies), len(wanted)
    else:
        source = open_source(images, None if labels is None else read_labels(labels), evaluation.classes, lies)
        found = len(source.labels)
    evaluation = evaluation.updated(count=count or found, classes=source.classes)
    evaluation.check(source)
    if claim is not None and claim.again is not None:
        evaluation = compare_again(evaluation, source, claim.folder / claim.again)
    return evaluation, source


def _scored(
    evaluation: Evaluation, source: GivenImages, images: Path, store: Path | None, device: str, notes: list[str]
) -> Record:
    from diffusionbench.runner import run as run_request
    from diffusionbench.views.terminal import progress_line

    try:
        record = run_request(evaluation, source, store, device, progress_line())
    except OSError as error:
        where = error.filename or store or images
        raise RequestError(f"{where} cannot be read or written: {error.strerror or error}.") from None
    return record.model_copy(update={"extra": {**record.extra, "left_out": notes}}) if notes else record


@app.command()
def score(
    store: Annotated[Path, typer.Argument(help="an image store, as `--store` or a run's evaluation left it")],
    metrics: Metrics = "",
    reference: References = None,
    reference_extractor: Extractors = None,
    reference_role: RealRole = None,
    out: Out = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Score stored images again, with other metrics or another reference; no image is made.

    Examples:

      diffusionbench score work/ --metrics kd_digits

      diffusionbench score outputs/demo/evals/images/0123456789abcdef --metrics precision_digits --out pr.json

      diffusionbench score work/0123456789abcdef --metrics fid --reference real/ --json
    """
    from diffusionbench.runner import rescore
    from diffusionbench.views.terminal import progress_line

    _check_options(out)
    real = _real_images(reference, reference_extractor, reference_role)
    record = rescore(store, _names(metrics), device=device, progress=progress_line(), command=_command(), **real)
    _finish(record, out, as_json)


def _command() -> str:
    """Return the command line, as a record holds it."""
    return printable(shlex.join(["diffusionbench", *sys.argv[1:]]))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise RequestError("no metric was asked for. Name some with --metrics; see `diffusionbench ls metrics`.")
    return names


@app.command()
def inspect(record: RecordFile, as_json: Json = False) -> None:
    """Show a record.

    Examples:

      diffusionbench inspect record.json

      diffusionbench inspect record.json --json

      diffusionbench inspect outputs/demo/evals/step-00000600-euler50-guidance1-0-1-n359-seed0.json
    """
    from diffusionbench.record import load
    from diffusionbench.views.terminal import print_record

    print_record(load(record), as_json)


@app.command("ls")
def list_names(
    what: Annotated[str, typer.Argument(help="metrics, judges, references, axes or prompts")] = "",
    as_json: Json = False,
) -> None:
    """List what can be chosen, which judges are here, and what the others and their metrics need.

    Examples:

      diffusionbench ls

      diffusionbench ls metrics

      diffusionbench ls references --json
    """
    from diffusionbench.available import judge_facts, judge_words, metric_state, metric_words
    from diffusionbench.axes import AXES
    from diffusionbench.judges import JUDGES
    from diffusionbench.metrics import METRICS
    from diffusionbench.prompts import PROMPTS
    from diffusionbench.references import REFERENCES
    from diffusionbench.views.terminal import print_tables

    metrics: dict[str, dict[str, Any]] = {}
    directions = {True: "higher is better", False: "lower is better", None: "no better end"}
    for key in [*METRICS.with_code, *(key for key in METRICS if METRICS[key].load is None)]:
        spec = METRICS[key]
        number = f"from {spec.min_samples} images" if spec.min_samples > 1 else "from one image"
        computed = f"{number}; " if spec.load else ""
        text = f"{spec.title}: {spec.about}; {directions[spec.higher_is_better]}; {computed}{metric_words(key)}"
        metrics[key] = {"text": text, **metric_state(key)}
    judges = {key: judge_facts(row) for key, row in JUDGES.items()}
    tables: dict[str, Mapping[str, str | Mapping[str, Any]]] = {
        "metrics": metrics,
        "judges": {key: {"text": judge_words(facts), **facts} for key, facts in judges.items()},
        "references": {key: f"{row.title}; {row.licence}" for key, row in REFERENCES.items()},
        "axes": {key: f"{row.title}; asks for {row.asks}" for key, row in AXES.items()},
        "prompts": {
            key: f"{row.title}; layouts {', '.join(row.layouts)}; {row.licence}" for key, row in PROMPTS.items()
        },
    }
    print_tables(tables, what, as_json)


@app.command()
def selftest(as_json: Json = False) -> None:
    """Test every judge that is here: against the outputs it was shipped with, else against itself; `run` does so too.

    Examples:

      diffusionbench selftest

      diffusionbench selftest --json

      diffusionbench selftest --json > selftest.json
    """
    from diffusionbench.available import check_judge
    from diffusionbench.judges import JUDGES
    from diffusionbench.judges.selftest import test_now

    found: dict[str, dict[str, Any]] = {}
    failed = []
    for name in JUDGES:
        try:
            check_judge(name)
            outcome = test_now(JUDGES.load(name)("cpu"))
        except UserError as error:
            found[name] = {"state": "not here", "words": str(error)}
        except RunError as error:
            found[name] = {"state": "failed", "words": str(error)}
            failed.append(str(error))
        else:
            state = "not tested" if outcome.compared == "nothing" else "passed"
            found[name] = {"state": state, "words": str(outcome), **outcome._asdict()}
    lines = [f"{name}: {one['state']}: {one['words']}" for name, one in found.items()]
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines))
    if failed:
        raise RunError(failed[0])


@app.command()
def doctor(as_json: Json = False) -> None:
    """Print what this installation has and lacks.

    Examples:

      diffusionbench doctor

      diffusionbench doctor --json

      diffusionbench doctor --json > installation.json
    """
    found: dict[str, Any] = examine()
    print(json.dumps(found, indent=2) if as_json else "\n".join(f"{key}: {value}" for key, value in found.items()))


records.register(app)
prepare.register(app)
benchmarks.register(app)
