"""The pages of the documentation: what their code blocks say, and whether it can be done."""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import lm_eval.tasks
from lm_eval._cli import HarnessCLI

from atlas_bench.cli import report as report_cli
from atlas_bench.cli import run as cli
from atlas_bench.cli.command import choices, first_job, read_command
from atlas_bench.cli.compose import compose_settings, parse_overrides
from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.lm_eval.model import AtlasBenchLM
from atlas_bench.report.published import published_names

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# Keys whose value is a file or folder, and the words that name none.
PATHS = {"checkpoint", "resume", "text.folder", "text.tokenizer", "task.questions_folder"}
NO_PATHS = {"true", "false", "null", "embedded"}
# A launcher or sweeper of the extra [sweep], which may not be installed.
OF_EXTRA = re.compile(r"hardware=|sweep=optuna|hydra\.(launcher|sweeper)\.")


class WrongCommand(AssertionError):
    """What a page says cannot be done; the message is one sentence."""


@dataclass(frozen=True)
class Command:
    """One command line of a page."""

    place: str
    words: tuple[str, ...]
    said: str = ""  # the error that the page shows below it

    def __str__(self) -> str:
        return f"{self.place} {shlex.join(self.words)}"


@dataclass(frozen=True)
class Block:
    """A code block: its first line's number, its language, and the paragraph before it."""

    line: int
    language: str
    text: str
    before: str


# reading ------------------------------------------------------------------------------------


def blocks(text: str) -> list[Block]:
    """The code blocks of a page, fenced ones and those indented by four spaces."""
    found: list[Block] = []
    lines, paragraph, index = text.splitlines(), "", 0
    while index < len(lines):
        line, start = lines[index], index
        if fence := re.match(r"```(\w*)", line):
            index = next(i for i in range(index + 1, len(lines)) if lines[i].startswith("```"))
            body, language = lines[start + 1 : index], fence[1]
            index += 1
        elif line.startswith("    ") and (start == 0 or not lines[start - 1].strip()):
            while index < len(lines) and (lines[index].startswith("    ") or not lines[index]):
                index += 1
            body, language = [each[4:] for each in lines[start:index]], ""
        else:
            starts = start == 0 or not lines[start - 1].strip()
            if line.strip():
                paragraph = line if starts else f"{paragraph} {line}"
            index += 1
            continue
        found.append(Block(start + 1, language, "\n".join(body).rstrip() + "\n", paragraph))
    return found


def prose(text: str) -> str:
    """A page without its code blocks."""
    lines = text.splitlines()
    for block in blocks(text):
        fenced = lines[block.line - 1].startswith("```")
        for index in range(block.line - 1, block.line + block.text.count("\n") + fenced - 1):
            lines[index] = ""
    return "\n".join(line for line in lines if not line.startswith("```"))


