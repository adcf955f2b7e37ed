"""Credit by hand, theorem 6.2, intervals, guards, statuses, claims."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from diffusionbench.benchmarks.simpleeval import answers, claims, guards, scorecard, shapes_world
from diffusionbench.benchmarks.simpleeval.claims import Claim
from diffusionbench.benchmarks.simpleeval.evidence import SHAPES_RULE, consensus, difference_hash, majority
from diffusionbench.benchmarks.simpleeval.image_ops import resize
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.renderer import complete
from diffusionbench.benchmarks.simpleeval.stream import HashStream
from diffusionbench.benchmarks.simpleeval.stress.simulate import spoil, truth_answers
from diffusionbench.errors import DataError, RequestError
from diffusionbench.study.comparison import bootstrap

RULE = SHAPES_RULE


def quick(seed="public-0", layout="quick"):
    return build("shapes", seed, layout)


def perfect_readers(prompt_set, accuracy, seed="votes", plain=None):
    """Votes of readers that see the truth, on a generator of known accuracy; `plain` is that on phrasing T0."""
    votes = {}
    for prompt in prompt_set.prompts:
        p = accuracy if plain is None or prompt.template != "T0" else plain
        rows = []
        for k in range(prompt_set.images_per_prompt):
            path = f"{prompt.id}/{k}"
            scene = complete(spoil(prompt.facts, p, HashStream(seed, path)), HashStream(seed, f"free/{path}"))
            chosen = truth_answers(prompt, scene)
            rows.append(np.broadcast_to(chosen, (2, 4, len(chosen))))
        votes[prompt.id] = rows
    return votes


def score(prompt_set, votes, **kwargs):
    return scorecard.score_card(answers.collect_answers(prompt_set, votes, RULE), scorecard.SHAPES, **kwargs)


def test_votes_become_answers():
    votes = np.array([[[9], [0], [0], [1]], [[9], [2], [1], [0]]], np.int8)  # [scorer, view, question]
    assert majority(votes, 2).tolist() == [[0], [-1]]
    assert majority(votes, 3).tolist() == [[-1], [-1]]
    assert consensus(np.array([[0, 1, -1], [0, 2, -1]])).tolist() == [0, -1, -1]


def test_pair_credit_by_hand():
    """One block, two images, M = 4: q of contrast 0 is 1, .5 against .5, 1 for (00, 10) and (01, 11)."""
    right = np.zeros((1, 4, 2, 2), bool)
    right[0, 0, :, 0] = True
    right[0, 2, 0, 0] = True
    right[0, 1, 0, 0] = True
    right[0, 3, :, 0] = True
    right[..., 1] = True
    options = np.array([[4, 2]])
    found = answers.pair_credit(right, options)
    assert found[0, 0] == pytest.approx((0.5 - 1 / 16) / (15 / 16))
    assert found[0, 1] == 1
    nothing = answers.pair_credit(np.zeros((1, 4, 2, 2), bool), options)
    assert nothing[0] == pytest.approx([-1 / 15, -1 / 3])
    assert answers.single_credit(right, options)[0] == pytest.approx([(0.75 - 0.25) / 0.75, 1])


def test_perfect_and_silent_generators():
    found = score(quick(), perfect_readers(quick(), 1.0))
    assert found.score.value == found.single.value == found.held.value == found.block == 1
    silent = {prompt.id: [np.full((2, 4, len(prompt.questions)), -1)] * 2 for prompt in quick().prompts}
    mute = score(quick(), silent)
    M = {"size": 2}
    expected = np.mean([-1 / (M.get(name, 4) ** 2 - 1) for name in quick().families])
    assert mute.score.value == pytest.approx(expected)
    assert mute.answers.abstained == 1


@pytest.mark.parametrize("seed", range(4))
def test_prompt_blind_generators_gain_nothing(seed):
    """Theorem 6.2 with adversarial answer distributions: over the draw of levels, expected S is at most 0."""
    rng = np.random.default_rng(seed)
    M = 4
    r = rng.dirichlet(np.ones(M) * (0.2 + seed)) * (1 - 0.1 * seed)
    pairs = [(a, b) for a in range(M) for b in range(M) if a != b]
    exact = np.mean([r[a] * r[b] for a, b in pairs])
    assert exact <= 1 / M**2 + 1e-12
    uniform = np.mean([1 / M**2 for _ in pairs])
    assert uniform == pytest.approx(1 / M**2)
    # The same through the whole score: constant and random answers, whatever the scorer likes.
    prompt_set = quick(f"blind-{seed}", "standard")
    votes = {}
    for prompt in prompt_set.prompts:
        rows = []
        for _ in range(4):
            chosen = []
            for question in prompt.questions:
                # The scorer's liking is for a fact, wherever it stands among the options.
                order = sorted(question.options)
                liking = r[: len(order)] / r[: len(order)].sum()
                chosen.append(question.options.index(order[rng.choice(len(order), p=liking)]))
            rows.append(np.broadcast_to(chosen, (2, 4, len(chosen))))
        votes[prompt.id] = rows
    found = score(prompt_set, votes)
    assert found.score.value <= 0 + 3 * found.score.stderr


@pytest.mark.parametrize(("sets", "covered"), [(20, 0.8), pytest.param(200, 0.9, marks=pytest.mark.slow)])
def test_interval_covers_and_matches_the_spread_over_sets(sets, covered):
    """Scores of one generator on several sets: most intervals hold their mean, and the error is of the right size."""
    results = [score(quick(f"cover-{i}"), perfect_readers(quick(f"cover-{i}"), 0.7)) for i in range(sets)]
    values = np.array([found.score.value for found in results])
    inside = [found.score.interval[0] <= values.mean() <= found.score.interval[1] for found in results]
    assert np.mean(inside) >= covered
    ratio = np.mean([found.score.stderr for found in results]) / values.std(ddof=1)
    assert 0.7 < ratio < 1.45


def test_differences_are_formed_block_by_block():
    """The blocks' shares have the score as their mean, and the error of a difference is that of redrawn images."""
    gaps, errors, apart = [], [], []
    for draw in range(20):
        found = [score(quick(), perfect_readers(quick(), p, f"votes-{draw}")) for p in (0.7, 0.75)]
        shares = [np.array([*one.by_block().values()]) for one in found]
        assert [one.mean() for one in shares] == pytest.approx([one.score.value for one in found])
        gaps.append(found[1].score.value - found[0].score.value)
        errors.append(bootstrap(shares[1] - shares[0], np.arange(72), 200, draw, of_units=False)[0])
        apart.append(np.hypot(*(one.score.stderr for one in found)))
    # Both generators have the same luck here, which only the difference leaves out.
    assert 0.7 < np.mean(errors) / np.std(gaps, ddof=1) < 1.45
    assert np.mean(errors) < 0.75 * np.mean(apart)


