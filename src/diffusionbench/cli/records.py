"""The verbs that read records only, without torch. Each imports what it needs when it runs, for a quick --help."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from diffusionbench import bounds
from diffusionbench.cli.options import Device, Json
from diffusionbench.errors import RequestError
from diffusionbench.shown import few, lines, printable
from diffusionbench.verbs import with_groups
from diffusionbench.writing import check_place, write_results

if TYPE_CHECKING:
    from diffusionbench.record import Record

DEFAULT_FOLDER = Path("records")
#: Draws that leave two and a half beyond either bound of a 95 % interval.
LEAST_DRAWS: Final = 100

Folders = Annotated[
    list[Path] | None,
    typer.Option("--records", help="folder of records to add to the published ones; ./records where it exists"),
]
Boards = Annotated[
    list[str] | None,
    typer.Option("--set", help='a board such as paper-2026-06, "measured" (all boards over it) or "all"; repeat it'),
]
Columns = Annotated[
    list[str] | None, typer.Option("--columns", help='to show, such as fid@cfg or geneval, or "all"; repeat it')
]
Holistic = Annotated[list[str] | None, typer.Option("--holistic", help="columns that form the mean rank; repeat it")]
Families = Annotated[
    list[str] | None,
    typer.Option("--family", help="rae, vae, e2e, pixel, few-step, latent, all; repeat it"),
]


def _enough(draws: int) -> int:
    if 0 < draws < LEAST_DRAWS:
        raise RequestError(f"--draws {draws}: 95 % intervals need {LEAST_DRAWS} at least. Give more, or 0 for none.")
    return draws


Draws = Annotated[
    int,
    typer.Option(
        "--draws",
        min=0,
        max=bounds.REPEATS,
        callback=_enough,
        help="resamples and permutations, 100 or more; 0 skips them",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=bounds.SEED, help="of the draws")]


@dataclass(frozen=True)
class PointOptions:
    """Which methods are set against each other, and by which figures."""

    guidance: Annotated[str, typer.Option("--guidance", help="ImageNet column: none or cfg (tuned)")] = "none"
    score_set: Annotated[str, typer.Option("--set", help="paper-2026-06, blog-2026-05 or measured")] = "paper-2026-06"
    family: Families = None
    select: Annotated[list[str] | None, typer.Option("--select", help="methods or record ids to keep; repeat it")] = (
        None
    )
    flagged: Annotated[bool, typer.Option("--flagged", help="count values that a guard flags, too")] = False


@dataclass(frozen=True)
class BoardRows:
    """Which rows a board shows, and in which order."""

    sort: Annotated[str, typer.Option("--sort", help="place, name, family, an axis or a column")] = "place"
    reverse: Annotated[bool, typer.Option("--reverse", help="worst first")] = False
    family: Families = None
    kind: Annotated[str | None, typer.Option("--kind", help="measured or published")] = None


@dataclass(frozen=True)
class BoardForm:
    """How a board is printed."""

    trace: Annotated[bool, typer.Option("--trace", help="also print the records behind each cell")] = False
    as_json: Json = False
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV, with the records of each cell")] = False
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print a Markdown table")] = False


def register(app: typer.Typer) -> None:
    """Add the verbs to a program."""
    for verb in (board, explain, correlate, submit, validate, site, figure):
        app.command()(with_groups(verb))


def _gather(folders: Sequence[Path] | None) -> list[Record]:
    from diffusionbench.study.points import gather

    return gather(_folders(folders))


def _folders(given: Sequence[Path] | None) -> list[Path]:
    return list(given) if given else [DEFAULT_FOLDER] if DEFAULT_FOLDER.is_dir() else []


def _split(words: Sequence[str] | None) -> list[str]:
    """Return the values of a repeated option, which may also be joined by commas."""
    return [part.strip() for word in words or () for part in word.split(",") if part.strip()]


def _chosen(points: PointOptions) -> dict[str, Any]:
    return vars(points) | {"family": _split(points.family), "select": _split(points.select)}


def board(
    rows: BoardRows,
    form: BoardForm,
    score_set: Boards = None,
    columns: Columns = None,
    holistic: Holistic = None,
    records: Folders = None,
    boards: Annotated[Path | None, typer.Option("--boards", help="YAML file that declares boards of your own")] = None,
    like: Annotated[
        str | None, typer.Option("--like", help="id of a record: rank what compares with it, whatever boards declare")
    ] = None,
    draws: Annotated[
        int,
        typer.Option("--draws", min=0, max=100_000, callback=_enough, help="re-scorings behind rank intervals"),
    ] = 2000,
    seed: Seed = 0,
) -> None:
    """Print the leaderboards: declared columns, ranks, their sensitivity, and what takes no place with the reason.

    Without --set: the published paper's figures, then what was measured, each board as a table of its own.

    Examples:

      diffusionbench board

      diffusionbench board --family latent --sort geneval --columns fid,fid@cfg,geneval

      diffusionbench board --set measured --records outputs --csv

      diffusionbench board --records outputs --like mine-0123456789ab
    """
    from diffusionbench.registry import nearest
    from diffusionbench.study.board import build, chosen_boards, keep, order, with_epochs
    from diffusionbench.study.columns import board_like, declared, read_boards
    from diffusionbench.views import terminal

    if form.as_json + form.as_csv + form.as_markdown > 1:
        raise RequestError("asked for more than one of --json, --csv and --markdown. Choose one.")
    known = declared() if boards is None else {one.name: one for one in read_boards(boards)}
    pool, names = _gather(records), _split(score_set)
    if like is not None:
        if names or boards:
            raise RequestError("--like makes a board of its own. Leave out --set and --boards, or --like.")
        by_id = {record.id: record for record in pool if record.kind == "measured"}
        if like not in by_id:
            raise RequestError(f"unknown record '{like}'. {nearest(like, list(by_id))}")
        known = {"like": board_like(by_id[like])}
    found, refused = [], False
    for spec in chosen_boards(pool, names, known):
        try:
            wider = with_epochs(spec, [*_split(columns), *_split(holistic), rows.sort])
            whole = build(pool, wider, holistic=_split(holistic), draws=draws, seed=seed, siblings=[*known.values()])
            kept = keep(whole, family=_split(rows.family), kind=rows.kind)
            ordered = order(kept, rows.sort, reverse=rows.reverse)
            found.append((ordered, terminal.shown(ordered, _split(columns))))
        except RequestError as error:
            # A column of the published board need not exist on the measured ones, which nobody asked for by name.
            if spec.name in names or spec == next(iter(known.values())):
                raise
            print(f"left out: board '{spec.name}': {error}", file=sys.stderr)
            refused = True
    if refused and not found:
        raise RequestError("no board has all that was asked for; see above. Ask for less, or name a board with --set.")
    if form.as_json:
        print(json.dumps({"boards": [asdict(one) for one, _ in found]}, indent=2))
        return
    for one, chosen in found:
        if form.as_csv:
            print(lines(terminal.board_csv(one, chosen)), end="")
        elif form.as_markdown:
            print(terminal.board_markdown(one, chosen))
        else:
            terminal.print_board(one, chosen, form.trace)
    unplaced = [held.record for one, _ in found for held in one.listed if held.kind == "measured"]
    if unplaced and like is None and not (form.as_csv or form.as_markdown):
        print(f"--like ID ranks the records that compare with one that is listed, such as --like {unplaced[0]}")


def explain(
    first: Annotated[Path, typer.Argument(help="a record's JSON file")],
    second: Annotated[Path, typer.Argument(help="another one")],
    stores: Annotated[
        list[Path] | None,
        typer.Option("--stores", help="folder of image stores; also looked for beside the records; repeat it"),
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="the differences alone; nothing is scored")] = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Tell in words how two protocols differ, and what each difference alone does to the numbers.

    For the latter the stored images of a record are scored again under one setting of the other record at a time.

    Examples:

      diffusionbench explain a.json b.json --table

      diffusionbench explain a.json b.json --stores work/

      diffusionbench explain outputs/one/evals/a.json outputs/two/evals/b.json --json
    """
    from diffusionbench.record import load
    from diffusionbench.study import explain as words
    from diffusionbench.views import terminal

    records = load(first), load(second)
    found, measured = words.explain(*records), list[words.Effect]()
    if not table:
        from diffusionbench import isolation

        isolation.check_folders(stores or ())
        pairs = zip(records, (first, second), strict=True)
        found_stores = [isolation.find_store(record, path, stores or ()) for record, path in pairs]
        found, measured = isolation.effects(*records, found_stores, device)
    if as_json:
        print(json.dumps(found.as_dict() | {"effects": [asdict(one) for one in measured]}, indent=2))
    else:
        terminal.print_explanation(found, measured)


