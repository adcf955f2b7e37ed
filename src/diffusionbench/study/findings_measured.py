"""The findings of our own study, from measured records: the second part of the page of `findings`.

Values count that fit a column of the declared boards. The page is the published study's: the same code and axes, and
never the same panel, as the numbers of a laptop are of other data, networks and judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from diffusionbench.catalog import metric_info
from diffusionbench.errors import RequestError
from diffusionbench.record import Record
from diffusionbench.shown import few
from diffusionbench.study.analysis import Study, analyse
from diffusionbench.study.apart import Apart, Estimated, apart
from diffusionbench.study.columns import MEASURED, board_spec, place_of, score_set_of
from diffusionbench.study.floors import Floor, families_of, floor_of
from diffusionbench.study.points import Point, select_points
from diffusionbench.study.reporting import block, command, counts_flagged, label, number, percent, table, title

LAPTOP: Final = "study-laptop"
#: Where the records of our own study lie; those of recipes are compared with other real images, so they stand apart.
FOLDER: Final = "records/study-laptop"
DIGITS: Final = "fd_digits"
SCENES: Final = "simpleeval_shapes_v1"
#: Scores of the task that shares its conditioning with digits and its data with scenes, best known first.
OBJECTS: Final = ("accuracy_simpleeval_objects", "fd_efflite0")
OBJECTS_BOARD: Final = "measured-objects"
GUIDANCES: Final = ("cfg", "none")
#: Methods below which a coefficient has no interval, and none is printed.
FEWEST: Final = 4


@dataclass(frozen=True)
class OwnStudy:
    """The measured records that fit declared columns, and what the sections of the page share."""

    records: tuple[Record, ...]

    def study(self, guidance: str, y: str = SCENES, flagged: bool = False) -> Study | None:
        """Return the study of digits against scenes; None where fewer than `FEWEST` methods hold both."""
        pool = [*self.fitting(LAPTOP, DIGITS), *self.fitting(LAPTOP, SCENES)]
        try:
            selection = select_points(pool, DIGITS, y, guidance=guidance, score_set=MEASURED, flagged=flagged)
        except RequestError:
            return None
        return analyse(selection) if len(selection.points) >= FEWEST else None

    def studies(self) -> list[Study]:
        """Return those that are defined: of each guidance without flagged values, then with them if there are any."""
        found = [self.study(guidance, flagged=flagged) for flagged in (False, True) for guidance in GUIDANCES]
        plain, counted = found[: len(GUIDANCES)], found[len(GUIDANCES) :]
        return [one for one in plain if one] + [one for one in counted if one and counts_flagged(one)]

    def fitting(self, board: str, key: str) -> list[Record]:
        """Return the records whose value of a metric stands in a column of a board."""
        columns = [column for column in board_spec(board).columns if column.key == key]
        return [one for one in self.records if key in one.values and place_of(one, key, columns)[0] is not None]

    def points(self, board: str, key: str, guidance: str, flagged: bool = False) -> dict[str, Point]:
        """Return the methods that hold a metric, with all their runs."""
        pool = self.fitting(board, key)
        try:
            found = select_points(pool, key, key, guidance=guidance, score_set=MEASURED, flagged=flagged)
        except RequestError:
            return {}
        return {point.name: point for point in found.points}


def sections(records: Iterable[Record], folder: str = FOLDER) -> Iterator[str]:
    """Yield the paragraphs, tables and commands of our own study, whose records lie in a folder."""
    # Records of family "reference" are baselines, such as pictures drawn from the prompts, and no methods.
    own = OwnStudy(tuple(one for one in records if score_set_of(one) == MEASURED and one.family != "reference"))
    yield "# Our own study"
    yield (
        "Measured with this package at laptop scale: handwritten digits asked for by class, drawn scenes asked for by "
        f"caption, and scenes of one object asked for by class. {title(DIGITS)} falls as methods improve, "
        f"{title(SCENES)} rises, so a useful distance shows as a negative r, as above. Values in declared columns "
        "count; intervals are 95 %. Values that a guard of SimpleEval flags take no place on a board. Nobody games a "
        "metric here, but a network that is not trained far repeats itself and blurs what a guard reads; so r is given "
        "without such values, if enough are left, and with them."
    )
    studies = own.studies()
    if studies:
        yield from _relation(studies, folder)
        yield from _seeds(studies)
        yield from _noise(studies)
        yield from _floor(own, studies)
    else:
        both = own.points(LAPTOP, SCENES, "none").keys() & {
            name for guidance in GUIDANCES for name in own.points(LAPTOP, DIGITS, guidance)
        }
        yield (
            f"{len(both)} method{'' if len(both) == 1 else 's'} with records of both digits and scenes: too few for a "
            f"correlation, which needs {FEWEST}, so none is printed."
        )
    yield from _apart(own)
    yield from _reach()


def _relation(studies: Sequence[Study], folder: str) -> Iterator[str]:
    yield "## Digits against scenes, within and between families"
    rows = []
    for one in studies:
        cells = (number(one.pearson), number(one.spearman), number(one.within), percent(one.between.share))
        rows.append((label(one), str(one.pearson.n), *cells))
    head = ("against", "methods", "pooled r", "Spearman rho", "within families (partial)")
    yield table((*head, "covariance between families"), rows)
    flagged = {
        name: reason for one in studies for name, _, status, reason in one.selection.doubtful if status == "flagged"
    }
    if flagged:
        yield "Flagged: " + "; ".join(f"`{name}` ({reason})" for name, reason in flagged.items()) + "."
    left = {reason: name for one in studies for name, reason in one.selection.left_out}
    if left:
        reasons = [f"`{name}`: {reason}" for reason, name in left.items()]
        yield f"Not among these methods, one example for each reason: {few(reasons, '; ', first=8)}."
    yield block(*(f"{command(one)} --records {folder}" for one in studies))


def _seeds(studies: Sequence[Study]) -> Iterator[str]:
    yield "## How much seeds move it"
    rows = []
    for one in studies:
        if (seeds := one.seeds) is not None:
            sds = ("not known" if sd is None else f"{sd:.3g}" for sd in (seeds.sd_x, seeds.sd_y))
            spans = (_span(seeds.interval), _span(seeds.seeds_interval))
            rows.append((label(one), f"{seeds.repeated} of {seeds.methods}", *sds, f"{seeds.value:+.4f}", *spans))
    if not rows:
        yield "No method was trained with several seeds on either task, so the noise of training is not known here."
        return
    head = ("against", "methods repeated", f"sd of {title(DIGITS)}", f"sd of {title(SCENES)}", "r of the means")
    yield table((*head, "over methods and seeds", "over seeds alone"), rows)
    yield (
        "The sd is that of one training, pooled over methods. Drawing methods and their runs answers how r would move "
        "in another study of such methods; drawing runs alone, how it would move with these methods trained again."
    )


def _noise(studies: Sequence[Study]) -> Iterator[str]:
    yield "## How much noise hides"
    rows = []
    for one in studies:
        for part in one.attenuation:
            ceiling = "not defined" if part.ceiling is None else f"{part.ceiling:.3f}"
            corrected = "not defined" if part.corrected is None else f"{part.corrected:+.4f}"
            reliabilities = (f"{part.reliability_x:.3f}", f"{part.reliability_y:.3f}")
            rows.append((f"{label(one)}, {part.scope}", *reliabilities, ceiling, corrected))
    if rows:
        head = ("against", "reliability of digits", "reliability of scenes", "r of a perfect relation")
        yield table((*head, "r without noise"), rows)
    yield (
        "From the standard errors of the records; for repeated methods these are of their means and hold the noise of "
        "training, for others that of scoring alone."
    )


def _floor(own: OwnStudy, studies: Sequence[Study]) -> Iterator[str]:
    yield "## Scores at their floor"
    names = {point.name for one in studies for point in one.selection.points}
    # Of each method the newest.
    ordered = sorted(own.fitting(LAPTOP, SCENES), key=lambda one: one.provenance.created or "")
    held = {record.method: record for record in ordered if record.method in names}
    keys = next(iter(held.values())).values if held else {}
    found = floor_of(held, SCENES, families_of(SCENES, keys))
    yield floor_words(found)
    if found.several and found.off:
        rows = []
        for part in found.off:
            for whole in studies:
                one = own.study(whole.selection.guidance, part, counts_flagged(whole))
                if one is not None:
                    rows.append((label(one), f"{found.parts[part]} of {found.methods}", number(one.pearson)))
        yield table(("against", "methods at its floor", "pooled r"), rows)


def floor_words(found: Floor) -> str:
    """Return which methods are at the floor of a score, and which of its families tell them apart."""
    if not found.low:
        return f"None of {found.methods} methods is at the floor of {title(found.key)}."
    low = ", ".join(f"`{name}`" for name in found.low)
    said = f"At the floor of {title(found.key)} (not to be told from chance): {low}, of {found.methods} methods."
    if not found.several:
        return said
    if not found.off:
        return f"{said} None of its families is off the floor either, so r says nothing of the order of these methods."
    families = ", ".join(part.removeprefix(f"{found.key}_") for part in found.off)
    return f"{said} Their order is not in that score; families that are off the floor are correlated too: {families}."


def _apart(own: OwnStudy) -> Iterator[str]:
    yield "## Data and conditioning apart"
    yield (
        "Digits and scenes differ in data and in conditioning at once. Scenes of one object asked for by colour and "
        "shape share the conditioning with digits and the data with scenes. What is missing of the correlation of "
        "digits and scenes, 1 - r, is divided by the mean over both orders of making the two changes "
        "(`diffusionbench.study.apart`); signs are turned so that + means better on both."
    )
    rows, told = [], []
    for guidance, key in product(GUIDANCES, OBJECTS):
        plain, counted = (three_tasks(own, guidance, key, flagged) for flagged in (False, True))
        for found, more in ((plain, ""), (counted, ", flagged counted")):
            if found is not None and not (more and counted == plain):
                state = "guided" if guidance == "cfg" else "unguided"
                parts = (found.first_middle, found.middle_last, found.first_last, found.data, found.conditioning)
                cells = map(_estimated, (*parts, found.difference))
                rows.append((f"{title(key)}, {state}{more}", str(found.methods), *cells))
                low, high = found.difference.interval
                told.append("data" if low > 0 else "conditioning" if high < 0 else "neither")
    if not rows:
        yield f"Fewer than {FEWEST} methods have records of all three tasks, so nothing is divided yet."
        return
    head = ("objects scored by", "methods", "r digits, objects", "r objects, scenes", "r digits, scenes")
    yield table((*head, "missing by data", "missing by conditioning", "difference"), rows)
    data, conditioning, neither = (f"{told.count(name)} of {len(told)}" for name in ("data", "conditioning", "neither"))
    flagged = sum("flagged counted" in row[0] for row in rows)
    yield (
        f"Data take away more in {data} rows, conditioning in {conditioning}; in {neither} the study does not tell. "
        f"{flagged} of {len(rows)} rows count values that a guard flags. The methods of all rows are the same, so rows "
        "that agree are no independent witnesses; objects and scenes are of one world, and methods at the floor of a "
        "score, above, have no order in it."
    )
    yield (
        "Intervals are over methods and seeds. Where that of the difference holds 0, the study does not tell which of "
        "the two takes away more. Noise lowers every r, so it is in both parts; the kind of score changes with the "
        "task, and the two rows of objects show how much that matters."
    )


def three_tasks(own: OwnStudy, guidance: str, key: str, flagged: bool = False) -> Apart | None:
    """Return what data and conditioning do between digits, objects by one of their scores, and scenes.

    Args:
        flagged: whether values that a guard flags count too.
    """
    places = ((LAPTOP, DIGITS), (OBJECTS_BOARD, key), (LAPTOP, SCENES))
    held = [own.points(*place, guidance, flagged) for place in places]
    names = sorted(set.intersection(*(set(one) for one in held)))
    if len(names) < FEWEST:
        return None
    signs = [1 if metric_info(one).higher_is_better else -1 for one in (DIGITS, key, SCENES)]
    return apart([[points[name].x_runs for name in names] for points in held], signs)


def _reach() -> Iterator[str]:
    yield "## What a laptop study can and cannot say about ImageNet"
    yield (
        "It can say whether the rank of a method on one task predicts its rank on another when network, optimizer, "
        "schedule and budget are the same, how much of that is noise, and which of data and conditioning matters more; "
        "and every number can be made again in an evening. It cannot say what FID on ImageNet predicts: networks of a "
        "million weights after minutes on digits and drawn shapes have not converged, small latent spaces favour other "
        "methods than large ones, the judges here are a small classifier and hand-written readers, and a few methods "
        "give intervals that exclude little. Agreement with the published study would be a second, weak witness; "
        "disagreement would say only that the relation depends on scale, data or judge."
    )


def _span(interval: tuple[float, float] | None) -> str:
    return "not defined" if interval is None else f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"


def _estimated(one: Estimated) -> str:
    return f"{one.value:+.2f} {_span(one.interval)}"
