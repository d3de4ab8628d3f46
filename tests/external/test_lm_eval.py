"""lm-evaluation-harness on a real model, before and after a few steps, without a network.

FTCLI_REAL_MODELS is as for test_real_models.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.evaluations import record
from ftcli.launch.local import prepare

MODELS = Path(os.environ.get("FTCLI_REAL_MODELS") or "/nonexistent")
pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="set FTCLI_REAL_MODELS to a folder with smollm2")
pytest.importorskip("lm_eval", reason="pip install 'ftcli[eval]'")

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Russia": "Moscow",
    "Greece": "Athens", "Ireland": "Dublin", "Cuba": "Havana", "Peru": "Lima", "Poland": "Warsaw", "Kenya": "Nairobi",
    "Norway": "Oslo", "China": "Beijing", "Germany": "Berlin", "Austria": "Vienna",
}  # fmt: skip
ASKED = "Name the capital of {} in one word."
TASK = """task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 16}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
PICK = """task: pick
include: capitals.yaml
output_type: multiple_choice
doc_to_choice: "{{choices}}"
generation_kwargs: null
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def run(here: Path) -> Path:
    """A few steps on one word answers."""
    from ftcli.worker.training.run import train

    names = list(CAPITALS.values())
    asked = []
    for index, (land, town) in enumerate(CAPITALS.items()):
        others = [name for name in names if name != town][index % 12 :][:3]
        asked.append({"question": ASKED.format(land), "answer": town, "choices": [*others, town]})
    taught = [{"prompt": row["question"], "completion": row["answer"]} for row in asked] * 2
    for name, rows in (("capitals", asked), ("train", taught)):
        (here / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (here / "capitals.yaml").write_text(TASK, encoding="utf-8")
    (here / "pick.yaml").write_text(PICK, encoding="utf-8")
    typed = (
        "peft=lora", "hardware.num_threads=1", "train.per_device_train_batch_size=8", "train.max_steps=12",
        "train.gradient_accumulation_steps=1", "train.learning_rate=1e-3", "run.score_rows=0", f"run.dir={here}/run",
        "train.save_strategy=no", f"data.path={here}/train.jsonl", f"model.name_or_path={MODELS / 'smollm2'}",
    )  # fmt: skip
    train(prepare(spec_of(Request(overrides=typed)), ["train", *typed]))
    return here / "run"


def test_a_run_is_measured_before_and_after_on_offline_tasks_with_intervals(
    run: Path, typed: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, said, error = typed("eval", str(run), "--tasks", "capitals.yaml,pick.yaml", "--json")
    assert code == 0, error
    found = json.loads(said)
    assert found["template"] is True
    lines = {line["name"]: line for line in found["lines"]}
    exact, pick = lines["capitals exact_match"], lines["pick acc"]
    # The instruct model answers in sentences; a few steps teach it the one word that was asked for.
    assert exact["before"]["value"] < 0.5 < exact["after"]["value"]
    assert exact["difference"]["low"] > 0
    assert pick["before"]["value"] > 0.5  # it knew the capitals
    for line in (exact, pick):
        for column in ("before", "after", "difference"):
            assert line[column]["low"] <= line[column]["value"] <= line[column]["high"]
            assert line[column]["rows"] == len(CAPITALS)
    assert [table for _, table in record.kept(run)] == [record.rows(found["lines"])]
