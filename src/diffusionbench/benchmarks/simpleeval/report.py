"""The report of one scored set: the number with its interval, its parts, its guards and its standing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import credit, guards, seeds
from diffusionbench.benchmarks.simpleeval.credit import STRATA, Tally
from diffusionbench.benchmarks.simpleeval.guards import Evidence, Guard, References
from diffusionbench.stats import Estimate

#: Above this share of unscored blocks the score does not stand for the set.
INCOMPLETE: Final = 0.01


@dataclass(frozen=True)
class World:
    """What a report needs to know about a world.

    Attributes:
        key: metric key.
        world: name of the world.
        headline: families that enter the score.
        references: baselines of the guards, or None where they are unmeasured.
        relatives: words that mark a network as kin of a scorer.
        provisional: whether the competence of the scorers is still unmeasured.
        ceiling: the score of images known to be right, where measured.
    """

    key: str
    world: str
    headline: tuple[str, ...]
    references: References | None
    relatives: tuple[str, ...] = ()
    provisional: bool = False
    ceiling: float | None = None


@dataclass(frozen=True)
class SeedClaim:
    """A seed, and the weights and the beacon it is said to be younger than."""

    seed: str
    weights_digest: str | None = None
    beacon: str = "none"

    def doubts(self) -> list[str]:
        """Why its questions may be older than the weights, by what the repository says was published."""
        return seeds.doubts(self.seed, self.weights_digest, self.beacon, seeds.published())


@dataclass(frozen=True)
class Composition:
    """Score of the blocks that touch a combination never rendered for training, or of those that do not."""

    score: float
    blocks: int


@dataclass(frozen=True)
class Report:
    """Everything said about one generator on one set; see docs/simpleeval.md for each field."""

    key: str
    score: Estimate
    families: Mapping[str, Estimate]
    strata: Mapping[str, float]
    headline: tuple[str, ...]
    single: Estimate
    held: Estimate
    block: float
    silence: float
    kappa: float
    alone: tuple[float, float]
    composition: Mapping[str, Composition]
    ceiling: float | None
    guards: tuple[Guard, ...]
    status: str
    doubts: tuple[str, ...]
    seed: str
    layout: str
    set_digest: str
    num_prompts: int
    images_per_prompt: int
    unscored: tuple[str, ...]

    def values(self) -> dict[str, Estimate]:
        """All values under their final metric keys; a family without a scored block has none."""
        parts = {f"{self.key}_{name}": value for name, value in self.families.items()}
        every = {self.key: self.score, f"{self.key}_single": self.single, f"{self.key}_held": self.held, **parts}
        return {key: value for key, value in every.items() if np.isfinite(value.value)}

    def facts(self) -> dict[str, Any]:
        """What stands in a record beside the values: plain JSON."""
        return {
            "status": self.status,
            "doubts": list(self.doubts),
            "seed": self.seed,
            "seed_kind": seeds.kind_of(self.seed),
            "layout": self.layout,
            "set_digest": self.set_digest,
            "headline": list(self.headline),
            "strata": {name: _or_none(value) for name, value in self.strata.items()},
            "block": self.block,
            "silence": self.silence,
            "kappa": self.kappa,
            "alone": list(self.alone),
            "composition": {
                name: {"score": _or_none(part.score), "blocks": part.blocks} for name, part in self.composition.items()
            },
            "ceiling": self.ceiling,
            "guards": {
                guard.key: {
                    "name": guard.name,
                    "value": guard.value,
                    # JSON has no infinity; an effect without any spread is as far out as can be.
                    "z": None if guard.z is None else float(np.clip(guard.z, -1e6, 1e6)),
                    "flagged": guard.flagged,
                    "note": guard.note,
                }
                for guard in self.guards
            },
        }

    def text(self) -> str:
        """The report as printed: one line first, then the table."""
        names = list(self.families)
        flags = [guard.key for guard in self.guards if guard.flagged]
        low, high = self.score.interval or (float("nan"), float("nan"))
        width = max(10, *(len(name) + 1 for name in names))
        row = "".join(f"{name + ('' if name in self.headline else '*'):>{width}}" for name in names)
        marks = "  (* diagnostic)" if set(names) - set(self.headline) else ""
        ceiling = "" if self.ceiling is None else f"   ceiling {self.ceiling:.2f}"
        lines = [
            f"{self.key}  {self.score.value:.3f} [{low:.3f}, {high:.3f}]  set {self.seed}  "
            f"{self.num_prompts} prompts x {self.images_per_prompt}  unscored {len(self.unscored)}  "
            f"guards: {', '.join(flags) or 'clean'}  status: {self.status}",
            f"{'family':<8}{row}{marks}",
            f"{'score':<8}" + "".join(f"{self.families[name].value:>{width}.2f}" for name in names),
            f"easy/medium/hard {'/'.join(f'{self.strata[name]:.2f}' for name in STRATA)}   "
            f"single {self.single.value:.2f}   held {self.held.value:.2f}   block {self.block:.2f}   "
            f"silent {self.silence:.2f}   kappa {self.kappa:.2f}   A alone {self.alone[0]:.2f}   "
            f"B alone {self.alone[1]:.2f}{ceiling}",
        ]
        if self.composition:
            seen, held = self.composition["seen"], self.composition["held_out"]
            lines.append(
                f"without blocks that hold a combination never rendered for training {seen.score:.3f} ({seen.blocks} "
                f"blocks), those alone {held.score:.3f} ({held.blocks})"
            )
        if self.doubts:
            lines.append("not ranked: " + "; ".join(self.doubts))
        return "\n".join([*lines, "guards  " + "  ".join(_printed(guard) for guard in self.guards)])


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _printed(guard: Guard) -> str:
    if guard.value is None:
        return f"{guard.name} -"
    if guard.name == "regen":
        return f"regen {guard.note}"
    return f"{guard.name} {guard.value:+.3f}" + ("!" if guard.flagged else "")


def report(result: Tally, world: World, claim: SeedClaim, evidence: Evidence | None = None) -> Report:
    """Score a set.

    Args:
        result: the answers, as `credit.tally` counts them.
        world: families and baselines.
        claim: the seed, with its proof.
        evidence: what the guards may use beyond the answers.
    """
    evidence = evidence or Evidence()
    prompt_set = result.prompt_set
    chosen = [prompt_set.families.index(name) for name in world.headline]
    weights = np.concatenate([np.ones((1, len(result.blocks))), credit.resampling(result)])
    n = len(result.blocks) * 4 * prompt_set.images_per_prompt
    unscored = len(prompt_set.prompts) * prompt_set.images_per_prompt - n
    cells = {
        name: credit.by_cell(result, credit.pair_credit(result.right[name], result.options), weights)
        for name in ("joint", "A", "B")
    }
    single = credit.by_cell(result, credit.single_credit(result.right["joint"], result.options), weights)
    held = credit.mean_of(credit.mean_of(credit.held_by_cell(result, result.held, weights)))
    by_family = credit.mean_of(cells["joint"])
    strata = credit.mean_of(cells["joint"][0, chosen].T)
    evidence = Evidence(**{**evidence.__dict__, "relatives": world.relatives})
    found = guards.run(result, chosen, world.references, evidence)
    status, why = standing(world, len(result.blocks) / prompt_set.num_blocks, claim, evidence.public is not None, found)
    return Report(
        key=world.key,
        score=_estimate(credit.headline(cells["joint"], chosen), n, unscored),
        families={name: _estimate(by_family[:, i], n, unscored) for i, name in enumerate(prompt_set.families)},
        strata={name: float(strata[i]) for i, name in enumerate(STRATA)},
        headline=world.headline,
        single=_estimate(credit.headline(single, chosen), n, unscored),
        held=_estimate(held, n, unscored),
        block=float(result.right["joint"].all(axis=(1, 3)).mean()),
        silence=result.silence,
        kappa=result.kappa,
        alone=(float(credit.headline(cells["A"][:1], chosen)[0]), float(credit.headline(cells["B"][:1], chosen)[0])),
        composition=_composition(result, chosen),
        ceiling=world.ceiling,
        guards=found,
        status=status,
        doubts=tuple(why),
        seed=prompt_set.seed,
        layout=prompt_set.layout,
        set_digest=prompt_set.digest,
        num_prompts=len(prompt_set.prompts),
        images_per_prompt=prompt_set.images_per_prompt,
        unscored=result.missing,
    )


def _estimate(values: np.ndarray, scored: int, unscored: int) -> Estimate:
    replicates = values[1:][np.isfinite(values[1:])]
    if len(replicates) < 2:
        return Estimate(
            value=float(values[0]), stderr=None, interval=None, method="none", scored=scored, unscored=unscored
        )
    low, high = np.percentile(replicates, (2.5, 97.5))
    return Estimate(
        value=float(values[0]),
        stderr=float(replicates.std(ddof=1)),
        interval=(float(low), float(high)),
        method="block bootstrap",
        scored=scored,
        unscored=unscored,
    )


def _composition(result: Tally, chosen: Sequence[int]) -> dict[str, Composition]:
    """The score apart: "seen" without, "held_out" of blocks that touch a combination never rendered for training."""
    if result.prompt_set.world != "shapes":
        return {}
    from diffusionbench.benchmarks.simpleeval.shapes_world import touches_held_out

    touched = np.asarray(
        [any(touches_held_out(twin.facts) for twin in result.prompt_set.block(int(b))) for b in result.blocks]
    )
    if not touched.any() or touched.all():
        return {}
    values = credit.pair_credit(result.right["joint"], result.options)
    parts = np.stack([~touched, touched])
    both = credit.headline(credit.by_cell(result, values, parts.astype(float)), chosen)
    return {name: Composition(float(both[i]), int(parts[i].sum())) for i, name in enumerate(("seen", "held_out"))}


def standing(
    world: World, scored: float, claim: SeedClaim, public: bool, found: Sequence[Guard]
) -> tuple[str, list[str]]:
    """The status of a score, and what keeps it from being ranked.

    Args:
        scored: share of blocks with all their images.
        public: whether the generator's score on the public set stands beside it.
        found: the guards.

    Returns:
        The first that holds of incomplete, provisional, flagged, dependent, unverified (questions that may be known, or
        none to compare with), not regenerated, ranked; and the reasons, none where it is ranked.
    """
    if 1 - scored > INCOMPLETE:
        return "incomplete", [f"{1 - scored:.1%} of the blocks are unscored"]
    if world.provisional:
        # Before any flag: baselines of guards are as unmeasured as the scorers.
        return "provisional", ["what the scorers of this world can judge was never measured"]
    flags = [guard for guard in found if guard.flagged]
    if raised := [guard.name for guard in flags if guard.key != "G10"]:
        return "flagged: " + ", ".join(raised), [
            f"guard {guard.name} is raised ({guard.note or guard.key})" for guard in flags
        ]
    if flags:
        return "dependent", ["a network of the generator is kin of a scorer"]
    doubts = claim.doubts()
    if not doubts and not public:
        doubts = ["no score of the same weights on public-0 stands beside it (--public)"]
    if doubts:
        return "unverified", doubts
    regenerated = next(guard for guard in found if guard.key == "G9")
    if regenerated.value is None:
        return "not regenerated", [regenerated.note]
    return "ranked", []
