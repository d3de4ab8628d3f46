"""Random changes of one field, and what `check` and a worker make of each.

    python -m tests.matrix.fuzz FIRST LAST LOG        carries out the changes of those seeds, prints what came of each
    python -m tests.matrix.fuzz FIRST LAST LOG check  checks those in LOG again, trains where check says otherwise now

LOG gets a JSON line a seed; a seed that is in it already is not carried out again, so a run that was cut goes on.

A seed draws a method, one of the fields of its trainer config, and a value of the field's kind: a usual one, one at the
edge, a word that exists, one that does not, a mapping with an entry that nobody reads, a file that is not there.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import versions
from ftcli.build.checks.field_checks import choices_of
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, FtcliError
from ftcli.core.exit_codes import EXIT_NOT_FINITE
from ftcli.launch.local import prepare, worker_environment
from ftcli.methods import Method, all_methods
from ftcli.settings.fields.field_table import row_of
from ftcli.settings.library_fields import TRAINING_ARGUMENTS, Field, fields_of
from ftcli.settings.run_spec import RunSpec

SMALL = (
    "model=tiny", "hardware=cpu", "hardware.num_threads=1", "data.max_rows=16", "data.max_eval_rows=4",
    "data.max_length_tokens=64", "train.max_steps=2", "train.per_device_train_batch_size=2", "run.score_rows=0",
    "train.per_device_eval_batch_size=2", "train.eval_strategy=steps", "train.eval_steps=2", "train.save_steps=2",
    "train.logging_steps=1",
)  # fmt: skip
"""Two steps on the small model, with an evaluation and a checkpoint."""
OF_GROUPS = ("method.num_generations=2", "method.max_completion_length=8")
SECONDS = 180
"""Time that a worker has for its two steps; they take a few seconds."""
NONSENSE = "nonsense"
DOCUMENTED = {
    "is owned by": "owned", "is refused:": "refused", "grant it": "needs a flag", "read only with": "no effect",
    "no effect": "no effect", "not read by": "no effect", "reads no": "no effect", "out of range": "out of range",
    "not a finite number": "out of range", "which is not": "wrong type", "is not a value of": "unknown word",
    "has no entry": "unknown entry", "is of the wrong type": "wrong type", "is not of its type": "wrong type",
    "divides by zero": "out of range", "needs a GPU": "hardware",
    "needs a TPU": "hardware", "computes on a CPU": "hardware", "over several processes": "no effect",
    "where this run keeps them anyway": "no effect",
    "say the same": "no effect", "nothing reports the metric": "unknown metric",
}  # fmt: skip
"""What a refusal says → its kind, for the kinds that need no failing worker: the manual states them."""
ENDS = {0: "trained", -1: "time was up", 2: "refused by the worker", EXIT_NOT_FINITE: "loss or gradient not a number"}
"""How a worker may end that `check` let start. Compiling alone may take longer than two steps have; and a worker tells
what `check` cannot know: whether a hub id exists, or that a learning rate of 100 is too much for these rows."""


@dataclass(frozen=True)
class Change:
    """One field of one method with another value."""

    seed: int
    method: str
    group: str
    field: str
    value: Any

    @property
    def name(self) -> str:
        """The setting."""
        return f"{self.group}.{self.field}"

    def __str__(self) -> str:
        return f"seed {self.seed}: method={self.method} {self.name}={json.dumps(self.value)}"


def draw(seed: int) -> Change:
    """The change of a seed: methods evenly, then evenly the fields that it may set or may be told it may not."""
    chance = random.Random(seed)
    method = chance.choice(sorted(all_methods().values(), key=lambda each: each.name))
    shared = fields_of(TRAINING_ARGUMENTS)
    own = [name for name in fields_of(method.config) if name not in {*shared, *method.fixed, *method.without}]
    group, name = chance.choice([*(("train", name) for name in shared), *(("method", name) for name in own)])
    field = (shared if group == "train" else fields_of(method.config))[name]
    return Change(seed, method.name, group, name, _value(chance, f"{group}.{name}", field, method))


def _value(chance: random.Random, name: str, field: Field, method: Method) -> Any:
    """A value of one of the kinds that the annotation allows."""
    row, limit = row_of(name, field), method.limits.get(field.name)
    kinds = {node.id for node in ast.walk(field.annotation) if isinstance(node, ast.Name)}
    words = choices_of(field, limit, row)
    options: list[Any] = []
    if "bool" in kinds:
        options += [True, False]
    if "int" in kinds:
        options += [chance.choice([0, 1, 2, 3, 4, 8, 64, -1])]
    if "float" in kinds:
        options += [chance.choice([0.0, 1e-4, 0.1, 0.5, 1.0, 2.0, 100.0, -0.5])]
    if words:
        options += [chance.choice(words), chance.choice(words), NONSENSE]
    elif "str" in kinds:
        options += [NONSENSE]
    if "dict" in kinds:
        options += [{}, {NONSENSE: 1}]
    if "list" in kinds and not words:
        options += [[], [NONSENSE]]
    return chance.choice(options or [NONSENSE, None])


@dataclass(frozen=True)
class Outcome:
    """What came of a change."""

    change: Change
    refused: str = ""
    """The problem that `check` reports; empty where it reports none."""
    code: int = 0
    """The worker's exit code, -1 where its time was up."""
    error: str = ""
    """The end of what the worker wrote where it failed."""
    seconds: float = 0.0
    """What it took, check and worker together."""

    @property
    def kind(self) -> str:
        """How it ended, for the report: what the worker did where `check` passed it, else the kind of the refusal."""
        if not self.refused:
            return ENDS.get(self.code, "failed")
        return self.documented or ("trains" if self.code == 0 else "the worker fails too")

    @property
    def documented(self) -> str:
        """The kind of a refusal that the manual states; empty for the others."""
        return next((kind for words, kind in DOCUMENTED.items() if words in self.refused), "")

    @property
    def fault(self) -> str:
        """Why `check` was wrong; empty where it was right."""
        if not self.refused and self.code not in ENDS:
            return f"check passed {self.change}, and the worker ended with {self.code}:\n{self.error}"
        if self.refused and self.code == 0 and not self.documented:
            return f"check refused {self.change}, which trains:\n{self.refused}"
        return ""


