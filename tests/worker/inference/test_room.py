"""Answers within the positions that a model has: a prompt beyond them is refused, and an answer ends at the last."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from ftcli import tiny
from ftcli.core.errors import ConfigError
from ftcli.settings.groups import ModelSettings
from ftcli.worker.inference.chat import chat, generate
from ftcli.worker.models.load import make_encoder

POSITIONS = 40
LONG = "word " * POSITIONS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in model, which says of itself that it has few positions."""
    folder = tmp_path_factory.mktemp("few") / "model"
    shutil.copytree(tiny.MODEL_DIR, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": POSITIONS}))
    return str(folder)


def answers(model: str, *prompts: str, **more: Any) -> list[str]:
    request = {"model": model, "prompts": prompts, "max_new_tokens": 20, **more}
    return [each["answer"] for each in generate(request)]


def tokens(model: str, text: str) -> int:
    return len(make_encoder(ModelSettings(name_or_path=model)).prompt_ids([{"role": "user", "content": text}]))


@pytest.mark.parametrize("batches", [{}, {"batch_size": 1}])
def test_a_prompt_that_is_too_long_is_named_before_any_is_answered(model: str, batches: dict[str, int]):
    found = []
    with pytest.raises(ConfigError, match=rf"prompt 2  has \d+ tokens, and .*model has {POSITIONS} positions"):
        found.extend(generate({"model": model, "prompts": ["Hello.", LONG], "max_new_tokens": 4, **batches}))
    assert found == []


def test_an_answer_ends_at_the_last_position_and_cuts_no_others(model: str):
    # Of 40 positions the prompt takes all but a few, the answer the rest.
    prompt = next(text for n in range(POSITIONS) if tokens(model, text := "word " * n) == POSITIONS - 3)
    full = answers(str(tiny.MODEL_DIR), prompt, "Hello.")
    few = answers(model, prompt, "Hello.")
    assert few[1] == full[1]
    assert full[0].startswith(few[0])
    assert len(few[0]) < len(full[0])


def test_a_message_beyond_the_positions_is_not_sent_and_the_chat_goes_on(model: str):
    def talked(*texts: str) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        chat({"model": model, "max_new_tokens": 4}, [{"do": "say", "text": text} for text in texts], said.append)
        return [each for each in said if {"note", "answer"} & each.keys()]

    note, answer = talked(LONG, "Hello.")
    assert f"the model {POSITIONS} positions; it was not sent; /reset begins anew" in note["note"]
    assert [answer] == talked("Hello.")