def test_accuracy_ladder_rises():
    values = [score(quick(), perfect_readers(quick(), p)).score.value for p in (0.4, 0.6, 0.8, 0.95, 1.0)]
    assert all(low < high for low, high in itertools.pairwise(values))


def test_unscored_blocks_are_counted_and_named():
    votes = perfect_readers(quick(), 1.0)
    name = quick().prompts[5].id
    votes[name] = [votes[name][0], None]
    del votes[quick().prompts[9].id]
    found = score(quick(), votes)
    assert found.answers.missing == (f"{name}/1", f"{quick().prompts[9].id}/0", f"{quick().prompts[9].id}/1")
    assert found.score.scored == 70 * 8
    assert found.score.unscored == 16
    assert found.status == "incomplete"
    with pytest.raises(DataError, match="no block"):
        answers.collect_answers(quick(), {}, RULE)


def test_order_of_images_and_prompts_plays_no_part():
    votes = perfect_readers(quick(), 0.7)
    turned = {key: votes[key] for key in reversed(votes)}
    assert score(quick(), votes).facts() == score(quick(), turned).facts()


def flags(found):
    return {guard.key for guard in found.guards if guard.flagged}


@pytest.mark.parametrize("p", [0.9, 0.6])
def test_guards_stay_silent_on_honest_generators(p):
    found = score(quick(), perfect_readers(quick(), p))
    assert not flags(found)
    assert found.status == "unverified"


