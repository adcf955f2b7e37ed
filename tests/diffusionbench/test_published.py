"""The shipped published figures: complete, traceable, never mixed, and equal to what the importer makes."""

import os
from collections import Counter
from pathlib import Path

import pytest

from diffusionbench.catalog import metric_info
from diffusionbench.errors import DataError
from diffusionbench.study import published
from diffusionbench.study.points import guidance_state, points, subject
from diffusionbench.study.published import importer
from diffusionbench.study.published.names import BY_NAME, METHODS, REFERENCE_MODELS, parse_published

EXTRACTORS = ("inception", "convnext", "dinov2", "mae", "siglip")


@pytest.fixture
def tables():
    root = os.environ.get("NANOGEN_SHARED_DATA")
    folder = (Path(root) if root else Path(__file__).parents[2].parent / "shared" / "data") / "published"
    if not folder.is_dir():
        pytest.skip(f"the published tables are not at {folder}")
    return folder


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
    assert (
        len(METHODS) == len(BY_NAME) == len({m.published for m in METHODS}) == len({m.upstream for m in METHODS}) == 25
    )
    assert Counter(m.family for m in METHODS) == {"rae": 8, "vae": 9, "e2e-vae": 4, "pixel": 3, "few-step": 1}
    assert parse_published("FLUX.2-VAE+REG") == parse_published("FLUX.2-VAE + REG") == ("flux2-vae-reg", "vae", None)
    assert parse_published("MeanFlow (NFE=2)") == ("meanflow", "few-step", 2)
    with pytest.raises(DataError, match=r"'DINOv2-X'.*Did you mean 'DINOv2-B'"):
        parse_published("DINOv2-X")


def test_what_must_stay_apart():
    t2i = {record.id: record for record in by_axis(published.PAPER, "t2i")}
    long = [record for record in t2i.values() if record.variant == "200k"]
    assert {record.method for record in long} == {"langpe-l", "flux1-vae", "flux2-vae", "e2e-vavae"}
    assert all(record.provenance.step == 200_000 and "200K" in record.title for record in long)
    assert t2i["paper-2026-06.t2i.flux2-vae"].values["geneval_overall"].value == 0.675
    assert t2i["paper-2026-06.t2i.flux2-vae.200k"].values["geneval_overall"].value == 0.625
    references = [record for record in t2i.values() if record.family == "reference"]
    assert {record.method for record in references} == set(REFERENCE_MODELS)
    assert all(record.provenance.step is None for record in references)
    assert Counter(r.family for r in by_axis(published.BLOG, "t2i"))["e2e-vae"] == 4
    assert {subject(r) for r in t2i.values() if r.family == "few-step"} == {"meanflow-nfe-1", "meanflow-nfe-2"}


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
        chosen = points(published.records(), score_set=score_set)
        assert all(p.x_record.startswith(f"{score_set}.") and p.y_record.startswith(f"{score_set}.") for p in chosen)
        assert len(chosen) == 24


def test_importer_gives_the_shipped_files(tables):
    for name, text in importer.build(tables).items():
        assert (Path(published.__file__).parent / name).read_text("utf-8") == text, f"{name}: run the importer again"


def test_importer_refuses_a_disagreement(tables, tmp_path):
    for path in tables.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    chart = tmp_path / "correlation_records.json"
    chart.write_text(chart.read_text().replace('"fid_cfg": 1.96', '"fid_cfg": 1.97', 1))
    with pytest.raises(DataError, match=r"fid of DINOv2-B: the table says 1.96, the chart 1.97"):
        importer.build(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        importer.build(tmp_path / "nowhere")
