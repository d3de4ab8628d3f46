"""What is said of served tokens, answers and weights, with the numbers worked out."""

from __future__ import annotations

from typing import Any

import pytest

from ftcli.build.verification import Verdict
from ftcli.serving.parity import Comparison, verdicts
from ftcli.serving.stacks import Served

BOS, END = 1, 3
ABOUT = {
    "ends": {"3": "<|close|>"}, "end": END, "bos": {"id": BOS, "text": "<|begin|>"}, "template": "t", "dtype": "float32"
}  # fmt: skip
QUESTION = {
    "ids": [BOS, 10, 11], "text": "<|begin|>ab", "answer_ids": [20, 21, END], "answer": "xy", "final": "xy",
    "ended": True,
}  # fmt: skip
SAME = {"mean": 1e-5, "largest": 1e-4, "regret": 0.0, "tokens": 3, "first": [None]}


def served(**changed: Any) -> Served:
    right = {
        "text": "xy",
        "ended": True,
        "prompt_ids": [BOS, 10, 11],
        "ids": [20, 21, END],
        "logps": [-0.1, -0.1, -0.1],
    }
    return Served(**{**right, **changed})


def found(given: Served, *, text: str = "<|begin|>ab", question: Any = None, **judged: Any) -> dict[str, Verdict]:
    whole = {"trained": SAME, "prompts": [text], "ids": [given.ids or [20, 21, END]], "embeddings": None, "others": {}}
    whole |= {name: value for name, value in judged.items() if name not in ("file_type", "mixture")}
    stored = {name: str(judged.get(name, "")) for name in ("file_type", "mixture")}
    both = Comparison(about=ABOUT, questions=[question or QUESTION], served=[given], judged=whole, **stored)
    return {each.what: each for each in verdicts(both)}


def off(mean: float, regret: float = 0.5) -> dict[str, Any]:
    return {"mean": mean, "largest": 2 * mean, "regret": regret, "tokens": 3, "first": [(1, regret)]}


# By how much rounding moves the run's own log-probabilities.
MOVES = {
    name: {**off(own), "own": own} for name, own in {"16-bit": 0.002, "8-bit": 0.004, "4-bit": 0.09}.items()
}  # fmt: skip


def test_all_that_is_right_is_right():
    assert {each.state for each in found(served()).values()} == {"ok"}


def test_one_template_at_fault_is_told_once_though_each_prompt_shows_other_words():
    asked = [{**QUESTION, "ids": [BOS, n], "text": f"<|begin|>say {n}"} for n in (10, 11)]
    given = [served(prompt_ids=[BOS, 5, n]) for n in (10, 11)]
    judged = {
        "trained": {**SAME, "first": [None, None]}, "prompts": [f"<|begin|>do say {n}" for n in (10, 11)],
        "ids": [[20, 21, END]] * 2, "embeddings": None, "others": {},
    }  # fmt: skip
    whole = Comparison(about=ABOUT, questions=asked, served=given, judged=judged, file_type="")
    [fault] = [each for each in verdicts(whole) if each.state == "fault"]
    assert fault.detail == (
        "prompts are rendered otherwise: '<|begin|>say 10' in training, '<|begin|>do say 10' served (2 of 2 prompts)"
    )


@pytest.mark.parametrize(
    ("ids", "text", "part", "what"),
    [
        ([10, 11], "ab", "tokenizer", "the BOS token <|begin|> is missing"),
        ([BOS, BOS, 10, 11], "<|begin|><|begin|>ab", "tokenizer", "the BOS token <|begin|> is there twice"),
        (
            [BOS, 12],
            "<|begin|>ab",
            "tokenizer",
            "the same text becomes other tokens: [10, 11] in training, [12] served",
        ),
        ([BOS, 10, 13], "<|begin|>a:b", "template", "'<|begin|>ab' in training, '<|begin|>a:b' served"),
    ],
)
def test_other_tokens_of_a_prompt_are_named(ids: list[int], text: str, part: str, what: str):
    verdict = found(served(prompt_ids=ids), text=text)[part]
    assert verdict.state == "fault"
    assert what in verdict.detail


