"""ftcli's preparation: the rows file to the data set that its SFT trainer takes.   ROWS TOKENIZER NUM_PROC

With everything that a run does before it trains: the ledger, the comparison with serving, and the store, which is
empty because benchmarks/tokenise.py gives every run an XDG_CACHE_HOME of its own.
"""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, IterableDataset
from report import LONGEST, run

from ftcli.methods import get_method
from ftcli.settings.groups import DataSettings, ModelSettings
from ftcli.worker.models.load import make_encoder
from ftcli.worker.tokenise.dataset import prepare
from ftcli.worker.tokenise.length_limits import Fitting


def prepared(rows: Path, tokenizer: Path, num_proc: int) -> Dataset | IterableDataset | None:
    """`num_proc` is not a setting of ftcli."""
    encoder = make_encoder(ModelSettings(name_or_path=str(tokenizer)))
    return prepare(DataSettings(path=str(rows)), get_method("sft"), encoder, Fitting(LONGEST, "drop"), seed=0).train


if __name__ == "__main__":
    run(prepared, "ftcli")
