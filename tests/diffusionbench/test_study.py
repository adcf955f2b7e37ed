"""The parts of a study add up, and every comparison is of one protocol or refused."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from making import invoke

from diffusionbench.errors import RequestError
from diffusionbench.record import Guidance, JudgeUsed, Protocol, Provenance, Record, ReferenceUsed, Value
from diffusionbench.study import published
from diffusionbench.study.analysis import BetweenFamilies, analyse, rescoring_noise
from diffusionbench.study.columns import accepted
from diffusionbench.study.correlate import kendall, partial, pearson, spearman
from diffusionbench.study.points import check_one_protocol, families, gather, load_folder, select_points
from diffusionbench.views.terminal import study_dict


def record(name, axis, values, *, count=100, family="rae", guidance=1.0, stderr=None, variant=None, title=None):
    return Record(
        kind="measured",
        id=f"{name}.{axis}" if variant is None else f"{name}-{variant}.{axis}",
        method=name,
        variant=variant,
        title=title or name.upper(),
        family=family,
        protocol=Protocol(name=axis, axis=axis, count=count, guidance=Guidance(scale=guidance)),
        values={key: Value(value=value, stderr=stderr) for key, value in values.items()},
        provenance=Provenance(source="made up"),
    )


def world(xs, ys, families_=None, **options):
    made = []
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        family = families_[i] if families_ else "rae"
        made.append(record(f"m{i}", "class_conditional", {"fid": x}, family=family, **options))
        made.append(record(f"m{i}", "t2i", {"geneval_overall": y}, family=family, **options))
    return made


def test_decomposition_adds_up():
    chosen = select_points(published.records(), guidance="cfg")
    study = analyse(chosen, draws=0)
    x, y = np.array([p.x for p in chosen.points]), np.array([p.y for p in chosen.points])
    labels = np.array(["vae" if p.family == "e2e-vae" else p.family for p in chosen.points])
    total = ((x - x.mean()) * (y - y.mean())).sum()
    within = sum(
        ((x[labels == g] - x[labels == g].mean()) * (y[labels == g] - y[labels == g].mean())).sum() for g in set(labels)
    )
    assert study.between.share == pytest.approx(1 - within / total)
    assert study.pearson.value == pytest.approx(-0.7695, abs=5e-5)
    assert {p.name: p.coefficient.n for p in study.per_family} == {"rae": 8, "vae": 13, "pixel": 3}


def test_pixel_space_pulls_the_pooled_r_up():
    study = analyse(select_points(published.records(), guidance="cfg"), draws=0)
    without = {p.name: p.coefficient.value for p in study.without_family}
    assert round(without["pixel"], 4) == -0.5553
    assert abs(study.pearson.value) > abs(without["pixel"])


def test_e2e_stands_alone_only_when_asked():
    asked = analyse(select_points(published.records(), family=["vae", "e2e"]), separate_e2e=True, draws=0)
    assert {p.name: p.coefficient.n for p in asked.per_family} == {"vae": 9, "e2e-vae": 4}
    assert families(["vae"]) == ("vae", "e2e-vae")
    assert families(["e2e"]) == ("e2e-vae",)
    with pytest.raises(RequestError, match="Did you mean 'pixel'"):
        families(["pixl"])


def test_influence_and_top():
    chosen = select_points(published.records())
    study = analyse(chosen, draws=0, top=[5, 24, 500])
    assert len(study.influence) == 24
    worst = study.influence[0]
    rest = [p for p in chosen.points if p.name != worst.name]
    r = np.corrcoef([p.x for p in rest], [p.y for p in rest])[0, 1]
    assert worst.without == pytest.approx(r)
    assert worst.change == pytest.approx(r - study.pearson.value)
    (best,) = study.top
    five = sorted(chosen.points, key=lambda p: p.x)[:5]
    assert best.coefficient.n == 5
    assert best.coefficient.value == pytest.approx(np.corrcoef([p.x for p in five], [p.y for p in five])[0, 1])


def test_rescoring_noise():
    expected = {"geneval_overall": 0.0044, "dpgbench": 0.0015, "genaibench_overall": 0.0028}
    for key, sd in expected.items():
        assert round(rescoring_noise(key).sd, 4) == sd
    # FIDs were copied, SimpleEval was redefined: neither says anything about noise.
    assert rescoring_noise("fid") is None
    assert rescoring_noise("simpleeval_published_2026_06") is None


def test_attenuation():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400)
    study = analyse(select_points(world(truth, 0.1 * truth + 0.5, stderr=0.5), score_set="measured"), draws=200)
    (pooled,) = study.attenuation
    assert pooled.reliability_x == pytest.approx(1 - 0.25 / truth.var(ddof=1))
    assert pooled.reliability_y < 0
    assert pooled.ceiling is None
    assert pooled.corrected is None
    noisy = truth + 0.5 * rng.normal(size=400)
    study = analyse(select_points(world(noisy, noisy * 0 + truth, stderr=0.5), score_set="measured"), draws=200)
    (pooled,) = study.attenuation
    assert pooled.ceiling == pytest.approx(math.sqrt((1 - 0.25 / noisy.var(ddof=1)) * (1 - 0.25 / truth.var(ddof=1))))
    assert pooled.corrected == pytest.approx(study.pearson.value / pooled.ceiling)
    assert 0.005 < pooled.rescored_sd < 0.05
    one = analyse(select_points(world(noisy, noisy * 0 + truth, stderr=0.5), score_set="measured"), draws=1)
    assert one.attenuation[0].rescored_sd is None, "one draw has no deviation"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few(n):
    records = [
        *world(range(n), range(n)),
        record("other", "class_conditional", {"fid": 1.0}),
        record("t", "t2i", {"geneval_overall": 1.0}),
    ]
    study = analyse(select_points(records, score_set="measured"), draws=10)
    assert study.pearson.value is study.spearman.value is study.kendall.value is study.within.value is None
    assert study.line is None
    assert study.attenuation == ()
    json.dumps(study_dict(study), allow_nan=False)


def test_one_family_has_no_share_between():
    chosen = select_points(published.records(), "fid", "geneval", family=["pixel"])
    assert analyse(chosen, draws=0).between == BetweenFamilies(1, None, None)


def test_identical_x_and_lonely_family():
    study = analyse(select_points(world([1] * 5, range(5)), score_set="measured"), draws=10)
    assert study.pearson.value is None
    assert study.between.share is None
    assert study.line is None
    lonely = world([1, 2, 3, 4, 9], [4, 2, 3, 1, 9], ["rae"] * 4 + ["pixel"])
    study = analyse(select_points(lonely, score_set="measured"), draws=50)
    parts = {p.name: p.coefficient for p in study.per_family}
    assert parts["pixel"].value is None
    assert study.within.n == 4
    json.dumps(study_dict(study), allow_nan=False)


def test_missing_metrics_are_named():
    chosen = select_points(published.records())
    assert dict(chosen.left_out)["flux2-vae-200k"] == "no fid (guidance none)"
    assert dict(chosen.left_out)["meanflow-nfe-1"] == "family few-step"
    broken = [*world([1, 2], [1, 2]), *world([math.nan], [1])]
    broken[-2:] = [r.model_copy(update={"id": f"z{r.id}", "method": "z"}) for r in broken[-2:]]
    assert dict(select_points(broken, score_set="measured").left_out) == {"z": "fid is not finite"}


def test_who_was_scored_under_another_guidance_is_named():
    silent, guided = (record(name, "class_conditional", {"fid": 3.0, "precision": 0.5}) for name in "ab")
    silent = silent.model_copy(update={"protocol": silent.protocol.model_copy(update={"guidance": None})})
    guided = guided.model_copy(
        update={"protocol": guided.protocol.model_copy(update={"guidance": Guidance(scale=2.0)})}
    )
    chosen = select_points([silent, guided], "fid", "precision", score_set="measured")
    assert chosen.points == ()
    assert dict(chosen.left_out) == {"a": "guidance not stated", "b": "guidance cfg"}


def test_mixed_protocols_are_named():
    records = [
        *world([1, 2], [1, 2]),
        record("m9", "class_conditional", {"fid": 3.0}, count=50),
        record("m9", "t2i", {"geneval_overall": 3.0}),
    ]
    with pytest.raises(
        RequestError, match=r"mixed protocols.*'m0.class_conditional' and 'm9.class_conditional'.*count: 100 and 50"
    ):
        select_points(records, score_set="measured")
    assert len(select_points(records, score_set="measured", select=["m0", "m1"]).points) == 2
    a, b = records[0], records[2]
    changed = b.model_copy(
        update={"protocol": b.protocol.model_copy(update={"judges": {"inception": JudgeUsed(digest="f" * 64)}})}
    )
    base = a.model_copy(
        update={"protocol": a.protocol.model_copy(update={"judges": {"inception": JudgeUsed(digest="0" * 64)}})}
    )
    with pytest.raises(RequestError, match=r"judges\.inception\.digest"):
        check_one_protocol([base, changed], "fid")


def test_a_record_of_another_protocol_takes_no_point_from_those_that_fit_a_column():
    used = {
        "judges": {"digits": JudgeUsed(digest=accepted().judges["digits"][0])},
        "references": {"digits": ReferenceUsed(name="digits", digest=accepted().references["digits"][0])},
        "quantisation": "truncate",
        "items_digest": "0" * 64,
    }
    records = [record(f"m{i}", "class_conditional", {"fd_digits": i, "accuracy_digits": i / 9}) for i in range(4)]
    records = [
        r.model_copy(update={"protocol": r.protocol.model_copy(update={**used, "count": 359 if i < 3 else 5_000})})
        for i, r in enumerate(records)
    ]
    found = select_points(records, "fd_digits", "accuracy_digits", score_set="measured")
    assert [p.name for p in found.points] == ["m0", "m1", "m2"]
    why = "fd_digits fits no column: count is 5000 (the column insists on 359)"
    assert found.left_out == (("m3", why),)


def test_several_records_of_one_method():
    records = world([1, 2, 3], [1, 2, 3])
    again = records[0].model_copy(update={"id": "again", "values": {"fid": Value(value=7)}})
    # Repeats are averaged; of several settings the oldest counts, and the others are named.
    chosen = select_points([*records, again], score_set="measured").points
    assert {p.name: p.x for p in chosen} == {"m0": 4, "m1": 2, "m2": 3}
    other = again.model_copy(update={"protocol": again.protocol.model_copy(update={"num_steps": 9})})
    found = select_points([*records, other], score_set="measured")
    assert {p.name: p.x for p in found.points} == {"m0": 1, "m1": 2, "m2": 3}
    assert found.left_out == (
        ("m0 (again)", "fid at another setting than the method's oldest record; choose it with --select"),
    )
    chosen = select_points([*records, again], score_set="measured", select=["again", "m1", "m2"]).points
    assert {p.name: p.x for p in chosen} == {"m0": 7, "m1": 2, "m2": 3}


def test_guidance_and_variants():
    unguided, guided = (
        record("a", "class_conditional", {"fid": 3.0}),
        record("a", "class_conditional", {"fid": 2.0}, guidance=4.0),
    )
    t2i = record("a", "t2i", {"geneval_overall": 0.5}, guidance=6.0)
    longer = record("a", "t2i", {"geneval_overall": 0.6}, guidance=6.0, variant="200k")
    pool = [unguided, guided, t2i, longer]
    assert [(p.x, p.y) for p in select_points(pool, score_set="measured").points] == [(3.0, 0.5)]
    assert [(p.x, p.y) for p in select_points(pool, score_set="measured", guidance="cfg").points] == [(2.0, 0.5)]


def test_bad_input():
    for call, message in (
        ({"score_set": "paper-2026"}, "unknown score set 'paper-2026'.*Did you mean 'paper-2026-06'"),
        ({"guidance": "on"}, "unknown guidance 'on'. Known: cfg, none"),
        ({"x": "fdi"}, "unknown metric 'fdi'.*Did you mean 'fid'"),
        ({"x": "fdr6"}, "'fdr6' is not defined.*needs all six.*fdr_siglip"),
        ({"y": "simpleeval_v1"}, "unknown metric 'simpleeval_v1'"),
        ({"select": ["flux2-vea"]}, "unknown method or record 'flux2-vea'.*Did you mean 'flux2-vae'"),
    ):
        with pytest.raises(RequestError, match=message):
            select_points(published.records(), **call)


def test_record_folders(tmp_path):
    good = record("a", "t2i", {"geneval_overall": 0.5})
    good.save(tmp_path / "deep" / "a.json")
    (tmp_path / ".half.json.x.tmp").write_text("{")
    (tmp_path / ".half.json").write_text("{")
    (tmp_path / "run.json").write_text('{"seed": 1, "kind": "run"}')
    (tmp_path / "list.json").write_text("[1, 2]")
    assert load_folder(tmp_path) == [good]
    good.save(tmp_path / "b.json")
    (tmp_path / "c.json").write_text('{"kind": "measured", "id": "BAD ID", "values": {"fid": {"value": "x"}}}')
    (tmp_path / "d.json").write_text('{"kind": "measu')
    with pytest.raises(RequestError) as caught:
        load_folder(tmp_path)
    text = str(caught.value)
    for part in ("id 'a.t2i' stands in both", "c.json", "method", "protocol", "values.fid.value", "d.json"):
        assert part in text
    clash = published.records()[0].model_copy(update={"kind": "measured"})
    clash.save(tmp_path / "other" / "clash.json")
    with pytest.raises(RequestError, match="stands in more than one record"):
        gather([tmp_path / "other"])
    with pytest.raises(RequestError, match="there is no such folder"):
        gather([tmp_path / "missing"])


def test_command():
    result = invoke(
        "correlate",
        "--y",
        "dpgbench",
        "--guidance",
        "cfg",
        "--family",
        "latent",
        "--draws",
        "500",
        "--seed",
        "3",
        "--json",
    )
    assert result.exit_code == 0, result.output
    content = json.loads(result.output)
    assert round(content["pearson"]["value"], 4) == -0.5803
    assert (content["draws"], content["seed"], content["pearson"]["n"]) == (500, 3, 21)
    assert {p["x_record"].rsplit(".", 1)[1] for p in content["selection"]["points"]} == {"cfg"}
    text = invoke("correlate", "--draws", "200").output
    for part in (
        "-0.6458",
        "Kendall tau-b",
        "without one family",
        "200 draws, seed 0",
        "share of the pooled covariance",
    ):
        assert part in text
    names = ",".join(p["name"] for p in content["selection"]["points"][:9])
    assert json.loads(invoke("correlate", "--select", names, "--json", "--draws", "0").output)["pearson"]["n"] == 9


def test_hostile_names_are_text(tmp_path):
    for made in world([1, 2, 3, 4], [1, 3, 2, 4]):
        evil = made.model_copy(update={"method": f"[red]{made.method}\x1b[31m<script>"})
        evil.save(tmp_path / f"{made.id}.json")
    output = invoke("correlate", "--set", "measured", "--records", str(tmp_path), "--draws", "0").output
    assert "[red]m0\\x1b[31m<script>" in output
    assert "\x1b" not in output


def test_imports_neither_torch_nor_a_metric():
    code = (
        "import sys, diffusionbench.cli.records, diffusionbench.views.terminal, diffusionbench.study.points;"
        "from diffusionbench.study import published; published.records();"
        "bad = {m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'scipy', 'pandas'};"
        "bad |= {m for m in sys.modules if m.startswith('diffusionbench.metrics.')};"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def erring(made, key, errors):
    """The records with standard errors for one metric, in order."""
    errors = iter(errors)
    return [
        one.model_copy(update={"values": {key: one.values[key].model_copy(update={"stderr": next(errors)})}})
        if key in one.values
        else one
        for one in made
    ]


def test_each_metric_has_the_noise_of_its_own_records():
    made = erring(world([1, 2, 3, 4], [2, 1, 4, 3]), "fid", [0.3, 0.4, 0.3, 0.4])
    chosen = select_points(erring(made, "geneval_overall", [0.1] * 4), score_set="measured")
    first = chosen.points[0]
    assert (first.x_record, first.y_record) == ("m0.class_conditional", "m0.t2i")
    assert (first.x_value.stderr, first.y_value.stderr) == (0.3, 0.1)
    study = analyse(chosen, draws=0)
    assert study.noise_x.sd == pytest.approx(math.sqrt((0.3**2 + 0.4**2) / 2))
    assert study.noise_y.sd == pytest.approx(0.1)
    # Where one record states no error, the published re-scoring stands for all.
    some = select_points(erring(made, "geneval_overall", [0.1, None, 0.1, 0.1]), score_set="measured")
    assert analyse(some, draws=0).noise_y == rescoring_noise("geneval_overall")


def test_rescoring_compares_like_with_like():
    made = []
    for name, shift in (("a", 0.1), ("b", -0.1), ("c", 0.3)):
        for scale in (1.0, 4.0):
            for score_set, change in ((published.PAPER, 0.0), (published.BLOG, shift if scale == 1 else 0.0)):
                one = record(name, "class_conditional", {"fid": 9 / scale + change}, guidance=scale)
                protocol = one.protocol.model_copy(update={"name": score_set})
                made.append(one.model_copy(update={"kind": "published", "protocol": protocol}))
    changes = [0.1, -0.1, 0.3, 0, 0, 0]
    assert rescoring_noise("fid", made).sd == pytest.approx(np.std(changes, ddof=1) / math.sqrt(2))


def test_noise_within_families_is_held_against_the_spread_within_them():
    made = world([1, 2, 3, 11, 12, 13], [1, 3, 2, 21, 23, 22], ["rae"] * 3 + ["pixel"] * 3, stderr=0.5)
    pooled, within = analyse(select_points(made, score_set="measured"), draws=0).attenuation
    assert (pooled.scope, within.scope) == ("pooled", "within families")
    # Squares of deviations from two means: 4, over 6 - 2 degrees of freedom.
    assert within.reliability_x == within.reliability_y == pytest.approx(1 - 0.25)
    assert within.corrected == pytest.approx(0.5 / 0.75)


def test_the_best_follow_the_direction_of_the_metric_and_ties_stay_together():
    made = world([1, 2, 2, 3, 4], [0.1, 0.5, 0.2, 0.4, 0.3])
    (part,) = analyse(select_points(made, score_set="measured"), draws=0, top=[2]).top
    assert part.coefficient.n == 3
    turned = select_points(made, "geneval", "fid", score_set="measured")
    (part,) = analyse(turned, draws=0, top=[3]).top
    assert part.coefficient.value == pytest.approx(np.corrcoef([0.5, 0.4, 0.3], [2, 3, 4])[0, 1])


def test_every_part_is_drawn_with_the_seed_asked_for():
    chosen = select_points(published.records(), guidance="cfg")
    study = analyse(chosen, draws=100, seed=3)
    x, y = [p.x for p in chosen.points], [p.y for p in chosen.points]
    labels = ["vae" if p.family == "e2e-vae" else p.family for p in chosen.points]
    given = {"draws": 100, "seed": 3}
    assert study.pearson == pearson(x, y, **given)
    assert study.spearman == spearman(x, y, **given)
    assert study.kendall == kendall(x, y, **given)
    assert study.within == partial(x, y, labels, **given)
    for part in study.per_family:
        mine = [place for place, label in enumerate(labels) if label == part.name]
        assert part.coefficient == pearson([x[place] for place in mine], [y[place] for place in mine], **given)
    changes = [abs(one.change) for one in study.influence]
    assert changes == sorted(changes, reverse=True)
    assert analyse(chosen, draws=100, seed=4).attenuation[0].rescored_sd != study.attenuation[0].rescored_sd


def test_both_metrics_are_of_one_protocol_and_finite():
    mixed = [*world([1, 2], [1, 2]), record("m9", "class_conditional", {"fid": 3.0})]
    mixed.append(record("m9", "t2i", {"geneval_overall": 3.0}, count=50))
    with pytest.raises(RequestError, match="mixed protocols in one comparison of geneval_overall"):
        select_points(mixed, score_set="measured")
    broken = select_points(world([1, 2, 3], [1, 2, math.nan]), score_set="measured")
    assert dict(broken.left_out) == {"m2": "geneval_overall is not finite"}
