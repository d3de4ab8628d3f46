"""Scores and rewards read the final part of an answer: what emits exactly the trained tokens gets every point, on every
chat template that ships, and what is cut off in its reasoning gets none."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ftcli.data.scan import Example
from ftcli.methods import get_method
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.metrics import count_hits
from ftcli.worker.inference.sampling import Sampled
from ftcli.worker.rewards.mixture import Rewards
from ftcli.worker.tokenise.encoder import IGNORED, Encoder, Ids
from tests.worker.served import TEMPLATES, needs_parts, shipped

NAMES = [name for name in TEMPLATES if not needs_parts(name)]
REASONING = [name for name in NAMES if shipped(name).serving.structure.marker]


class Says:
    """A model that goes on from each known prompt with its answer, as far as it is allowed to."""

    def __init__(self, answers: dict[tuple[int, ...], Ids], ends: Any) -> None:
        self.answers, self.training, self.device = answers, False, torch.device("cpu")
        self.generation_config = SimpleNamespace(eos_token_id=sorted(ends), use_cache=False)

    def eval(self) -> None:
        """As a module."""

    def train(self, mode: bool) -> None:
        """As a module."""

    def generate(self, input_ids: Any, attention_mask: Any, generation_config: Any) -> Any:
        most, rows = generation_config.max_new_tokens, []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            rows.append(self.answers[tuple(ids[mask.index(1) :])][:most])
        longest = max(map(len, rows))
        return torch.cat([input_ids, torch.tensor([row + [0] * (longest - len(row)) for row in rows])], 1)


def asked(number: int, **more: Any) -> list[dict[str, Any]]:
    """A question, and an answer whose number only it has."""
    return [
        {"role": "user", "content": f"What is {number}?"},
        {"role": "assistant", "content": f"It is {number}.", **more},
    ]


def rows(name: str) -> list[list[dict[str, Any]]]:
    """Eight conversations: plain, of several turns, and with reasoning where the template writes it."""
    thought = {"reasoning_content": "A long thought, " * 9 + "ended."} if name in REASONING else {}
    plain = [asked(1), asked(2), [*asked(3), *asked(4)], [*asked(5, **thought), *asked(6)]]
    return [*plain, asked(7, **thought), asked(8, **thought), [*asked(9), *asked(10, **thought)],
            [*asked(11, **thought), *asked(12, **thought)]]  # fmt: skip


def trained(encoder: Encoder, turns: list[dict[str, Any]]) -> tuple[Ids, Ids]:
    """The prompt of a conversation's last turn, and the tokens that are trained after it."""
    value = {"prompt": turns[:-1], "completion": turns[-1:]}
    columns = encoder.encode([Example("rows.jsonl:1", "pair", value)])[0].columns
    first = next(i for i, label in enumerate(columns["labels"]) if label != IGNORED)
    return columns["input_ids"][:first], [label for label in columns["labels"] if label != IGNORED]


def hits(encoder: Encoder, name: str, answers: dict[tuple[int, ...], Ids]) -> tuple[float, int]:
    examples = [Example("rows.jsonl:1", "messages", {"messages": turns}) for turns in rows(name)]
    model: Any = Says(answers, encoder.stop_ids)
    return count_hits(get_method("sft"), model, encoder, examples)["exact_match"]


@pytest.mark.parametrize("name", NAMES)
def test_what_emits_exactly_the_trained_tokens_scores_every_row(name):
    encoder = shipped(name)
    known = [trained(encoder, turns) for turns in rows(name)]
    assert hits(encoder, name, {tuple(prompt): answer for prompt, answer in known}) == (8, 8)
    # The neighbour's answer is wrong everywhere.
    shifted = [answer for _, answer in known[1:] + known[:1]]
    assert hits(encoder, name, {tuple(p): a for (p, _), a in zip(known, shifted, strict=True)}) == (0, 8)


@pytest.mark.parametrize("name", NAMES)
def test_rewards_read_the_final_part(name):
    encoder, reader = shipped(name), AnswerReader(shipped(name))
    named = {"exact_answer": 1, "holds_answer": 1, "number": 1, "regex": {"pattern": r"^It is \d+\.$"}}
    rewards = Rewards({"rewards": named}, encoder, {})
    sampled = []
    for turns in rows(name):
        prompt, answer = trained(encoder, turns)
        row = {"prompt": turns[:-1], "answer": turns[-1]["content"]}
        sampled.append(Sampled(prompt, answer, json.dumps(row), True))
        found = reader.parts(prompt, answer)
        assert found == (turns[-1].get("reasoning_content", ""), turns[-1]["content"])
    assert rewards(sampled).tolist() == [[1.0] * 4] * 8


@pytest.mark.parametrize("name", REASONING)
def test_an_answer_that_is_cut_off_in_its_reasoning_has_no_final_part(name):
    encoder = shipped(name)
    prompt, answer = trained(encoder, rows(name)[5])
    assert AnswerReader(encoder).final(prompt, answer[: len(answer) // 2]) == ""
    row = {"prompt": rows(name)[5][:-1], "answer": "ended"}
    reward = Rewards({"rewards": {"holds_answer": 1}}, encoder, {})
    assert reward([Sampled(prompt, answer[:-8], json.dumps(row), False)]).tolist() == [[0.0]]


@pytest.mark.parametrize("name", REASONING)
def test_json_after_reasoning_parses(name):
    encoder = shipped(name)
    turns = asked(1, reasoning_content="As JSON.")
    turns[1]["content"] = '{"a": [1, 2]}'
    prompt, answer = trained(encoder, turns)
    rewards = Rewards({"rewards": {"parses_as_json": 1}}, encoder, {})
    assert rewards([Sampled(prompt, answer, json.dumps({"prompt": turns[:1]}), True)]).tolist() == [[1.0]]


def test_tags_may_be_those_of_the_whole_answer_or_of_its_final_part():
    for name in ("qwen3", "deepseek_r1_distill"):
        encoder = shipped(name)
        turns = asked(1, reasoning_content="So.")
        turns[1]["content"] = "<answer>4</answer>"
        prompt, answer = trained(encoder, turns)
        for names, reward in ((["think", "answer"], 1.0), (["answer"], 1.0), (["think"], 0.0)):
            rewards = Rewards({"rewards": {"tags": {"names": names}}}, encoder, {})
            assert rewards([Sampled(prompt, answer, json.dumps({"prompt": turns[:1]}), True)]).tolist() == [[reward]]


def test_a_call_that_a_template_writes_before_no_final_part_is_compared_whole():
    encoder = shipped("gptoss")
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "tree"}}}
    tools = [
        {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}
    ]
    turns = [{"role": "user", "content": "Tree?"}, {"role": "assistant", "content": "", "tool_calls": [call],
                                                    "reasoning_content": "Look first."}]  # fmt: skip
    example = Example("rows.jsonl:1", "messages", {"messages": turns, "tools": tools})
    columns = encoder.encode([example])[0].columns
    first = next(i for i, label in enumerate(columns["labels"]) if label != IGNORED)
    answer = [label for label in columns["labels"] if label != IGNORED]
    for said, right in ((answer, 1), (answer[:-4] + answer[-1:], 0)):
        model: Any = Says({tuple(columns["input_ids"][:first]): said}, encoder.stop_ids)
        assert count_hits(get_method("sft"), model, encoder, [example])["exact_match"] == (right, 1)


def test_bare_text_is_all_final():
    encoder = shipped("qwen3")
    ids = encoder.tokenizer("one </think> two")["input_ids"]
    assert AnswerReader(encoder).final(encoder.prompt_ids("bare"), ids) == "one </think> two"
