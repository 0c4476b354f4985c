"""The texts of the few-shot prompts: for each subtask an instruction, examples, how to answer.

The shape is that of the published evaluation (babilong/prompts.py); the wording is our own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A few facts with a question about them, and the answer in the form that is asked for."""

    text: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """What a subtask's prompt says before the context; ``post_prompt`` is how to answer."""

    instruction: str
    examples: tuple[Example, ...]
    post_prompt: str


_HIDDEN = "Below is a long text in which a few facts about {} are hidden. "
_USE = "Answer the question at the end from these facts alone; the rest of the text is no help."
_ONE_WORD = "Answer with {}, and write nothing after it."


def _hidden(about: str, rules: str = "") -> str:
    """An instruction: what the facts are about, and what has to be known to use them."""
    return _HIDDEN.format(about) + _USE + (f" {rules}" if rules else "")


_LATEST = "People move about: what was said last of a person is what counts."
_CARRY = (
    "A thing that somebody took goes wherever that person goes, until it is put down; then it "
    "stays where it was put."
)
_YES_NO = _ONE_WORD.format("one word, yes or no")
_PLACE = _ONE_WORD.format("one word, the name of the place")

PROMPTS: dict[str, Prompt] = {
    "qa1": Prompt(
        _hidden("where people are", _LATEST),
        (
            Example(
                "Mary went to the office. John moved to the garden. Mary travelled to the "
                "kitchen. Where is Mary?",
                "Mary is now in the kitchen.",
            ),
            Example(
                "Sandra journeyed to the hallway. Daniel went back to the bathroom. Where is "
                "Sandra?",
                "Sandra is now in the hallway.",
            ),
        ),
        "Answer in the form: 'person' is now in the 'place'. Write nothing after it.",
    ),
    "qa2": Prompt(
        _hidden("where people are and what they take and leave", _CARRY),
        (
            Example(
                "Daniel went to the bedroom. Daniel got the milk there. Daniel moved to the "
                "office. Where is the milk?",
                "The milk is in the office.",
            ),
            Example(
                "Mary travelled to the garden. Mary took the apple there. Mary dropped the apple. "
                "Mary went to the kitchen. Where is the apple?",
                "The apple is in the garden.",
            ),
        ),
        "Answer in the form: The 'thing' is in the 'place'. Write nothing after it.",
    ),
    "qa3": Prompt(
        _hidden("where people are and what they take and leave", _CARRY),
        (
            Example(
                "Mary grabbed the apple. Mary went back to the bathroom. Mary travelled to the "
                "kitchen. John moved to the garden. Where was the apple before the kitchen?",
                "Before the kitchen the apple was in the bathroom.",
            ),
            Example(
                "Sandra took the football. Sandra went to the garden. Sandra journeyed to the "
                "office. Sandra put down the football. Where was the football before the office?",
                "Before the office the football was in the garden.",
            ),
        ),
        "Answer in the form: Before the 'place' the 'thing' was in the 'other place', and no more.",
    ),
    "qa4": Prompt(
        _hidden("which place lies north, south, east or west of which"),
        (
            Example(
                "The hallway is south of the kitchen. The bedroom is north of the kitchen. What "
                "is the kitchen south of?",
                "bedroom",
            ),
            Example(
                "The garden is west of the office. The office is west of the bathroom. What is "
                "west of the office?",
                "garden",
            ),
        ),
        _PLACE,
    ),
    "qa5": Prompt(
        _hidden("people who move about, take things and give them to each other"),
        (
            Example(
                "Fred got the milk there. Fred handed the milk to Jeff. Bill went to the garden. "
                "Who received the milk?",
                "Jeff",
            ),
            Example(
                "Jeff picked up the apple there. Jeff gave the apple to Bill. What did Jeff give "
                "to Bill?",
                "apple",
            ),
            Example(
                "Mary took the football there. Mary passed the football to Jeff. Who gave the "
                "football?",
                "Mary",
            ),
        ),
        _ONE_WORD.format("one word, a name or a thing"),
    ),
    "qa6": Prompt(
        _hidden("where people are", _LATEST),
        (
            Example(
                "John travelled to the hallway. John moved to the garden. Is John in the garden?",
                "yes",
            ),
            Example(
                "Sandra went to the office. Mary journeyed to the hallway. Sandra went to the "
                "bedroom. Is Sandra in the office?",
                "no",
            ),
        ),
        _YES_NO,
    ),
    "qa7": Prompt(
        _hidden("people who take things, put them down and give them away"),
        (
            Example(
                "Daniel got the apple there. Daniel went to the office. Daniel took the milk "
                "there. How many objects is Daniel carrying?",
                "two",
            ),
            Example(
                "Mary grabbed the football there. Mary gave the football to John. How many "
                "objects is Mary carrying?",
                "none",
            ),
        ),
        _ONE_WORD.format("one word, the number: none, one, two or three"),
    ),
    "qa8": Prompt(
        _hidden("people who take things and put them down"),
        (
            Example(
                "John took the apple there. John went to the hallway. John got the milk there. "
                "What is John carrying?",
                "apple,milk",
            ),
            Example(
                "Mary grabbed the football there. Mary dropped the football. What is Mary "
                "carrying?",
                "nothing",
            ),
        ),
        _ONE_WORD.format(
            "the things alone, with commas and no spaces between them, or with the word nothing"
        ),
    ),
    "qa9": Prompt(
        _hidden("where people are and where they are not", _LATEST),
        (
            Example(
                "Mary is in the kitchen. Mary is no longer in the kitchen. Is Mary in the kitchen?",
                "no",
            ),
            Example(
                "John is not in the garden. Daniel went to the bathroom. Is Daniel in the "
                "bathroom?",
                "yes",
            ),
        ),
        _YES_NO,
    ),
    "qa10": Prompt(
        _hidden("where people are or may be", _LATEST),
        (
            Example(
                "Fred is either in the school or the park. Bill moved to the office. Is Fred in "
                "the park?",
                "maybe",
            ),
            Example(
                "Julie is in the cinema. Is Julie in the cinema?",
                "yes",
            ),
            Example(
                "Mary is either in the kitchen or the bedroom. Is Mary in the school?",
                "no",
            ),
        ),
        _ONE_WORD.format("one word: yes, no or maybe"),
    ),
    "qa11": Prompt(
        _hidden("where people are", f"{_LATEST} He and she are the person named just before."),
        (
            Example(
                "Mary went back to the bathroom. After that she went to the bedroom. Where is "
                "Mary?",
                "bedroom",
            ),
            Example(
                "John moved to the garden. Then he travelled to the office. Sandra went to the "
                "hallway. Afterwards she moved to the kitchen. Where is John?",
                "office",
            ),
        ),
        _PLACE,
    ),
    "qa12": Prompt(
        _hidden("where people are", _LATEST),
        (
            Example(
                "Mary and Daniel travelled to the bathroom. John and Daniel moved to the office. "
                "Where is Daniel?",
                "office",
            ),
            Example(
                "Sandra and John went to the garden. Mary and Daniel went back to the kitchen. "
                "Where is Sandra?",
                "garden",
            ),
        ),
        _PLACE,
    ),
    "qa13": Prompt(
        _hidden("where people are", f"{_LATEST} They are the two people named just before."),
        (
            Example(
                "Mary and Daniel went to the bathroom. Then they journeyed to the hallway. Where "
                "is Daniel?",
                "hallway",
            ),
            Example(
                "Sandra and John moved to the kitchen. After that they moved to the garden. Mary "
                "and Sandra went to the office. Following that they went to the bedroom. Where is "
                "John?",
                "garden",
            ),
        ),
        _PLACE,
    ),
    "qa14": Prompt(
        _hidden(
            "where people were at which time of the day",
            "The times are, in order: yesterday, this morning, this afternoon, this evening. The "
            "facts are told out of order.",
        ),
        (
            Example(
                "Julie went to the school this morning. Yesterday Julie moved to the office. "
                "Where was Julie before the school?",
                "office",
            ),
            Example(
                "This afternoon Bill went to the park. Bill travelled to the cinema yesterday. "
                "This morning Bill went back to the kitchen. Where was Bill before the park?",
                "kitchen",
            ),
        ),
        _PLACE,
    ),
    "qa15": Prompt(
        _hidden(
            "animals that have names and which animals are afraid of which",
            "Whoever is of a kind fears what that kind fears.",
        ),
        (
            Example(
                "Mice are afraid of wolves. Gertrude is a mouse. Cats are afraid of sheep. What "
                "is gertrude afraid of?",
                "wolf",
            ),
            Example(
                "Sheep are afraid of cats. Wolves are afraid of mice. Emily is a wolf. What is "
                "emily afraid of?",
                "mouse",
            ),
        ),
        _ONE_WORD.format("one word, the animal in the singular"),
    ),
    "qa16": Prompt(
        _hidden(
            "animals that have names and what color they are",
            "An animal whose color is not told has the color of another one of its kind.",
        ),
        (
            Example(
                "Lily is a frog. Brian is a lion. Brian is white. Lily is green. Greg is a frog. "
                "What color is Greg?",
                "green",
            ),
            Example(
                "Julius is a swan. Bernhard is a rhino. Julius is yellow. Brian is a swan. "
                "Bernhard is gray. What color is Brian?",
                "yellow",
            ),
        ),
        _ONE_WORD.format("one word, the color"),
    ),
    "qa17": Prompt(
        _hidden(
            "how shapes lie to each other",
            "Each shape is one step from the other in its fact, straight up, down, left or right.",
        ),
        (
            Example(
                "The triangle is above the pink rectangle. The blue square is to the left of the "
                "triangle. Is the pink rectangle to the right of the blue square?",
                "yes",
            ),
            Example(
                "The red sphere is below the red square. The red square is below the triangle. Is "
                "the red sphere above the triangle?",
                "no",
            ),
        ),
        _YES_NO,
    ),
    "qa18": Prompt(
        _hidden("which thing is bigger than which", "A thing fits in whatever is bigger than it."),
        (
            Example(
                "The suitcase is bigger than the chest. The chocolate fits inside the chest. Does "
                "the chocolate fit in the suitcase?",
                "yes",
            ),
            Example(
                "The box fits inside the container. The box is bigger than the chocolate. Is the "
                "chocolate bigger than the container?",
                "no",
            ),
        ),
        _YES_NO,
    ),
    "qa19": Prompt(
        _hidden(
            "which place lies north, south, east or west of which",
            "The way takes two steps, through one place between.",
        ),
        (
            Example(
                "The kitchen is north of the office. The office is west of the garden. The "
                "bathroom is north of the garden. How do you go from the kitchen to the garden?",
                "s,e",
            ),
            Example(
                "The hallway is west of the bedroom. The office is west of the hallway. The "
                "garden is south of the office. How do you go from the bedroom to the office?",
                "w,w",
            ),
        ),
        _ONE_WORD.format(
            "two of the letters n, s, e and w, one for each step, with a comma and no space "
            "between them"
        ),
    ),
    "qa20": Prompt(
        _hidden(
            "what state people are in and what they do about it",
            "The hungry and the thirsty go to the kitchen, the bored to the garden, the tired to "
            "the bedroom.",
        ),
        (
            Example(
                "Sumit is tired. Where will sumit go?",
                "bedroom",
            ),
            Example(
                "Yann is bored. Jason is thirsty. Yann travelled to the garden. Why did yann go "
                "to the garden?",
                "bored",
            ),
        ),
        _ONE_WORD.format(
            "one word: a place for a question with where, the person's state for one with why"
        ),
    ),
}
