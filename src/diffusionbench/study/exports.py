"""Records in other formats: Every Eval Ever JSON and the Hub's `.eval_results` YAML; and the schema of our own.

`python -m diffusionbench.study.exports --schema records/record.schema.json` writes the JSON Schema of a record.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from diffusionbench import __version__
from diffusionbench.catalog import direction, is_auxiliary, metric_info
from diffusionbench.errors import RequestError
from diffusionbench.record import Record, Value, reference_names
from diffusionbench.schema import canonical_json
from diffusionbench.study.columns import guidance_state
from diffusionbench.study.points import method_key
from diffusionbench.writing import write_atomic

EVERY_EVAL_EVER: Final = "0.3.0"


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema()}


def every_eval_ever(record: Record, *, retrieved: float | None = None) -> dict[str, Any]:
    """Return a record as one Every Eval Ever object (schema 0.3.0).

    Args:
        record: of any kind.
        retrieved: Unix time of retrieval; by default the record's creation.

    Raises:
        RequestError: if no time is known, or the format cannot hold a value.
    """
    created = record.provenance.created
    if retrieved is None:
        if created is None:
            raise RequestError(f"record '{record.id}' has no creation time. Give the time it was retrieved.")
        retrieved = datetime.fromisoformat(created).timestamp()
    stamp = f"{retrieved:.0f}"
    measured = record.kind == "measured"
    exported: dict[str, Any] = {
        "schema_version": EVERY_EVAL_EVER,
        "evaluation_id": f"diffusionbench-{record.protocol.name}/{record.id}/{stamp}",
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": record.provenance.source,
            "source_type": "evaluation_run" if measured else "documentation",
            "source_organization_name": "DiffusionBench",
            "evaluator_relationship": "other",
            "additional_details": {"record": record.id, "kind": record.kind},
        },
        "eval_library": {
            "name": "diffusionbench" if measured else "unknown",
            "version": record.provenance.packages.get("diffusionbench", __version__) if measured else "unknown",
        },
        "model_info": {
            "name": record.title,
            "id": method_key(record),
            "additional_details": {
                "deployment_type": "self_deployed" if measured else "unknown",
                "model_availability": "unknown",
                "family": record.family or "unknown",
                **({"training_cost": canonical_json(record.cost)} if record.cost else {}),
            },
        },
        "evaluation_results": [_eee_result(record, key, value) for key, value in _scores(record).items()],
    }
    if created is not None:
        exported["evaluation_timestamp"] = created
    return exported


def _scores(record: Record) -> dict[str, Value]:
    """Return the values that are scores, without auxiliary ones such as kid_std; RequestError if one is not finite."""
    found = {key: value for key, value in record.values.items() if not is_auxiliary(key, record.values)}
    for key, value in found.items():
        if not math.isfinite(value.value):
            raise RequestError(f"metric '{key}' cannot be exported: {value.value} is not finite.")
    return found


def _eee_result(record: Record, key: str, value: Value) -> dict[str, Any]:
    info = metric_info(key)
    better = direction(key, value)
    if better is None:
        raise RequestError(f"metric '{key}' cannot be exported: whether higher is better is not known.")
    protocol = record.protocol
    score: dict[str, Any] = {"score": value.value}
    uncertainty: dict[str, Any] = {}
    method = {"method": value.method} if value.method else {}
    if value.stderr is not None:
        uncertainty["standard_error"] = {"value": value.stderr, **method}
    if value.interval is not None:
        low, high = value.interval
        uncertainty["confidence_interval"] = {"lower": low, "upper": high, "confidence_level": 0.95, **method}
    if value.scored is not None:
        uncertainty["num_samples"] = value.scored
    details = {"unscored": str(value.unscored)} if value.unscored else {}
    if value.status != "ok":
        details |= {"status": value.status, "reason": value.reason or ""}
    score |= {name: one for name, one in (("uncertainty", uncertainty), ("details", details)) if one}
    dataset = protocol.prompts or reference_names(protocol) or protocol.name
    return {
        "evaluation_result_id": f"{record.id}/{key}",
        "evaluation_name": f"{protocol.axis}/{key}",
        "source_data": {"dataset_name": dataset, "source_type": "other"},
        "metric_config": {
            "evaluation_description": info.about or info.title,
            "metric_id": key,
            "metric_name": info.title,
            "metric_unit": info.unit or "none",
            "lower_is_better": not better,
            "score_type": "continuous",
            "min_score": info.low if math.isfinite(info.low) else "-Infinity",
            "max_score": info.high if math.isfinite(info.high) else "Infinity",
        },
        "score_details": score,
        # Free fields of the format hold strings only; other values are written as JSON.
        "generation_config": {
            "additional_details": {
                name: one if isinstance(one, str) else canonical_json(one)
                for name, one in protocol.model_dump(mode="json", exclude_none=True).items()
            }
        },
    }


def hub_results(record: Record, dataset: str) -> list[dict[str, Any]]:
    """Return a record as entries of the Hub's `.eval_results/*.yaml`.

    `dataset` is the benchmark's data set on the Hub ("owner/name"); each metric key is a task of it.

    Raises:
        RequestError: if the id is not of that form, or a value is not finite.
    """
    owner, _, name = dataset.partition("/")
    if not owner or not name or "/" in name or not dataset.isprintable() or " " in dataset:
        raise RequestError(f"'{dataset}' is not a data set on the Hub. Give it as owner/name.")
    entries, created, url = [], record.provenance.created, record.provenance.url
    for key, value in _scores(record).items():
        entry: dict[str, Any] = {"dataset": {"id": dataset, "task_id": key}, "value": value.value}
        if created:
            entry["date"] = created
        if url:
            entry["source"] = {"url": url, "name": f"DiffusionBench record {record.id}"}
        notes = [
            f"protocol {record.protocol.name}",
            {"cfg": "guided", "none": "without guidance", None: None}[guidance_state(record)],
            f"{record.protocol.count} images" if record.protocol.count else None,
            f"standard error {value.stderr:.3g}" if value.stderr is not None else None,
            f"{value.status}: {value.reason}" if value.status != "ok" else None,
        ]
        entry["notes"] = ", ".join(filter(None, notes))
        entries.append(entry)
    return entries


def hub_yaml(record: Record, dataset: str) -> str:
    """Return `hub_results` as the text of a YAML file."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(hub_results(record, dataset), text)
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the JSON Schema of a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schema", type=Path, required=True, help="where to write it")
    path = parser.parse_args(arguments).schema
    write_atomic(path, json.dumps(record_schema(), indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
