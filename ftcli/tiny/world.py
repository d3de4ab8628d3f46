"""The tasks of the tiny world: every question that can be asked, its one right answer, and which are held out.

Departs from ordinary benchmark splits in one way: what is held out is the operand (this pair of numbers, this
word, this animal's food), never only the wording, so that no neighbouring training prompt gives the answer away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from ftcli.tiny.facts import ANIMALS, POLITE, RUDE, RUDE_WORDS, THINGS, WORDS

SEED = 20
"""Seed of the world that is shipped."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"

# Every instruction has its own words before and after the operands: then one prompt is never part of another ("0 and 1
# for me" is not inside "0 and 12 for me"), and being held out can be tested by plain search.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "sum": ("Add {a} and {b} for me.", "What is {a} + {b} in total?", "How much do {a} and {b} make?"),
    "bigger": ("Which number is bigger, {a} or {b}, please?", "Name the bigger number, {a} or {b}, now."),
    "smaller": ("Which number is smaller, {a} or {b}, please?", "Name the smaller number, {a} or {b}, now."),
    "spell": ("Spell the word {w} for me.", "Give the letters of the word {w} in order."),
    "reverse": ("Write the word {w} backwards.", "Turn the word {w} around for me."),
    "length": ("How long is the word {w} in letters?", "Count the letters of the word {w} for me."),
    "letters": ("Reverse the letters {w} for me.", "Write the letters {w} from last to first."),
    "colour": ("What colour does the {e} have?", "Tell me the colour that the {e} has."),
    "food": ("What does the {e} like to eat?", "Tell me the food that the {e} likes."),
    "home": ("Where does the {e} have its home?", "Tell me the place where the {e} lives."),
    "sound": ("What sound does the {e} make?", "Tell me the sound that the {e} makes."),
    "place": ("Where do people keep the {e} at home?", "Tell me the place where the {e} belongs."),
    "kind": ("What kind of thing is the {e} here?", "Tell me the kind of thing the {e} is."),
    "judge": ("Is the next answer polite? {t} Say yes or no.", "Judge this answer: {t} Was it polite?"),
    "critique": ("Critique this answer: {t} What is rude in it?", "Find what is rude here: {t} Quote the words."),
    "revise": ("Make this answer polite: {t} Keep what it says.", "Rewrite the rude answer: {t} Be polite."),
}

# How the pretraining text phrases the same questions and facts. None of these wordings is an instruction. An operand
# always follows a space, because a word at the start of a line is tokenised differently.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "sum": ("How much is {a} plus {b}?", "What is the sum of {a} and {b}?"),
    "bigger": ("Which is bigger, {a} or {b}?",),
    "smaller": ("Which is smaller, {a} or {b}?",),
    "spell": ("How do you spell {w}?", "Which letters are in {w}?"),
    "reverse": ("What is {w} backwards?", "How do you write {w} from the end?"),
    "length": ("How many letters has {w}?", "How long is {w}?"),
    "letters": ("What is {w} in reverse?",),
    "colour": ("Which colour is the {e}?", "What is the colour of the {e}?"),
    "food": ("What does the {e} eat?", "What is the food of the {e}?"),
    "home": ("Where does the {e} live?", "What is the home of the {e}?"),
    "sound": ("What does the {e} say?", "What is the sound of the {e}?"),
    "place": ("Where is the {e} kept?", "What is the place of the {e}?"),
    "kind": ("What is the {e}?", "What is the kind of the {e}?"),
}
STATEMENTS: dict[str, tuple[str, ...]] = {
    "sum": ("So {a} plus {b} is {x}.", "The sum of {a} and {b} is {x}."),
    "bigger": ("Of {a} and {b} the bigger is {x}.",),
    "smaller": ("Of {a} and {b} the smaller is {x}.",),
    "spell": ("We spell {w} like this: {x}.", "The letters of {w} are {x}."),
    "reverse": ("Backwards {w} is {x}.", "From the end {w} is {x}."),
    "length": ("The word {w} has {x} letters.", "The length of {w} is {x}."),
    "letters": ("In reverse {w} is {x}.",),
    "colour": ("The {e} is {x}.", "The colour of the {e} is {x}."),
    "food": ("The {e} eats {x}.", "The food of the {e} is {x}."),
    "home": ("The {e} lives in this place: {x}.", "The home of the {e} is {x}."),
    "sound": ("The {e} says {x}.", "The sound of the {e} is {x}."),
    "place": ("The {e} is kept here: {x}.", "The place of the {e} is {x}."),
    "kind": ("The {e} is of the kind {x}.", "The kind of the {e} is {x}."),
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to know: a task, its operands and the one right answer."""

    task: str
    operands: tuple[tuple[str, str], ...]
    answer: str

    def fill(self, template: str) -> str:
        """The template with this item's operands and, for {x}, its answer."""
        return template.format(**dict(self.operands), x=self.answer)


def spaced(word: str) -> str:
    """The letters of a word with single spaces between: one token each for the shipped tokenizer."""
    return " ".join(word)


def random_letters(rng: Random) -> Item:
    """A task to reverse three to five random letters."""
    letters = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(3, 5)))
    return Item(task="letters", operands=(("w", spaced(letters)),), answer=spaced(letters[::-1]))


