"""The forms of a table that tests of tables do not look at: LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from atlas_bench.artifacts.schema import Record
from atlas_bench.report.render import TEMPLATES, render
from atlas_bench.report.tables import Table, TableEntry, score_tables

MakeRecord = Callable[..., Record]


def test_latex_is_a_booktabs_table(make_record: MakeRecord) -> None:
    records = [make_record(model, subtasks=("qa1", "qa2")) for model in ("atlas", "transformer")]
    (table,) = score_tables(records, "exact_match")
    text = render("tables.tex", tables=[table])
    assert re.findall(r"\\(top|mid|bottom)rule", text) == ["top", "mid", "mid", "bottom"]
    assert r"\begin{tabular}{llrrrrrrr}" in text
    assert r"\caption{babilong, exact match (\%), 100 samples a cell}" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 1 + 4
    assert {row.count(" & ") for row in rows} == {8}
    assert rows[1].startswith("qa1 & atlas tiny & 1.2M & 100.0 {\\scriptsize {[}96.3, 100.0{]}} &")
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
        *(("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")),
    ]
    plain = text.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("titans_mag & 50%", r"titans\_mag \& 50\%"),
        (r"\input{x} $#", r"\textbackslash{}input\{x\} \$\#"),
        ("~^<>|", r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"),
        ("−1.2≠ ± 3 – 4", r"$-$1.2$\neq$ $\pm$ 3 -- 4"),
    ],
)
def test_latex_prints_any_text(text: str, latex: str) -> None:
    assert TEMPLATES.filters["latex"](text) == latex
    table = Table(text, [text], 1, [[[TableEntry(text, beside=text)]]], [text])
    assert render("tables.tex", tables=[table]).count(latex) == 5
