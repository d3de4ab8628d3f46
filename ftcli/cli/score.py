"""`ftcli score MODEL DATA`: score each row with a reward model; rank, filter or keep the best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.cli import arguments, output
from ftcli.cli.generate import check_model
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.launch.worker_request import WorkerFailed, answers
from ftcli.runs import provenance

SUMMARY = "score the rows of a file with a reward model; rank, filter or keep the best"
ORDER = 100


def run(argv: Sequence[str]) -> int:
    """Score every row; with --to, write the kept rows as a dataset."""
    parser = arguments.parser("score", __doc__ or "")
    parser.add_argument("model", help="a run of method=reward, or the folder of a reward model")
    parser.add_argument("data", help="rows: conversations, prompts with answers, preferences or labels")
    parser.add_argument("--to", type=Path, help="file to write the kept rows to, as JSON lines with their scores")
    parser.add_argument("--min", type=float, dest="least", metavar="SCORE", help="keep rows of at least this score")
    parser.add_argument(
        "--top", type=float, metavar="SHARE", help="keep this share of the rows, those with the highest scores"
    )
    parser.add_argument("--best", action="store_true", help="keep the best answer per prompt")
    parser.add_argument("--rank", action="store_true", help="best first")
    arguments.add_trust(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.top is not None and not 0 < options.top <= 1:
        raise ConfigError(Problem(f"--top {options.top:g}", "is not a share", "above 0 and at most 1"))
    refuse_existing(options.to)
    check_model(options.model, f"ftcli score {shell_word(options.model)}", "reward_model")
    request = {"model": options.model, "data": options.data, "trust_remote_code": options.trust_remote_code}
    try:
        found = list(answers("score", request))
    except WorkerFailed as failed:
        return failed.code
    kept = chosen(found, least=options.least, top=options.top, best=options.best, rank=options.rank)
    if options.to:
        write(options.to, [{**each["row"], "score": value_of(each)} for each in kept])
    if options.json:
        own = provenance.of_model(options.model)
        for each in kept:
            line = {name: value for name, value in each.items() if name != "row"}
            output.line({**line, provenance.KEY: own} if own is not None else line)
    else:
        output.table(summary(found, kept, options.to))
    return EXIT_DONE


def value_of(scored: dict[str, Any]) -> float:
    """The score of a row; for a preference pair, the margin of the chosen answer."""
    scores = scored.get("scores")
    return float(scores[0] - scores[1] if scores else scored["score"])


def chosen(
    found: Sequence[dict[str, Any]], *, least: float | None, top: float | None, best: bool, rank: bool
) -> list[dict[str, Any]]:
    """The kept rows, in file order or best first."""
    kept = [each for each in found if least is None or value_of(each) >= least]
    if best:
        winners: dict[str, dict[str, Any]] = {}
        for each in kept:
            prompt = _prompt_key(each["row"])
            if prompt not in winners or value_of(each) > value_of(winners[prompt]):
                winners[prompt] = each
        kept = list(winners.values())
    if top is not None:
        bar = sorted((value_of(each) for each in kept), reverse=True)[: max(1, round(top * len(kept)))]
        kept = [each for each in kept if value_of(each) >= bar[-1]]
    return sorted(kept, key=value_of, reverse=True) if rank else kept


def _prompt_key(row: dict[str, Any]) -> str:
    """A row's prompt as a dictionary key."""
    return json.dumps(row["messages"][:-1] if "messages" in row else row["prompt"], sort_keys=True)


def summary(
    found: Sequence[dict[str, Any]], kept: Sequence[dict[str, Any]], target: Path | None
) -> list[tuple[str, str]]:
    """A summary of the scores, as rows of a table."""
    values = sorted(map(value_of, found))
    pairs = [each for each in found if "scores" in each]
    rows = [
        ("rows", f"{len(found)}, kept {len(kept)}"),
        ("score", f"min {values[0]:.3f}, median {values[len(values) // 2]:.3f}, max {values[-1]:.3f}"),
    ]
    if pairs:
        wins = sum(value_of(each) > 0 for each in pairs) + sum(value_of(each) == 0 for each in pairs) / 2
        rows.append(("chosen wins", f"{wins / len(pairs):.1%} of {len(pairs)}"))
    return [*rows, *([("written", str(target))] if target else [])]


def refuse_existing(target: Path | None) -> None:
    """Refuse to overwrite a file.

    Raises:
        ConfigError: it exists.
    """
    if target is not None and target.exists():
        raise ConfigError(Problem(f"--to {target}", "already exists", "remove it, or name another file"))


def write(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
