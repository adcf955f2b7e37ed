"""What a person would not call right is not read as right: mixed groups, crosses, overlays, written backgrounds.

And what a person sees is still read: objects larger than the renderer's.
"""

from dataclasses import replace

import numpy as np
import pytest

from diffusionbench.benchmarks.simpleeval import renderer
from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.answers import SetAnswers, credit_by_cell, headline
from diffusionbench.benchmarks.simpleeval.bands import Band
from diffusionbench.benchmarks.simpleeval.blocks import Question
from diffusionbench.benchmarks.simpleeval.evidence import SHAPES_RULE
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.reader_components import read_components
from diffusionbench.benchmarks.simpleeval.reader_filters import read_filters
from diffusionbench.benchmarks.simpleeval.reading import Found, Reading, answer
from diffusionbench.benchmarks.simpleeval.shapes_scorer import predictions_of, read
from diffusionbench.benchmarks.simpleeval.stress import perturbations
from diffusionbench.benchmarks.simpleeval.stress.baseline import subset
from diffusionbench.benchmarks.simpleeval.stress.simulate import draw, truth_answers

FIRM = frozenset({"shape", "size"})
TWO = {"shape1": "circle", "colour1": "red", "count1": "two", "shape2": "star", "colour2": "blue", "count2": "two"}


def test_a_band_says_yes_no_or_nothing():
    assert [Band(1, 2).met(value) for value in (0.9, 1, 1.5, 2, 2.1)] == [False, None, None, None, True]


def ask(slot, options, objects, facts, clear=True):
    return answer(Reading(tuple(objects), "plain", clear), Question("f", slot, options, 0), facts)


@pytest.mark.parametrize(
    ("name", "values", "firm", "said"),
    [
        ("shape", ("circle", "circle", "circle", "square"), True, -1),
        ("shape", ("circle", "circle", "circle", "square"), False, 0),
        ("shape", ("circle", "circle", None), False, 0),
        ("shape", ("circle", "square"), False, -1),
        ("shape", ("circle", None), False, -1),
        ("size", ("small", "small", "large"), True, -1),
        ("size", ("small", "small", "large"), False, 0),
        ("colour", ("red", "red", "red"), True, 0),
        ("colour", ("red", "red", "blue"), False, -1),
        ("colour", ("red", "red", None), False, -1),
    ],
)
def test_a_group_is_what_all_of_it_is(name, values, firm, said):
    """The last object differs, firmly or not; None is what a reader cannot tell."""
    plain = {"shape": "circle", "colour": "red", "size": "small"}
    objects = [
        Found(**{**plain, name: value}, x=10 * i, y=0, firm=FIRM if i + 1 < len(values) or firm else frozenset())
        for i, value in enumerate(values)
    ]
    facts = {"shape1": "circle", "colour1": "red", "count1": "four"}
    options = {"shape": ("circle", "square"), "size": ("small", "large"), "colour": ("red", "blue")}[name]
    assert ask(f"{name}1", options, objects, facts) == said


def test_objects_of_another_shape_are_not_counted_with_the_others():
    circle, square = (Found(shape, "red", "small", 5, 5, FIRM) for shape in ("circle", "square"))
    facts = {"shape1": "circle", "colour1": "red", "count1": "four"}
    assert ask("count1", world.COUNTS, [circle] * 4, facts) == 3
    assert ask("count1", world.COUNTS, [circle] * 3 + [square], facts) == -1
    assert ask("count1", world.COUNTS, [circle] * 3 + [replace(square, firm=frozenset())], facts) == 3
    assert ask("count1", world.COUNTS, [circle] * 5, facts) == -1


