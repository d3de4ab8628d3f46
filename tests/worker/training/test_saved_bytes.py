"""The same run is saved as the same bytes, in whichever process."""

from __future__ import annotations

import json
from pathlib import Path

from peft import LoraConfig

from ftcli.worker.training.save import ADAPTER_CONFIG, in_order


def test_the_sets_of_an_adapters_configuration_are_in_order(tmp_path: Path):
    names = [f"layer_{number}" for number in range(20)]
    LoraConfig(target_modules=names, exclude_modules=names[:7], rank_pattern={"b": 2, "a": 1}).save_pretrained(tmp_path)
    file = tmp_path / ADAPTER_CONFIG
    before = json.loads(file.read_text(encoding="utf-8"))
    assert before["target_modules"] != sorted(names), "PEFT orders them itself"
    in_order(tmp_path)
    text = file.read_text(encoding="utf-8")
    after = json.loads(text)
    assert after["target_modules"] == sorted(names)
    assert after["exclude_modules"] == sorted(names[:7])
    assert {key: value for key, value in after.items() if key not in ("target_modules", "exclude_modules")} == {
        key: value for key, value in before.items() if key not in ("target_modules", "exclude_modules")
    }
    LoraConfig.from_pretrained(tmp_path)
    in_order(tmp_path)
    assert file.read_text(encoding="utf-8") == text


def test_one_pattern_and_a_whole_model_are_left_as_they_are(tmp_path: Path):
    in_order(tmp_path)
    assert list(tmp_path.iterdir()) == []
    LoraConfig(target_modules=".*_proj").save_pretrained(tmp_path)
    text = (tmp_path / ADAPTER_CONFIG).read_text(encoding="utf-8")
    in_order(tmp_path)
    assert (tmp_path / ADAPTER_CONFIG).read_text(encoding="utf-8") == text
