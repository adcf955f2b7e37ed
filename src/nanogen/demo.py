"""The demo: one network by class and one by caption are trained, sampled, scored, and shown on one page.

Expected times are those of two idle cores; only their ratios matter to the time left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanogen import parallel
from nanogen import run as runs
from nanogen.config import compose
from nanogen.evaluate import records_of
from nanogen.log import say
from nanogen.progress import Overall, listening
from nanogen.report import write_report
from nanogen.stop import Stop
from nanogen.train import train


@dataclass(frozen=True)
class Training:
    """One training of the demo; `seconds` are those of its stages, `sentence` tells its score by `metric`."""

    title: str
    suffix: str
    task: str
    method: str
    seconds: Mapping[str, float]
    metric: str
    sentence: str
    overrides: tuple[str, ...] = ()


TRAININGS = (
    Training(
        "digits by class",
        "",
        "digits",
        "pixel-v",
        {"training": 75, "images": 6, "scored": 5},
        "accuracy_digits",
        "{:.0%} of the drawn digits are recognised",
    ),
    Training(
        "scenes by caption",
        "-shapes",
        "shapes",
        "toy-ae",
        {"training": 170, "images": 25, "scored": 10},
        "simpleeval_shapes_v1",
        "scenes score {:.2f} (0 is chance, 1 is every fact right)",
    ),
)
PROMISE = (
    "2 trainings, 935 images to score, about 7 minutes on two idle cores. Ctrl-C stops with a checkpoint, and the same "
    "command goes on."
)


def demo(name: str) -> Path:
    """Train and score, report after each training, and return the report; what an earlier call has finished stays.

    Args:
        name: of the first run; the other's begins with it.

    Raises:
        UserError, Stopped: see `nanogen.train.train` and `nanogen.report.write_report`.
    """
    say(PROMISE)
    folders = [runs.folder(name + one.suffix) for one in TRAININGS]
    seconds = {one.title: one.seconds for one in TRAININGS}
    with Stop(), parallel.processes() as device, Overall(seconds) as overall:
        for number, (one, folder) in enumerate(zip(TRAININGS, folders, strict=True), 1):
            overall.job = one.title
            overall("preparing", 0, 1)
            words = ["nanogen", "train", "--task", one.task, "--method", one.method, *one.overrides]
            with listening(overall):
                composed = compose(one.task, one.method, overrides=one.overrides)
                train(composed, folder, device, [*words, "--run", str(folder)])
            overall("report", 0, 1)
            report = write_report(folders[:number])
            if number < len(folders):
                say(f"{one.title}: done. Look at its report while the rest runs: {report.resolve()}")
    told = "; ".join(
        one.sentence.format(records_of(folder)[0].values[one.metric].value)
        for one, folder in zip(TRAININGS, folders, strict=True)
    )
    say(f"{told[:1].upper()}{told[1:]}. Open the report; `nanogen study` and README.md say what to do next.")
    return report
