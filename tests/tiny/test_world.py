"""The built-in tiny world: its data are what the seed makes, nothing held out is trained on, nothing is given away."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice

import pytest
import yaml

from ftcli.tiny import DATA_DIR, MODEL_DIR, set_path
from ftcli.tiny.facts import RUDE, RUDE_WORDS, WORDS
from ftcli.tiny.generate import CONFIG, leaks
from ftcli.tiny.passages import documents
from ftcli.tiny.sets import SETS, normalise, render
from ftcli.tiny.world import INSTRUCTIONS, SEED, held_out_items, split

PARTS = ("train", "eval")


def rows(task: str, part: str) -> list[dict]:
    return [json.loads(line) for line in set_path(task, part).read_text(encoding="utf-8").splitlines()]


def exchanges(part: str) -> list[tuple[str, str]]:
    return [tuple(message["content"] for message in row["messages"]) for row in rows("sft", part)]


@pytest.mark.parametrize("name", SETS)
def test_shipped_sets_are_what_the_seed_makes(name):
    for part in PARTS:
        assert (DATA_DIR / f"{name}.{part}.jsonl").read_bytes().decode() == render(name, part, SEED)


def test_another_seed_makes_another_world():
    assert render("instructions", "eval", SEED + 1) != render("instructions", "eval", SEED)


def test_no_held_out_instruction_occurs_in_any_training_text():
    assert len(exchanges("eval")) >= 240
    shipped = [set_path(task, "train").read_text(encoding="utf-8") for task in SETS]
    assert leaks(shipped) == []
    # The whole corpus is searched whenever it is built; a part of it here, the search takes a second.
    assert leaks(islice(documents(), 15_000)) == []


def test_the_leak_search_finds_a_planted_prompt_whatever_its_case_and_punctuation():
    prompt = exchanges("eval")[0][0]
    assert leaks([f"so: {prompt.upper()}!! yes"]) == [prompt]


def test_held_out_items_have_no_training_prompt_in_any_wording():
    trained = {normalise(prompt) for prompt, _ in exchanges("train")}
    for item in held_out_items():
        assert not trained & {normalise(item.fill(form)) for form in INSTRUCTIONS[item.task]}


def test_every_task_stands_on_both_sides_with_unique_prompts():
    dealt = split()
    assert set(dealt.train) == set(dealt.held_out) == set(INSTRUCTIONS)
    for part in PARTS:
        prompts = [prompt for prompt, _ in exchanges(part)]
        assert len(prompts) == len(set(prompts))


def test_answers_are_right_where_python_can_tell():
    known = {normalise(prompt): answer for part in PARTS for prompt, answer in exchanges(part)}
    checked = 0
    for word in WORDS:
        for prompt, right in (
            (f"spell the word {word} for me", " ".join(word)),
            (f"write the word {word} backwards", " ".join(reversed(word))),
            (f"count the letters of the word {word} for me", str(len(word))),
        ):
            checked += prompt in known
            assert known.get(prompt, right) == right
    for a in range(21):
        for b in range(21):
            prompt = f"what is {a} {b} in total"
            checked += prompt in known
            assert known.get(prompt, str(a + b)) == str(a + b)
    assert checked > 250


def ngrams(text: str) -> Counter[str]:
    padded = f" {text.lower()} "
    return Counter(padded[i : i + 3] for i in range(len(padded) - 2))


def test_nearest_neighbour_answers_few_held_out_instructions():
    """TF-IDF over character trigrams, cosine: the answer of the most similar training prompt."""
    train = exchanges("train")
    counts = [ngrams(prompt) for prompt, _ in train]
    seen = Counter(gram for count in counts for gram in count)

    def vector(count: Counter[str]) -> dict[str, float]:
        weights = {gram: n * math.log((1 + len(train)) / (1 + seen[gram])) for gram, n in count.items()}
        norm = math.sqrt(sum(weight**2 for weight in weights.values()))
        return {gram: weight / norm for gram, weight in weights.items()}

    index: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for row, count in enumerate(counts):
        for gram, weight in vector(count).items():
            index[gram].append((row, weight))

    def neighbour(prompt: str) -> str:
        similarity: Counter[int] = Counter()
        for gram, weight in vector(ngrams(prompt)).items():
            for row, other in index.get(gram, ()):
                similarity[row] += weight * other
        return train[similarity.most_common(1)[0][0]][1]

    held_out = exchanges("eval")
    right = sum(neighbour(prompt) == answer for prompt, answer in held_out)
    # measured: 0.12, where the tuned model reaches more than 0.8
    assert right / len(held_out) <= 0.25


def test_preferences_and_feedback_differ_in_manner_only():
    for row in rows("dpo", "eval"):
        assert row["chosen"] != row["rejected"]
        assert any(words in row["rejected"][0]["content"].lower() for words in RUDE_WORDS)
        assert not any(words in row["chosen"][0]["content"].lower() for words in RUDE_WORDS)
    for row in rows("feedback", "train"):
        rude = any(words in row["completion"][0]["content"].lower() for words in RUDE_WORDS)
        assert row["label"] is not rude
    assert all(words in form.lower() for words, form in zip(RUDE_WORDS, RUDE, strict=True))


def test_principles_ask_in_wordings_that_are_taught():
    principles = yaml.safe_load((DATA_DIR / "principles.yaml").read_text(encoding="utf-8"))["principles"]
    assert len(principles) >= 2
    for principle in principles:
        for key, task in (("judge", "judge"), ("critique", "critique"), ("revision", "revise")):
            assert principle[key].replace("{answer}", "{t}") in INSTRUCTIONS[task]


def test_set_path_names_the_tasks_when_asked_for_an_unknown_one():
    with pytest.raises(ValueError, match=r"no built-in set 'sftt' 'train'; tasks are .*sft.*"):
        set_path("sftt", "train")


def test_the_world_is_made_without_heavy_imports():
    code = (
        "import sys, ftcli.tiny, ftcli.tiny.generate as b; b.instructions('eval');"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_shipped_model_is_small_enough():
    config = json.loads((MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    weights = (MODEL_DIR / "model.safetensors").read_bytes()
    head_size = int.from_bytes(weights[:8], "little")
    head = json.loads(weights[8 : 8 + head_size])
    head.pop("__metadata__", None)
    assert {entry["dtype"] for entry in head.values()} == {"BF16"}
    assert sum(math.prod(entry["shape"]) for entry in head.values()) <= 2_400_000
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 5_000_000
    assert {key: config[key] for key in CONFIG} == CONFIG
