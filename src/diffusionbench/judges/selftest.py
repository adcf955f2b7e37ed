"""Self-tests of judges: before the first image is made, once for each digest and device, kept in the cache folder."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final, NamedTuple

import numpy as np

from diffusionbench import provenance
from diffusionbench.errors import RunError
from diffusionbench.judges import TOLERANCE
from diffusionbench.judges.float32 import in_float32
from diffusionbench.judges.judge import Judge
from diffusionbench.limits import parse_json, read_small
from diffusionbench.sample import Item
from diffusionbench.schema import digest
from diffusionbench.writing import cache_folder, write_atomic

# Images of the check without stored outputs, and their sides where the judge takes any.
_COUNT, _SIDE = 3, 64
_STORED: Final = "stored outputs"


class SelfTest(NamedTuple):
    """Outcome of a self-test that did not fail.

    Attributes:
        compared: with what the judge's outputs were compared: "stored outputs", "itself" (other batches), or "nothing".
        deviation: the largest one, relative to the largest value; 0 where nothing was compared.
    """

    compared: str
    deviation: float

    def __str__(self) -> str:
        """Return it in words."""
        if self.compared == "nothing":
            return "not tested: it asks questions, and no outputs are stored for it"
        stored = "" if self.compared == _STORED else "; no outputs are stored for it, so only shapes, range and batches"
        return f"largest relative deviation {self.deviation:.1e} from {self.compared}{stored}"


def self_test(judge: Judge, device: str) -> SelfTest:
    """Return the outcome for a judge on a device: the stored one, else that of a test now.

    Raises:
        RunError: if it fails.
    """
    packages = provenance.packages()
    facts = [judge.digest, provenance.hardware(device), packages.get("torch"), packages.get("numpy"), TOLERANCE]
    file = cache_folder() / "selftests" / f"{digest(facts)}.json"
    with suppress(OSError, ValueError, TypeError):
        return SelfTest(**parse_json(read_small(file, 2**12)))
    found = test_now(judge)
    # Not kept, it is made again.
    with suppress(OSError):
        write_atomic(file, json.dumps(found._asdict()))
    return found


def test_now(judge: Judge) -> SelfTest:
    """Return the outcome of a test now.

    Raises:
        RunError: if it fails.
    """
    with in_float32():
        if judge.spec.self_test:
            found = SelfTest(_STORED, float(judge.self_test()))
        elif judge.spec.uses or judge.spec.pairs or (judge.spec.output == "rows" and judge.spec.example is None):
            return SelfTest("nothing", 0.0)
        else:
            found = SelfTest("itself", _against_itself(judge))
    # NaN counts as failed.
    if not found.deviation <= TOLERANCE:
        where = "than it was shipped with" if found.compared == _STORED else "in another batch"
        raise RunError(
            f"judge '{judge.name}' fails its self-test: on this machine it gives other outputs {where} (largest "
            f"relative deviation {found.deviation:.1e}, at most {TOLERANCE:.0e} is allowed), so its scores would not "
            "compare. Reinstall diffusionbench, and torch if that does not help; see `diffusionbench selftest`."
        )
    return found


def _against_itself(judge: Judge) -> float:
    """Return the largest relative deviation of an image alone from the same in a batch; infinity for wrong shapes."""
    height, width = judge.spec.image_size or (_SIDE, _SIDE)
    images = np.random.default_rng(0).integers(0, 256, (_COUNT, height, width, 3), dtype=np.uint8)
    text = judge.spec.example
    asked = [Item("example", text=text, detail={"questions": [{"question": text}]})] * _COUNT
    together: Any = judge(images, asked)
    alone: Any = judge(images[1:2], asked[:1])
    if judge.spec.output == "rows":
        # Judges of rows see one image at a time, so nothing may differ.
        return 0.0 if len(together) == _COUNT and together[1:2] == alone else float("inf")
    promised = {"features": judge.spec.dim, "logits": judge.spec.num_classes}
    worst = 0.0
    for name in {*together, *(name for name, number in promised.items() if number)}:
        rows = np.asarray(together.get(name, np.nan), np.float64)
        shape = (_COUNT, promised.get(name) or rows.shape[-1]) if rows.ndim == 2 else rows.shape
        if rows.shape[:1] != (_COUNT,) or rows.shape != shape or not np.isfinite(rows).all():
            return float("inf")
        worst = max(worst, float(np.abs(rows[1] - alone[name][0]).max() / max(np.abs(rows).max(), 1e-12)))
    return worst