def test_guards_raise_what_they_are_for():
    base = score(quick("bound-" + "0" * 32), perfect_readers(quick("bound-" + "0" * 32), 0.6))
    known = score(quick(), perfect_readers(quick(), 1.0))
    claim = Claim(public=(known.score.value, known.score.stderr))
    bound = quick("bound-" + "0" * 32)
    assert "G1" in flags(score(bound, perfect_readers(bound, 0.6), claim=claim))
    assert "G1" not in flags(base)
    assert "G2" in flags(score(quick(), perfect_readers(quick(), 0.5, plain=1.0)))

    def changed(change):
        votes = perfect_readers(quick(), 0.7)
        wanted = {p.id: np.array([q.answer for q in p.questions]) for p in quick().prompts}
        return score(quick(), {k: [change(v.copy(), wanted[k]) for v in rows] for k, rows in votes.items()})

    def clean_only(votes, wanted):
        votes[:, 0] = wanted
        return votes

    def upright_only(votes, wanted):
        votes[:, [1, 3]] = wanted
        return votes

    def first_only(votes, wanted):
        votes[0] = wanted
        return votes

    def contrasted_only(votes, wanted):
        votes[..., :2] = wanted[:2]
        return votes

    assert "G3" in flags(changed(clean_only))
    assert "G4" in flags(changed(upright_only))
    assert "G5" in flags(changed(first_only))
    assert "G7" in flags(changed(contrasted_only))
    assert changed(contrasted_only).status.startswith("flagged: ")
    again = Claim(again={"a/0": 0.0, "b/0": 30.0}, networks=("openai/clip-vit-base-patch32",))
    honest = perfect_readers(quick(), 0.7)
    assert "G9" in flags(score(quick(), honest, claim=again))
    scoring = replace(scorecard.SHAPES, related_models=("openai/clip",))
    shared = scorecard.score_card(
        answers.collect_answers(quick(), honest, RULE), scoring, Claim(networks=again.networks)
    )
    assert shared.status == "dependent"


def test_variety_sees_collapse_and_near_copies():
    rng = np.random.default_rng(0)
    varied, collapsed = {}, {}
    for prompt in quick().prompts:
        same = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for k in range(2):
            for looks, image in ((varied, rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), (collapsed, same)):
                levels = resize(image, 8).ravel().astype(np.float32)
                looks.setdefault(prompt.id, {})[k] = levels, difference_hash(image)
    good, bad = (guards.variety(looks, quick()) for looks in (varied, collapsed))
    assert good.ratio == pytest.approx(1, abs=0.1)
    assert good.near_copies < 0.02
    assert bad.ratio == 0
    assert bad.near_copies == 1
    votes = perfect_readers(quick(), 0.7)
    assert "G8" in flags(score(quick(), votes, looks=bad))
    assert "G8" not in flags(score(quick(), votes, looks=good))
    assert guards.variety({}, quick()) is None
    assert guards.entropy(np.array([5, 5, 5, 5])) == pytest.approx(1)
    assert guards.entropy(np.array([5, 0, 0, 0])) == 0


