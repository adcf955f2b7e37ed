"""The stress harness: attacks metrics, prints the gain of a hacker, and checks the requirements on SimpleEval.

Gain is the share of the way from base images to images that are right; the hack gap is the gain less the true gain.
Source of the idea: over-optimisation of a proxy, Gao et al. 2023 (arXiv 2210.10760).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.stress import attacks
from diffusionbench.benchmarks.simpleeval.stress.baseline import BUDGETS, Bench, Outcome, interval
from diffusionbench.benchmarks.simpleeval.stress.targets import TARGETS
from diffusionbench.errors import RequestError
from diffusionbench.registry import nearest

ATTACKS: Final[dict[str, Callable[[Bench], list[Outcome]]]] = {
    "A1": attacks.gradient,
    "A2": attacks.adaptive,
    "A4": attacks.best_of,
    "A5": attacks.blind,
    "A6": attacks.words,
    "A7": attacks.memoriser,
    "A8": attacks.look,
    "A9": attacks.shared,
    "A10": attacks.overlaid,
}
OURS: Final = "simpleeval_shapes_v1"
#: Smallest hack gap under attack A1 at 8/255 by which a learned metric shows that the attack works.
WORKS: Final = {"toy_clipscore": 0.5, "toy_vqascore": 0.4}
#: Attack and end of its detail -> largest hack gap of ours.
GAPS: Final = {
    ("A1", " 8/255"): 0.03,
    ("A1", " 16/255"): 0.05,
    ("A2", " 16/255, 120 queries"): 0.10,
    ("A2", " 16/255, 500 queries"): 0.10,
    ("A4", f"{OURS} best of 16, contrasted facts"): 0.05,
    ("A8", f"{OURS} look"): 0.03,
    ("A9", " 8/255"): 0.03,
}
#: Attack, part of its detail, one of its values, what that is, and its largest value.
VALUES: Final = (
    ("A5", "", OURS, "score of ours", 0.01),
    ("A10", " 8/255", OURS, "score of ours", 0.03),
    ("A10", " 8/255", "without background", "score without background of ours", 0.0),
    ("A2", " 8/255", "background gained", "background gained", 0.03),
)
BROKEN: Final = 0.2


@dataclass(frozen=True)
class Check:
    """One requirement: a number (or a yes) against its limit.

    Attributes:
        value, low, high: the number with its 95 % interval.
        limit: largest (or smallest) value allowed.
        at_least: whether the limit is a smallest value.
        missed: at layout quick where the whole interval is beyond the limit, else where the value is.
    """

    what: str
    value: float
    low: float
    high: float
    limit: float
    at_least: bool
    missed: bool


@dataclass(frozen=True)
class StressReport:
    """All outcomes of one run and the requirements on them.

    Attributes:
        base, oracle: metric -> value of the base images, and of images that are right.
        digests: metric -> SHA-256 of its weights, or thresholds and code version, by part.
    """

    layout: str
    seed: str
    set_digest: str
    digests: dict[str, Mapping[str, str]]
    accuracy: float
    metrics: tuple[str, ...]
    base: dict[str, float]
    oracle: dict[str, float]
    outcomes: tuple[Outcome, ...]
    checks: tuple[Check, ...]

    @property
    def missed(self) -> list[Check]:
        """Requirements that do not hold."""
        return [check for check in self.checks if check.missed]

    def break_radius(self, metric: str) -> int | None:
        """Return the smallest bound of A1, in 1/255, at which the metric's hack gap reaches 0.2; None if none did."""
        broken = [
            int(outcome.detail.split()[1].split("/")[0])
            for outcome in self.outcomes
            if outcome.attack == "A1" and outcome.gap(metric)[0] >= BROKEN and outcome.target in (metric, None)
        ]
        return min(broken, default=None)

    def facts(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "layout": self.layout,
            "seed": self.seed,
            "set_digest": self.set_digest,
            "digests": self.digests,
            "accuracy": self.accuracy,
            "base": self.base,
            "oracle": self.oracle,
            "break_radius": {name: self.break_radius(name) for name in self.metrics},
            "outcomes": [
                {
                    "attack": outcome.attack,
                    "detail": outcome.detail,
                    "target": outcome.target,
                    "values": dict(outcome.values),
                    "gain": {name: interval(gain) for name, gain in outcome.gains.items()},
                    "true_gain": interval(outcome.truth),
                    "hack_gap": {name: interval(outcome.gap(name)) for name in outcome.gains},
                    "transfer_gap": outcome.transfer_gap,
                    "flags": dict(outcome.flags),
                }
                for outcome in self.outcomes
            ],
            "checks": [check.__dict__ for check in self.checks],
        }

    def text(self) -> str:
        """Return a table of attacks by metrics, then the requirements."""
        wide = max(32, *(len(name) + 2 for name in self.metrics))
        head = f"{'attack':<46}{'true gain':>10}" + "".join(f"{name:>{wide}}" for name in self.metrics)
        lines = [
            f"layout {self.layout}, set {self.seed}, base images {self.accuracy:.0%} right",
            "under each metric: gain, hack gap [95 % interval of the gap]",
            head,
        ]
        for outcome in self.outcomes:
            cells = "".join(f"{outcome.cell(name):>{wide}}" for name in self.metrics)
            flags = "".join(f"  {name}: {'yes' if raised else 'no'}" for name, raised in outcome.flags.items())
            beside = "".join(f"  {name} {value:+.3f}" for name, value in outcome.others(self.metrics).items())
            lines.append(f"{outcome.attack + ' ' + outcome.detail:<46}{outcome.truth[0]:>10.3f}{cells}{flags}{beside}")
        radii = {name: self.break_radius(name) for name in self.metrics}
        shown = (f"{name} {'not reached' if radius is None else f'{radius}/255'}" for name, radius in radii.items())
        lines.append("break radius  " + "  ".join(shown))
        for check in self.checks:
            sign = ">=" if check.at_least else "<="
            verdict = "MISSED" if check.missed else "holds"
            lines.append(
                f"{verdict:<7} {check.what}: {check.value:.3f} [{check.low:.3f}, {check.high:.3f}] {sign} {check.limit}"
            )
        return "\n".join(lines)