def spans(text: str) -> list[str]:
    """The inline code of a page."""
    return [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", prose(text))]


def commands(text: str, name: str) -> list[Command]:
    """The command lines of a page's blocks, and those in its prose."""
    found = []
    for block in blocks(text):
        if block.language in ("", "bash", "sh", "console"):
            for number, line, said in _command_lines(block.text):
                found += _commands_of(line, f"{name}:{block.line + number}", said)
    for span in spans(text):
        if re.match(r"(atlas-bench[\w-]*|lm_eval|pytest|pip|python|torchrun) \S", span):
            found += _commands_of(span, f"{name} in prose")
    return found


def _command_lines(block: str) -> Iterator[tuple[int, str, str]]:
    """With ``$`` in front of some lines, the others are what those print."""
    lines = list(enumerate(re.sub(r"\\\n\s*", "", block).splitlines()))
    if not any(line.startswith("$ ") for _, line in lines):
        yield from ((number, line, "") for number, line in lines)
        return
    for number, line in lines:
        if line.startswith("$ "):
            printed = [following for _, following in lines[number + 1 :]][:1]
            error = [each for each in printed if each.startswith("atlas-bench: ")]
            yield number, line[2:], "".join(error).removeprefix("atlas-bench: ")


def _commands_of(line: str, place: str, said: str = "") -> Iterator[Command]:
    for part in re.split(r";\s+(?=atlas-bench|lm_eval)|&& ", line):
        program = part.split()[0].removeprefix(".venv/bin/") if part.strip() else ""
        if re.match(r"[a-z_]+(\.\w+)+=", program):  # overrides alone: of atlas-bench
            overrides = [word for word in part.split() if re.match(r"[a-z_.]+=", word)]
            yield from _alternatives(overrides, place)
        elif program in (*CHECKS, "torchrun"):
            words = shlex.split(part, comments=True)
            if program == "torchrun":
                words = words[words.index("atlas-bench") :]
            if program.startswith("atlas-bench"):
                _quoted_where_needed(part)
            yield Command(place, (words[0].removeprefix(".venv/bin/"), *words[1:]), said)


def _alternatives(overrides: list[str], place: str) -> Iterator[Command]:
    """`key=a|b` is as many commands."""
    key, _, values = overrides[0].partition("=")
    for value in values.split("|"):
        yield Command(place, ("atlas-bench", f"{key}={value}", *overrides[1:]))


def _quoted_where_needed(line: str) -> None:
    """Raise WrongCommand for what a shell would not leave as it stands."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"|\s#.*", "", line)
    if found := re.search(r"[(){}<>|*?!$&]", bare):
        raise WrongCommand(f"{line.strip()}: {found[0]} needs quotes")


# checking -----------------------------------------------------------------------------------


def check(command: Command) -> None:
    """Raise WrongCommand for a command that names what there is not.

    Paths are looked for from the working directory, those of the repository from its root.
    """
    program, *words = command.words
    try:
        CHECKS[program](words)
    except (ConfigError, WrongCommand) as error:
        if command.said and _is_said(command.said, str(error).removeprefix(f"{command}: ")):
            return
        raise WrongCommand(f"{command}: {error}") from error
    if command.said:
        raise WrongCommand(f"{command} does not say: {command.said}")


def _is_said(shown: str, message: str) -> bool:
    """Whether a page shows the message: word for word, or with ``...`` what it leaves out."""
    words = shown.replace("...", " ").split() if "..." in shown else [shown]
    return re.fullmatch(".*".join(map(re.escape, words)) + r"[^()]*", message) is not None


def _run(words: list[str]) -> None:
    """Of atlas-bench: every flag, key and choice; of a sweep every value of its lists."""
    if {"--help", "--version"}.intersection(words):
        return
    try:
        command = read_command(words)
    except ConfigError as error:
        if "of the extra for sweeps" not in str(error):
            raise
        command = read_command([word for word in words if not OF_EXTRA.match(word)])
    if not any(flag.startswith("--cfg") for flag in command.flags):
        cli.check(command)
    # If no launcher sends jobs elsewhere, the program has looked at all models of a sweep.
    checked = () if any(word.startswith("hardware=") for word in words) else ("model",)
    overrides = parse_overrides(command.words)
    for override in overrides:
        key, value = override.get_key_element().lstrip("+~"), override.value()
        if key in PATHS and isinstance(value, str) and value not in NO_PATHS:
            _exists(Path(value), key)
        if override.is_discrete_sweep() and key not in ("seed", *checked):
            others = [other for other in overrides if other is not override]
            for choice in choices(override)[1:]:
                compose_settings([*first_job(others), choice])


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    try:
        return parser.parse_args([word for word in words if word != "--version"])
    except (SystemExit, argparse.ArgumentError, ValueError) as error:
        raise WrongCommand(f"{parser.prog} does not take {shlex.join(words)}") from error


def _report(words: list[str]) -> None:
    try:
        found = report_cli._parser().parse_args(words)
    except ValueError as error:
        raise WrongCommand(str(error)) from error
    if found.table not in (None, "list", *published_names()):
        raise WrongCommand(f"there is no table {found.table}")
    if found.table != "list" and not found.directories:
        raise WrongCommand("no folder is named")
    for folder in found.directories:
        _exists(folder, "DIR")


def _sweep(words: list[str]) -> None:
    folder, *others = words
    if not (Path(folder) / "sweep.json").is_file():
        raise WrongCommand("it takes the folder of a sweep")
    if others and not (others[0] == "--write" and (REPOSITORY / others[1]).is_dir()):
        raise WrongCommand("it takes --write FOLDER and nothing else")


def _lm_eval(words: list[str]) -> None:
    cli_of_lm_eval = HarnessCLI()
    words = words if words[:1] == ["run"] else ["run", *words]
    found = _parse(cli_of_lm_eval._parser, words)
    if found.model not in (None, "atlas_bench"):
        raise WrongCommand(f"{found.model} is not the name of our model")
    given = dict(found.model_args or {})
    unknown = set(given) - set(inspect.signature(AtlasBenchLM.__init__).parameters)
    if unknown:
        raise WrongCommand(f"our model takes no {', '.join(unknown)}")
    if "checkpoint" in given:
        _exists(Path(given["checkpoint"]), "checkpoint")
    for folder in [found.include_path] if found.include_path else []:
        _exists(REPOSITORY / folder, "--include_path")
    ours = _names_below(REPOSITORY / found.include_path) if found.include_path else set()
    names = ours | _names_below(Path(lm_eval.tasks.__file__).parent)
    tasks = found.tasks.split(",") if isinstance(found.tasks, str) else found.tasks or []
    if wrong := [task for task in tasks if task not in names]:
        raise WrongCommand(f"lm-eval has no task {', '.join(wrong)}")


@cache
def _names_below(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.yaml")}


def _python(words: list[str]) -> None:
    if words[:1] == ["-m"] or words[:1] == ["-c"]:
        return
    script = REPOSITORY / words[0]
    _exists(script, "python")
    source = script.read_text(encoding="utf-8")
    for word in words[1:]:
        if word.startswith("--") and f'"{word.split("=")[0]}"' not in source:
            raise WrongCommand(f"{words[0]} takes no {word}")


def _pytest(words: list[str]) -> None:
    for word in words:
        if "/" in word:
            _exists(REPOSITORY / word.split("::")[0], "pytest")


def _pip(words: list[str]) -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for word in words:
        if found := re.fullmatch(r"(?:\.|atlas-bench)\[([\w,]+)\]", word):
            for extra in found[1].split(","):
                if extra not in extras["optional-dependencies"]:
                    raise WrongCommand(f"there is no extra {extra}")
        if word.endswith(".txt"):
            _exists(REPOSITORY / word, "pip")


def _make(words: list[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for word in words:
        if not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
            raise WrongCommand(f"the Makefile makes no {word}")


def _exists(path: Path, what: str) -> None:
    if not path.exists():
        raise WrongCommand(f"{what}: there is no {path}")


CHECKS = {
    "atlas-bench": _run,
    "atlas-bench-report": _report,
    "atlas-bench-sweep": _sweep,
    "lm_eval": _lm_eval,
    "python": _python,
    "python3": _python,
    "pytest": _pytest,
    "pip": _pip,
    "make": _make,
}
