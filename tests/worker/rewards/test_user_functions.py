"""What a reward function of the user's raises is a mistake of theirs, named with its line, and no bug of ftcli's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcli.core.errors import ConfigError
from ftcli.worker.inference.sampling import Sampled
from ftcli.worker.rewards.mixture import Rewards
from ftcli.worker.tokenise.encoder import Encoder

TURNS = [{"role": "user", "content": "Hi"}]


def given(code: str, folder: Path, tokenizer: Any, prompt: Any = "Hi") -> list[float]:
    """The rewards that the function `worth` of a file with this code gives to two answers."""
    (folder / "mine.py").write_text(code, encoding="utf-8")
    rewards = Rewards({"reward_functions": {f"{folder}/mine.py:worth": 1.0}}, Encoder(tokenizer), {})
    row = json.dumps({"prompt": prompt, "answer": "blue"})
    sampled = Sampled(row=row, prompt_ids=[1], answer_ids=[2, 3], ended=True)
    return rewards.total(rewards([sampled, sampled])).tolist()


@pytest.mark.parametrize(
    ("body", "said"),
    [("[answer.nothing for answer in completions]", "raised AttributeError at mine.py:2: 'str' object"),
     ("(answer['x'] for answer in completions)", "raised TypeError at mine.py:2"),
     ("open('/no/such/file')", "raised FileNotFoundError at mine.py:2")],
)  # fmt: skip
def test_what_a_function_raises_is_told_with_its_line(body: str, said: str, tmp_path: Path, tokenizer: Any):
    with pytest.raises(ConfigError, match=f"mine.py:worth {said}") as caught:
        given(f"def worth(completions, **columns):\n    return {body}\n", tmp_path, tokenizer)
    assert caught.value.problems[0].fix == "correct the function"


def test_a_function_that_takes_turns_for_text_is_told_how_to_read_them(tmp_path: Path, tokenizer: Any):
    code = "def worth(completions, **columns):\n    return [len(answer.split()) for answer in completions]\n"
    with pytest.raises(ConfigError, match=r"completion\[0\]\['content'\] its text"):
        given(code, tmp_path, tokenizer, TURNS)


def test_a_generator_gives_its_numbers(tmp_path: Path, tokenizer: Any):
    code = "def worth(completions, answer, **columns):\n    yield from (len(each) for each in answer)\n"
    assert given(code, tmp_path, tokenizer) == [4.0, 4.0]


@pytest.mark.parametrize("code", ["no_such_name\n", "1 / 0\n", "def worth(:\n", "import no_such_package\n"])
def test_a_file_that_cannot_be_run_is_named(code: str, tmp_path: Path, tokenizer: Any):
    with pytest.raises(ConfigError, match=r"mine\.py:worth cannot be imported: "):
        given(code, tmp_path, tokenizer)


def test_memory_that_runs_out_in_a_function_stays_out_of_memory(tmp_path: Path, tokenizer: Any):
    code = "import torch\ndef worth(**_):\n    raise torch.OutOfMemoryError('CUDA out of memory')\n"
    with pytest.raises(torch.OutOfMemoryError):
        given(code, tmp_path, tokenizer)