def test_nothing_is_said_of_objects_while_one_is_half_there():
    circle = Found("circle", "red", "small", 5, 5, FIRM)
    facts = {"shape1": "circle", "colour1": "red", "count1": "one"}
    for slot, options in (("shape1", ("circle",)), ("colour1", ("red",)), ("size1", ("small",)), ("count1", ("one",))):
        assert ask(slot, options, [circle], facts) == 0
        assert ask(slot, options, [circle], facts, clear=False) == -1
    assert ask("background", ("plain",), [circle], facts, clear=False) == 0


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (((10, 10), (12, 30)), ((30, 12), (31, 28)), "left"),
        (((10, 10), (30, 30)), ((29, 10), (49, 30)), None),  # their ranges meet
        (((10, 10),), ((14, 10),), None),  # 4 pixels apart
        (((10, 10),), ((15, 10),), "left"),
        (((20, 10),), ((30, 18.5),), None),  # 10 to 8.5: too close to the diagonal
        (((10, 40),), ((12, 20),), "below"),
    ],
)
def test_a_relation_needs_groups_that_lie_apart(first, second, said):
    objects = [Found("circle", "red", "small", x, y) for x, y in first]
    objects += [Found("star", "blue", "small", x, y) for x, y in second]
    found = ask("relation", world.RELATIONS, objects, TWO)
    assert found == (-1 if said is None else world.RELATIONS.index(said))


def paint(things, base=128):
    """A grey picture with some objects, given as `renderer.Thing`s."""
    image = np.full((64, 64, 3), base, np.int16)
    for thing in things:
        renderer._paint(image, thing, 1)
    return image.astype(np.uint8)


def thing(shape, colour, radius, x, y):
    return renderer.Thing(shape, world.COLOURS[colour], round(64 * radius), round(64 * x), round(64 * y), 5)


@pytest.mark.parametrize("shift", [(1.5, 0), (-1, 0), (0, 2), (2, 1)])
def test_two_and_two_objects_in_a_cross_have_no_relation(shift):
    dx, dy = shift
    reds = [thing("circle", "red", 6, 32 + dx + s * 15, 32 + dy + s * 15) for s in (-1, 1)]
    blues = [thing("star", "blue", 6, 32 + s * 15, 32 - s * 15) for s in (-1, 1)]
    prompt = replace(build("shapes", "public-0", "quick").prompts[0], facts=TWO, questions=RELATION)
    assert (predictions_of(read(paint(reds + blues)), prompt) == -1).all()
    # Two columns are read, so the silence is the cross's.
    columns = [thing("circle", "red", 6, 14, 32 + s * 15) for s in (-1, 1)]
    columns += [thing("star", "blue", 6, 50, 32 + s * 15) for s in (-1, 1)]
    assert (predictions_of(read(paint(columns)), prompt) == world.RELATIONS.index("left")).all()


RELATION = (Question("relation", "relation", world.RELATIONS, 0),)


def mixed(scene, seed, path, monkeypatch):
    """A right picture, but one object of every group of three or four has another shape and size."""
    things = renderer._things

    def spoiled(facts, stream):
        found = things(facts, stream)
        if len(found) < 3 or found[0].shape != found[-1].shape:
            return found
        odd = found[-1]
        shape = world.SHAPES[(world.SHAPES.index(odd.shape) + 1) % len(world.SHAPES)]
        return [*found[:-1], odd._replace(shape=shape, radius=380 if odd.radius > 500 else 600)]

    with monkeypatch.context() as patch:
        patch.setattr(renderer, "_things", spoiled)
        return renderer.render(scene, seed, path)


def score(prompt_set, votes):
    result = SetAnswers(prompt_set, votes, SHAPES_RULE)
    cells = credit_by_cell(result, "consensus", np.ones((1, prompt_set.num_blocks)))
    return headline(cells, range(7))[0]


