"""The configuration reference, made of the schemas and the comments behind their fields.

A hook of MkDocs (mkdocs.yml), which adds the page `configuration.md` to the site; run as a script
it prints the page. Nothing is written twice: keys, types, defaults and bounds come from the
dataclasses, descriptions from the comments in their source, choices from the first comment of each
file in conf/.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from atlas_bench.config.locations import folder_of
from atlas_bench.memory import spec
from atlas_bench.models import settings as models
from atlas_bench.models.mixer import MIXERS
from atlas_bench.runs import settings as config
from atlas_bench.tasks.registry import TASKS
from atlas_bench.tasks.stages import NoiseStage
from atlas_bench.tasks.task import TaskSettings

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PAGE = "configuration.md"
# Dataclasses made of another one's fields: whose source says what they mean.
SOURCE = {models.MemorySettings: spec.MemorySpec}
HEAD = """\
# Configuration

Every key, from the schemas of the program: misspelt or of another type it ends in one sentence and
exit code 2. `group=choice` takes a file of `conf/`, which sets several keys, `key=value` sets one.
A default below is the schema's; the chosen files may have set another, and
`atlas-bench --cfg job` prints what a command composes to.
"""


class Row(NamedTuple):
    """One key of the config; ``text`` is the comment of its field with its bounds."""

    key: str
    type: str
    default: str
    text: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs: the page is one more file of the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """The page in Markdown: a section for each part of the config, a line for each key."""
    parts = [HEAD, _section("The run", config.RunSettings, "")]
    for group, settings in _groups(config.RunSettings):
        title = f"`{group}`"
        parts.append(_section(title, settings, f"{group}.", group))
        if group == "task":
            for name, entry in TASKS.items():
                choices = ", ".join(f"`task={choice}`" for choice in _choices_of_task(name))
                parts.append(_section(choices, entry, "task.", level=3))
                for below, inner in _groups(entry):
                    prefix = f"task.{below}"
                    parts.append(_section(f"`{prefix}`", inner, f"{prefix}.", level=4))
            continue
        for below, inner in _groups(settings):
            parts.append(_section(f"`{group}.{below}`", inner, f"{group}.{below}.", level=3))
        if group == "training":
            parts.append(_section("One of `training.curriculum.stages`", NoiseStage, "", level=3))
    return "\n".join(parts)


def rows(settings: type, prefix: str) -> list[Row]:
    """The keys of one schema that are not groups of keys themselves."""
    texts, hints = comments(settings), get_type_hints(settings)
    inherited = set() if settings is TaskSettings else _names(TaskSettings)
    groups = dict(_groups(settings))
    return [
        Row(
            f"{prefix}{each.name}",
            _type(hints[each.name]),
            _default(each),
            ". ".join(filter(None, [texts[each.name].rstrip("."), _bounds(each)])),
        )
        for each in dataclasses.fields(settings)
        if each.name not in groups
        and not (issubclass(settings, TaskSettings) and each.name in inherited)
    ]


def _bounds(field: dataclasses.Field) -> str:
    """What a value may be, as a sentence without a full stop; "" if there are no bounds."""
    bounds = field.metadata.get("bounds")
    valid = MIXERS if field.name == "mixers" else bounds.one_of if bounds else ()
    if valid:
        return f"One of {', '.join(f'`{each}`' for each in valid)}"
    return str(bounds).capitalize() if bounds else ""


def comments(settings: type) -> dict[str, str]:
    """What the comments above and behind each field of a dataclass say; "" where there are none."""
    source = SOURCE.get(settings, settings)
    texts = {each.name: "" for each in dataclasses.fields(settings)}
    for base in reversed(source.__mro__[:-1]):
        texts |= _comments(textwrap.dedent(inspect.getsource(base)))
    return texts


def _comments(source: str) -> dict[str, str]:
    """Of the fields of one class body."""
    by_line: dict[int, tuple[str, bool]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            by_line[token.start[0]] = (token.string.lstrip("# "), alone)
    (body,) = ast.parse(source).body
    found = {}
    for field in (each for each in body.body if isinstance(each, ast.AnnAssign)):
        first = field.lineno
        while by_line.get(first - 1, ("", False))[1]:
            first -= 1
        lines = range(first, field.end_lineno + 1)
        found[field.target.id] = " ".join(by_line[line][0] for line in lines if line in by_line)
    return found


def _section(title: str, settings: type, prefix: str, group: str = "", *, level: int = 2) -> str:
    about = " ".join(inspect.cleandoc(SOURCE.get(settings, settings).__doc__).split())
    lines = [f"{'#' * level} {title}", "", about.replace("``", "`"), ""]
    if group:
        lines += [f"| `{group}=` | |", "|---|---|"]
        lines += [f"| `{name}` | {_cell(text)} |" for name, text in _choices(group)]
        lines += [""]
    lines += ["| key | type | default | |", "|---|---|---|---|"]
    for row in rows(settings, prefix):
        default = f"`{row.default}`" if row.default else ""
        lines.append(f"| `{row.key}` | {row.type} | {default} | {_cell(row.text)} |")
    return "\n".join([*lines, ""])


def _groups(settings: type) -> Iterator[tuple[str, type]]:
    """The fields that are schemas of their own."""
    for name, hint in get_type_hints(settings).items():
        for part in getattr(hint, "__args__", (hint,)):
            several = getattr(hint, "__origin__", None) in (list, dict)
            if dataclasses.is_dataclass(part) and not several:
                yield name, part


def _names(settings: type) -> set[str]:
    return {each.name for each in dataclasses.fields(settings)}


def _type(hint: Any) -> str:
    if parts := getattr(hint, "__args__", ()):
        if getattr(hint, "__origin__", None) is dict:
            return "names of choices"
        names = ["null" if part is type(None) else _type(part) for part in parts]
        is_list = getattr(hint, "__origin__", None) is list
        return f"list of {names[0]}" if is_list else " or ".join(names)
    return {"Any": "any"}.get(hint.__name__, hint.__name__)


def _default(field: dataclasses.Field) -> str:
    """As one would write it in YAML; "" where the chosen files must say it."""
    if field.default_factory is not dataclasses.MISSING:
        return _yaml(field.default_factory())
    return "" if field.default == "???" else _yaml(field.default)


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == {}:
        return "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if dataclasses.is_dataclass(value):
        keys = dataclasses.asdict(value).items()
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in keys) + "}"
    return str(value)


def _choices(group: str) -> list[tuple[str, str]]:
    """The files of a group, each with its first sentence."""
    folder = folder_of("conf") / group
    return [(path.stem, _first_sentence(path)) for path in sorted(folder.glob("*.yaml"))]


def _choices_of_task(schema: str) -> list[str]:
    """The files of conf/task that take their keys from one schema."""
    folder = folder_of("conf") / "task"
    return [
        path.stem
        for path in sorted(folder.glob("*.yaml"))
        if f"{schema}_schema" in path.read_text()
    ]


def _first_sentence(path: Path) -> str:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).split(". ")[0].rstrip(".")


def _cell(text: str) -> str:
    return text.replace("|", "or").strip()


if __name__ == "__main__":
    print(page())
