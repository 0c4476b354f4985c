"""bAbI worlds: our own simulator, readers of the real files, and solvers for both."""

from atlas_bench.tasks.babi.solvers import solve
from atlas_bench.tasks.babi.stories import (
    LABELS,
    PERSON_NAMES,
    Query,
    Question,
    Statement,
    Story,
    read_stories,
    template,
)
from atlas_bench.tasks.babi.worlds import (
    ENDLESS,
    SUBTASKS,
    generate_questions,
    generate_story,
    wording,
)

__all__ = [
    "ENDLESS",
    "LABELS",
    "PERSON_NAMES",
    "SUBTASKS",
    "Query",
    "Question",
    "Statement",
    "Story",
    "generate_questions",
    "generate_story",
    "read_stories",
    "solve",
    "template",
    "wording",
]