@pytest.mark.parametrize("blocks", [6, pytest.param(72, marks=pytest.mark.slow)])
def test_mixed_groups_score_what_a_strict_person_gives(blocks, monkeypatch):
    whole = replace(build("shapes", "public-0", "quick"), images_per_prompt=1)
    large = [b for b in range(72) if any(twin.facts["count1"] in ("three", "four") for twin in whole.block(b))]
    chosen = range(72) if blocks == 72 else large[:: len(large) // blocks][:blocks]
    part = replace(whole, prompts=tuple(twin for b in chosen for twin in whole.block(b)))
    seen, strict = {}, {}
    for prompt in part.prompts:
        truth = draw(prompt, 0, 1.0, "mixed").truth
        seen[prompt.id] = [predictions_of(read(mixed(truth, "mixed", prompt.id, monkeypatch)), prompt)]
        right = truth_answers(prompt, truth)
        if truth["count1"] in ("three", "four"):
            # Neither the shape nor the size nor the number of what was asked for.
            lost = [world.kind(question.slot) in ("shape", "size", "count") for question in prompt.questions]
            right = np.where(lost, -1, right)
        strict[prompt.id] = [np.broadcast_to(right, (2, 4, len(right)))]
    assert score(part, strict) - 0.1 <= score(part, seen) <= score(part, strict) + 0.02


def test_one_picture_for_all_twins_stays_at_chance():
    """Twins drawn alike, averaged, and moved by 8 levels towards each: a person sees four equal pictures."""
    part = subset(replace(build("shapes", "public-1", "quick"), images_per_prompt=1), 18)
    own = [renderer.render(prompt.facts, "overlay", str(prompt.block)) for prompt in part.prompts]
    moved = perturbations.overlay(own, 8)
    for block in range(0, len(own), 4):
        centre = np.mean(own[block : block + 4], axis=0)
        assert max(np.abs(image - centre).max() for image in moved[block : block + 4]) <= 8.5
    votes = {
        prompt.id: [predictions_of(read(image), prompt)] for prompt, image in zip(part.prompts, moved, strict=True)
    }
    assert score(part, votes) <= 0.03


@pytest.mark.parametrize(("first", "second"), [("red", "orange"), ("cyan", "blue"), ("red", "pink")])
@pytest.mark.parametrize("share", [0.3, 0.4, 0.5, 0.6, 0.7])
def test_a_colour_between_two_is_not_both(first, second, share):
    """Moved by 8 levels towards each, it is not read as each."""
    one, other = (np.asarray(world.COLOURS[name], float) for name in (first, second))
    between = one + share * (other - one)
    right = []
    for wanted, target in ((first, one), (second, other)):
        rgb = tuple(np.rint(between + np.clip(target - between, -8, 8)).astype(int).tolist())
        image = paint([thing("circle", "red", 10, 32, 32)._replace(colour=rgb)])
        seen = [[one.objects[0].colour for one in reader] for reader in read(image, undamaged=False)]
        right.append(all(reader.count(wanted) >= 2 for reader in seen))
    assert not all(right)


def test_an_outline_half_way_between_circle_and_square_is_neither():
    """Superellipses |u|^p + |v|^p = r^p: of p = 2 a circle, of large p a square."""
    places = np.abs((np.arange(512) + 0.5) / 8 - 32) / 9
    named = []
    for power in (2, 2.3, 2.6, 3.5, 6):
        inside = places[:, None] ** power + places[None] ** power <= 1
        cover = inside.reshape(64, 8, 64, 8).mean(axis=(1, 3))[..., None]
        image = (128 + cover * (np.asarray(world.COLOURS["red"]) - 128)).astype(np.uint8)
        named.append(read_components(image).objects[0].shape)
    assert named[0] == "circle"
    assert None in named
    assert named[-1] == "square"


@pytest.mark.parametrize("wanted", world.BACKGROUNDS)
def test_a_background_written_within_eight_levels_is_not_read(wanted):
    for other in world.BACKGROUNDS:
        if other == wanted:
            continue
        scene = {"shape1": "star", "colour1": "red", "size1": "small", "count1": "two", "background": other}
        image = renderer.render(scene, "written", "0")
        for changed in perturbations.written(image, wanted, 8):
            assert np.abs(changed.astype(int) - image).max() <= 8
            backgrounds = [[one.background for one in reader[1:]] for reader in read(changed)]
            assert not all(reader.count(wanted) >= 2 for reader in backgrounds)


def test_a_picture_without_any_background_has_none():
    red = np.full((64, 64, 3), world.COLOURS["red"], np.uint8)
    assert [read(red).background for read in (read_components, read_filters)] == [None, None]


@pytest.mark.parametrize("radius", [5.5, 6.5, 9.5, 12, 14, 16, 18, 20])
def test_both_readers_read_the_sizes_that_the_page_names(radius):
    for shape in world.SHAPES:
        for colour in ("red", "cyan"):
            image = paint([thing(shape, colour, radius, 32.2, 31.3)])
            for reader in (read_components, read_filters):
                (found,) = reader(image).objects
                assert (found.shape, found.colour) == (shape, colour)
                assert found.size == ("small" if radius < 7 else "large")