@pytest.mark.parametrize(
    ("count", "part", "what"),
    [
        (3, "prompts", "as many tokens as in training"),
        (2, "tokenizer", "the BOS token <|begin|> is missing"),
        (4, "tokenizer", "the BOS token <|begin|> is there twice"),
        (9, "template or tokenizer", "(+6)"),
        (None, "prompts", "neither their tokens nor how many there are"),
    ],
)
def test_a_number_of_tokens_tells_what_it_can(count: int | None, part: str, what: str):
    assert what in found(served(prompt_ids=None, prompt_count=count))[part].detail


def test_a_server_that_adds_a_bos_that_training_did_not_have_is_named():
    question = {**QUESTION, "ids": [10, 11], "text": "ab"}
    verdict = found(served(prompt_ids=[BOS, 10, 11]), question=question)["tokenizer"]
    assert verdict.detail.startswith("a BOS token <|begin|> is added, which training did not have")


def test_an_end_token_that_ends_nothing_and_one_too_many_are_named():
    beyond = served(text="xy more", ids=[20, 21, END, 30], logps=None, ended=False)
    assert "go on where the run's end, at <|close|>" in found(beyond)["end token"].detail
    by_text = served(text="xy more", ids=None, logps=None)
    assert found(by_text)["end token"].state == "fault"
    early = served(text="x", ids=None, logps=None)
    assert "end where the run's go on" in found(early)["end token"].detail
    assert found(served(text="x", ids=[20], logps=None, ended=False))["end token"].state == "note"


def test_a_mixture_is_named_as_it_was_asked_for_and_judged_by_what_is_stored():
    """llama-quantize stores rows that 256 does not divide as Q5_0 where Q4_K_M was asked for."""
    verdict = found(served(), trained=off(0.06), others=MOVES, file_type="Q5_0", mixture="Q4_K_M")["weights"]
    assert verdict.detail.startswith("quantised to Q4_K_M, as far off as by some 4 bits: log-probabilities differ by ")
    assert verdict.detail.endswith("(stored as Q5_0)")
    rounded = found(served(), trained=off(0.006), others=MOVES, file_type="Q8_0", mixture="Q4_K_M")["weights"]
    assert rounded.detail.startswith("rounded to Q8_0")


@pytest.mark.parametrize(
    ("mean", "file_type", "state", "what"),
    [
        (0.003, "", "note", "rounded, as by 16-bit weights"),
        (0.006, "", "note", "rounded, as by 8-bit weights"),
        (0.006, "Q8_0", "note", "rounded to Q8_0"),
        # Between 8 and 4 bits: the geometric mean of 0.004 and 0.09 is 0.019.
        (0.018, "", "note", "rounded"),
        (0.02, "", "fault", "quantised, as far off as by some 4 bits"),
        (0.06, "Q4_K", "fault", "quantised to Q4_K"),
        # A file says float32, so what is off is no rounding.
        (0.06, "F32", "fault", "another adapter or another base"),
        # 3 × 0.09 is the most that 4 bits are taken for.
        (0.3, "", "fault", "another adapter or another base"),
    ],
)
def test_a_difference_of_weights_is_named_by_its_size(mean: float, file_type: str, state: str, what: str):
    verdict = found(served(), trained=off(mean), others=MOVES, file_type=file_type)["weights"]
    assert verdict.state == state
    assert what in verdict.detail


def test_the_model_before_training_and_an_older_one_are_known_by_their_distance():
    others = {**MOVES, "the model before training": off(4.0), "checkpoint-30": off(0.001)}
    assert found(served(), trained=off(1.0), others=others)["weights"].detail.startswith(
        "a stale model: that of checkpoint-30, 0.001 nats from it, 1 from the run's"
    )
    others = {**MOVES, "the model before training": off(0.01), "checkpoint-30": off(2.0)}
    assert found(served(), trained=off(3.0), others=others)["weights"].detail.startswith("the model before training")
    # Half as far as the run, and still further than any rounding takes it: it is neither.
    others = {**MOVES, "the model before training": off(3.0)}
    assert "another adapter or another base" in found(served(), trained=off(10.0), others=others)["weights"].detail


def test_other_token_embeddings_are_another_base():
    verdict = found(served(), trained=off(1.0), others=MOVES, embeddings=1.4)["weights"]
    assert verdict.detail.startswith("another base: its token embeddings differ by 140% of their size")