def test_kappa():
    assert answers.kappa(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 3])) == 1
    assert answers.kappa(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert answers.kappa(np.array([2, 2]), np.array([2, 2])) == 1


DIGEST, SECRET = "ab" * 32, "5f" * 32


def test_bound_seeds_follow_from_weights_and_beacon():
    seed = claims.bound_seed(DIGEST)
    assert claims.kind_of(seed) == "bound"
    assert seed == claims.bound_seed(DIGEST) != claims.bound_seed(DIGEST, "round 7")
    with pytest.raises(RequestError, match="64 lower-case hex"):
        claims.bound_seed("weights.safetensors")


def test_sealed_seeds_must_meet_their_commitment():
    published = claims.commitment("autumn", SECRET)
    assert claims.kind_of(claims.sealed_seed("autumn", SECRET, published)) == "sealed"
    with pytest.raises(RequestError, match="not the one committed to"):
        claims.sealed_seed("autumn", "5e" * 32, published)
    with pytest.raises(RequestError, match="64 lower-case hex"):
        claims.commitment("autumn", "secret")


def known(weights="2027-02-01", beacon="2027-02-02", sealed="2027-01-01", revealed="2027-03-01"):
    """A list of what was published; None leaves a row out."""
    sealing = {
        "name": "autumn",
        "commitment": claims.commitment("autumn", SECRET),
        "date": sealed,
        "revealed": revealed,
    }
    rows = {
        "weights": [{"sha256": DIGEST, "model": "mine", "date": weights}] if weights else [],
        "beacons": [{"value": "round 7", "source": "a page", "date": beacon}] if beacon else [],
        "sealed": [sealing] if sealed else [],
    }
    return claims.Published.model_validate_json(json.dumps(rows))


@pytest.mark.parametrize(
    ("change", "beacon", "doubt"),
    [
        ({}, "round 7", None),
        ({"weights": None}, "round 7", "weights was not published"),
        ({}, "round 8", "no published beacon"),
        ({}, "none", "no published beacon"),
        ({"beacon": "2027-02-01"}, "round 7", "not of a later day"),
        ({"beacon": "2027-01-31"}, "round 7", "not of a later day"),
    ],
)
def test_a_bound_seed_needs_published_weights_and_a_later_beacon(change, beacon, doubt):
    found = claims.doubts(claims.bound_seed(DIGEST, beacon), DIGEST, beacon, known(**change))
    assert (not found) if doubt is None else doubt in found[0]


def test_a_bound_seed_that_does_not_follow_is_doubted():
    assert "does not follow" in claims.doubts("bound-" + "0" * 32, DIGEST, "round 7", known())[0]
    assert "was not published" in claims.doubts(claims.bound_seed(DIGEST, "round 7"), None, "round 7", known())[0]
    assert "public" in claims.doubts("public-0", DIGEST, "round 7", known())[0]


@pytest.mark.parametrize(
    ("change", "secret", "doubt"),
    [
        ({}, SECRET, None),
        ({}, "5e" * 32, "no commitment to this sealed set"),
        ({"sealed": None}, SECRET, "no commitment to this sealed set"),
        ({"weights": None}, SECRET, "weights was not published"),
        ({"sealed": "2027-02-01"}, SECRET, "committed to after"),
        ({"revealed": None}, SECRET, "not older than the day"),
        ({"revealed": "2027-02-01"}, SECRET, "not older than the day"),
    ],
)
def test_a_sealed_seed_needs_a_commitment_of_the_repository_and_older_weights(change, secret, doubt):
    found = claims.doubts(f"sealed-autumn-{secret}", DIGEST, "none", known(**change))
    assert (not found) if doubt is None else doubt in found[0]


def test_what_was_published_twice_counts_from_the_first_day():
    def doubts(weights, beacons):
        rows = known().model_dump(mode="json")
        rows["weights"] = [{"sha256": DIGEST, "model": "mine", "date": f"2027-02-{day}"} for day in weights]
        rows["beacons"] = [{"value": "round 7", "source": "a page", "date": f"2027-02-{day}"} for day in beacons]
        listed = claims.Published.model_validate_json(json.dumps(rows))
        return claims.doubts(claims.bound_seed(DIGEST, "round 7"), DIGEST, "round 7", listed)

    assert doubts(["05", "01"], ["02"]) == []
    assert "not of a later day" in doubts(["03"], ["04", "02"])[0]


def test_the_list_of_what_was_published_is_read_and_checked(tmp_path):
    assert claims.published() == claims.Published()
    file = tmp_path / "published.yaml"
    file.write_text(f"weights:\n  - {{sha256: {DIGEST}, model: mine, date: 2027-01-31}}\n")
    (row,) = claims.published(file).weights
    assert (row.sha256, str(row.date)) == (DIGEST, "2027-01-31")
    file.write_text("weights:\n  - {sha256: abc, model: mine, date: 2027-01-31}\n")
    with pytest.raises(DataError, match=r"weights\.0\.sha256"):
        claims.published(file)


def test_a_seed_must_follow_from_what_it_names():
    published = claims.commitment("autumn", "5e" * 32)
    sealed = claims.sealed_seed("autumn", "5e" * 32, published)
    claims.check(sealed, None, "none", published)
    claims.check("public-0", "cd" * 32, "none", None)
    claims.check(claims.bound_seed("cd" * 32, "9"), "cd" * 32, "9", None)
    with pytest.raises(RequestError, match="not the one committed to"):
        claims.check(sealed, None, "none", "0" * 64)
    with pytest.raises(RequestError, match="belongs to a sealed seed"):
        claims.check("public-0", None, "none", published)
    with pytest.raises(RequestError, match="does not follow from these weights"):
        claims.check(claims.bound_seed("cd" * 32), "cd" * 32, "9", None)


def test_held_out_combinations_are_reported_apart():
    """A generator that fails exactly where a combination was never rendered."""
    prompt_set = quick()
    touched = {
        prompt_set.prompts[4 * b].block
        for b in range(prompt_set.num_blocks)
        if any(shapes_world.touches_held_out(twin.facts) for twin in prompt_set.block(b))
    }
    votes = perfect_readers(prompt_set, 1.0)
    for prompt in prompt_set.prompts:
        if prompt.block in touched:
            votes[prompt.id] = [np.full_like(vote, -1) for vote in votes[prompt.id]]
    found = score(prompt_set, votes)
    seen, held = found.composition["seen"], found.composition["held_out"]
    assert (seen["score"], seen["blocks"] + held["blocks"], held["blocks"]) == (1.0, 72, len(touched))
    assert held["score"] < 0 < found.score.value < 1
    assert found.facts()["composition"]["seen"] == {"score": 1.0, "blocks": seen["blocks"]}
    assert f"those alone {held['score']:.3f} ({held['blocks']})" in found.text()


SAME = {f"{i}": 0.0 for i in range(guards.num_regenerated(576))}


@pytest.mark.parametrize(
    ("beacon", "public", "again", "status"),
    [
        ("round 7", True, SAME, "ranked"),
        ("none", True, SAME, "unverified"),
        ("round 7", False, SAME, "unverified"),
        ("round 7", True, {}, "not regenerated"),
        ("round 7", True, dict(list(SAME.items())[:-1]), "not regenerated"),
        ("round 7", True, {**SAME, "0": 20.0}, "flagged: regen"),
    ],
)
def test_ranked_needs_new_questions_the_public_score_and_images_made_again(beacon, public, again, status, monkeypatch):
    monkeypatch.setattr(claims, "published", known)
    prompt_set = quick(claims.bound_seed(DIGEST, beacon))
    result = answers.collect_answers(prompt_set, perfect_readers(prompt_set, 0.8), RULE)
    score_on_public = score(quick(), perfect_readers(quick(), 0.8)).score
    known_score = (score_on_public.value, score_on_public.stderr) if public else None
    claim = Claim(weights_digest=DIGEST, beacon=beacon, public=known_score, again=again)
    found = scorecard.score_card(result, scorecard.SHAPES, claim)
    assert found.status == status
    assert bool(found.doubts) == (status != "ranked")
    assert ("not ranked: " in found.text()) == (status != "ranked")


def test_a_world_without_measured_scorers_is_provisional_whatever_is_flagged():
    votes = perfect_readers(quick(), 0.7)
    again = Claim(again={**SAME, "0": 30.0})
    world = replace(scorecard.SHAPES, provisional=True, baselines=None)
    found = scorecard.score_card(answers.collect_answers(quick(), votes, RULE), world, again)
    assert found.status == "provisional"
    assert "G9" in flags(found)
    values = {guard.key: guard.value for guard in found.guards}
    assert (values["G3"], values["G5"], values["G8"]) == (None, None, None)
    assert scorecard.OPEN.provisional
    assert scorecard.OPEN.baselines is None


def test_text_of_a_report():
    text = score(quick(), perfect_readers(quick(), 0.8)).text()
    first = text.splitlines()[0]
    assert first.startswith("simpleeval_shapes_v1  0.")
    assert "288 prompts x 2  unscored 0  guards: clean  status: unverified" in first
    assert "easy/medium/hard" in text
    assert "probe" in text.splitlines()[-1]


def test_every_part_of_a_report_is_of_its_own_answers():
    """Scorer A is always right; B in every fourth block, in the next but one on the first image, else silent."""
    votes = {}
    for prompt in quick().prompts:
        wanted = np.array([question.answer for question in prompt.questions])
        seen = {0: (0, 1), 2: (0,)}.get(prompt.block % 4, ())
        rows = [np.tile(wanted, (2, 4, 1)) for _ in range(2)]
        for k, one in enumerate(rows):
            # View 0 is the undamaged image.
            one[1, 1:] = wanted if k in seen else -1
            one[1, 0] = -1 if prompt.block == 1 else wanted
        votes[prompt.id] = rows
    result = answers.collect_answers(quick(), votes, RULE)
    found = scorecard.score_card(result, scorecard.SHAPES)
    assert quick().num_blocks % 4 == 0
    assert (found.block, found.answers.abstained) == (0.375, 0.625)
    assert found.alone == (1.0, found.score.value)
    assert found.single.value < 0.5
    # Near a normal distribution 95 % are 1.96 errors on either side.
    low, high = found.score.interval
    assert 1.8 < (high - low) / (2 * found.score.stderr) < 2.15
    clean = result.right["clean"].all(axis=(1, 2, 3))
    assert [block for block, right in enumerate(clean) if not right] == [1]
    assert result.upright[1].tolist() == result.mirror[1].tolist() == [0.5, 0.5]
    (name, *_) = scorecard.SHAPES.headline
    one = scorecard.score_card(result, replace(scorecard.SHAPES, headline=(name,)))
    assert np.nanmean(list(one.strata.values())) == pytest.approx(found.families[name].value)
    assert one.strata != found.strata