def run(
    metrics: Sequence[str],
    attacks: Sequence[str],
    layout: str = "quick",
    seed: str = "public-0",
    accuracy: float = 0.6,
    progress: Callable[[str], None] = lambda line: None,
) -> StressReport:
    """Attack metrics on the `shapes` world.

    Args:
        metrics: keys in `TARGETS`; the first is the one under test.
        attacks: keys in `ATTACKS`.
        layout: "quick" or "standard"; decides set and budgets.
        accuracy: share of facts right in the base images, above 0 and below 1.
        progress: gets a line before each step.

    Raises:
        RequestError: if a metric, attack or layout is unknown, or the accuracy leaves nothing to gain.
    """
    for kind, names, known in (
        ("metric", metrics, list(TARGETS)),
        ("attack", attacks, list(ATTACKS)),
        ("layout", [layout], list(BUDGETS)),
    ):
        for name in names:
            if name not in known:
                raise RequestError(f"unknown {kind} '{name}' of the stress harness. {nearest(name, known)}")
    if not 0 < accuracy < 1:
        raise RequestError(f"accuracy {accuracy} leaves nothing to gain or to keep. Choose a share between 0 and 1.")
    targets = [TARGETS[name]() for name in metrics]
    bench = Bench(build("shapes", seed, layout), targets, accuracy, BUDGETS[layout], progress)
    progress("base and right images")
    base, oracle = bench.base_values, bench.oracle_values
    outcomes = tuple(outcome for name in attacks for outcome in ATTACKS[name](bench))
    return StressReport(
        layout=layout,
        seed=seed,
        set_digest=bench.full.digest,
        digests={target.name: target.digests for target in targets},
        accuracy=accuracy,
        metrics=tuple(metrics),
        base={name: float(value[0]) for name, value in base.items()},
        oracle={name: float(value[0]) for name, value in oracle.items()},
        outcomes=outcomes,
        checks=tuple(check for outcome in outcomes for check in _checks(outcome, layout)),
    )


def _checks(outcome: Outcome, layout: str) -> list[Check]:
    """Return the requirements of the `shapes` column that an outcome decides."""
    name, detail = outcome.attack, outcome.detail
    found: list[Check] = []
    if name == "A1" and detail.endswith(" 8/255") and outcome.target in WORKS:
        works = interval(outcome.gap(outcome.target))
        found.append(_check(f"{name} {detail} works", works, WORKS[outcome.target], layout, at_least=True))
    for (attack, ending), limit in GAPS.items():
        if OURS in outcome.gains and name == attack and detail.endswith(ending):
            found.append(_check(f"{name} {detail}, gap of ours", interval(outcome.gap(OURS)), limit, layout))
    for attack, part, key, what, limit in VALUES:
        if key in outcome.values and name == attack and part in detail:
            found.append(_check(f"{name} {detail}, {what}", (outcome.values[key],) * 3, limit, layout))
    flags = {f"A7 {detail}: {flag}": raised for flag, raised in outcome.flags.items() if name == "A7"}
    if name == "A4" and detail == f"{OURS} best of 16, all facts":
        flags = {"A4 best of 16 raises the probe guard": outcome.flags["G7"]}
    found += [_check(what, (float(raised),) * 3, 1.0, layout, at_least=True) for what, raised in flags.items()]
    return found


def _check(what: str, numbers: tuple[float, float, float], limit: float, layout: str, at_least: bool = False) -> Check:
    value, low, high = numbers
    # A quick run has wide intervals: only what lies beyond the limit for certain counts as missed.
    doubtful = (high, low) if layout == "quick" else (value, value)
    missed = doubtful[0] < limit if at_least else doubtful[1] > limit
    return Check(what, value, low, high, limit, at_least, missed)
