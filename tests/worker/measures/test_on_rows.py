"""Measures on rows: the numbers of the run's own metrics, for any model, with intervals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcli import tiny
from ftcli.core.errors import ConfigError, DataError
from ftcli.evaluations.measures import READS
from ftcli.methods import get_method
from ftcli.settings.groups import ModelSettings
from ftcli.worker.commands.measures import evaluate
from ftcli.worker.inference import metrics
from ftcli.worker.inference.examples import chunks_of
from ftcli.worker.models.answer_ends import answering
from ftcli.worker.models.load import make_encoder
from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA

BUILTIN = "builtin:tiny"
ROWS = 12


def asked(measure: str, data: Path | str | None, model: str = BUILTIN, **more: Any) -> Any:
    place = None if data is None else str(data)
    request = {"model": model, "data": place, "kinds": READS[measure], "rows": ROWS, "measures": [measure]}
    [line] = evaluate({**request, **more})["lines"]
    return line


def rows_of(kind: str) -> Path:
    return Path(tiny.set_path(kind, "eval"))


def test_perplexity_weighs_every_token_of_the_answers():
    settings = ModelSettings(name_or_path=BUILTIN)
    encoder = make_encoder(settings)
    model = answering(settings, encoder)
    examples = next(chunks_of(str(rows_of("sft")), ("messages",), has_template=True))[:ROWS]
    total, count = 0.0, 0
    for row in encoder.encode(examples):
        ids, labels = torch.tensor([row.columns["input_ids"]]), torch.tensor(row.columns["labels"])
        with torch.no_grad():
            logps = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        kept = labels[1:] != IGNORED
        total -= float(logps.gather(1, ids[0, 1:, None])[:, 0][kept].sum())
        count += int(kept.sum())
    found = asked("perplexity", rows_of("sft"))
    assert found["measured"]["value"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found["measured"]["low"] < found["measured"]["value"] < found["measured"]["high"]
    assert found["higher_is_better"] is False


@pytest.mark.parametrize(("measure", "kind", "method"), [("answers", "sft", "sft"), ("preferences", "dpo", "dpo")])
def test_a_model_gets_the_number_of_the_methods_own_metric(measure, kind, method):
    settings = ModelSettings(name_or_path=BUILTIN)
    encoder = make_encoder(settings)
    examples = next(chunks_of(str(rows_of(kind)), READS[measure], has_template=True))[:ROWS]
    counts = metrics.count_hits(get_method(method), answering(settings, encoder), encoder, examples)
    expected = metrics.shares(counts)["value"]
    found = asked(measure, rows_of(kind))["measured"]
    assert (found["value"], found["rows"]) == (pytest.approx(expected), ROWS)
    assert found["low"] <= expected <= found["high"]


def test_a_run_is_compared_with_what_it_began_with(sft_file, make_spec, new_run):
    run = new_run(make_spec(sft_file, peft=LORA, train={"learning_rate": 1e-2, "max_steps": 8}), "run")
    train(run)
    found = asked("perplexity", sft_file, str(run))
    assert found["after"]["value"] < found["before"]["value"]
    assert found["difference"]["high"] < 0
    assert found["difference"]["value"] == pytest.approx(found["after"]["value"] - found["before"]["value"])
    base = json.loads((run / "spec.json").read_text(encoding="utf-8"))["model"]["name_or_path"]
    assert asked("perplexity", sft_file, base)["measured"]["value"] == pytest.approx(found["before"]["value"], rel=1e-4)


def test_a_run_is_measured_on_the_share_that_it_held_out(sft_file, make_spec, new_run):
    spec = make_spec(sft_file, peft=LORA, train={"max_steps": 1})
    spec = replace(spec, data=replace(spec.data, eval_share=0.25))
    run = new_run(spec, "run")
    train(run)
    held_out = json.loads((run / "result.json").read_text(encoding="utf-8"))["eval_loss"]["after"]
    found = asked("perplexity", None, str(run), rows=None)["after"]["value"]
    assert math.log(found) == pytest.approx(held_out, rel=1e-3)
    with pytest.raises(ConfigError, match="held out no rows of the type preference"):
        asked("preferences", None, str(run))


def test_a_reward_is_that_of_the_models_own_answers(dpo_file, sft_file, make_spec, new_run):
    judge = new_run(make_spec(dpo_file, method={"name": "reward"}, peft=LORA, train={"max_steps": 2}), "judge")
    train(judge)
    found = asked("reward", sft_file, reward_model=str(judge))["measured"]
    assert math.isfinite(found["value"])
    assert found["low"] <= found["value"] <= found["high"]
    assert found["rows"] == ROWS


def test_rows_of_another_kind_are_refused():
    with pytest.raises(DataError, match="preferences needs preference pairs"):
        asked("preferences", rows_of("sft"))
