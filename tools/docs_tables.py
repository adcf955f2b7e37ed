"""Write the tables of README.md and docs/ from records/ and the methods: `make docs-tables`; `--check` only compares.

A document holds a table between two comments, `<!-- table: NAME -->` and `<!-- end -->`; what stands between them is
generated. No measured score is typed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from diffusionbench.available import judge_facts
from diffusionbench.judges import JUDGES
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, Value, load
from diffusionbench.study.points import record_files
from diffusionbench.writing import write_atomic
from nanogen.methods import all_methods

ROOT = Path(__file__).parents[1]
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

DIGITS = {
    "accuracy_digits": "accuracy",
    "fd_digits": "Fréchet distance (lower is better)",
    "kd_digits": "kernel distance (lower is better)",
    "is_digits": "inception score",
    "precision_digits": "precision",
    "recall_digits": "recall",
}
SCENES = ("colour", "size", "background", "count", "shape", "relation", "binding")
SCENES_KEY = "simpleeval_shapes_v1"
# Tables that compare recipes show this training of each; others measure how far trainings differ.
SEED = 42


def cell(values: Sequence[Value], digits: int = 3) -> str:
    """Return one value with half its 95 % interval, or the mean of several with their standard deviation."""
    numbers = [value.value for value in values]
    if len(values) > 1:
        return f"{np.mean(numbers):.{digits}f} ± {np.std(numbers, ddof=1):.{digits}f}"
    (value,) = values
    if value.interval is None:
        return f"{value.value:.{digits}f}"
    return f"{value.value:.{digits}f} ± {(value.interval[1] - value.interval[0]) / 2:.{digits}f}"


def linked(text: str, records: Sequence[Record], base: str) -> str:
    """Return a text that links to the first of its records."""
    return f"[{text}]({base}records/{records[0].id}.json)"


def of_recipe(records: Iterable[Record], name: str, guidance: float | None = None) -> list[Record]:
    """Return the records of a recipe, or those at one guidance scale, by training seed and guidance.

    Raises:
        LookupError: if there is none.
    """
    found = [
        record
        for record in records
        if record.extra.get("recipe") == name
        and (guidance is None or (record.protocol.guidance and record.protocol.guidance.scale == guidance))
    ]
    if not found:
        raise LookupError(
            f"records/ has no record of recipe '{name}'{'' if guidance is None else f' at guidance {guidance:g}'}. "
            f"Run: python tools/measure_recipes.py {'pictures' if name.startswith('pictures') else name}"
        )

    def place(record: Record) -> tuple[int, float]:
        guidance = record.protocol.guidance
        return record.extra.get("seed", 0), (guidance.scale or 0) if guidance else 0

    return sorted(found, key=place)


def measured(records: Sequence[Record]) -> str:
    """Return when, where and how often the trainings behind a table were made."""
    seeds = sorted({record.extra["seed"] for record in records if "seed" in record.extra})
    if len(seeds) > 1:
        spread = f"mean ± standard deviation over training seeds {', '.join(map(str, seeds))}"
    else:
        trained = f"one training, seed {seeds[0]}; " if seeds else ""
        spread = f"{trained}± is half the 95 % interval over the draw of images"
    dates = sorted({(record.provenance.created or "")[:10] for record in records})
    machines = sorted({record.provenance.hardware or "" for record in records})
    precisions = sorted({record.protocol.precision for record in records if record.protocol.precision})
    return f"{spread}; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {', '.join([*machines, *precisions])}."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def digits(records: Sequence[Record], base: str) -> list[str]:
    """Return the scores of the digits over guidance, beside pixels and the reference's anchors."""
    records = [record for record in records if record.extra.get("seed") == SEED]
    columns = {f"guidance {scale:g}": of_recipe(records, "digits", scale) for scale in (1.0, 1.5, 2.0)}
    columns["pixels, 1.5"] = of_recipe(records, "digits-pixels", 1.5)
    anchors = columns["guidance 1.5"][0].anchors
    rows = [
        [
            f"`{key}`: {title}",
            *(cell([record.values[key] for record in found]) for found in columns.values()),
            *(cell([anchors[name][key].model_copy(update={"interval": None})]) for name in ("held_out", "class_means")),
        ]
        for key, title in DIGITS.items()
    ]
    head = ["", *(linked(name, found, base) for name, found in columns.items()), "held-out images", "class means"]
    return [*table(head, rows), "", f"*{measured([one for found in columns.values() for one in found])}*"]


def demo(records: Sequence[Record], base: str) -> list[str]:
    """Return what `make demo` should give: each score over training seeds, and where it is too far from them.

    The limit is three standard deviations away, of seeds and of the draw of images together.
    """
    rows, used = [], []
    for name, what, keys in (
        ("digits-pixels", "digits", {key: title for key, title in DIGITS.items() if key[:2] in ("ac", "fd")}),
        ("shapes", "scenes", {SCENES_KEY: "SimpleEval, 0 is chance and 1 is perfect"}),
    ):
        found = of_recipe(records, name)
        used += found
        for key, title in keys.items():
            values = [record.values[key] for record in found]
            numbers = [value.value for value in values]
            drawn = [(high - low) / 3.92 for low, high in filter(None, (value.interval for value in values))]
            # How far trainings differ is not known of one.
            limit = "–"
            if len(numbers) > 1:
                away = 3 * float(np.hypot(np.std(numbers, ddof=1), np.mean(drawn)))
                lower = "lower" in title
                limit = f"{'above' if lower else 'below'} {np.mean(numbers) + (away if lower else -away):.2f}"
            rows.append([f"{linked(what, found, base)}: {title}", f"`{key}`", cell(values), str(len(values)), limit])
    head = ["", "metric", "expected", "trainings", "something is wrong"]
    dates = sorted({(record.provenance.created or "")[:10] for record in used})
    spread = "mean ± standard deviation over training seeds; of one training, ± is half the 95 % interval over images"
    return [*table(head, rows), "", f"*{spread}; {dates[0]} to {dates[-1]}.*"]


