"""Templates, scripts and drawings made into the bytes of a report; everything from records is escaped here."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from recscale.reporting.palette import INK

_CHART_SCRIPTS = ("chart_marks.js", "chart_words.js", "chart_drawing.js", "chart.js")


def inline_svg(content: bytes, prefix: str) -> Markup:
    """Return an SVG of matplotlib's as markup for a page: no prolog, ids of its own, ink in the colour of the page."""
    markup = content.decode()
    markup = markup[markup.index("<svg") :]
    for pattern in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>"):
        markup = re.sub(pattern, "", markup, flags=re.DOTALL)
    for reference in (' id="', "url(#", 'href="#'):
        markup = markup.replace(reference, f"{reference}{prefix}-")
    markup = markup.replace(INK, f"var(--ink, {INK})")
    return Markup(re.sub(r"\n\s*", "\n", markup))


def page_script(*, has_charts: bool, is_live: bool) -> Markup:
    """Return the script of a page: what every page has, the interactive figures, the watch over a live store."""
    names = ["page.js", *(["live.js"] if is_live else []), *(_CHART_SCRIPTS if has_charts else ())]
    inside = "".join(_asset(name) for name in names)
    return Markup(f'"use strict";(() => {{\n{inside}}})();\n')


def script_hash(script: bytes) -> str:
    """Return the name by which a Content-Security-Policy lets a script run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}"


def page_style() -> Markup:
    """Return the style sheet of a page."""
    return Markup(_asset("page.css") + _asset("chart.css"))


@cache
def _asset(name: str) -> str:
    return (files("recscale.reporting") / name).read_text(encoding="utf-8")


def render_template(template: str, context: Mapping[str, Any]) -> bytes:
    """Return a template filled in; everything in HTML is escaped but what is Markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recscale.reporting", "."),
        autoescape=template == "page.html.jinja",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = escape_markdown
    # A record may hold a lone surrogate (a file name that is no UTF-8); it is shown, not fatal.
    return environment.get_template(template).render(context).encode(errors="backslashreplace")


def escape_markdown(value: object) -> str:
    """Return text that Markdown shows as it is, on one line, in a table too: no markup, HTML or link comes of it."""
    line = re.sub(r"\s+", " ", str(value)).strip()
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~$!#])", r"\\\1", line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # within a word it is no markup
