"""The score card of one set: the number with its interval, its parts, its guards and its status."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import guards, open_world, shapes_world
from diffusionbench.benchmarks.simpleeval.answers import (
    STRATA,
    SetAnswers,
    by_cell,
    credit_by_cell,
    headline,
    held_by_cell,
    nanmean,
    pair_credit,
    resampling,
    single_credit,
)
from diffusionbench.benchmarks.simpleeval.claims import Claim, kind_of
from diffusionbench.benchmarks.simpleeval.evidence import OPEN_RULE, SHAPES_RULE, ConsensusRule
from diffusionbench.benchmarks.simpleeval.guards import Baselines, Guard, Variety
from diffusionbench.stats import Estimate

#: Above this share of unscored blocks the score does not stand for the set.
INCOMPLETE: Final = 0.01
#: Recall and precision of the scorers on labelled images with which a family of the `open` world enters the headline.
RECALL, PRECISION = 0.40, 0.90
COMPETENCE: Final = Path(__file__).with_name("competence-v1.json")


@dataclass(frozen=True)
class WorldScoring:
    """How a world is scored.

    Attributes:
        key: metric key.
        rule: of its scorers.
        headline: families that enter the score.
        baselines: of the guards, or None where they are unmeasured.
        related_models: words that mark a network as one that shares its encoder with a scorer.
        provisional: whether the competence of the scorers is still unmeasured.
        ceiling: the score of images known to be right, where measured.
    """

    key: str
    rule: ConsensusRule
    headline: tuple[str, ...]
    baselines: Baselines | None
    related_models: tuple[str, ...] = ()
    provisional: bool = False
    ceiling: float | None = None


def able_families(families: tuple[str, ...], path: Path = COMPETENCE) -> tuple[tuple[str, ...], bool]:
    """Return the families whose scorers are good enough, and whether that is provisional for want of a measurement.

    Recall and precision by family are measured once per version on labelled images; until `path` exists, all pass.
    """
    if not path.exists():
        return families, True
    found: dict[str, Any] = json.loads(path.read_text())["families"]
    return tuple(name for name in families if name in found and is_able(found[name])), False


def is_able(found: Mapping[str, float]) -> bool:
    """Return whether recall and precision of a family let it into the headline."""
    return found["recall"] >= RECALL and found["precision"] >= PRECISION


#: Baselines: medians over `simulate(p)`, p = 0.9, 0.8, 0.7, 0.6 on public-0 (docs/simpleeval.md).
SHAPES: Final = WorldScoring(
    key="simpleeval_shapes_v1",
    rule=SHAPES_RULE,
    headline=shapes_world.FAMILIES,
    baselines=Baselines(clean=0.0, split=0.0, variety=0.9),
    ceiling=1.0,
)
_ABLE, _PROVISIONAL = able_families(open_world.FAMILIES)
#: Never run on the real weights of its scorers: until it is, it has no baselines and stays provisional.
OPEN: Final = WorldScoring(
    key="simpleeval_v1",
    rule=OPEN_RULE,
    headline=_ABLE,
    baselines=None,
    related_models=("openai/clip", "clip-vit-base-patch32", "align-base", "coyo-align"),
    provisional=_PROVISIONAL,
)
SCORINGS: Final = {scoring.key: scoring for scoring in (OPEN, SHAPES)}


class ScoreCard:
    """Everything reported about one generator on one set; see docs/simpleeval.md for each number.

    Args:
        answers: to the complete blocks of a set.
        claim: about the generator.
        looks: variety of its images.
    """

    def __init__(
        self, answers: SetAnswers, scoring: WorldScoring, claim: Claim | None = None, looks: Variety | None = None
    ) -> None:
        self.answers, self.scoring = answers, scoring
        claim, prompt_set, right = claim or Claim(), answers.prompt_set, answers.right["consensus"]
        n = len(answers.blocks)
        chosen = self._chosen = [prompt_set.families.index(name) for name in scoring.headline]
        weights = np.concatenate([np.ones((1, n)), resampling(answers)])
        cells = credit_by_cell(answers, "consensus", weights)
        by_family, strata = nanmean(cells), nanmean(cells[0, chosen].T)
        single = by_cell(answers, single_credit(right, answers.options), weights)
        images = 4 * prompt_set.images_per_prompt
        estimate = partial(_estimate, scored=n * images, unscored=(prompt_set.num_blocks - n) * images)
        self.score = estimate(headline(cells, chosen))
        self.families = {name: estimate(by_family[:, i]) for i, name in enumerate(prompt_set.families)}
        self.strata = {name: float(strata[i]) for i, name in enumerate(STRATA)}
        self.single = estimate(headline(single, chosen))
        self.held = estimate(nanmean(nanmean(held_by_cell(answers, answers.held, weights))))
        self.block = float(right.all(axis=(1, 3)).mean())
        first, second = (headline(credit_by_cell(answers, name, weights)[:1], chosen)[0] for name in ("A", "B"))
        self.alone = float(first), float(second)
        self.composition = _composition(answers, chosen)
        self.guards = guards.run(answers, weights, chosen, scoring.baselines, claim, looks, scoring.related_models)
        self.status, self.doubts = status_of(scoring, n / prompt_set.num_blocks, prompt_set.seed, claim, self.guards)

    def values(self) -> dict[str, Estimate]:
        """Return all values under their final metric keys; a family without a scored block has none."""
        key = self.scoring.key
        parts = {f"{key}_{name}": value for name, value in self.families.items()}
        every = {key: self.score, f"{key}_single": self.single, f"{key}_held": self.held, **parts}
        return {name: value for name, value in every.items() if np.isfinite(value.value)}

    def by_block(self) -> dict[int, float]:
        """Return what each scored block adds to the score times their number, so that the mean is the score.

        The score is a weighted mean over blocks, and differences of two generators are formed block by block.
        """
        answers = self.answers
        credit, n = pair_credit(answers.right["consensus"], answers.options), len(answers.blocks)
        alone = [credit * (np.arange(n) == place)[:, None] for place in range(n)]
        added = [headline(by_cell(answers, one, np.ones((1, n))), self._chosen)[0] for one in alone]
        return {int(block): n * float(one) for block, one in zip(answers.blocks, added, strict=True)}

    def facts(self) -> dict[str, Any]:
        """Return the facts that stand in a record beside the values, as plain JSON."""
        prompt_set = self.answers.prompt_set
        return {
            "status": self.status,
            "doubts": list(self.doubts),
            "seed": prompt_set.seed,
            "seed_kind": kind_of(prompt_set.seed),
            "layout": prompt_set.layout,
            "set_digest": prompt_set.digest,
            "headline": list(self.scoring.headline),
            "strata": {name: value if np.isfinite(value) else None for name, value in self.strata.items()},
            "block": self.block,
            "abstained": self.answers.abstained,
            "kappa": self.answers.kappa,
            "alone": list(self.alone),
            "composition": {
                name: {**part, "score": part["score"] if np.isfinite(part["score"]) else None}
                for name, part in self.composition.items()
            },
            "ceiling": self.scoring.ceiling,
            "guards": {key: guard.facts() for key, guard in self.guards.items()},
        }

    def text(self) -> str:
        """Return the card as printed: one line first, then the table."""
        names, prompt_set, ceiling = list(self.families), self.answers.prompt_set, self.scoring.ceiling
        flags = [key for key, guard in self.guards.items() if guard.flagged]
        low, high = self.score.interval or (float("nan"), float("nan"))
        width = max(10, *(len(name) + 1 for name in names))
        row = "".join(f"{name + ('' if name in self.scoring.headline else '*'):>{width}}" for name in names)
        marks = "  (* diagnostic)" if set(names) - set(self.scoring.headline) else ""
        lines = [
            f"{self.scoring.key}  {self.score.value:.3f} [{low:.3f}, {high:.3f}]  set {prompt_set.seed}  "
            f"{len(prompt_set.prompts)} prompts x {prompt_set.images_per_prompt}  "
            f"unscored {len(self.answers.missing)}  guards: {', '.join(flags) or 'clean'}  status: {self.status}",
            f"{'family':<8}{row}{marks}",
            f"{'score':<8}" + "".join(f"{self.families[name].value:>{width}.2f}" for name in names),
            f"easy/medium/hard {'/'.join(f'{self.strata[name]:.2f}' for name in STRATA)}   "
            f"single {self.single.value:.2f}   held {self.held.value:.2f}   block {self.block:.2f}   "
            f"abstained {self.answers.abstained:.2f}   kappa {self.answers.kappa:.2f}   A alone {self.alone[0]:.2f}   "
            f"B alone {self.alone[1]:.2f}" + ("" if ceiling is None else f"   ceiling {ceiling:.2f}"),
        ]
        if self.composition:
            seen, held = self.composition["seen"], self.composition["held_out"]
            lines.append(
                f"without blocks that hold a combination never rendered for training {seen['score']:.3f} "
                f"({seen['blocks']} blocks), those alone {held['score']:.3f} ({held['blocks']})"
            )
        if self.doubts:
            lines.append("not ranked: " + "; ".join(self.doubts))
        return "\n".join([*lines, "guards  " + "  ".join(map(str, self.guards.values()))])


def _estimate(values: np.ndarray, scored: int, unscored: int) -> Estimate:
    """Return the first value with standard error and 95 % interval over the others, bootstrap replicates."""
    replicates = values[1:][np.isfinite(values[1:])]
    stderr = interval = None
    if len(replicates) > 1:
        low, high = np.percentile(replicates, (2.5, 97.5))
        stderr, interval = float(replicates.std(ddof=1)), (float(low), float(high))
    return Estimate(
        value=float(values[0]),
        stderr=stderr,
        interval=interval,
        method="none" if stderr is None else "block bootstrap",
        scored=scored,
        unscored=unscored,
    )


def _composition(answers: SetAnswers, chosen: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the score of blocks with ("held_out") and without a combination never rendered for training ("seen")."""
    if answers.prompt_set.world != "shapes":
        return {}
    touched = np.asarray(
        [
            any(shapes_world.touches_held_out(twin.facts) for twin in answers.prompt_set.block(int(b)))
            for b in answers.blocks
        ]
    )
    if not touched.any() or touched.all():
        return {}
    parts = np.stack([~touched, touched])
    both = headline(credit_by_cell(answers, "consensus", parts.astype(float)), chosen)
    return {
        name: {"score": float(both[i]), "blocks": int(parts[i].sum())} for i, name in enumerate(("seen", "held_out"))
    }