def correlate(
    points: PointOptions,
    x: Annotated[str, typer.Option("--x", help="metric on the horizontal axis")] = "fid",
    y: Annotated[str, typer.Option("--y", help="metric on the vertical axis")] = "geneval",
    top: Annotated[
        list[int] | None,
        typer.Option("--top", min=1, max=bounds.REPEATS, help="a best-on-x subset's size; repeat it"),
    ] = None,
    records: Folders = None,
    draws: Draws = 10_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Correlate two metrics over methods: coefficients, intervals, families, influence of single methods, noise.

    Examples:

      diffusionbench correlate --x fid --y geneval

      diffusionbench correlate --y genaibench --guidance cfg --family latent

      diffusionbench correlate --set measured --x fd_digits --y simpleeval_shapes_v1 --records outputs --json
    """
    from diffusionbench.study.analysis import TOP, analyse
    from diffusionbench.study.points import select_points
    from diffusionbench.views import terminal

    selection = select_points(_gather(records), x, y, **_chosen(points))
    separate = any(name.lower() in ("e2e", "e2e-vae") for name in _split(points.family))
    study = analyse(selection, separate_e2e=separate, draws=draws, seed=seed, top=top or TOP)
    if as_json:
        print(json.dumps(terminal.study_dict(study), indent=2))
    else:
        terminal.print_study(study)


def submit(
    result: Annotated[Path, typer.Argument(help="the record to submit")],
    records: Annotated[Path, typer.Option("--records", help="folder that the pull request adds the file to")] = (
        DEFAULT_FOLDER
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check, and write nothing")] = False,
    every_eval_ever: Annotated[
        Path | None, typer.Option("--every-eval-ever", help="also write it as Every Eval Ever JSON")
    ] = None,
    hub: Annotated[Path | None, typer.Option("--hub", help="also write it as the Hub's .eval_results YAML")] = None,
    hub_dataset: Annotated[str, typer.Option("--hub-dataset", help="the benchmark's data set there, owner/name")] = "",
    as_json: Json = False,
) -> None:
    """Check a measured record and write the file to add in a pull request.

    Examples:

      diffusionbench submit outputs/digits-pixel-v-laptop/record.json

      diffusionbench submit record.json --dry-run

      diffusionbench submit record.json --records ../diffusionbench/records --json
    """
    from diffusionbench.study import exports, submission

    if not dry_run:
        check_place(records, "folder")
        for file in filter(None, (every_eval_ever, hub)):
            check_place(file)
    report = submission.check(result, records)
    files: dict[Path, tuple[str, str]] = {}
    path = None
    if report.record is not None and not report.problems:
        if every_eval_ever is not None:
            text = json.dumps(exports.every_eval_ever(report.record), indent=2) + "\n"
            files[every_eval_ever] = text, '"evaluation_id": "diffusionbench-'
        if hub is not None:
            files[hub] = exports.hub_yaml(report.record, hub_dataset), "notes: protocol "
        if not dry_run:
            # The record comes last: where something cannot be written, nothing has been submitted.
            write_results(files)
            path = submission.write(report, records)
    if as_json:
        content = {"problems": report.problems, "warnings": report.warnings, "file": str(path) if path else None}
        print(json.dumps(content, indent=2))
    else:
        _warn(report.warnings)
        if path:
            for file in files:
                print(f"wrote {file}")
            print(f"wrote {path}. Add it in a pull request, and nothing else.")
        elif not report.problems:
            print("the record can be submitted; nothing was written (--dry-run)")
    _refuse(f"record {result} cannot be submitted", report.problems)


def validate(
    folder: Annotated[Path, typer.Argument(help="a folder of records, or one record")] = DEFAULT_FOLDER,
    as_json: Json = False,
) -> None:
    """Check every record of a folder: schema, names, hashes, counts, duplicates, plausibility. For CI.

    Examples:

      diffusionbench validate records/

      diffusionbench validate records/mine.json

      diffusionbench validate records/ --json
    """
    from diffusionbench.study import submission

    reports = submission.check_folder(folder)
    problems = [f"{path}: {problem}" for path, report in reports.items() for problem in report.problems]
    warnings = [f"{path}: {warning}" for path, report in reports.items() for warning in report.warnings]
    if as_json:
        print(json.dumps({"records": len(reports), "problems": problems, "warnings": warnings}, indent=2))
    else:
        _warn(warnings)
        if not problems:
            print("1 record is valid" if len(reports) == 1 else f"{len(reports)} records are valid")
    _refuse(f"{len(problems)} problem{'s' * (len(problems) > 1)} in {folder}", problems)


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(printable(f"warning: {warning}"), file=sys.stderr)


def _refuse(what: str, problems: Sequence[str]) -> None:
    if problems:
        raise RequestError(f"{what}:\n" + few([f"  - {printable(problem)}" for problem in problems], "\n", 100))


def site(
    out: Annotated[Path, typer.Option("--out", help="folder: new, empty, or an earlier site")],
    records: Folders = None,
    as_json: Json = False,
) -> None:
    """Build the website: the interactive figure, the leaderboard, a page for each record, method and metric.

    Open index.html; no server and no network is needed.

    Examples:

      diffusionbench site --out public

      diffusionbench site --out public --records records --records outputs

      diffusionbench site --out /tmp/preview --json
    """
    from diffusionbench.views.site.build import build

    check_place(out, "folder")
    counts = build(_gather(records), out, _folders(records))
    index = out / "index.html"
    print(json.dumps({**counts, "index": str(index)}, indent=2) if as_json else index)


def figure(
    out: Annotated[Path, typer.Option("--out", help="file: .svg, .png or .pdf")],
    points: PointOptions,
    records: Folders = None,
    columns: Annotated[int, typer.Option("--columns", min=1, max=4, help="panels side by side")] = 2,
    dark: Annotated[bool, typer.Option("--dark", help="for a dark page")] = False,
    x: Annotated[
        str | None, typer.Option("--x", help="horizontal metric, or a cost such as device_hours; FID where not given")
    ] = None,
) -> None:
    """Draw Figure 1 for a paper: text-to-image scores against ImageNet FID, with r, its interval and n.

    Examples:

      diffusionbench figure --out fig1.svg

      diffusionbench figure --out fig1.png --guidance cfg --family latent

      diffusionbench figure --out fig1.pdf --set blog-2026-05 --columns 4
    """
    from diffusionbench.views import figure as figures

    check_place(out)
    chosen = figures.figure(_gather(records), x=x, **_chosen(points))
    figures.write(out, chosen, columns=columns, dark=dark)
    print(out)
