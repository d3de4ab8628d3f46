"""Which tokens TRL trains is a default of its own, which stands in the account though no key of the file says it."""

from __future__ import annotations

import pytest

from ftcli.cli import main
from ftcli.config.conversion import convert
from ftcli.core.exit_codes import EXIT_DONE
from tests.config.conversion.test_conversion import entry, recipe_of, written

SFT = """\
model_name_or_path: Qwen/Qwen3-0.6B
dataset_name: trl-lib/Capybara
learning_rate: 2.0e-5
packing: true
gradient_checkpointing: true
output_dir: out
"""


def test_the_account_says_that_whole_messages_would_be_trained_there(here, capsys):
    assert main(["recipe", "import", str(written(SFT)), "--from", "trl", "--to", "ours.yaml"]) == EXIT_DONE
    what = "every token of messages is trained, prompts too, there; here answers alone are"
    assert f"assistant_only_loss: false → data.trained_turns=all   ({what})" in capsys.readouterr().out
    found = convert(written(SFT), "trl")
    assert found.account.to_data()["by_default"] == [
        {"key": "assistant_only_loss", "before": "false", "after": "data.trained_turns=all", "why": what}
    ]
    assert recipe_of(found)["data"]["trained_turns"] == "all"


@pytest.mark.parametrize(
    ("line", "which"),
    [
        ("assistant_only_loss: true", "mapped"),
        ("assistant_only_loss: false", "changed"),
        ("completion_only_loss: true", "mapped"),
        ("completion_only_loss: false", "changed"),
    ],
)
def test_a_switch_that_the_file_sets_is_the_same_here_only_where_answers_alone_are_trained(line, which, here):
    found = convert(written(f"{SFT}{line}\n"), "trl")
    assert entry(found, line.partition(":")[0])[0] == which
    assert bool(found.account.by_default) == line.startswith("completion")


def test_preference_pairs_have_no_such_default(here):
    found = convert(written(f"{SFT.replace('packing: true', 'beta: 0.1')}loss_type: sigmoid\n"), "trl")
    assert found.draft.choices["method"] == "dpo"
    assert not found.account.by_default
