"""Text from the templates in `template/`: the HTML page, Markdown and LaTeX."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from atlas_bench.report.tables import short_count

LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after \\ a bracket would be an argument
        "]": "{]}",
        "\N{PLUS-MINUS SIGN}": r"$\pm$",
        "\N{MINUS SIGN}": "$-$",
        "\N{EN DASH}": "--",
        "\N{NOT EQUAL TO}": r"$\neq$",
    }
)
TEMPLATES = Environment(
    loader=PackageLoader("atlas_bench.report", "template"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["latex"] = lambda text: text.translate(LATEX_ESCAPES)
TEMPLATES.globals |= {"short_count": short_count, "json": lambda value: json.dumps(value, indent=2)}
# Braces are LaTeX's own.
LATEX_TEMPLATES = TEMPLATES.overlay(
    block_start_string="<%",
    block_end_string="%>",
    variable_start_string="<<",
    variable_end_string=">>",
)


def render(name: str, **data: Any) -> str:
    """The template called ``name``, e.g. "tables.md", filled with ``data``."""
    templates = LATEX_TEMPLATES if name.endswith(".tex") else TEMPLATES
    return templates.get_template(name).render(data)
