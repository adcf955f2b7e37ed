"""What a study ends with: a report of its cells, and the site of its own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diffusionbench.errors import MissingPackageError
from diffusionbench.record import Record
from diffusionbench.study.findings_measured import sections
from diffusionbench.study.reporting import table
from diffusionbench.views.site.build import build
from diffusionbench.views.terminal import digits
from diffusionbench.writing import write_atomic
from nanogen.curves import make_curve, write_curve
from nanogen.log import say
from nanogen.study.file import StudyCell, StudyFile
from nanogen.study.runner import StudyFolder
from nanogen.study.view import duration, headline
from nanogen.sweep import FOLDER

# Runs from which a deviation is worth a reference curve.
_CURVE_SEEDS: Final = 3


def write_results(study: StudyFile, cells: Sequence[StudyCell], folder: StudyFolder, failed: Mapping[str, str]) -> Path:
    """Write report, findings, reference curves and site of a study's records, and return the report's file.

    Args:
        cells: all of the study.
        failed: what is wrong, by cell.
    """
    _write_curves(study, cells, folder)
    place = folder.path / "report.md"
    write_atomic(place, _report(study, cells, folder, failed))
    if records := folder.records():
        write_atomic(folder.path / "findings.md", "\n\n".join(sections(records, f"{folder.path}/records")) + "\n")
        try:
            build(records, folder.path / "site", [folder.path / "runs"], flagged=True)
        except MissingPackageError as error:
            say(f"no site: {error}")
    return place


def _write_curves(study: StudyFile, cells: Sequence[StudyCell], folder: StudyFolder) -> None:
    """Write a reference curve of each task and method of which three seeds have run."""
    done: dict[str, list[Path]] = {}
    for cell in cells:
        if (state := folder.state(cell)) is not None and state.state == "done":
            done.setdefault(f"{cell.task}-{cell.method}", []).append(folder.run(cell))
    for name, runs in done.items():
        if len(runs) == len(study.seeds) >= _CURVE_SEEDS:
            write_curve(make_curve(runs), folder.path / "curves" / f"{name}.json")


def _report(study: StudyFile, cells: Sequence[StudyCell], folder: StudyFolder, failed: Mapping[str, str]) -> str:
    done, tuned = [], []
    for cell in cells:
        state, found = folder.state(cell), folder.records_of(cell)
        if state is None or not found:
            continue
        score, key = found[0], headline(cell)
        cost = score.cost
        hours = "-" if cost is None else f"{cost.device_hours:.2f}"
        row = [cell.name, score.family or "", key, _with_error(score, key), duration(state.seconds), hours]
        done.append([*row, f"[record](records/{score.id}.json)"])
        facts: dict[str, Any] = score.extra.get(FOLDER, {})
        if facts:
            free, over = facts["unguided"], facts["optimism"]
            spread = "" if over["stderr"] is None else f" ± {over['stderr']:.2g}"
            row = [cell.name, f"{facts['scale']:g}", _with_error(score, facts["metric"]), digits(free["value"])]
            tuned.append([*row, f"{over['value']:+.3g}{spread}", str(len(facts["tried"]))])
    parts = [
        f"# {study.title}",
        f"Study `{study.name}` at scale {study.scale}: {len(done)} of {len(cells)} cells done.",
    ]
    if failed:
        parts.append("\n".join(f"- {name}: {reason or 'in use by another process'}" for name, reason in failed.items()))
    if done:
        heads = ["cell", "family", "headline", "score", "time", "device hours", ""]
        parts.append(table(heads, done, (3, 4, 5)))
        parts.append("± is the standard error over the draw of images; it holds no noise of training.")
    if tuned:
        parts.append("## Guidance")
        heads = ["cell", "scale", "score", "without guidance", "optimism", "tried"]
        parts.append(table(heads, tuned, range(1, 6)))
        parts.append(
            "Real images of even index and one seed chose the scale, those of odd index and another seed scored it. "
            "Optimism: by how much it looked better where it was chosen, less what the halves differ without guidance."
        )
    return "\n\n".join(parts) + "\n"


def _with_error(record: Record, key: str) -> str:
    value = record.values[key]
    return digits(value.value) + ("" if value.stderr is None else f" ± {value.stderr:.2g}")