def base(method: str) -> tuple[str, ...]:
    """The overrides of two small steps with a method."""
    declared = all_methods()[method]
    words = [f"method={method}", *SMALL]
    known = fields_of(declared.config)
    words += [word for word in OF_GROUPS if word.partition("=")[0].removeprefix("method.") in known]
    if "max_new_tokens" in known:
        words.append("method.max_new_tokens=8")
    if "teacher_model" in known:
        words.append("method.teacher_model=builtin:tiny")
    return tuple(words)


def carry_out(change: Change, folder: Path, warm: Any = None) -> Outcome:
    """Check the change, and let a worker decide where that is needed."""
    start = time.perf_counter()
    outcome = _carry_out(change, folder, warm)
    return replace(outcome, seconds=round(time.perf_counter() - start, 1))


def _carry_out(change: Change, folder: Path, warm: Any) -> Outcome:
    run = folder / "run"
    try:
        spec, refused = spec_of(_request(change, folder)), ""
    except FtcliError as error:
        refused = "\n".join(map(str, error.problems))
        if Outcome(change, refused).documented:
            return Outcome(change, refused)
        plain = spec_of(Request(overrides=(*base(change.method), f"run.dir={run}")))
        settings = {**getattr(plain, change.group), change.field: change.value}
        spec = replace(plain, **{change.group: settings})
    code, error = _train(spec, folder, warm)
    return Outcome(change, refused, code, error)


