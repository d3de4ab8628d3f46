"""`ftcli sample MODEL DATA --to FILE`: sample answers to each prompt, as a new dataset.

With a reward model, keep the best answer (best-of-n), the answers above a score (rejection sampling), or the best and
the worst as a preference pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftcli.cli import arguments, output
from ftcli.cli.generate import add_sampling, check_generation, check_model
from ftcli.cli.score import refuse_existing, write
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.data.formats.conversations import answer_to
from ftcli.launch.worker_request import WorkerFailed, answers

SUMMARY = "sample answers to the prompts of a file; keep the best, or the best and worst as pairs"
ORDER = 110


def run(argv: Sequence[str]) -> int:
    """Sample answers, select, and write them."""
    parser = arguments.parser("sample", __doc__ or "")
    parser.add_argument("model", help="a run (directory or name), a model folder, builtin:tiny, or a cached hub id")
    parser.add_argument("data", help="rows with prompts; any answers in them are ignored")
    parser.add_argument("--to", type=Path, required=True, help="file to write, as JSON lines")
    parser.add_argument("--n", type=int, default=4, metavar="N", help="answers per prompt (4)")
    parser.add_argument("--reward", metavar="MODEL", help="a run of method=reward that scores the answers")
    parser.add_argument("--keep", choices=("all", "best", "pairs"), help="which answers (best with --reward, else all)")
    parser.add_argument("--min", type=float, dest="least", metavar="SCORE", help="drop answers below this score")
    add_sampling(parser, temperature=1.0)
    arguments.add_trust(parser)
    options = arguments.parse(parser, argv)
    where = f"ftcli sample {shell_word(options.model)}"
    check_generation(options, where)
    if options.n < 1:
        raise ConfigError(Problem(f"--n {options.n}", "is out of range", "at least 1"))
    if options.reward is None and (options.least is not None or options.keep in ("best", "pairs")):
        raise ConfigError(Problem(where, "nothing scores the answers", "name a reward model with --reward"))
    if options.keep == "pairs" and options.n < 2:
        raise ConfigError(Problem("--keep pairs", "needs at least two answers per prompt", "set --n 2 or more"))
    if options.reward is not None:
        check_model(options.reward, f"--reward {options.reward}", "reward_model")
    refuse_existing(options.to)
    names = ("model", "data", "reward", "max_new_tokens", "temperature", "top_p", "seed", "trust_remote_code")
    request = {**{name: getattr(options, name) for name in names}, "num_answers": options.n}
    try:
        found = list(answers("sample", request))
    except WorkerFailed as failed:
        return failed.code
    keep = options.keep or ("best" if options.reward else "all")
    by_prompt = [list(selected_rows(each, keep, options.least)) for each in found]
    rows = [row for own in by_prompt for row in own]
    write(options.to, rows)
    lost = by_prompt.count([])
    output.table(
        [
            ("prompts", f"{len(found)}, {lost} of them without a row" if lost else str(len(found))),
            ("answers", str(sum(len(each["answers"]) for each in found))),
            ("rows", f"{len(rows)}, {keep}"),
            ("written", str(options.to)),
        ]
    )
    return EXIT_DONE


def selected_rows(sampled: dict[str, Any], keep: str, least: float | None) -> Iterator[dict[str, Any]]:
    """The rows to write for the answers to one prompt.

    Args:
        sampled: {"prompt", "answers", "scores"}.
        keep: all answers, the best, or the best and worst as a pair. Duplicate answers count once.
        least: answers below this score are dropped; the rejected answer of a pair may be below it.
    """
    prompt, texts = sampled["prompt"], list(dict.fromkeys(sampled["answers"]))
    scores = dict(zip(sampled["answers"], sampled.get("scores") or [0.0] * len(sampled["answers"]), strict=True))
    ranked = sorted(texts, key=scores.__getitem__, reverse=True)
    scored = "scores" in sampled
    if keep == "pairs":
        best, worst = ranked[0], ranked[-1]
        if scores[best] > scores[worst] and (least is None or scores[best] >= least):
            yield {
                "prompt": prompt,
                "chosen": answer_to(prompt, best),
                "rejected": answer_to(prompt, worst),
                "margin": scores[best] - scores[worst],
            }
        return
    for text in ranked[:1] if keep == "best" else texts:
        if least is None or scores[text] >= least:
            yield {
                "prompt": prompt,
                "completion": answer_to(prompt, text),
                **({"score": scores[text]} if scored else {}),
            }
