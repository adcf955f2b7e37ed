"""Prompt sets: frozen digests, quotas, filters, twins, uniform levels."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from diffusionbench.benchmarks.simpleeval import open_world, prompts, shapes_world
from diffusionbench.benchmarks.simpleeval.open_words import caption, clash, kind_of, owner_of, scorer_texts, vocabulary
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.stream import BalancedSampler, DeadEndError, HashStream
from diffusionbench.errors import RequestError

#: First 16 hex digits of the digests of public-0 .. public-4: a prompt set may never change.
FROZEN = {
    ("open", "quick"): "d742b10316579e2f be96e4ab980a50ef 984cfc89408d14c0 45f160e5ffb33ac6 89ce8223ecabce9d",
    ("open", "standard"): "60566a68f2eed3e0 630ab5e196a2e2a0 d7cbb3a00be66b65 2207ea1c2b43844c e761a199a67d3c3d",
    ("shapes", "quick"): "e73a5c23d2718dfc 4efdd816b8f42b3e 78dd663c6309800d 149d7351e41b3d5c 35ebe16f994e7470",
    ("shapes", "standard"): "e0db72f8f7d04a44 85b2fdb5d85a866a caaa5ff63343b6de 75e54688e4aeb54f 9796ef8acd8ccf41",
}


def digests(world, layout, seeds=range(5)):
    return " ".join(build(world, f"public-{i}", layout).digest[:16] for i in seeds)


@pytest.mark.parametrize("world", ["open", "shapes"])
def test_quick_sets_are_frozen(world):
    assert digests(world, "quick") == FROZEN[world, "quick"]


def test_standard_sets_are_frozen():
    assert digests("shapes", "standard") == FROZEN["shapes", "standard"]
    assert digests("open", "standard", range(1)) == FROZEN["open", "standard"].split()[0]


@pytest.mark.slow
def test_all_standard_sets_are_frozen():
    assert digests("open", "standard") == FROZEN["open", "standard"]


@pytest.mark.parametrize(("world", "blocks", "texts"), [("open", 540, 2160), ("shapes", 180, 720)])
def test_quotas_and_uniqueness(world, blocks, texts):
    found = build(world, "public-0", "standard")
    rules = prompts.WORLDS[world]
    assert found.num_blocks == blocks
    assert len({prompts.normalised(prompt.text) for prompt in found.prompts}) == texts == len(found.prompts)
    firsts = found.prompts[::4]
    cells = Counter((prompt.type, prompt.stratum) for prompt in firsts)
    assert set(cells.values()) == {blocks // (len(rules.types) * 3)}
    templates = Counter((prompt.type, prompt.stratum, prompt.template) for prompt in firsts)
    n = blocks // (len(rules.types) * 3)
    assert {templates[(*cell, "T0")] for cell in cells} == {2 * n // 5}
    assert {templates[(*cell, "T3")] for cell in cells} == {n // 5}
    # Every family has three block types, binding is asked twice in each.
    families = Counter(question.family for prompt in firsts for question in prompt.questions if not question.held)
    assert {families[name] for name in found.families if name != "binding"} == {9 * n}
    assert families["binding"] == 18 * n
    assert prompts.statistics(found)["space"] > (1e9 if world == "open" else 1e4)


@pytest.mark.parametrize("world", ["open", "shapes"])
def test_twins_differ_in_exactly_the_levels(world):
    found = build(world, "public-1", "quick")
    for number in range(found.num_blocks):
        twins = found.block(number)
        assert [prompt.id.split("/")[-1] for prompt in twins] == ["00", "01", "10", "11"]
        first, second = (twins[0].questions[h] for h in (0, 1))
        for prompt, (i, j) in zip(twins, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
            assert prompt.facts[first.slot] == first.options[i]
            assert prompt.facts[second.slot] == second.options[j]
            assert [question.answer for question in prompt.questions[:2]] == [i, j]
            assert all(
                question.options[question.answer] == prompt.facts[question.slot]
                for question in prompt.questions
                if question.answer >= 0
            )
            assert all(question.answer >= 0 or question.slot not in prompt.facts for question in prompt.questions)
            rest = {slot: fact for slot, fact in prompt.facts.items() if slot not in (first.slot, second.slot)}
            assert rest == {
                slot: fact for slot, fact in twins[0].facts.items() if slot not in (first.slot, second.slot)
            }
            assert prompts.WORLDS[world].caption(prompt.facts, twins[0].template) == prompt.text
            assert all(len(set(question.options)) == len(question.options) for question in prompt.questions)


def test_levels_are_a_uniform_pair_of_the_options():
    """Chi-square over the sorted positions of the two levels within the option set, twenty seeds."""
    counts = Counter()
    for i in range(20):
        found = build("shapes", f"levels-{i}", "quick")
        for number in range(found.num_blocks):
            asked = found.block(number)[0].questions[:2]
            # Both contrasts of a binding share one option set.
            for question in asked[:1] if asked[0].family == "binding" else asked:
                if len(question.options) == 4:
                    order = sorted(question.options)
                    counts[order.index(question.options[0]), order.index(question.options[1])] += 1
    assert len(counts) == 12
    total = sum(counts.values())
    chi = sum((count - total / 12) ** 2 / (total / 12) for count in counts.values())
    assert chi < 31.3  # 0.1 % point of chi-square with 11 degrees of freedom


def test_every_rule_of_the_vocabulary_is_kept():
    words = vocabulary()
    for seed in ("public-0", "public-1"):
        found = build("open", seed, "quick")
        for number in range(found.num_blocks):
            twins = found.block(number)
            binding = twins[0].type.removeprefix("binding-") if twins[0].type.startswith("binding") else None
            for prompt in twins:
                facts = list(prompt.facts.items()) + ([("binding", binding)] if binding else [])
                assert not [(a, b) for a in facts for b in facts if a[0] < b[0] and clash(a, b)], prompt.text
                for question in prompt.questions:
                    kind = kind_of(question.slot)
                    for a in question.options:
                        assert not any(a != b and words.alike(kind, a, b) for b in question.options)
                        # An option must be plausible in the place of the fact.
                        others = [fact for fact in facts if fact[0] != question.slot]
                        shared = question.family == "binding"
                        others = [fact for fact in others if not (shared and kind_of(fact[0]) == kind)]
                        assert not any(clash((question.slot, a), fact) for fact in others), (prompt.text, a)
                if "companion" in prompt.facts:
                    first, second = (words.nouns[prompt.facts[slot]] for slot in ("object", "companion"))
                    assert first.group != second.group or prompt.type == "binding-action"
                    assert not words.alike("noun", first.name, second.name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("object", "dog"), ("colour", "red")),
        (("companion", "igloo"), ("companion_material", "clear ice")),
        (("object", "candle"), ("material", "wood")),
        (("object", "bottle"), ("material", "glass")),
        (("object", "boot"), ("material", "leather")),
        (("object", "car"), ("place", "in a kitchen")),
        (("companion", "castle"), ("place", "in a swimming pool")),
        (("place", "inside a cave"), ("light", "at night")),
        (("place", "in a library"), ("light", "at night")),
        (("action", "swimming"), ("place", "in a desert")),
        (("object", "sheep"), ("count", "two")),
        (("binding", "material"), ("style", "a photograph")),
        (("action", "playing a guitar"), ("companion", "guitar")),
        (("colour", "red"), ("material", "red brick")),
    ],
)
def test_implausible_pairs(first, second):
    assert clash(first, second)
    assert clash(second, first)


def test_plausible_pairs():
    assert not clash(("object", "car"), ("companion_colour", "red"))
    assert not clash(("object", "dog"), ("companion_colour", "red"))
    assert not clash(("object", "house"), ("colour", "red"))
    assert not clash(("binding", "colour"), ("style", "a photograph"))
    assert len(vocabulary().nouns) == 150
    assert owner_of("companion_colour") == "companion"
    assert owner_of("place") is None


def test_wording_of_both_worlds():
    glass = {"object": "table", "material": "glass", "place": "in a swimming pool"}
    assert caption(glass, "T0") == "a table made of glass, in a swimming pool"
    assert caption(glass, "T1") == "In a swimming pool: a table made of glass"
    camel = {"object": "camel", "companion": "wardrobe", "companion_colour": "orange", "action": "jumping"}
    camel["relation"] = "to the right of"
    assert caption(camel, "T3") == "There is a camel jumping to the right of an orange wardrobe."
    assert caption({"object": "camera", "colour": "green"}, "T2") == "Generate an image with a green camera."
    four = {"object": "loaf of bread", "count": "four", "light": "at night", "style": "pixel art"}
    assert caption(four, "T3") == (
        "There are four loaves of bread. It happens at night. The whole picture is pixel art."
    )
    assert caption(four, "T1") == "at night: four loaves of bread, shown as pixel art"
    assert scorer_texts("count", "one", "dog") == ("a single dog", "one dog", "only one dog")
    assert scorer_texts("companion", "owl")[0] == "a photo of an owl"
    two = {"shape1": "plus", "colour1": "red", "count1": "two", "shape2": "ring", "colour2": "blue", "count2": "one"}
    two |= {"relation": "left", "background": "plain", "size1": "small"}
    assert shapes_world.caption(two, "T0") == "two small red pluses left of one blue ring on a plain background"
    assert shapes_world.caption(two, "T3") == (
        "There are two small red pluses. There is one blue ring right of them. The background is plain."
    )


def test_jsonl_is_the_set_and_noise_seeds_are_ruled():
    found = build("shapes", "public-0", "quick")
    rows = [json.loads(line) for line in found.jsonl.splitlines()]
    assert [row["id"] for row in rows] == [prompt.id for prompt in found.prompts]
    assert rows[3]["seeds"] == [
        HashStream("public-0", f"gen/{found.prompts[3].id}/{k}").u64() % 2**63 for k in range(2)
    ]
    assert all(0 <= seed < 2**63 for row in rows for seed in row["seeds"])


def test_overlaps_are_counted():
    assert prompts.overlaps(["A red  dog", "one two three four five six"], ["a red dog"]) == (1, 1)


def test_samplers_use_facts_evenly_and_report_dead_ends():
    sampler = BalancedSampler("abcd", HashStream("s", "deck"))
    assert sorted(sampler.next(lambda item: True) for _ in range(4)) == list("abcd")
    counts = Counter(sampler.next(lambda item, i=i: item != "a" or i % 2 == 0) for i in range(40))
    assert max(counts.values()) - min(counts.values()) <= 1
    with pytest.raises(DeadEndError):
        sampler.next(lambda item: False)


def test_unknown_world_or_layout():
    with pytest.raises(RequestError, match="Did you mean 'shapes'"):
        build("shape", "public-0", "quick")
    with pytest.raises(RequestError, match="Did you mean 'quick'"):
        build("open", "public-0", "quik")


def test_both_worlds_say_how_many_scenes_there_are():
    """The shapes world by hand, natural scenes by counting facts that go together, place by place."""
    assert shapes_world.SPACE == 4 * (6 * 8 * 2 * 4 + 4 * 6 * 5 * 8 * 7 * 16)
    words = vocabulary()
    styles = len(words.facts["style"]) + 1
    total = 0
    for place in (None, *words.facts["place"]):

        def there(slot, fact, place=place):
            return place is None or not clash((slot, fact), ("place", place))

        lights = 1 + sum(there("light", light) for light in words.facts["light"])
        nouns = [noun for noun in words.nouns.values() if there("object", noun.name)]
        plain, bound, materials = scenes(nouns, [fact for fact in words.facts["action"] if there("action", fact)])
        # Two materials are never bound in a photograph.
        total += lights * ((plain + bound) * styles + materials * (styles - 1))
    assert total == open_world.SPACE


def scenes(nouns, actions):
    """Count scenes without binding, with binding of colours or actions, and with binding of materials."""
    words = vocabulary()
    things = [noun for noun in nouns if noun.group != "animal"]
    animals = [noun for noun in nouns if noun.group == "animal"]
    counts, relations = len(words.facts["count"]) + 1, len(words.facts["relation"]) + 1
    single = sum(looks(noun) * (counts if noun.plural else 1) for noun in things)
    single += sum((len(actions) + 1) * (counts if noun.plural else 1) for noun in animals)
    pairs = 0
    for noun in things:
        pairs += looks(noun) * sum(differ(noun, other) for other in nouns)
        # An animal as subject: its action, and the looks of the companion.
        free = len(actions) + 1 - sum(clash(("action", action), ("companion", noun.name)) for action in actions)
        pairs += free * looks(noun) * sum(differ(animal, noun) for animal in animals)
    acting = sum(not words.alike("noun", a.name, b.name) for a in animals for b in animals) * len(actions) ** 2
    colours, materials = (
        sum(len(own(a, kind)) * len(own(b, kind)) for a in things for b in things if differ(a, b))
        for kind in ("colour", "material")
    )
    sides = len(open_world.HORIZONTAL)
    return single + relations * pairs, sides * (colours + acting), sides * materials


@cache
def own(noun, kind):
    """Return the colours or materials a thing may have."""
    return tuple(fact for fact in vocabulary().facts[kind] if not clash(("object", noun.name), (kind, fact)))


@cache
def looks(noun):
    """Count the ways to state colour and material of a thing, each or neither."""
    colours, materials = own(noun, "colour"), own(noun, "material")
    both = sum(not clash(("colour", c), ("material", m)) for c in colours for m in materials)
    return 1 + len(colours) + len(materials) + both


@cache
def differ(first, second):
    """Return whether two nouns may stand together: other classes, no look-alikes."""
    return first.group != second.group and not vocabulary().alike("noun", first.name, second.name)


def test_statistics_count_each_thing_once():
    found = build("shapes", "public-0", "quick")
    # A set that holds its first block twice.
    facts = prompts.statistics(replace(found, prompts=(*found.prompts, *found.prompts[:4])))
    assert (facts["blocks"], facts["prompts"], facts["unique"], facts["images"]) == (73, 292, 288, 584)
    # Two contrasted facts a prompt; those that stay are not counted.
    assert sum(facts["families"].values()) == 2 * 292
    assert sum(facts["strata"].values()) == sum(facts["templates"].values()) == 292
    # Close is what shares most words of both texts.
    words = "one two three four five"
    assert prompts.overlaps([words], [f"{words} six seven eight nine ten"]) == (0, 0)
