"""Templates and assets of the site, and the policy that lets a page run its own scripts and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any, Final

from diffusionbench.catalog import metric_info
from diffusionbench.registry import require
from diffusionbench.views.figure import ALL_STYLES
from diffusionbench.views.site import contents

STYLE: Final = "site.css"
# Functions of `contents` that templates call.
_FUNCTIONS: Final = (
    *("record_page", "method_page", "metric_page", "sheet_picture"),
    *("guidance_words", "printed", "uncertainty", "doubt", "mark", "not_ranked"),
)
NAVIGATION: Final = (
    ("index.html", "Figure 1"),
    ("leaderboard.html", "Leaderboard"),
    ("methods.html", "Methods"),
    ("metrics.html", "Metrics"),
    ("contribute.html", "Contribute"),
    ("data.html", "Data"),
)


@cache
def asset(name: str) -> str:
    """Return the text of a file in `assets`."""
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def stylesheet() -> str:
    """Return the style of all pages, with the colours of the families."""
    light = "".join(f"--{key}:{style.colour};" for key, style in ALL_STYLES.items())
    dark = "".join(f"--{key}:{style.dark};" for key, style in ALL_STYLES.items())
    marks = "".join(f".fam-{key}{{--mark:var(--{key})}}" for key in ALL_STYLES)
    return f"{asset(STYLE)}\n:root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{marks}\n"


def to_json(value: Any) -> str:
    """Return JSON that is safe inside a script element, whatever its strings hold."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def safe_link(url: str | None) -> str | None:
    """Return a URL that may become a link (http and https only, never a script), else None."""
    return url if url is not None and url.lower().startswith(("https://", "http://")) else None


class Pages:
    """Render templates.

    Raises:
        MissingPackageError: if jinja2 is not installed.
    """

    def __init__(self) -> None:
        jinja2 = require("jinja2", "site", "The site")
        self._environment = jinja2.Environment(
            loader=jinja2.FunctionLoader(
                lambda name: (files(__package__) / "templates" / name).read_text(encoding="utf-8")
            ),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            auto_reload=False,
        )
        self._environment.globals |= {name: getattr(contents, name) for name in _FUNCTIONS}
        self._environment.globals["metric_info"] = metric_info
        self._markup = require("markupsafe", "site", "The site").Markup

    def render(
        self,
        template: str,
        *,
        depth: int = 0,
        here: str = "",
        scripts: tuple[str, ...] = (),
        data: Any = None,
        loads: bool = False,
        **values: Any,
    ) -> str:
        """Return one page.

        Args:
            template: its file.
            depth: folders between the page and the root of the site.
            here: the page's entry in the navigation.
            scripts: assets to run, in order; they read `data`.
            data: input of the scripts, handed over as JSON.
            loads: whether they load files of data, which are scripts too.
            values: variables of the template.
        """
        texts = [f"\n{asset(name)}" for name in scripts]
        return str(
            self._environment.get_template(template).render(
                root="../" * depth,
                here=here,
                navigation=NAVIGATION,
                policy=policy(texts, loads=loads),
                scripts=[self._markup(text) for text in texts],
                data=None if data is None else self._markup(to_json(data)),
                **values,
            )
        )


def policy(scripts: list[str], style: str | None = None, *, loads: bool = False) -> str:
    """Return the content security policy of a page that runs these scripts and no other.

    Args:
        style: of a page that carries its own; None where it is the site's.
        loads: let these scripts load others, which markup may not.
    """
    hashes = " ".join([*map(_hash, scripts), *(["'strict-dynamic'"] if loads else [])])
    rules = (
        "default-src 'none'",
        f"script-src {hashes}" if hashes else "script-src 'none'",
        # A page in the file system has no origin: 'self' alone would keep its own style away in some browsers.
        "style-src 'self' file:" if style is None else f"style-src {_hash(style)}",
        "img-src 'self' file: data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