def _request(change: Change, folder: Path) -> Request:
    """Two small steps of the method, with the change in a recipe."""
    words = [word for word in base(change.method) if word.partition("=")[0] != change.name]
    recipe = folder / "change.yaml"
    recipe.write_text(json.dumps({"ftcli": 1, change.group: {change.field: change.value}}), encoding="utf-8")
    return Request(overrides=(f"recipe={recipe}", *words, f"run.dir={folder / 'run'}"))


def _train(spec: RunSpec, folder: Path, warm: Any) -> tuple[int, str]:
    """The exit code of a worker, and the end of what it wrote."""
    try:
        run = prepare(spec, ["train"])
    except ConfigError as error:
        return 2, str(error)
    environment = worker_environment(spec.launch)
    arguments = ["train", str(run)]
    try:
        if warm is not None:
            done = warm.run(arguments, folder, environment, SECONDS, module="ftcli.worker")
        else:
            command = [sys.executable, "-m", "ftcli.worker", *arguments]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
    except subprocess.TimeoutExpired:
        return -1, f"no end after {SECONDS} seconds"
    return done.returncode, "" if done.returncode == 0 else done.stderr[-2000:]


def carried_out(log: Path) -> dict[int, Outcome]:
    """Outcomes by seed that an earlier call wrote down and that are still those of today's changes."""
    if not log.is_file():
        return {}
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    found = [Outcome(Change(**row.pop("change")), **row) for row in rows]
    return {each.change.seed: each for each in found if each.change == draw(each.change.seed)}


def summary(found: Iterable[Outcome]) -> dict[str, Any]:
    """The outcomes in numbers by kind, and what `check` was wrong about by name."""
    outcomes = list(found)
    wrong = [each for each in outcomes if each.fault]
    return {
        "schema": 1,
        "versions": versions(),
        "drawn": len(outcomes),
        "passed": dict(Counter(each.kind for each in outcomes if not each.refused).most_common()),
        "refused": dict(Counter(each.kind for each in outcomes if each.refused).most_common()),
        "failed": [str(each.change) for each in wrong if not each.refused],
        "wrongly_refused": [str(each.change) for each in wrong if each.refused],
    }


def refusal(change: Change, folder: Path) -> str:
    """What `check` says of a change; "" where it passes it."""
    try:
        spec_of(_request(change, folder))
    except FtcliError as error:
        return "\n".join(map(str, error.problems))
    return ""


def main(first: int, last: int, log: Path, again: bool) -> None:
    """Carry out the changes of the seeds from `first` to before `last` that the log does not hold yet.

    Args:
        again: whether to check those in the log again, and to carry out the ones that are judged otherwise now.
    """
    from tests.warm import Warm, possible

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = carried_out(log)
    with tempfile.TemporaryDirectory() as place, log.open("a", encoding="utf-8") as lines:
        logs = Path(place, "logs")
        logs.mkdir()
        warm = Warm(logs) if possible() else None
        # Compiling takes minutes where two steps take seconds: those come last.
        for seed in sorted(range(first, last), key=lambda seed: draw(seed).field.startswith("torch_compile")):
            folder = Path(place, str(seed))
            folder.mkdir()
            known = found.get(seed)
            if known is not None and again and known.refused and (now := refusal(known.change, folder)):
                found[seed] = replace(known, refused=now)
            elif known is None or (again and (known.refused or refusal(known.change, folder))):
                found[seed] = outcome = carry_out(draw(seed), folder, warm)
                lines.write(json.dumps(asdict(outcome)) + "\n")
                lines.flush()
                print(f"{outcome.change}  {outcome.kind} ({outcome.seconds:.1f} s)", flush=True)
                if outcome.fault:
                    print(f"FAULT {outcome.fault}\n", flush=True)
            shutil.rmtree(folder)
        if warm is not None:
            warm.close()
    print(json.dumps(summary(found.values()), indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:] == ["check"])
