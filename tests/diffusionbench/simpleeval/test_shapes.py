"""The rendered world: frozen pictures, readers, views, training pairs."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from diffusionbench.benchmarks.simpleeval import renderer, shapes_scorer
from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.blocks import Question
from diffusionbench.benchmarks.simpleeval.evidence import consensus, majority
from diffusionbench.benchmarks.simpleeval.image_ops import components, resize
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.reader_components import doubled, hull_area, read_components
from diffusionbench.benchmarks.simpleeval.reader_filters import read_filters
from diffusionbench.benchmarks.simpleeval.reading import Found, Reading, answer
from diffusionbench.benchmarks.simpleeval.shapes_scorer import ShapesScorer, mirrored, read
from diffusionbench.benchmarks.simpleeval.stream import HashStream
from diffusionbench.benchmarks.simpleeval.stress.simulate import draw, spoil, truth_answers
from diffusionbench.stats import wilson

#: Side -> number of training images of seed "frozen" and the SHA-256 over them: the renderer may never change.
FROZEN = {
    64: (16, "a37a503389f904bd1c021608b50f728a386cd42cf66a0624294ada361f67d0cf"),
    32: (100, "d2f2319bb20c0f6e52c8ab5e982ab061394be696b415074d992683d8dd9099e9"),
    128: (10, "cdc8f98b8edd904746fe7f0ce44e678123e998781e40dcb4bbf61ec2a6bb23f1"),
}


@pytest.mark.parametrize("side, size", [(64, 24), (64, 32), (64, 63), (128, 48), (50, 7), (24, 24)])
def test_shrinking_is_the_area_mean_rounded_half_up(side, size):
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    # Cut every pixel into size x size pieces; side x side of them make a new pixel.
    pieces = image.astype(np.int64).repeat(size, axis=0).repeat(size, axis=1)
    sums = pieces.reshape(size, side, size, side, 3).sum(axis=(1, 3))
    np.testing.assert_array_equal(renderer.shrink(image, size), (2 * sums + side**2) // (2 * side**2))


@pytest.mark.parametrize("size", FROZEN)
def test_renderer_is_frozen(size):
    count, digest = FROZEN[size]
    images = b"".join(renderer.training_pair("frozen", index, size)[0].tobytes() for index in range(count))
    assert hashlib.sha256(images).hexdigest() == digest


def test_training_pairs_leave_out_the_held_combinations_and_tell_the_truth():
    seen = Counter()
    for index in range(150):
        image, caption, scene = renderer.training_pair("pairs", index, 32)
        assert image.shape == (32, 32, 3)
        assert not world.touches_held_out(scene)
        assert scene["colour1"] in caption
        for slot, fact in scene.items():
            seen[world.kind(slot), fact] += 1
        if "shape2" in scene:
            assert scene["shape1"] != scene["shape2"]
            assert scene["colour1"] != scene["colour2"]
            assert any(word in caption for word in ("left", "right", "above", "below"))
    assert all(seen[kind, fact] for kind, facts in world.VOCABULARY.items() for fact in facts)
    again = renderer.training_pair("pairs", 7, 32)
    assert np.array_equal(again[0], renderer.training_pair("pairs", 7, 32)[0])
    assert not np.array_equal(again[0], renderer.training_pair("other", 7, 32)[0])


def test_sizes_are_means_of_the_large_picture():
    scene = {"shape1": "star", "colour1": "red", "size1": "large", "count1": "four", "background": "striped"}
    large = renderer.render(scene, "s", "p")
    half = renderer.render(scene, "s", "p", 32).astype(int)
    mean = large.reshape(32, 2, 32, 2, 3).astype(int).sum(axis=(1, 3))
    assert np.array_equal(half, (mean + 2) // 4)
    assert renderer.render(scene, "s", "p", 128).shape == (128, 128, 3)
    assert renderer.render(scene, "s", "p", 24).shape == (24, 24, 3)
    with pytest.raises(ValueError, match="64 or 128"):
        renderer.render(scene, "s", "p", 100)


def test_fullest_scenes_fit():
    for relation in world.RELATIONS:
        scene = {"count1": "two", "count2": "two", "size1": "large", "size2": "large", "relation": relation}
        scene |= {"shape1": "star", "colour1": "red", "shape2": "plus", "colour2": "blue", "background": "plain"}
        assert renderer.render(scene, "fit", relation).shape == (64, 64, 3)


def right_shares(prompts, size=64):
    scorer = ShapesScorer()
    right, alone, asked = Counter(), Counter(), Counter()
    for prompt in prompts:
        one = draw(prompt, 0, 1.0, "rendered truth", size)
        votes = scorer.predict([one.image], [prompt])[0]
        wanted = truth_answers(prompt, one.truth)
        both = majority(votes, 2)
        for q, question in enumerate(prompt.questions):
            family = world.kind(question.slot)
            asked[family] += 1
            right[family] += consensus(both)[q] == wanted[q]
            alone[family, 0] += both[0, q] == wanted[q]
            alone[family, 1] += both[1, q] == wanted[q]
    return right, alone, asked


@pytest.mark.parametrize(("size", "every"), [(64, 3), (32, 8)])
def test_readers_read_rendered_truth(size, every):
    prompts = build("shapes", "public-3", "quick").prompts[::every]
    right, alone, asked = right_shares(prompts, size)
    assert set(asked) == set(world.VOCABULARY)
    for family, n in asked.items():
        # One miss is allowed where the sample is too small for a share of 0.99.
        assert right[family] >= n - max(1, 0.01 * n), (family, right[family], n)
        assert min(alone[family, 0], alone[family, 1]) >= n - max(1, 0.01 * n)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "least"), [(64, 0.99), (32, 0.989)])
def test_readers_read_a_thousand_scenes(size, least):
    right, _, asked = right_shares(build("shapes", "public-3", "full").prompts[:2000:2], size)
    for family, n in asked.items():
        assert right[family] / n >= least, family
        assert wilson(right[family], n)[0] >= 0.98, family


def test_enlarged_images_are_read_by_their_own_side():
    image = renderer.training_pair("coarse", 51, 32)[0]  # a pale pattern
    large = resize(image)
    assert read_components(image) == read_components(large, native=32)
    assert read_filters(image) == read_filters(large, native=32)
    assert read_components(large) != read_components(large, native=32)
    assert np.array_equal(doubled(np.asarray([[0.0, 2.0]])), [[0, 1, 2, 2], [0, 1, 2, 2]])


def test_mirrored_view_swaps_left_and_right_back():
    scene = {"shape1": "circle", "colour1": "red", "size1": "large", "count1": "one", "background": "plain"}
    scene |= {"shape2": "square", "colour2": "blue", "size2": "large", "count2": "one", "relation": "left"}
    seen = read(renderer.render(scene, "m", "m"))
    question = Question("relation", "relation", world.RELATIONS, 0)
    for reader in seen:
        assert [answer(one, question, scene) for one in reader] == [0] * 4
        assert answer(mirrored(reader[0]), question, scene) == 1


def test_views_follow_from_the_image_alone():
    image = renderer.training_pair("views", 0)[0]
    first, second = shapes_scorer.views(image), shapes_scorer.views(image.copy())
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    assert not np.array_equal(first[2], shapes_scorer.views(changed)[2])
    assert np.array_equal(first[1], image[:, ::-1] // 16 * 16 + 8)


FACTS = {"shape1": "circle", "colour1": "red", "count1": "two", "shape2": "star", "colour2": "blue", "count2": "one"}


def ask(slot, options, objects, facts=FACTS, background="plain"):
    return answer(Reading(tuple(objects), background), Question("f", slot, options, 0), facts)


def test_answers_from_hand_made_read():
    red = [Found("circle", "red", "small", 10, 10), Found("circle", "red", "large", 12, 30)]
    blue = [Found("star", "blue", "large", 50, 12)]
    assert ask("colour1", ("green", "red"), red + blue) == 1
    assert ask("shape2", ("star", "ring"), red + blue) == 0
    assert ask("count1", ("one", "two"), red + blue) == 1
    assert ask("size1", ("small", "large"), red + blue) == -1  # a tie
    assert ask("size2", ("small", "large"), red + blue) == 1
    assert ask("relation", world.RELATIONS, red + blue) == 0
    assert ask("relation", world.RELATIONS, [*red, Found("star", "blue", "large", 31, 40)]) == -1  # on the diagonal
    assert ask("relation", world.RELATIONS, red) == -1
    assert ask("colour1", ("green", "pink"), red + blue) == -1
    assert ask("background", ("dotted", "plain"), []) == 1
    one = {"shape1": "ring", "colour1": "red", "count1": "one"}
    assert ask("colour1", ("red", "blue"), blue, one) == 1  # one group: whatever is there
    same = {**FACTS, "colour2": "red"}
    assert ask("count2", ("one", "two"), [*red, Found("star", "red", "large", 5, 5)], same) == 0


def test_components_and_hull():
    mask = np.zeros((6, 8), bool)
    mask[1, 1] = mask[2, 2] = mask[4, 5:7] = True
    assert components(mask, diagonal=True).max() == 2
    assert components(mask, diagonal=False).max() == 3
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    assert components(ring, diagonal=False).max() == 1
    assert hull_area(ring) == 25
    triangle = np.tril(np.ones((4, 4), bool))
    assert hull_area(triangle) == 16 - 4.5


def test_resize_keeps_constants_and_size():
    flat = np.full((32, 24, 3), 200, np.uint8)
    assert (resize(flat) == 200).all()
    image = renderer.training_pair("r", 1)[0]
    assert resize(image) is image


def test_spoiling_keeps_the_asked_share_and_the_world_legal():
    prompts = build("shapes", "public-0", "full").prompts
    kept = total = 0
    for prompt in prompts[::4]:
        out = spoil(prompt.facts, 0.7, HashStream("spoil", prompt.id))
        kept += sum(out[slot] == fact for slot, fact in prompt.facts.items())
        total += len(out)
    assert abs(kept / total - 0.7) < 0.03
    assert spoil(prompts[0].facts, 1.0, HashStream("a", "b")) == prompts[0].facts
