"""ms-swift's preparation: `load_dataset` and the encoding that `swift sft` does first.   ROWS TOKENIZER NUM_PROC

`swift sft` encodes every row, keeps the number of its tokens and encodes the row again when a batch asks for it.
What is measured is that first pass: the least that stands between the rows and the first step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from report import LONGEST, run
from swift.dataset import AddLengthPreprocessor, load_dataset
from swift.model import get_processor
from swift.template import get_template

WARM = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def template_of(tokenizer: Path) -> Any:
    template = get_template(
        get_processor(str(tokenizer), model_type="qwen2"), template_type="chatml", max_length=LONGEST
    )
    template.set_mode("train")
    return template


def prepared(rows: Path, tokenizer: Path, num_proc: int) -> Any:
    template = template_of(tokenizer)
    # Swift's own defaults: no cache, shuffled.
    dataset, _ = load_dataset([str(rows)], num_proc=num_proc, load_from_cache_file=False, shuffle=True)
    encode = AddLengthPreprocessor(template=template)
    return encode(dataset, num_proc=num_proc, load_from_cache_file=False, batch_size=1000)


if __name__ == "__main__":
    template_of(Path(sys.argv[2]).resolve()).encode(WARM)  # imports that it puts off until the first row
    run(prepared, "ms-swift")
