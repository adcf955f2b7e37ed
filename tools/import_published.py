"""Turn the published tables into records: `python tools/import_published.py --from DIR`.

DIR holds imagenet.csv, t2i.csv, reproducibility.csv, correlation_records.json and correlation_records_blog.json.
The tables and the charts print the same figures twice; where they disagree nothing is written.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from diffusionbench.errors import DataError
from diffusionbench.record import Guidance, Protocol, Provenance, Record, ReferenceUsed, Value
from diffusionbench.registry import nearest
from diffusionbench.study import published
from diffusionbench.study.published import BLOG, METHODS, PAPER, REPRODUCIBILITY
from diffusionbench.writing import write_atomic

PAGE: Final = "https://end2end-diffusion.github.io/diffusion-bench/"
POST: Final = "https://github.com/End2End-Diffusion/End2End-Diffusion.github.io"
ARTICLE: Final = "arXiv 2606.24888 and its project page"
TABLES_COMMIT: Final = "3f4aa816f627fc8b2934db64ae015e35cd7ef3a4"
CHART_COMMIT: Final = "9a8e3940289db7a3887d43aeb6cb6c14a9c27095"
BLOG_COMMIT: Final = "a544d665"

KEYS: Final = {"geneval": "geneval_overall", "dpgbench": "dpgbench", "genaibench": "genaibench_overall"}
SIMPLEEVAL: Final = {PAPER: "simpleeval_published_2026_06", BLOG: "simpleeval_published_2026_05"}
UNITS: Final = {"M": 10**6, "B": 10**9, "K": 10**3}

TUNED_NOTE: Final = "guidance at each method's own best scale; the source does not print the scales"
KAPPA_NOTE: Final = "guidance is trained in; guided and unguided on ImageNet are most likely kappa 0.5 and 0"
RECIPE_NOTE: Final = "recipe of the study: 256 px, batch size 1024, AdamW at 2e-4"
GENEVAL_NOTE: Final = "geneval_overall: upstream code averages over images; unconfirmed"
SIMPLEEVAL_NOTE: Final = "simpleeval: printed in the chart data only, and redefined between the score sets; unconfirmed"

# Public models listed for orientation: our name -> printed name.
REFERENCE_MODELS: Final = {
    "sd-3.5-large": "SD-3.5-Large",
    "flux-1": "FLUX-1",
    "flux-2": "FLUX-2",
    "qwen-image": "Qwen-Image",
    "z-image-turbo": "Z-Image-Turbo",
}

# Rows that only the reproducibility table has, or prints under another name: printed name -> (our name, family).
REPRODUCED: Final = {
    "RAE (DINOv2-B)": ("dinov2-b", "rae"),
    "E2E-VAVAE + REPA": ("e2e-vavae-repa", "e2e-vae"),
}

_BY_PRINTED: Final = {method.published.replace(" + ", "+"): method for method in METHODS.values()}
_NUM_STEPS = re.compile(r"^(?P<name>.+) \(NFE=(?P<steps>\d+)\)$")


def parse_published(printed: str) -> tuple[str, str, int | None]:
    """Return our name, the family and the number of sampling steps that a printed method name states.

    Args:
        printed: as in a published table; spaces around "+" do not matter.

    Returns:
        (name, family, steps), steps None where the name states none.

    Raises:
        DataError: if no published method is called so.
    """
    match = _NUM_STEPS.match(printed)
    bare, steps = (match["name"], int(match["steps"])) if match else (printed, None)
    bare = re.sub(r"\s*\+\s*", "+", bare)
    if bare in _BY_PRINTED:
        return _BY_PRINTED[bare].name, _BY_PRINTED[bare].family, steps
    for name, title in REFERENCE_MODELS.items():
        if title == bare:
            return name, "reference", steps
    for title, (name, family) in REPRODUCED.items():
        if title.replace(" + ", "+") == bare:
            return name, family, steps
    known = [*_BY_PRINTED, *REFERENCE_MODELS.values(), *REPRODUCED]
    raise DataError(f"published method '{printed}' is not in the name map. {nearest(bare, known)}")


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"published table {path}: {error.strerror}. Give the folder of the tables.") from None


def _chart(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"published chart {path}: {error.strerror}. Give the folder of the tables.") from None
    return content["records"] if isinstance(content, dict) else content


def _magnitude(printed: str) -> int | None:
    """615M -> 615,000,000; an empty cell is None."""
    return round(float(printed[:-1]) * UNITS[printed[-1]]) if printed else None


def _cells(row: dict[str, str], keys: dict[str, str]) -> tuple[dict[str, Value], dict[str, str]]:
    """The filled cells as values, and the digits as printed."""
    printed = {key: row[column] for column, key in keys.items() if row[column]}
    return {key: Value(value=float(text)) for key, text in printed.items()}, printed


def _guidance(state: str, interval: tuple[float, float]) -> Guidance:
    return Guidance(scale=None, interval=interval) if state == "cfg" else Guidance(scale=1.0)


def _imagenet_protocol(score_set: str, state: str, family: str, steps: int | None) -> Protocol:
    few_step = family == "few-step"
    notes = [RECIPE_NOTE]
    if few_step:
        notes.append(KAPPA_NOTE)
    elif state == "cfg":
        notes.append(TUNED_NOTE)
    return Protocol(
        name=score_set,
        axis="class_conditional",
        references={"inception": ReferenceUsed(name="imagenet256")},
        sampler=None if few_step else "euler",
        num_steps=steps or 50,
        guidance=_guidance(state, (0.0, 1.0) if few_step else (0.0, 0.9)),
        notes=tuple(notes),
    )


def _t2i_protocol(score_set: str, family: str, steps: int | None, has_simpleeval: bool) -> Protocol:
    notes = [GENEVAL_NOTE] + ([SIMPLEEVAL_NOTE] if has_simpleeval else [])
    if family == "reference":
        notes.append("a public model, listed for orientation; not trained under the recipe")
        return Protocol(name=score_set, axis="t2i", notes=tuple(notes))
    few_step = family == "few-step"
    return Protocol(
        name=score_set,
        axis="t2i",
        sampler=None if few_step else "euler",
        num_steps=steps or 50,
        guidance=None if few_step else Guidance(scale=6.0),
        notes=(RECIPE_NOTE, *notes, *([KAPPA_NOTE] if few_step else [])),
    )


def _variant(iterations: str, steps: int | None) -> str | None:
    """100K iterations are the main rows of the study; what differs from them is named."""
    parts = [f"nfe-{steps}"] if steps else []
    if iterations not in ("", "100K"):
        parts.append(iterations.lower())
    return "-".join(parts) or None


def imagenet(folder: Path) -> Iterator[Record]:
    """52 records of the table "Systematic comparison on ImageNet-256"."""
    for row in _rows(folder / "imagenet.csv"):
        name, family, steps = parse_published(row["method"])
        variant = _variant("", steps)
        metrics = [column for column in row if column not in ("method", "family", "guidance")]
        values, printed = _cells(row, {column: column for column in metrics})
        yield Record(
            kind="published",
            id=".".join(filter(None, [PAPER, "imagenet", name, variant, row["guidance"]])),
            method=name,
            variant=variant,
            title=row["method"],
            family=family,
            protocol=_imagenet_protocol(PAPER, row["guidance"], family, steps),
            values=values,
            provenance=Provenance(
                source=f'{ARTICLE}, table "Systematic comparison on ImageNet-256", page at commit {TABLES_COMMIT}',
                url=PAGE,
                step=100_000,
            ),
            extra={"printed": printed},
        )


def text_to_image(folder: Path) -> Iterator[Record]:
    """35 records of the table "Systematic comparison on text-to-image generation"."""
    for row in _rows(folder / "t2i.csv"):
        name, family, steps = parse_published(row["method"])
        variant = _variant(row["iterations"], steps)
        values, printed = _cells(row, {**KEYS, "simpleeval": SIMPLEEVAL[PAPER]})
        suffix = f" ({row['iterations']})" if row["iterations"] == "200K" else ""
        chart = f"; simpleeval from its chart at commit {CHART_COMMIT}" if row["simpleeval"] else ""
        yield Record(
            kind="published",
            id=".".join(filter(None, [PAPER, "t2i", name, variant])),
            method=name,
            variant=variant,
            title=row["method"] + suffix,
            family=family,
            protocol=_t2i_protocol(PAPER, family, steps, bool(row["simpleeval"])),
            values=values,
            provenance=Provenance(
                source=f'{ARTICLE}, table "Systematic comparison on text-to-image generation", '
                f"page at commit {TABLES_COMMIT}{chart}",
                url=PAGE,
                step=_magnitude(row["iterations"]),
            ),
            extra={"parameters": _magnitude(row["params"]), "printed": printed},
        )


def blog(folder: Path) -> Iterator[Record]:
    """24 rows of the announcement's figure, each as three records: unguided, guided and text-to-image."""
    source = f"interactive Figure 1 of the announcement post of 30 May 2026, page repository at commit {BLOG_COMMIT}"
    for row in _chart(folder / "correlation_records_blog.json"):
        name, family, _ = parse_published(row["method"])
        shared: dict[str, Any] = {
            "kind": "published",
            "method": name,
            "title": METHODS[name].published,
            "family": family,
            "provenance": Provenance(source=source, url=POST, step=100_000),
        }
        for state, column in (("none", "fid_nocfg"), ("cfg", "fid_cfg")):
            yield Record(
                id=f"{BLOG}.imagenet.{name}.{state}",
                protocol=_imagenet_protocol(BLOG, state, family, None),
                values={"fid": Value(value=row[column])},
                **shared,
            )
        keys = {**KEYS, "simpleeval": SIMPLEEVAL[BLOG]}
        yield Record(
            id=f"{BLOG}.t2i.{name}",
            protocol=_t2i_protocol(BLOG, family, None, True),
            values={key: Value(value=row[column]) for column, key in keys.items()},
            **shared,
        )


