"""What is asked, of which text, and how it is tokenised. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass, field

from atlas_bench.naming import nearest
from atlas_bench.tasks.babi import SUBTASKS
from atlas_bench.tasks.babilong import CONVENTIONS, SOURCES, context_tokens
from atlas_bench.text.corpora import SOURCES as TEXT_SOURCES


@dataclass
class TextSettings:
    """Prose for noise, and the tokenizer."""

    source: str = "embedded"  # embedded | folder | hub (emozilla/pg19)
    folder: str | None = None
    tokenizer: str = "embedded"  # embedded: BPE trained once; else a folder or tokenizer.json
    vocab_size: int = 1024


@dataclass
class TaskSettings:
    """BABILong: which questions, at which lengths, how many, scored how."""

    name: str = "babilong"
    subtasks: list[str] = field(default_factory=lambda: ["qa1"])
    lengths: list[str] = field(default_factory=lambda: ["0k", "1k", "2k", "4k", "8k", "16k"])
    length_convention: str = "public"  # public: nominal - 300 | finetuning: n x 512 - 20
    samples: int = 100  # a subtask and length
    source: str = "generated"  # generated | hub (the published sets of RMT-team)
    seed: int = 42  # of the evaluation samples; training streams use the run's seed
    max_new_tokens: int = 10


def check_task(task: TaskSettings, text: TextSettings) -> None:
    """Raise ValueError in one sentence for a task that cannot be asked.

    Lengths shorter than a story of the subtask are found when the samples are drawn.
    """
    choices = (
        ("task.length_convention", task.length_convention, tuple(CONVENTIONS)),
        ("task.source", task.source, SOURCES),
        ("text.source", text.source, TEXT_SOURCES),
        *(("task.subtasks", subtask, SUBTASKS) for subtask in task.subtasks),
    )
    for key, value, valid in choices:
        if value not in valid:
            raise ValueError(
                f"{key}={value} is not one of {', '.join(valid)}{nearest(value, valid)}"
            )
    for key in ("subtasks", "lengths"):
        if not getattr(task, key):
            raise ValueError(f"task.{key} is empty; name at least one")
    for length in task.lengths:
        context_tokens(length, task.length_convention)
    for key in ("samples", "max_new_tokens"):
        if getattr(task, key) < 1:
            raise ValueError(f"task.{key}={getattr(task, key)} must be at least 1")
    if text.vocab_size < 512:
        raise ValueError(
            f"text.vocab_size={text.vocab_size} is too small: 256 bytes and the task's words need "
            f"at least 512"
        )
    if text.source == "folder" and not text.folder:
        raise ValueError("text.source=folder needs text.folder=PATH, a folder of .txt files")
