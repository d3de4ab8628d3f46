"""The card of a trained model says what it is, what it learned from and what was measured, each time alike."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import model_card
from ftcli.settings.run_spec import RunSpec


def spec(*words: str) -> RunSpec:
    return spec_of(Request(overrides=words))


def result(**more: Any) -> dict[str, Any]:
    rows = {"format": "messages", "path": "/data/anna/private/support.jsonl", "rows_read": 12, "rows_kept": 10}
    return {
        "schema": 1, "method": "sft", "model": "builtin:tiny", "peft": "lora", "steps": 12, "seconds": 75.0,
        "tokens_trained": 1500, "eval_loss": {"before": 3.0, "after": 1.5}, "ledger": {"train": rows},
        "score": {"name": "exact_match", "rows": 20, "before": 0.1, "after": 0.9},
        "parameters": {"total": 900, "trainable": 9}, **more,
    }  # fmt: skip


def card_of(run: RunSpec, found: dict[str, Any], *, is_adapter: bool = True) -> str:
    return model_card.model_card(run, found, is_adapter=is_adapter)


def front(card: str) -> dict[str, Any]:
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_the_hub_reads_its_base_licence_and_kind():
    card = card_of(spec("model=qwen2.5-0.5b", "peft=lora", "data=tiny"), result())
    assert front(card) == {
        "library_name": "peft", "base_model": "Qwen/Qwen2.5-0.5B-Instruct", "base_model_relation": "adapter",
        "license": "apache-2.0", "tags": ["ftcli", "lora", "sft"],
    }  # fmt: skip
    assert "vllm serve Qwen/Qwen2.5-0.5B-Instruct --enable-lora" in card
    whole = front(card_of(spec("model=qwen2.5-0.5b", "peft=none"), result(), is_adapter=False))
    assert (whole["library_name"], whole["base_model_relation"]) == ("transformers", "finetune")


def test_data_measures_and_what_is_not_known_are_told():
    card = card_of(spec("peft=lora"), result())
    assert "| support.jsonl | messages | 10 of 12 |" in card
    assert "anna" not in card
    assert "| held-out loss | 3.0000 | 1.5000 |" in card
    assert "| exact match over 20 rows | 0.1000 | 0.9000 |" in card
    assert "not known here" in card
    assert "base_model" not in front(card)
    bare = card_of(spec("peft=lora"), result(eval_loss=None, score=None))
    assert "Nothing was held out" in bare


def retention(**more: Any) -> dict[str, Any]:
    change = {"value": -0.25, "low": -0.5, "high": 0.0, "rows": 4}
    one = {"rows": 2, "before": -1.0, "after": -1.25, "difference": change}
    return {
        "set": "/data/anna/kept.jsonl",
        "digest": "0",
        **one,
        "rows": 4,
        "kinds": {"facts": one, "law": one},
        **more,
    }


def test_what_was_kept_and_the_gate_are_told_before_and_after():
    card = card_of(spec("peft=lora"), result(retention=retention(gate={"retention": -0.3}, failed=[])))
    assert "4 rows of kept.jsonl" in card
    assert "anna" not in card
    assert "| all kinds | -1.0000 | -1.2500 | -0.2500 (-0.5000 to +0.0000) |" in card
    assert "| law | -1.0000 | -1.2500 | -0.2500 (-0.5000 to +0.0000) |" in card
    assert "Its gate (retention at least -0.3): passed." in card
    failed = ["retention fell by 0.2500 nats a token, and run.gate takes 0.02"]
    card = card_of(spec("peft=lora"), result(retention=retention(gate={"retention": -0.02}, failed=failed)))
    assert f"Its gate (retention at least -0.02): **not passed**: {failed[0]}." in card
    assert "gate" not in card_of(spec("peft=lora"), result(retention=retention()))
    assert "What it kept" not in card_of(spec("peft=lora"), result())


def test_it_is_the_same_however_long_it_took():
    assert card_of(spec(), result(seconds=1.0)) == card_of(spec(), result(seconds=9999.0))


def test_what_a_stranger_named_is_no_markup():
    hostile = "[click](http://x)<script>|`\n# head"
    rows = {"format": hostile, "path": f"/x/{hostile}", "rows_read": 1, "rows_kept": 1}
    card = card_of(spec("peft=none"), result(method=hostile, ledger={"train": rows}), is_adapter=False)
    body = card.split("---\n", 2)[2]
    assert not re.search(r"(?<!\\)[<\[]", re.sub(r"```.*?```", "", body, flags=re.S))
    assert "\n# head" not in card
    assert front(card)["tags"] == sorted(["ftcli", hostile])