def status_of(
    scoring: WorldScoring, scored: float, seed: str, claim: Claim, found: Mapping[str, Guard]
) -> tuple[str, list[str]]:
    """Return the status of a score, and the reasons why it is not ranked; `scored` is the share of complete blocks.

    Returns:
        The first that holds of incomplete, provisional, flagged, dependent, unverified (questions that may be known, or
        none to compare with), not regenerated, ranked; and the reasons, none where it is ranked.
    """
    if 1 - scored > INCOMPLETE:
        return "incomplete", [f"{1 - scored:.1%} of the blocks are unscored"]
    if scoring.provisional:
        # Before any flag: baselines of guards are as unmeasured as the scorers.
        return "provisional", ["the competence of this world's scorers was never measured"]
    flags = {key: guard for key, guard in found.items() if guard.flagged}
    if raised := [guard.name for key, guard in flags.items() if key != "G10"]:
        reasons = [f"guard {guard.name} is raised ({guard.note or key})" for key, guard in flags.items()]
        return "flagged: " + ", ".join(raised), reasons
    if flags:
        return "dependent", ["a network of the generator shares its encoder with a scorer"]
    doubts = claim.doubts(seed)
    if not doubts and claim.public is None:
        doubts = ["no score of the same weights on public-0 stands beside it (key 'public' of the claim)"]
    if doubts:
        return "unverified", doubts
    if found["G9"].value is None:
        return "not regenerated", [found["G9"].note]
    return "ranked", []
