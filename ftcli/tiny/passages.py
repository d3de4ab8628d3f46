"""Pretraining text of the tiny world: statements, questions with answers, manners, critiques and revisions.

The text states every fact, including held-out ones, as real pretraining does, but never contains the wording of a
held-out instruction. It does not use the chat template: fine-tuning teaches the model to answer in a conversation.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from ftcli.tiny.facts import POLITE, RUDE
from ftcli.tiny.world import (
    INSTRUCTIONS,
    QUESTIONS,
    SEED,
    STATEMENTS,
    Item,
    critique,
    held_out_items,
    knowledge,
    random_letters,
)

NUM_DOCUMENTS = 190_000
"""Documents of the corpus the shipped model was trained on."""

_NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn")

# Facts are few and number pairs many: with draws weighted by task rather than by item, every fact occurs often enough.
_WEIGHTS = {
    "sum": 16, "bigger": 6, "smaller": 6, "spell": 14, "reverse": 16, "length": 8, "letters": 10,
    "colour": 7, "food": 5, "home": 5, "sound": 5, "place": 5, "kind": 5,
}  # fmt: skip


class Writer:
    """Writes passages of one world, each a pure function of the generator's state."""

    def __init__(self, rng: Random, seed: int = SEED) -> None:
        self.rng = rng
        self.held_out = held_out_items(seed)
        self.by_task: dict[str, list[Item]] = {task: [] for task in _WEIGHTS}
        for item in knowledge():
            self.by_task[item.task].append(item)
        self.tasks, self.weights = list(_WEIGHTS), list(_WEIGHTS.values())

    def item(self) -> Item:
        """Any item of the world; letters to reverse are drawn anew and are never a held-out string."""
        task = self.rng.choices(self.tasks, self.weights)[0]
        if task != "letters":
            return self.rng.choice(self.by_task[task])
        while (item := random_letters(self.rng)) in self.held_out:
            pass
        return item

    def question(self, item: Item) -> str:
        """A question for the item, in an instruction's wording only if the item is not held out."""
        forms = QUESTIONS[item.task]
        if item not in self.held_out and self.rng.random() < 0.5:
            forms = INSTRUCTIONS[item.task]
        return item.fill(self.rng.choice(forms))

    def statement(self) -> str:
        """One fact, stated plainly."""
        item = self.item()
        return item.fill(self.rng.choice(STATEMENTS[item.task]))

    def question_and_answer(self) -> str:
        """One question with its answer."""
        item = self.item()
        return f"Question: {self.question(item)}\nAnswer: {item.answer}"

    def talk(self) -> str:
        """A question between two people, answered plainly, politely or rudely; the text names the manner."""
        item = self.item()
        asking, answering = self.rng.sample(_NAMES, 2)
        manner, forms = self.rng.choice((("plainly", ("{core}",)), ("politely", POLITE), ("rudely", RUDE)))
        reply = self.rng.choice(forms).format(core=item.answer)
        return f"{asking} asks: {self.question(item)}\n{answering} answers {manner}: {reply}"

    def judgement(self) -> str:
        """An answer and whether it is polite."""
        polite = self.rng.random() < 0.5
        text = self.rng.choice(POLITE if polite else RUDE).format(core=self.item().answer)
        return f"Answer: {text}\nPolite: {'yes' if polite else 'no'}"

    def revision(self) -> str:
        """An answer, often with a critique, and its polite revision with the same core."""
        core = self.item().answer
        if self.rng.random() < 0.15:
            text, wrong = self.rng.choice(POLITE), critique(None)
        else:
            kind = self.rng.randrange(len(RUDE))
            text, wrong = RUDE[kind], critique(kind)
        parts = [f"Answer: {text.format(core=core)}", f"Revision: {POLITE[0].format(core=core)}"]
        if self.rng.random() < 0.5:
            parts.insert(1, f"Critique: {wrong}")
        return "\n".join(parts)

    def document(self) -> str:
        """One document: one to four passages of one sort."""
        sorts = (self.statement, self.question_and_answer, self.talk, self.judgement, self.revision)
        sort = self.rng.choices(sorts, (26, 42, 12, 6, 14))[0]
        return "\n".join(sort() for _ in range(self.rng.choice((1, 1, 2, 3, 4))))


def documents(num_documents: int = NUM_DOCUMENTS, seed: int = SEED, part: str = "corpus") -> Iterator[str]:
    """The documents of one part of the text; each part has its own stream of random numbers."""
    writer = Writer(Random(f"{seed}:{part}"), seed)
    for _ in range(num_documents):
        yield writer.document()