def reproducibility(folder: Path) -> Iterator[Record]:
    """12 records: each reproduced method as its own paper reports it, and as re-implemented by the study."""
    for row in _rows(folder / "reproducibility.csv"):
        name, family, _ = parse_published(row["method"])
        values, printed = _cells(row, {"fid": "fid", "inception_score": "inception_score"})
        original = row["source"] == "published"
        yield Record(
            kind="published",
            id=f"{REPRODUCIBILITY}.{name}.{'original' if original else 'reimplemented'}",
            method=name,
            variant="original" if original else "reimplemented",
            title=f"{row['method']} ({'original paper' if original else 're-implemented'})",
            family=family,
            protocol=Protocol(
                name=REPRODUCIBILITY,
                axis="class_conditional",
                references={"inception": ReferenceUsed(name="imagenet256")},
                num_steps=None,
                guidance=_guidance(row["guidance"], (0.0, 1.0)),
                notes=(
                    f"{row['epochs']} epochs, {row['nfe']} function evaluations: chosen to match the original paper",
                ),
            ),
            values=values,
            provenance=Provenance(
                source=f'{ARTICLE}, table "ImageNet-256 reproducibility", page at commit {TABLES_COMMIT}; '
                + ("the figure of the method's own paper" if original else "the study's re-implementation"),
                url=PAGE,
            ),
            extra={
                "parameters": _magnitude(row["params"]),
                "prediction": row["prediction"],
                "epochs": int(row["epochs"]),
                "nfe": int(row["nfe"]),
                "printed": printed,
            },
        )


