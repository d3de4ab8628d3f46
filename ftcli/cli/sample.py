"""`ftcli sample MODEL DATA --to FILE`: answers that a model samples to each prompt, as a new data set.

With a reward model the best of them is kept (best-of-n), or those above a score (rejection sampling), or the best over
the worst as a preference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftcli import sources
from ftcli.cli import arguments, say
from ftcli.cli.score import refuse_existing, write
from ftcli.errors import EXIT_DONE, ConfigError, Problem
from ftcli.worker_request import WorkerFailed, answers


def run(argv: Sequence[str]) -> int:
    """Sample, choose, write."""
    parser = arguments.parser("sample", __doc__ or "")
    parser.add_argument("model", help="a run (directory or name), a model folder, builtin:tiny, or a cached hub id")
    parser.add_argument("data", help="rows with prompts; their answers, where they have any, are not read")
    parser.add_argument("--to", type=Path, required=True, help="file to write, as JSON lines")
    parser.add_argument("--n", type=int, default=4, metavar="N", help="answers to each prompt (4)")
    parser.add_argument("--reward", metavar="MODEL", help="a run of method=reward that scores the answers")
    parser.add_argument("--keep", choices=("all", "best", "pairs"), help="which answers (best with --reward, else all)")
    parser.add_argument("--min", type=float, dest="least", metavar="SCORE", help="drop answers below this score")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (256)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest token each time (1)")
    parser.add_argument("--top-p", type=float, default=1.0, help="share of probability sampled from (1.0)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the sampling (42)")
    arguments.add_trust(parser)
    options = arguments.parse(parser, argv)
    where = f"ftcli sample {options.model}"
    if sources.model_source(options.model) is None:
        raise ConfigError(
            Problem(where, f"{options.model} holds no model", "name a finished run, a folder or a hub id")
        )
    limits = {
        "--n": (options.n, 1),
        "--max-new-tokens": (options.max_new_tokens, 1),
        "--temperature": (options.temperature, 0),
    }
    for flag, (value, low) in limits.items():
        if value < low:
            raise ConfigError(Problem(f"{flag} {value}", "is out of range", f"{low} at least"))
    if options.reward is None and (options.least is not None or options.keep in ("best", "pairs")):
        raise ConfigError(Problem(where, "nothing scores the answers", "name a reward model with --reward"))
    if options.keep == "pairs" and options.n < 2:
        raise ConfigError(Problem("--keep pairs", "needs two answers to a prompt", "--n 2 or more"))
    refuse_existing(options.to)
    names = ("model", "data", "reward", "max_new_tokens", "temperature", "top_p", "seed", "trust_remote_code")
    request = {**{name: getattr(options, name) for name in names}, "num_answers": options.n}
    try:
        found = list(answers("sample", request))
    except WorkerFailed as failed:
        return failed.code
    keep = options.keep or ("best" if options.reward else "all")
    rows = [row for each in found for row in kept(each, keep, options.least)]
    write(options.to, rows)
    lost = sum(not list(kept(each, keep, options.least)) for each in found)
    say.table(
        [
            ("prompts", f"{len(found)}, of which {lost} have no row" if lost else str(len(found))),
            ("answers", str(sum(len(each["answers"]) for each in found))),
            ("rows", f"{len(rows)}, {keep}"),
            ("written", str(options.to)),
        ]
    )
    return EXIT_DONE


def kept(sampled: dict[str, Any], keep: str, least: float | None) -> Iterator[dict[str, Any]]:
    """The rows that the answers to one prompt become.

    Args:
        sampled: {"prompt", "answers", "scores"}.
        keep: all answers, the best, or the best over the worst as a pair; an answer that is said twice is one.
        least: answers below this score are dropped; of a pair the rejected one may be.
    """
    prompt, said = sampled["prompt"], list(dict.fromkeys(sampled["answers"]))
    scores = dict(zip(sampled["answers"], sampled.get("scores") or [0.0] * len(sampled["answers"]), strict=True))
    ranked = sorted(said, key=scores.__getitem__, reverse=True)
    scored = "scores" in sampled
    if keep == "pairs":
        best, worst = ranked[0], ranked[-1]
        if scores[best] > scores[worst] and (least is None or scores[best] >= least):
            yield {
                "prompt": prompt,
                "chosen": _turn(prompt, best),
                "rejected": _turn(prompt, worst),
                "margin": scores[best] - scores[worst],
            }
        return
    for text in ranked[:1] if keep == "best" else said:
        if least is None or scores[text] >= least:
            yield {
                "prompt": prompt,
                "completion": _turn(prompt, text),
                **({"score": scores[text]} if scored else {}),
            }


def _turn(prompt: Any, text: str) -> Any:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