def scenes(records: Sequence[Record], base: str) -> list[str]:
    """Return the scores of scenes: recipes by length of training, then pictures that no network has drawn."""
    records = [record for record in records if record.extra.get("seed", SEED) == SEED]
    trained = [name for name in ("shapes-demo", "shapes", "shapes-long") if _has(records, name)]
    shown = [*trained, "pictures-rendered", "pictures-through-toy-ae", "pictures-shuffled"]
    rows = []
    for name in shown:
        found = of_recipe(records, name)
        keys = (SCENES_KEY, *(f"{SCENES_KEY}_{family}" for family in SCENES))
        values = [cell([record.values[key] for record in found], 2) for key in keys]
        rows.append([linked(found[0].title, found, base), *values])
    return [
        *table(["", "score", *SCENES], rows),
        "",
        f"*{measured([one for name in shown for one in of_recipe(records, name)])}*",
    ]


def recipes(records: Sequence[Record], base: str) -> list[str]:
    """Return every trained recipe with the commands that give its record again."""
    names = dict.fromkeys(record.extra["recipe"] for record in records if {"recipe", "train"} <= record.extra.keys())
    rows = []
    for name in sorted(names):
        for record in of_recipe(records, name):
            key = SCENES_KEY if SCENES_KEY in record.values else "fd_digits"
            commands = f"`{record.extra['train']}`, `{record.provenance.command}`"
            guidance = record.protocol.guidance
            title = record.title if guidance is None else f"{record.title}, guidance {guidance.scale:g}"
            rows.append([linked(title, [record], base), commands, f"`{key}` {cell([record.values[key]])}"])
    return table(["recipe", "commands", "result"], rows)


def _has(records: Iterable[Record], name: str) -> bool:
    return any(record.extra.get("recipe") == name for record in records)


def methods(published: bool) -> list[str]:
    """Return the table of the methods of the published study, or of ours, from `nanogen ls methods`."""
    lines = [
        "| method | what it is | paper | what differs from it | settings | parameters | files that do not ship |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in all_methods():
        if bool(method.published) == published:
            name = f"`{method.name}`{f' ({method.published})' if published else ''}"
            paper = f"[{method.paper}](https://arxiv.org/abs/{method.paper})" if method.paper else ""
            needs = "; ".join(f"{need.what} ({need.licence}{', gated' * need.gated})" for need in method.needs)
            cells = (name, method.title, paper, method.differs, method.adds, f"{method.parameters:,}", needs)
            lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    return lines


def judges() -> list[str]:
    """Return a section for each judge: what it is and gives, needs, and which metrics reduce its evidence."""
    lines: list[str] = []
    for name, row in JUDGES.own.items():
        facts = judge_facts(row, anywhere=True)
        kinds = [f"{row.dim:,} features" if row.dim else "", f"{row.num_classes:,} logits" if row.num_classes else ""]
        gives = " and ".join(filter(None, kinds)) or ("one number for each pair" if row.pairs else "rows")
        keys = [key for key in METRICS.with_code if key in METRICS.own and name in METRICS[key].judges]
        size = f"; {facts['size'] / 1e6:.1f} MB" if facts["size"] else ""
        needs = ", ".join(facts["needs"])
        lines += [
            "",
            f"### {name}",
            "",
            f"{facts['title'][0].upper()}{facts['title'][1:]}; licence {facts['licence']}{size}.",
        ]
        lines += ["", f"- gives {gives}, in {row.precision}", f"- self-test: {facts['self_test']}"]
        lines += [f"- uses the evidence of {', '.join(f'`{one}`' for one in row.uses)}"] if row.uses else []
        lines += [f"- needs {needs}: {'; '.join(facts['get'])}"] if needs else ["- comes with the package"]
        lines += [f"- metrics: {', '.join(f'`{key}`' for key in keys)}"] if keys else []
    return lines[1:]


TABLES: dict[str, Callable[[Sequence[Record], str], list[str]]] = {
    "published-methods": lambda records, base: methods(published=True),
    "our-methods": lambda records, base: methods(published=False),
    "judges": lambda records, base: judges(),
    "demo": demo,
    "digits": digits,
    "scenes": scenes,
    "recipes": recipes,
}


def written(text: str, records: Sequence[Record], base: str) -> str:
    """Return a document with its tables written anew; `base` leads from it to the root."""
    return PLACE.sub(lambda found: "".join([found[1], *_lines(found[2], records, base), found[4]]), text)


def _lines(name: str, records: Sequence[Record], base: str) -> list[str]:
    return [f"{line}\n" for line in ["", *TABLES[name](records, base), ""]]


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Return 0 where every document held its tables already or they were written, else 1."""
    parser = argparse.ArgumentParser(description="Write the tables of README.md and docs/ from records/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a table differs")
    check = parser.parse_args(arguments).check
    records = [load(path) for path in record_files(root / "records")]
    differ = []
    for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        base = os.path.relpath(root, path.parent) + "/"
        new = written(text, records, base.removeprefix("./"))
        if new != text:
            differ.append(str(path.relative_to(root)))
            if not check:
                write_atomic(path, new)
    for name in differ:
        print(f"{name}: {'its tables differ from records/. Run: make docs-tables' if check else 'written'}")
    return int(check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