def _check_chart(folder: Path, paper: Sequence[Record]) -> None:
    """The chart of the paper repeats figures of its tables: a disagreement means that one of them was misread."""
    by_id = {record.id: record for record in paper}
    for row in _chart(folder / "correlation_records.json"):
        name, _, _ = parse_published(row["method"])
        expected = {
            f"{PAPER}.imagenet.{name}.cfg": {"fid": row["fid_cfg"]},
            f"{PAPER}.imagenet.{name}.none": {"fid": row["fid_nocfg"]},
            f"{PAPER}.t2i.{name}": {key: row[column] for column, key in KEYS.items()}
            | {SIMPLEEVAL[PAPER]: row["simpleeval"]},
        }
        for identifier, figures in expected.items():
            for key, figure in figures.items():
                if by_id[identifier].values[key].value != figure:
                    raise DataError(
                        f"{key} of {row['method']}: the table says {by_id[identifier].values[key].value}, "
                        f"the chart {figure}. They must agree."
                    )


def build(folder: Path) -> dict[str, str]:
    """Return the content of each shipped file, by file name, from the folder of published tables.

    Raises:
        DataError: if a table is missing, names an unknown method, or disagrees with the chart.
    """
    paper = [*imagenet(folder), *text_to_image(folder)]
    _check_chart(folder, paper)
    sets = {PAPER: paper, BLOG: list(blog(folder)), REPRODUCIBILITY: list(reproducibility(folder))}
    return {f"{name}.jsonl": "".join(map(_line, records)) for name, records in sets.items()}


def _line(record: Record) -> str:
    content = {"schema_version": record.schema_version, **record.model_dump(mode="json", exclude_defaults=True)}
    return json.dumps(content, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shipped files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, required=True, help="folder of the published tables")
    parser.add_argument("--to", type=Path, default=Path(published.__file__).parent, help="where the records go")
    chosen = parser.parse_args(arguments)
    for name, text in build(chosen.folder).items():
        write_atomic(chosen.to / name, text)
        print(f"{chosen.to / name}: {text.count(chr(10))} records")


if __name__ == "__main__":
    main()
