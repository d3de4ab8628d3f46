"""A lock notices every byte that was changed in it, and a stranger's lock sets and grants nothing of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError
from ftcli.recipes import outcome, recipe_lock
from ftcli.recipes.recipe_lock import Lock

DIGEST = "0" * 64
OUTCOME = {
    "steps": 2, "tokens_trained": 10, "tokens": {"the tokenizer": DIGEST}, "ledger": DIGEST, "loss_first": 2.0,
    "loss_last": 1.0, "train_loss": 1.5, "eval_loss": None, "score": None, "metrics": DIGEST,
    "weights": {"model.safetensors": DIGEST},
}  # fmt: skip
LOCK = Lock(
    recipe={"name": "a.yaml", "sha256": DIGEST},
    settings={"hardware.num_threads": 1, "model.revision": "a" * 40},
    files={"data.path:rows.jsonl": {"sha256": DIGEST, "size": 3}, "model.name_or_path:org/m": {"version": "a" * 40}},
    machine={"device": "cpu", "python": "3.11.7", "machine": "x86_64", "packages": {"torch": "2.13.0"}},
    grants=("--allow-path",),
    outcome=OUTCOME,
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    recipe_lock.write(tmp_path / "a.lock", LOCK)
    assert recipe_lock.read(tmp_path / "a.lock") == LOCK
    assert recipe_lock.place(tmp_path / "a.yaml") == tmp_path / "a.lock"


def test_a_flip_of_any_byte_is_noticed(tmp_path: Path) -> None:
    file, raw = tmp_path / "a.lock", LOCK.text().encode()
    for at in range(len(raw)):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(ConfigError, match=r"a\.lock|schema"):
            recipe_lock.read(file)
    for other in (raw + b"\n", raw[:-1], b" " + raw, raw.replace(b'": ', b'":  ', 1), b"", b"[]", b"{}", b"1", b"\xff"):
        file.write_bytes(other)
        with pytest.raises(ConfigError, match=r"was changed, or is damaged"):
            recipe_lock.read(file)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"model.trust_remote_code": True}},
        {"settings": {"model.revision": "main"}},
        {"settings": {"model.revision": "../" + "a" * 37}},
        {"settings": {"hardware.num_threads": True}},
        {"settings": {"hardware.num_threads": 10**9}},
        {"settings": {"model.revision": "a" * 40 + "\n"}},
        {"grants": ("--rm-rf",)},
        {"grants": (1,)},
        {"files": {"data.path:x": {"sha256": "no"}}},
        {"files": {"data.path:x": 3}},
        {"machine": {}},
        {"recipe": {"name": "a.yaml"}},
        {"outcome": {**OUTCOME, "weights": {"x": "no"}}},
        {"outcome": {**OUTCOME, "steps": "2"}},
        {"outcome": {}},
    ],
)
def test_a_lock_of_another_form_is_refused_however_well_it_is_sealed(change: dict[str, object], tmp_path: Path) -> None:
    recipe_lock.write(tmp_path / "a.lock", replace(LOCK, **change))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has another form"):
        recipe_lock.read(tmp_path / "a.lock")


def test_a_lock_of_a_later_version_says_so(tmp_path: Path) -> None:
    recipe_lock.write(tmp_path / "a.lock", replace(LOCK, schema=3))
    with pytest.raises(ConfigError, match="this version reads 1"):
        recipe_lock.read(tmp_path / "a.lock")


def test_bounds_hold_where_bits_cannot() -> None:
    # 1.0 → 1.02 is two per cent and 1.03 is not; a score may move by 0.05; tokens may not move at all.
    def states(**change: object) -> dict[str, str]:
        found = outcome.compared({**OUTCOME, "score": 0.5}, {**OUTCOME, "score": 0.5, **change}, exact=False)
        return {each.what: each.state for each in found if each.state != "same"}

    assert states(loss_last=1.0199, metrics="1" * 64, weights={}) == {"loss_last": "within"}
    assert states(loss_last=1.03) == {"loss_last": "differs"}
    assert states(loss_last=None) == {"loss_last": "differs"}
    assert states(score=0.549) == {"score": "within"}
    assert states(score=0.56) == {"score": "differs"}
    assert states(tokens_trained=11, ledger="1" * 64) == {"tokens_trained": "differs", "ledger": "differs"}
    exact = outcome.compared(OUTCOME, {**OUTCOME, "loss_last": 1.0000001, "metrics": "1" * 64}, exact=True)
    assert [each.what for each in exact if each.state == "differs"] == ["loss_last", "metrics"]


ROWS = {"items": 3, "rows": 2, "dropped": {"tie": 1}, "sha256": DIGEST}
OF_STAGES = replace(
    LOCK,
    schema=recipe_lock.OF_PIPELINE,
    settings={"stages.sft.hardware.num_threads": 1, "stages.judge.judge.revision": "a" * 40},
    outcome={"sft": OUTCOME, "judge": ROWS},
)


def test_a_lock_of_a_pipeline_has_an_outcome_for_each_stage(tmp_path: Path) -> None:
    recipe_lock.write(tmp_path / "a.lock", OF_STAGES)
    assert recipe_lock.read(tmp_path / "a.lock") == OF_STAGES


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"stages.sft.model.trust_remote_code": True}},
        {"settings": {"stages.sft.model.revision": "main"}},
        {"settings": {"stages.a.stages.b.model.revision": "a" * 40}},
        {"settings": {"stages.A b.model.revision": "a" * 40}},
        {"settings": {"judge.revision": "a" * 40}},
        {"outcome": {}},
        {"outcome": OUTCOME},
        {"outcome": {"sft": {**OUTCOME, "more": 1}}},
        {"outcome": {"judge": {**ROWS, "rows": "2"}}},
        {"outcome": {"judge": {**ROWS, "sha256": "no"}}},
        {"outcome": {"judge": {**ROWS, "dropped": {"tie": "1"}}}},
        {"schema": 1},
    ],
)
def test_a_pipelines_lock_sets_and_says_nothing_of_its_own(change: dict[str, object], tmp_path: Path) -> None:
    recipe_lock.write(tmp_path / "a.lock", replace(OF_STAGES, **change))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"has another form"):
        recipe_lock.read(tmp_path / "a.lock")
