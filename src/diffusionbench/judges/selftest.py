"""Self-tests of judges: before the first image is made, once for each digest and device, kept in the cache folder."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final, NamedTuple

import numpy as np

from diffusionbench import provenance
from diffusionbench.errors import RunError
from diffusionbench.judges import TOLERANCE, Unjudged
from diffusionbench.judges.float32 import in_float32
from diffusionbench.judges.judge import Judge
from diffusionbench.limits import parse_json, read_small
from diffusionbench.sample import Item
from diffusionbench.schema import digest
from diffusionbench.writing import cache_folder, write_atomic

# Images of the check without stored outputs, and their sides where the judge takes any.
_COUNT, _SIDE = 3, 64
# Of plain pictures, in the order of the channels.
_COLOURS: Final = ("red", "green", "blue")
_STORED: Final = "stored outputs"


class SelfTest(NamedTuple):
    """Outcome of a self-test that did not fail.

    Attributes:
        compared: with what the judge's outputs were compared: "stored outputs", "itself" (other batches), or "nothing".
        deviation: the largest one, relative to the largest value; 0 where nothing was compared.
        sense: of a judge that is asked in words: "right" where it told plain pictures of three colours apart,
            "stand-in" where its network is too small to be asked that; else "".
    """

    compared: str
    deviation: float
    sense: str = ""

    def __str__(self) -> str:
        """Return it in words."""
        if self.compared == "nothing":
            return "not tested: it is given what only a request has, and no outputs are stored for it"
        stored = "" if self.compared == _STORED else "; no outputs are stored for it, so only shapes, range and batches"
        return f"largest relative deviation {self.deviation:.1e} from {self.compared}{stored}{_SENSE[self.sense]}"


_SENSE: Final = {
    "": "",
    "right": "; it tells plain red, green and blue pictures apart",
    "stand-in": "; not asked to tell colours apart, as its network is smaller than any published one",
}


def self_test(judge: Judge, device: str) -> SelfTest:
    """Return the outcome for a judge on a device: the stored one, else that of a test now.

    Raises:
        RunError: if it fails.
    """
    packages = provenance.packages()
    machine = [provenance.hardware(device), packages.get("torch"), packages.get("numpy")]
    file = cache_folder() / "selftests" / f"{digest([judge.digest, *machine, TOLERANCE, SelfTest._fields])}.json"
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
    row = judge.spec
    with in_float32():
        if row.self_test:
            found = SelfTest(_STORED, float(judge.self_test()))
        elif row.uses or row.pairs or (row.output == "rows" and row.example is None):
            return SelfTest("nothing", 0.0)
        else:
            sense = ("stand-in" if judge.is_stand_in else "right") if row.example else ""
            found = SelfTest("itself", _against_itself(judge), sense)
        # NaN counts as failed.
        if not found.deviation <= TOLERANCE:
            where = "than it was shipped with" if found.compared == _STORED else "in another batch"
            raise RunError(
                f"judge '{judge.name}' fails its self-test: on this machine it gives other outputs {where} (largest "
                f"relative deviation {found.deviation:.1e}, at most {TOLERANCE:.0e} is allowed), so its scores would "
                "not compare. Reinstall diffusionbench, and torch if that does not help; see `diffusionbench selftest`."
            )
        if found.sense == "right" and not _tells_colours(judge):
            raise RunError(
                f"judge '{judge.name}' fails its self-test: it does not tell plain red, green and blue pictures apart, "
                f"so its weights are not those of {' and '.join(row.hub)}. Remove that copy and fetch it again."
            )
    return found


def _asked(judge: Judge, colour: str) -> Item:
    """Return an item whose text and only question are the judge's example."""
    text = (judge.spec.example or "").format(colour)
    return Item("example", text=text, detail={"questions": [{"question": text}]})


def _against_itself(judge: Judge) -> float:
    """Return the largest relative deviation of an image alone from the same in a batch.

    Infinity for wrong shapes, and for values out of their range.
    """
    height, width = judge.spec.image_size or (_SIDE, _SIDE)
    images = np.random.default_rng(0).integers(0, 256, (_COUNT, height, width, 3), dtype=np.uint8)
    asked = [_asked(judge, "red")] * _COUNT
    together: Any = judge(images, asked)
    alone: Any = judge(images[1:2], asked[:1])
    if judge.spec.output == "rows":
        # Judges of rows see one image at a time, so nothing may differ.
        right = len(together) == _COUNT and together[1:2] == alone and all(map(_is_in_range, together))
        return 0.0 if right else float("inf")
    promised = {"features": judge.spec.dim, "logits": judge.spec.num_classes}
    worst = 0.0
    for name in {*together, *(name for name, number in promised.items() if number)}:
        rows = np.asarray(together.get(name, np.nan), np.float64)
        shape = (_COUNT, promised.get(name) or rows.shape[-1]) if rows.ndim == 2 else rows.shape
        if rows.shape[:1] != (_COUNT,) or rows.shape != shape or not np.isfinite(rows).all():
            return float("inf")
        worst = max(worst, float(np.abs(rows[1] - alone[name][0]).max() / max(np.abs(rows).max(), 1e-12)))
    return worst


def _is_in_range(row: Any) -> bool:
    """Return whether probabilities lie in 0..1 and scores in -1..1, in a row and in what it lists; NaN does not."""
    if isinstance(row, Unjudged):
        return False
    own = [low <= row[key] <= 1 + 1e-6 for key, low in (("score", -1 - 1e-6), ("probability", 0)) if key in row]
    return all(own) and all(map(_is_in_range, (*row.get("answers", ()), *row.get("boxes", ()))))


def _tells_colours(judge: Judge) -> bool:
    """Return whether each plain picture fits the text of its own colour best, and each text the picture of its colour.

    Of a judge that answers, the texts are questions, and the fitting ones alone are answered yes.
    """
    pictures = np.zeros((3, _SIDE, _SIDE, 3), np.uint8)
    pictures[range(3), ..., range(3)] = 255
    own, fits = np.eye(3, dtype=bool), np.empty((3, 3))
    for text, colour in enumerate(_COLOURS):
        rows: Any = judge(pictures, [_asked(judge, colour)] * 3)
        for picture, row in enumerate(rows):
            (one,) = row.get("answers", [row])
            if "answers" in row and (one["answer"] == "yes") != own[picture, text]:
                return False
            fits[picture, text] = one["score"] if "score" in one else one["probability"]
    best = [fits == fits.max(axis=axis, keepdims=True) for axis in (0, 1)]
    return all(np.array_equal(one, own) for one in best)
