"""The shipped published figures: complete, traceable, never mixed."""

from collections import Counter

from diffusionbench.catalog import metric_info
from diffusionbench.study import published
from diffusionbench.study.columns import guidance_state
from diffusionbench.study.points import method_key, select_points
from diffusionbench.study.published import METHODS

EXTRACTORS = ("inception", "convnext", "dinov2", "mae", "siglip")


def by_axis(score_set, axis):
    return [record for record in published.records(score_set) if record.protocol.axis == axis]


def test_counts():
    assert len(by_axis(published.PAPER, "class_conditional")) == 52
    assert len(by_axis(published.PAPER, "t2i")) == 35
    assert len(published.records(published.REPRODUCIBILITY)) == 12
    assert len(by_axis(published.BLOG, "t2i")) == 24
    assert Counter(map(guidance_state, by_axis(published.BLOG, "class_conditional"))) == {"none": 24, "cfg": 24}
    assert len({record.id for record in published.records()}) == len(published.records()) == 171
    assert all(record.kind == "published" for record in published.records())


def test_name_map():
    names = METHODS.values()
    assert len(METHODS) == len({m.published for m in names}) == len({m.upstream for m in names}) == 25
    assert Counter(m.family for m in names) == {"rae": 8, "vae": 9, "e2e-vae": 4, "pixel": 3, "few-step": 1}


def test_what_must_stay_apart():
    t2i = {record.id: record for record in by_axis(published.PAPER, "t2i")}
    long = [record for record in t2i.values() if record.variant == "200k"]
    assert {record.method for record in long} == {"langpe-l", "flux1-vae", "flux2-vae", "e2e-vavae"}
    assert all(record.provenance.step == 200_000 and "200K" in record.title for record in long)
    assert t2i["paper-2026-06.t2i.flux2-vae"].values["geneval_overall"].value == 0.675
    assert t2i["paper-2026-06.t2i.flux2-vae.200k"].values["geneval_overall"].value == 0.625
    references = [record for record in t2i.values() if record.family == "reference"]
    assert len({record.method for record in references}) == 5
    assert all(record.provenance.step is None for record in references)
    assert Counter(r.family for r in by_axis(published.BLOG, "t2i"))["e2e-vae"] == 4
    assert {method_key(r) for r in t2i.values() if r.family == "few-step"} == {"meanflow-nfe-1", "meanflow-nfe-2"}


def test_every_record_says_where_it_comes_from():
    for record in published.records():
        assert record.provenance.source
        assert record.provenance.url
        assert record.provenance.commit is None
        assert all(value.stderr is None and value.scored is None for value in record.values.values())
        for key, value in record.values.items():
            info = metric_info(key)
            assert info.higher_is_better is not None
            assert info.low <= value.value <= info.high
            if "printed" in record.extra:
                assert float(record.extra["printed"][key]) == value.value
        if "geneval_overall" in record.values:
            assert any("upstream code averages over images; unconfirmed" in note for note in record.protocol.notes)


def test_keys():
    for record in by_axis(published.PAPER, "class_conditional"):
        assert set(record.values) == {"fid", "inception_score"} | {
            f"{k}_{e}" for k in ("fdr", "mind") for e in EXTRACTORS
        }
    keys = {key for record in published.records() for key in record.values}
    assert "fdr6" not in keys
    assert "simpleeval_v1" not in keys
    assert "simpleeval_published_2026_05" not in {k for r in published.records(published.PAPER) for k in r.values}
    assert "simpleeval_published_2026_06" not in {k for r in published.records(published.BLOG) for k in r.values}


def test_sets_are_not_mixed():
    for score_set in (published.PAPER, published.BLOG):
        chosen = select_points(published.records(), score_set=score_set).points
        assert all(p.x_record.startswith(f"{score_set}.") and p.y_record.startswith(f"{score_set}.") for p in chosen)
        assert len(chosen) == 24
