"""Digests of the judges and references that the declared boards insist on, as this version computes them.

    python tools/board_pins.py            # list them; exit 1 where boards.yaml lacks one
    python tools/board_pins.py --write    # enter those that are lacking

A digest is added beside the former ones where old and new numbers compare. Where they do not, raise the version of
each board that accepts it, and keep the former version with its own name for the judge.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from diffusionbench.errors import UserError
from diffusionbench.judges import JUDGES
from diffusionbench.references import REFERENCES, split_name
from diffusionbench.references.opening import resolve
from diffusionbench.study.columns import BOARDS, accepted


def computed() -> dict[str, dict[str, str | None]]:
    """Return the digest of every accepted judge and reference by kind and name; None where its files are not here."""
    known = accepted()
    found: dict[str, dict[str, str | None]] = {"judges": {}, "references": {}}
    for name in known.judges:
        try:
            found["judges"][name] = JUDGES.load(name)("cpu").digest
        except UserError:
            found["judges"][name] = None
    for name in known.references:
        found["references"][name] = resolve(name).digest if split_name(name)[0] in REFERENCES else None
    return found


def missing() -> dict[str, dict[str, str]]:
    """Return the digests of this version that boards.yaml does not accept yet."""
    known: dict[str, Mapping[str, tuple[str, ...]]] = {"judges": accepted().judges, "references": accepted().references}
    return {
        kind: {name: one for name, one in digests.items() if one is not None and one not in known[kind][name]}
        for kind, digests in computed().items()
    }


def write(path: Path, new: Mapping[str, Mapping[str, str]]) -> None:
    """Add digests to the lists of a file, line by line, so that its comments stay."""
    text = path.read_text(encoding="utf-8")
    for kind, digests in new.items():
        for name, one in digests.items():
            line = re.compile(rf"(?ms)(^  {kind}:\n.*?^    {re.escape(name)}: \[)([^\]]*)")
            text = line.sub(rf"\g<1>\g<2>, {one}", text, count=1).replace("[, ", "[")
    path.write_text(text, encoding="utf-8")


def main() -> int:
    # Weights that are not here are left out, not fetched.
    os.environ["HF_HUB_OFFLINE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="enter the missing digests into boards.yaml")
    asked = parser.parse_args()
    for kind, digests in computed().items():
        for name, one in digests.items():
            held = getattr(accepted(), kind)[name]
            words = "no files here" if one is None else "accepted" if one in held else "MISSING"
            print(f"{kind} {name}: {one or '-'}  {words}")
    new = missing()
    if asked.write:
        write(BOARDS, new)
        return 0
    return 1 if any(new.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
