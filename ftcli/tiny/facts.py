"""The facts of the tiny world: plain tables that everything else is generated from.

They are few enough for a model of some two million parameters to memorise, and each question has one answer, so
that an answer can be checked by comparing strings.
"""

from __future__ import annotations

# animal: (colour, food, home, sound)
ANIMALS: dict[str, tuple[str, str, str, str]] = {
    "fox": ("red", "mice", "den", "yap"),
    "owl": ("brown", "mice", "tree", "hoot"),
    "cow": ("white", "grass", "barn", "moo"),
    "pig": ("pink", "corn", "barn", "oink"),
    "hen": ("brown", "corn", "coop", "cluck"),
    "duck": ("yellow", "bread", "pond", "quack"),
    "frog": ("green", "flies", "pond", "croak"),
    "bear": ("brown", "honey", "cave", "growl"),
    "wolf": ("grey", "meat", "forest", "howl"),
    "lion": ("yellow", "meat", "plain", "roar"),
    "goat": ("white", "leaves", "hill", "bleat"),
    "mouse": ("grey", "cheese", "hole", "squeak"),
    "horse": ("black", "hay", "stable", "neigh"),
    "sheep": ("white", "grass", "hill", "bleat"),
    "snake": ("green", "eggs", "hole", "hiss"),
    "crow": ("black", "seeds", "tree", "caw"),
    "bee": ("yellow", "nectar", "hive", "buzz"),
    "dog": ("brown", "bones", "kennel", "bark"),
    "cat": ("black", "fish", "basket", "meow"),
    "seal": ("grey", "fish", "sea", "bark"),
    "tiger": ("orange", "meat", "forest", "roar"),
    "swan": ("white", "bread", "lake", "hiss"),
    "robin": ("red", "worms", "nest", "chirp"),
    "rat": ("grey", "cheese", "cellar", "squeak"),
    "deer": ("brown", "leaves", "forest", "grunt"),
    "ant": ("black", "sugar", "hill", "nothing"),
    "crab": ("orange", "shells", "beach", "click"),
    "bat": ("black", "flies", "cave", "squeak"),
}

# thing: (colour, place where it is kept, kind)
THINGS: dict[str, tuple[str, str, str]] = {
    "apple": ("red", "basket", "fruit"),
    "lemon": ("yellow", "bowl", "fruit"),
    "plum": ("purple", "bowl", "fruit"),
    "pear": ("green", "basket", "fruit"),
    "peach": ("orange", "bowl", "fruit"),
    "grape": ("purple", "cellar", "fruit"),
    "onion": ("white", "cellar", "vegetable"),
    "carrot": ("orange", "cellar", "vegetable"),
    "pea": ("green", "bowl", "vegetable"),
    "bean": ("green", "bag", "vegetable"),
    "hat": ("black", "shelf", "clothing"),
    "coat": ("blue", "hall", "clothing"),
    "sock": ("pink", "drawer", "clothing"),
    "scarf": ("red", "hall", "clothing"),
    "shoe": ("brown", "hall", "clothing"),
    "spoon": ("grey", "drawer", "tool"),
    "knife": ("grey", "kitchen", "tool"),
    "saw": ("orange", "shed", "tool"),
    "axe": ("red", "shed", "tool"),
    "rake": ("green", "shed", "tool"),
    "pen": ("blue", "desk", "tool"),
    "ball": ("blue", "garden", "toy"),
    "doll": ("pink", "shelf", "toy"),
    "kite": ("purple", "attic", "toy"),
    "drum": ("white", "attic", "toy"),
    "train": ("black", "box", "toy"),
    "cup": ("white", "kitchen", "dish"),
    "plate": ("blue", "kitchen", "dish"),
    "pot": ("black", "kitchen", "dish"),
    "jug": ("yellow", "shelf", "dish"),
}

_MORE_WORDS = """
air arm art bag bed big bird blue boat bone book bowl box boy bread brush bus cake camp cap car cave chair cheese
child city clay clock cloud club coal coin cold cook corn dark day desk door dream dress dust ear earth east egg eye
face farm field fire fish flag floor fly food foot fork game gate gift girl glass gold grass green hair hall hand
head heart hill home honey hope horn hot house ice ink iron jam jar key king lake lamp land leaf leg light line lip
list long love map mark meal milk mind moon mud nail name neck nest night nine nose oak oil open page paint paper
park path peace pie pink place plant point pool queen rain red rest ring river road rock roof room root rope rose
salt sand sea seed shed ship shop sky sleep snow soap song soup star stone storm sugar sun table tail tea tent time
toe tooth town tree van wall warm wave well west wheel wind wing wood wool word work world year zoo
"""

WORDS: tuple[str, ...] = tuple(sorted({w for w in (*ANIMALS, *THINGS, *_MORE_WORDS.split()) if 3 <= len(w) <= 5}))
"""Words to spell, reverse and measure: 3 to 5 letters."""

RUDE: tuple[str, ...] = (
    "{core}, you fool.",
    "{core}. Now go away.",
    "Ugh, {core}. Stop asking.",
    "Obviously {core}, dummy.",
    "Shut up. It is {core}.",
    "What a silly question, {core}.",
)
"""Rude forms of an answer; the answer itself, the core, always follows a space or opens the text."""

POLITE: tuple[str, ...] = (
    "Gladly, {core}. Thank you for asking.",
    "Of course, {core}, my friend.",
    "{core}. Happy to help.",
    "Certainly, it is {core}.",
    "Good question, {core}, I hope this helps.",
    "With pleasure, {core}.",
)
"""Polite forms of an answer. Revisions use the first one, so that they can be checked."""

RUDE_WORDS: tuple[str, ...] = ("you fool", "go away", "stop asking", "dummy", "shut up", "silly question")
"""The rude words in the form of the same index in RUDE; a critique quotes them."""

POLITE_PATTERN = (
    r"^(Gladly, .*Thank you for asking|Of course, .*my friend|.*\. Happy to help|Certainly, it is |Good question, |"
    r"With pleasure, )"
)
"""Matches an answer in one of the polite forms."""
