"""Exports follow the formats of others, and our own schema file is current."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from site_records import measured

from diffusionbench.errors import RequestError
from diffusionbench.record import Guidance, Protocol, Provenance, Record, Value
from diffusionbench.study import published
from diffusionbench.study.exports import every_eval_ever, hub_results, hub_yaml, record_schema

ROOT = Path(__file__).parents[2]
MEASURED = Record(
    kind="measured",
    id="mine-1",
    method="mine",
    title="Mine <b>",
    family="vae",
    protocol=Protocol(name="t2i", axis="t2i", count=10, seed=3, prompts="geneval", guidance=Guidance(scale=6.0)),
    values={
        "geneval_overall": Value(value=0.5, stderr=0.01, interval=(0.48, 0.52), method="prompts", scored=9, unscored=1),
        "fid": Value(value=3.0),
    },
    provenance=Provenance(
        source="checkpoint",
        url="https://example.org/run",
        packages={"diffusionbench": "9.9"},
        created="2026-07-01T00:00:00+00:00",
    ),
)
EVERYTHING = [*published.records(), MEASURED]


def test_schema_file_is_current():
    path = ROOT / "records" / "record.schema.json"
    assert json.loads(path.read_text()) == record_schema(), (
        "run: python -m diffusionbench.study.exports --schema " + str(path)
    )


def test_records_fit_the_exported_schema():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(record_schema())
    jsonschema.Draft202012Validator.check_schema(record_schema())
    for record in EVERYTHING:
        validator.validate(record.model_dump(mode="json"))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"schema_version": 1, "kind": "measured"})


def test_every_eval_ever():
    exported = every_eval_ever(MEASURED)
    assert exported["schema_version"] == "0.3.0"
    assert exported["retrieved_timestamp"] == "1782864000"
    assert exported["evaluation_id"] == "diffusionbench-t2i/mine-1/1782864000"
    assert exported["source_metadata"]["source_type"] == "evaluation_run"
    assert exported["eval_library"] == {"name": "diffusionbench", "version": "9.9"}
    geneval, fid = exported["evaluation_results"]
    assert geneval["score_details"]["uncertainty"] == {
        "standard_error": {"value": 0.01, "method": "prompts"},
        "confidence_interval": {"lower": 0.48, "upper": 0.52, "confidence_level": 0.95, "method": "prompts"},
        "num_samples": 9,
    }
    assert geneval["score_details"]["details"] == {"unscored": "1"}
    assert (geneval["metric_config"]["min_score"], geneval["metric_config"]["max_score"]) == (0, 1)
    assert geneval["metric_config"]["lower_is_better"] is False
    assert (fid["metric_config"]["lower_is_better"], fid["metric_config"]["max_score"]) == (True, "Infinity")
    details = geneval["generation_config"]["additional_details"]
    assert all(isinstance(value, str) for value in details.values())
    assert json.loads(details["guidance"]) == {"interval": [0.0, 1.0], "scale": 6.0}
    published_one = every_eval_ever(published.records()[0], retrieved=1e9)
    assert published_one["source_metadata"]["source_type"] == "documentation"
    assert published_one["eval_library"] == {"name": "unknown", "version": "unknown"}


def test_every_eval_ever_refuses():
    with pytest.raises(RequestError, match="no creation time"):
        every_eval_ever(published.records()[0])
    with pytest.raises(RequestError, match="higher is better is not known"):
        every_eval_ever(MEASURED.model_copy(update={"values": {"brightness": Value(value=1)}}))
    with pytest.raises(RequestError, match="not finite"):
        every_eval_ever(MEASURED.model_copy(update={"values": {"fid": Value(value=float("inf"))}}))


def test_hub_yaml():
    entries = YAML(typ="safe").load(hub_yaml(MEASURED, "me/bench"))
    assert entries == hub_results(MEASURED, "me/bench")
    first = entries[0]
    assert first["dataset"] == {"id": "me/bench", "task_id": "geneval_overall"}
    assert first["value"] == 0.5
    assert first["date"] == "2026-07-01T00:00:00+00:00"
    assert first["source"] == {"url": "https://example.org/run", "name": "DiffusionBench record mine-1"}
    assert first["notes"] == "protocol t2i, guided, 10 images, standard error 0.01"
    for bad in ("bench", "a/b/c", "", "a b/c"):
        with pytest.raises(RequestError, match="owner/name"):
            hub_results(MEASURED, bad)


def test_the_hubs_own_reader_reads_it():
    hub = pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "parse_eval_result_entries"):
        pytest.skip(f"huggingface_hub {hub.__version__} does not read .eval_results yet")
    for record in [*EVERYTHING[::12], MEASURED]:
        entries = YAML(typ="safe").load(hub_yaml(record, "me/bench"))
        parsed = hub.parse_eval_result_entries(entries)
        assert {e.task_id: e.value for e in parsed} == {key: value.value for key, value in record.values.items()}
        assert hub.eval_result_entries_to_yaml(parsed) == entries


@pytest.mark.network
def test_every_eval_ever_schema(tmp_path):
    """Against the schema inside the format's own package, which needs a newer Python than ours to install."""
    jsonschema = pytest.importorskip("jsonschema")
    fetch = "pip download -q --no-deps --python-version 3.12 --only-binary=:all: every-eval-ever==0.3.0 -d"
    subprocess.run([sys.executable, "-m", *fetch.split(), str(tmp_path)], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        schema = json.loads(wheel.read("every_eval_ever/schemas/eval.schema.json"))
    validator = jsonschema.Draft7Validator(schema)
    for record in EVERYTHING:
        validator.validate(every_eval_ever(record, retrieved=1e9))


def test_what_keeps_a_value_from_a_place_is_exported_with_it():
    value = Value(value=2.0, scored=9, status="flagged", reason="trained on the metric")
    record = measured("a", "class_conditional", {"fid": 1.0}).model_copy(update={"values": {"fid": value}})
    (result,) = every_eval_ever(record, retrieved=0)["evaluation_results"]
    assert result["score_details"]["details"] == {"status": "flagged", "reason": "trained on the metric"}
    assert "flagged: trained on the metric" in hub_results(record, "me/bench")[0]["notes"]
