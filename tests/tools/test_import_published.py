"""The published tables give the shipped files, to the byte; a table that disagrees with its chart is refused."""

import os
from pathlib import Path

import pytest

import import_published
from diffusionbench.errors import DataError
from diffusionbench.study import published
from import_published import parse_published


@pytest.fixture
def tables():
    root = os.environ.get("NANOGEN_SHARED_DATA")
    folder = (Path(root) if root else Path(__file__).parents[2].parent / "shared" / "data") / "published"
    if not folder.is_dir():
        pytest.skip(f"the published tables are not at {folder}")
    return folder


def test_printed_names_lead_to_ours():
    assert parse_published("FLUX.2-VAE+REG") == parse_published("FLUX.2-VAE + REG") == ("flux2-vae-reg", "vae", None)
    assert parse_published("MeanFlow (NFE=2)") == ("meanflow", "few-step", 2)
    assert parse_published("Z-Image-Turbo") == ("z-image-turbo", "reference", None)
    assert parse_published("RAE (DINOv2-B)") == ("dinov2-b", "rae", None)
    with pytest.raises(DataError, match=r"'DINOv2-X'.*Did you mean 'DINOv2-B'"):
        parse_published("DINOv2-X")


def test_the_tables_give_the_shipped_files(tables):
    for name, text in import_published.build(tables).items():
        shipped = Path(published.__file__).parent / name
        assert shipped.read_text("utf-8") == text, f"{name}: run tools/import_published.py"


def test_a_table_that_disagrees_with_its_chart_is_refused(tables, tmp_path):
    for path in tables.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    chart = tmp_path / "correlation_records.json"
    chart.write_text(chart.read_text().replace('"fid_cfg": 1.96', '"fid_cfg": 1.97', 1))
    with pytest.raises(DataError, match=r"fid of DINOv2-B: the table says 1.96, the chart 1.97"):
        import_published.build(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        import_published.build(tmp_path / "nowhere")
