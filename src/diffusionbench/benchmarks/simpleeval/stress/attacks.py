"""The attacks of the stress harness on the `shapes` world; each gives outcomes, and none knows a requirement."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import renderer
from diffusionbench.benchmarks.simpleeval.answers import collect_answers
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet
from diffusionbench.benchmarks.simpleeval.claims import Claim, bound_seed
from diffusionbench.benchmarks.simpleeval.evidence import SHAPES_RULE
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.scorecard import SHAPES, ScoreCard, score_card
from diffusionbench.benchmarks.simpleeval.stream import HashStream
from diffusionbench.benchmarks.simpleeval.stress import perturbations
from diffusionbench.benchmarks.simpleeval.stress.baseline import Bench, Outcome, images_of, subset
from diffusionbench.benchmarks.simpleeval.stress.simulate import draw, spoil, truth_answers
from diffusionbench.benchmarks.simpleeval.stress.targets import SimpleEvalTarget, Target, ToyTarget, answers_of, right

FRESH: Final = bound_seed("0" * 64)


def gradient(bench: Bench) -> list[Outcome]:
    """A1 and A3: gradient ascent on each learned metric, scored by all."""
    images, texts = images_of(bench.base), [prompt.text for prompt in bench.prompts]
    return [
        bench.outcome("A1", f"{name} {levels}/255", perturbations.pgd(target.model, images, texts, levels), name)
        for name, target in bench.targets.items()
        if isinstance(target, ToyTarget)
        for levels in bench.budget.levels
    ]


def adaptive(bench: Bench) -> list[Outcome]:
    """A2: random search on the predictions of both readers on all views, for the very questions that are asked.

    Gains are in right answers to contrasted questions; values hold the same by family.
    """
    target = bench.targets.get(SHAPES.key)
    if not isinstance(target, SimpleEvalTarget):
        return []
    part = bench.on(subset(bench.set, bench.budget.square_images // 4))
    base, prompts, n = images_of(part.base), part.prompts, len(part.prompts)
    families = np.asarray([[question.family for question in prompt.questions[:2]] for prompt in prompts[::4]])
    before, best = (_answered(target, part.set, images) for images in (base, images_of(part.oracle)))
    out = []
    for levels, queries in itertools.product(bench.budget.square_levels, bench.budget.queries):
        bench.progress(f"A2 {levels}/255, {queries} queries")
        changed = target.pool.map(perturbations.square, base, prompts, [levels] * n, [queries] * n, ["square"] * n)
        after = _answered(target, part.set, list(changed))
        gained, room = (part.weights @ one.mean(axis=(1, 2)) for one in (after - before, best - before))
        by_contrast = (after - before).mean(axis=1)
        values = {
            f"{name} gained": float(by_contrast[families == name].mean())
            for name in part.set.families
            if name in families
        }
        values[target.name] = float(after.mean())
        detail = f"square {levels}/255, {queries} queries"
        out.append(Outcome("A2", detail, target.name, {target.name: gained / room}, values))
    return out


def _answered(target: SimpleEvalTarget, part: PromptSet, images: Sequence[np.ndarray]) -> np.ndarray:
    """Return whether each contrasted question is answered right, float64 [blocks, 4, 2]."""
    judged = target.judge(images, part.prompts)
    found = [right(one, prompt)[:2] for one, prompt in zip(judged, part.prompts, strict=True)]
    return np.asarray(found, float).reshape(-1, 4, 2)


def best_of(bench: Bench) -> list[Outcome]:
    """A4: the best of N images by the target; truth is counted on the contrasted facts and on all.

    Ours also by all named facts, which stand in the prompt file: an attacker need not guess the contrasted ones.
    """
    most = max(bench.budget.candidates)
    drawn = [[draw(prompt, k, bench.accuracy, "stress candidates") for k in range(most)] for prompt in bench.prompts]
    flat = [one for row in drawn for one in row]
    out = []
    for name, target in bench.targets.items():
        bench.progress(f"A4 {name}, {len(flat)} candidates")
        judged = target.judge(images_of(flat), [one.prompt for one in flat])
        ways = {name: target.select}
        if isinstance(target, SimpleEvalTarget):
            ways[f"{name} by all named facts"] = target.select_named
        for way, select in ways.items():
            scores = np.asarray([select(found, one.prompt) for found, one in zip(judged, flat, strict=True)])
            for n in bench.budget.candidates:
                chosen = scores.reshape(-1, most)[:, :n].argmax(axis=1)
                picked = [row[place] for row, place in zip(drawn, chosen, strict=True)]
                images, scenes = images_of(picked), [one.truth for one in picked]
                flags = {}
                if isinstance(target, SimpleEvalTarget):
                    answers = answers_of(bench.set, target.judge(images, bench.prompts))
                    flags = {"G7": _flag(score_card(answers, SHAPES), "G7")}
                for facts, contrasted in (("contrasted", True), ("all", False)):
                    found = bench.outcome("A4", f"{way} best of {n}, {facts} facts", images, name)
                    out.append(replace(found, truth=bench.true_gain(scenes, contrasted), flags=flags))
    return out


def blind(bench: Bench) -> list[Outcome]:
    """A5: images drawn without a look at the prompt: grey, one image, random scenes, shuffled captions, a collage.

    On the whole set: their expected value must be at most 0.
    """
    bench = bench.whole
    prompts = bench.prompts
    grey = np.full((64, 64, 3), 128, np.uint8)
    order = HashStream("shuffle", bench.set.seed).shuffle(range(len(prompts)))
    # Shuffled within the set, but never to a twin of the same block.
    other = [order[(order.index(i) + 1) % len(order)] for i in range(len(prompts))]
    other = [(j + 4) % len(prompts) if j // 4 == i // 4 else j for i, j in enumerate(other)]
    random_set = build("shapes", "public-4", "quick").prompts
    scenes = [draw(random_set[i % len(random_set)], i // len(random_set), 1.0, "random") for i in range(len(prompts))]
    # Sixteen right images of the set, shrunk into one.
    small = [bench.oracle[i * max(1, len(prompts) // 16)].image[::4, ::4] for i in range(16)]
    collage = np.concatenate([np.concatenate(small[row : row + 4], axis=1) for row in (0, 4, 8, 12)], axis=0)
    nothing: list[Mapping[str, str]] = [{}] * len(prompts)
    sources = {
        "grey": ([grey] * len(prompts), nothing),
        "one image": ([bench.oracle[0].image] * len(prompts), [bench.oracle[0].truth] * len(prompts)),
        "random scenes": (images_of(scenes), [one.truth for one in scenes]),
        "shuffled captions": ([bench.oracle[i].image for i in other], [bench.oracle[i].truth for i in other]),
        "collage of everything": ([collage] * len(prompts), nothing),
    }
    return [
        replace(bench.outcome("A5", name, images), truth=bench.true_gain(shown))
        for name, (images, shown) in sources.items()
    ]


def words(bench: Bench) -> list[Outcome]:
    """A6: the prompt written over the image, upright and mirrored."""
    return [
        bench.outcome(
            "A6",
            f"prompt in size {scale}{', mirrored' if mirrored else ''}",
            [
                perturbations.write_words(one.image, prompt.text, scale, mirrored)
                for one, prompt in zip(bench.base, bench.prompts, strict=True)
            ],
        )
        for scale in bench.budget.word_scales
        for mirrored in (False, True)
    ]


def memoriser(bench: Bench) -> list[Outcome]:
    """A7: perfect on the public set and as before elsewhere; perfect on one phrasing and as before on the others.

    Readers are taken as perfect, so that nothing but the guards is tried.
    """
    public = bench.full
    fresh = replace(build("shapes", FRESH, public.layout), images_per_prompt=1)
    honest = _simulated(fresh, bench.accuracy)
    learned = _simulated(public, 1.0)
    assert learned.score.stderr is not None
    known = (learned.score.value, learned.score.stderr)
    elsewhere = _simulated(fresh, bench.accuracy, Claim(public=known))
    by_heart = _simulated(public, bench.accuracy, plain=1.0)
    unchanged = abs(elsewhere.score.value - honest.score.value) <= 0.01
    name = SHAPES.key
    scores = {"public": known[0], "bound": elsewhere.score.value, "honest": honest.score.value}
    values = {f"{name} {seed}": value for seed, value in scores.items()}
    flags = {"G1": _flag(elsewhere, "G1"), "bound score unchanged": unchanged}
    phrased, phrase_flags = {f"{name} public": by_heart.score.value}, {"G2": _flag(by_heart, "G2")}
    return [
        Outcome("A7", "knows the public set", name, {}, values, flags=flags),
        Outcome("A7", "knows one phrasing", name, {}, phrased, flags=phrase_flags),
    ]


def _flag(found: ScoreCard, key: str) -> bool:
    return next(guard.flagged for guard in found.guards if guard.key == key)


def _simulated(
    prompt_set: PromptSet, accuracy: float, claim: Claim | None = None, plain: float | None = None
) -> ScoreCard:
    """Return the card of perfect readers on a generator of known accuracy; `plain` is its accuracy on phrasing T0."""
    predictions = {}
    for prompt in prompt_set.prompts:
        p = accuracy if plain is None or prompt.template != "T0" else plain
        scene = spoil(prompt.facts, p, HashStream("memoriser", f"truth/{prompt.id}"))
        scene = renderer.complete(scene, HashStream("memoriser", f"free/{prompt.id}"))
        answers = truth_answers(prompt, scene)
        predictions[prompt.id] = [np.broadcast_to(answers, (2, 4, len(answers)))]
    return score_card(collect_answers(prompt_set, predictions, SHAPES_RULE), SHAPES, claim)


def look(bench: Bench) -> list[Outcome]:
    """A8: ten appearance parameters tuned on half of the images for each metric, measured on the other half."""
    part = subset(bench.set, bench.budget.look_images // 2)
    half = part.num_blocks // 2
    tuned_on, measured = (
        bench.on(replace(part, prompts=prompts)) for prompts in (part.prompts[: 4 * half], part.prompts[4 * half :])
    )
    images = images_of(tuned_on.base)
    out = []
    for name, target in bench.targets.items():

        def value(style: Mapping[str, float], target: Target = target) -> float:
            changed = [perturbations.restyle(image, style) for image in images]
            judged = target.judge(changed, tuned_on.prompts)
            return float(target.values(tuned_on.set, judged, np.ones((1, half)))[0])

        bench.progress(f"A8 {name}")
        style = perturbations.tune_look(value, bench.budget.look_evaluations, "look")
        changed = [perturbations.restyle(one.image, style) for one in measured.base]
        out.append(measured.outcome("A8", f"{name} look", changed, name))
    return out


def shared(bench: Bench) -> list[Outcome]:
    """A9: one perturbation for all images, trained on each learned metric."""
    images, texts = images_of(bench.base), [prompt.text for prompt in bench.prompts]
    out = []
    for name, target in bench.targets.items():
        if isinstance(target, ToyTarget):
            change = perturbations.universal(target.model, images, texts, 8, bench.budget.universal_steps)
            changed = perturbations.to_images(perturbations.to_tensor(images) + change)
            out.append(bench.outcome("A9", f"{name} universal 8/255", changed, name))
    return out


def overlaid(bench: Bench) -> list[Outcome]:
    """A10: one picture for all twins of a block, moved a little towards each; on the whole set.

    Twins are laid out independently, or alike but for the contrasted facts. Values of ours also stand without the
    family background: within 8 levels the renderer's own backgrounds can be drawn and taken away.
    """
    bench = bench.whole
    out = []
    for layout in ("own", "shared"):
        paths = [prompt.id if layout == "own" else prompt.id.rsplit("/", 1)[0] for prompt in bench.prompts]
        pictures = [
            renderer.render(prompt.facts, "stress overlay", path)
            for prompt, path in zip(bench.prompts, paths, strict=True)
        ]
        for levels in bench.budget.overlay_levels:
            images = perturbations.overlay(pictures, levels)
            found = bench.outcome("A10", f"{layout} layout, {levels}/255", images)
            target = bench.targets.get(SHAPES.key)
            if isinstance(target, SimpleEvalTarget):
                judged = target.judge(images, bench.prompts)
                rest = target.values(bench.set, judged, bench.weights[:1], without="background")
                found = replace(found, values={**found.values, "without background": float(rest[0])})
            out.append(found)
    return out
