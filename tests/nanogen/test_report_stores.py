"""Reports of runs whose stored images are of an earlier version."""

import json

from nanogen.report import _store


def test_a_store_of_an_earlier_version_has_no_images_to_show(tmp_path):
    (tmp_path / "store.json").write_text(
        json.dumps({"schema_version": 1, "key": "a", "description": "", "request": {}})
    )
    assert _store(tmp_path / "store.json") is None