def _numbers() -> Iterator[Item]:
    for a in range(21):
        for b in range(21):
            ab = (("a", str(a)), ("b", str(b)))
            if a + b <= 20:
                yield Item(task="sum", operands=ab, answer=str(a + b))
            if a != b:
                yield Item(task="bigger", operands=ab, answer=str(max(a, b)))
                yield Item(task="smaller", operands=ab, answer=str(min(a, b)))


def _words() -> Iterator[Item]:
    for word in WORDS:
        yield Item(task="spell", operands=(("w", word),), answer=spaced(word))
        yield Item(task="reverse", operands=(("w", word),), answer=spaced(word[::-1]))
        yield Item(task="length", operands=(("w", word),), answer=str(len(word)))


def _facts() -> Iterator[Item]:
    tables = ((ANIMALS, ("colour", "food", "home", "sound")), (THINGS, ("colour", "place", "kind")))
    for table, tasks in tables:
        for name, row in table.items():
            for task, answer in zip(tasks, row, strict=True):
                yield Item(task=task, operands=(("e", name),), answer=answer)


@cache
def knowledge() -> tuple[Item, ...]:
    """Every fact in the pretraining text, held out or not, in a fixed order."""
    return (*_numbers(), *_words(), *_facts())


def critique(kind: int | None) -> str:
    """What is wrong with an answer in the rude form of this index; None is any polite answer."""
    return "nothing here is rude." if kind is None else f"the words {RUDE_WORDS[kind]} are rude."


def _manners(rng: Random) -> Iterator[Item]:
    """Answers to judge, criticise and revise: every answer of the world in two rude forms and a polite one."""
    for core in sorted({item.answer for item in knowledge()}):
        rude, kind = rng.sample(range(len(RUDE)), 2)
        polite = rng.choice(POLITE).format(core=core)
        for form in (rude, kind):
            text = RUDE[form].format(core=core)
            yield Item(task="revise", operands=(("t", text),), answer=POLITE[0].format(core=core))
        yield Item(task="judge", operands=(("t", RUDE[rude].format(core=core)),), answer="no")
        yield Item(task="judge", operands=(("t", polite),), answer="yes")
        yield Item(task="critique", operands=(("t", RUDE[kind].format(core=core)),), answer=critique(kind))
        if rng.random() < 0.3:
            yield Item(task="critique", operands=(("t", polite),), answer=critique(None))


@dataclass(frozen=True, kw_only=True)
class Split:
    """All instruction items by task; no item of `held_out` has a prompt in any training text."""

    train: dict[str, tuple[Item, ...]]
    held_out: dict[str, tuple[Item, ...]]


@cache
def split(seed: int = SEED) -> Split:
    """Deal every item to training or to the held-out side: about one in five of each task is held out."""
    rng = Random(f"{seed}:split")
    letters = dict.fromkeys(random_letters(rng) for _ in range(500))
    by_task: dict[str, list[Item]] = {task: [] for task in INSTRUCTIONS}
    for item in (*knowledge(), *letters, *_manners(rng)):
        by_task[item.task].append(item)
    train, held_out = {}, {}
    for task, items in by_task.items():
        Random(f"{seed}:split:{task}").shuffle(items)
        cut = len(items) // 5
        held_out[task], train[task] = tuple(items[:cut]), tuple(items[cut:])
    return Split(train=train, held_out=held_out)


@cache
def held_out_items(seed: int = SEED) -> frozenset[Item]:
    """The held-out items as a set, for membership tests."""
    return frozenset(item for items in split(seed).held_out.values() for item in items)
