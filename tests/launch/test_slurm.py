"""The text that sbatch is given, and what it does when Slurm asks it to stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE
from ftcli.launch import slurm
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps.sweep_folder import Sweep, read_sweep


def spec(*more: str) -> RunSpec:
    words = ("method=sft", "model=tiny", "hardware=slurm", "hardware.num_processes=8", "run.dir=/runs/a")
    return spec_of(Request(overrides=(*words, *more)))


def text_of(asked: RunSpec, *runs: str) -> str:
    return slurm.script(asked, [*map(Path, runs)], slurm.words_of(asked))


ONE_NODE = """\
#!/bin/bash
# Written by ftcli train hardware=slurm; sbatch takes it again as it is.
#SBATCH --job-name=sft-tiny
#SBATCH --account=lab
#SBATCH --partition=gpu
#SBATCH --time=12:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --constraint=a100&ib
#SBATCH --exclusive
#SBATCH --signal=B:TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/runs/a/slurm-%j.txt

run=/runs/a
job=$SLURM_JOB_ID
# whether Slurm itself ends the job, and has told every process of it; and whether that is before its limit
# and for no other job: then somebody cancelled it
state() { squeue --noheader --states=all --jobs="$job" --format='%T %r'; }
ends() { case "$(state)" in COMPLETING*) ;; *) return 1 ;; esac; }
cancelled() {
  case "$(state)" in
    "COMPLETING TimeLimit") return 1 ;;
    COMPLETING*) ! scontrol show job "$job" | grep -q 'PreemptTime=[0-9]' ;;
    *) return 1 ;;
  esac
}
pid= stop=
# a second signal would stop ftcli at once, and lose what no checkpoint has
trap 'stop=1; ends || kill -TERM $pid 2>/dev/null' TERM
PYTHON -m ftcli train --resume "$run" &
pid=$!
[ -n "$stop" ] && kill -TERM "$pid"
wait "$pid"; code=$?
# a signal ends `wait` and not ftcli, which first finishes its step and saves
while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done
[ "$code" -gt 128 ] && { wait "$pid"; code=$?; }
# 75: stopped, 8: a process was lost, 143: stopped before it had begun; each goes on from the newest checkpoint
case "$code" in
  75|8|143)
    [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ] && ! cancelled && scontrol requeue "$job" ;;
esac
exit "$code"
"""


def test_the_text_of_a_job_on_one_node():
    asked = ("hardware.account=lab", "hardware.partition=gpu", "hardware.time_limit=12:00:00")
    more = ("hardware.stop_seconds=600", 'hardware.sbatch={constraint: "a100&ib", exclusive: true}')
    text = text_of(spec(*asked, *more), "/runs/a")
    assert text.replace(sys.executable, "PYTHON") == ONE_NODE


def test_the_text_of_several_nodes_starts_the_others_with_their_ranks():
    asked = spec("hardware.num_nodes=3", "hardware.node_type=fsdp", "hardware.container=/images/ft cli.sif")
    assert (asked.launch.num_processes, asked.train["fsdp"]) == (24, True)
    lines = text_of(asked, "/runs/a b").splitlines()
    assert "#SBATCH --nodes=3" in lines
    assert "run='/runs/a b'" in lines
    [others] = [line for line in lines if line.startswith("srun")]
    assert others.startswith("srun --nodes=2 --ntasks=2 --relative=1 bash -c ")
    assert "hardware.node_rank=$((SLURM_PROCID + 1))" in others
    assert "apptainer exec --nv '/images/ft cli.sif' ftcli train --trust-remote-code --resume \"$run\" &" in lines
    assert subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=False).returncode == 0


def test_the_runs_of_a_sweep_are_one_array():
    lines = text_of(spec(), "/runs/0", "/runs/1", "/runs/2").splitlines()
    assert {"#SBATCH --array=0-2", "#SBATCH --output=/runs/slurm-%A_%a.txt", "  /runs/1"} <= set(lines)
    assert 'run="${runs[$SLURM_ARRAY_TASK_ID]}"' in lines
    assert "job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" in lines


STUB = """\
#!/bin/sh
echo "$@" >> {folder}/commands
trap 'echo stopping >> {folder}/commands; sleep 0.3; exit {code}' TERM
touch {folder}/started
while true; do sleep 0.05; done
"""


SCONTROL = """\
#!/bin/sh
case $1 in
  requeue) echo "scontrol $@" >> {folder}/commands ;;
  *) echo "   JobState=COMPLETING Reason=None{preempted}" ;;
esac
"""


@pytest.mark.parametrize(
    ("code", "restarts", "state", "preempted", "requeued"),
    [
        (75, "0", "RUNNING None", "", True),
        (8, "0", "RUNNING None", "", True),
        (75, "100", "RUNNING None", "", False),
        (2, "0", "RUNNING None", "", False),
        (75, "0", "", "", True),  # nobody can be asked
        (75, "0", "COMPLETING TimeLimit", "", True),  # a step that took longer than hardware.stop_seconds
        (75, "0", "COMPLETING None", "", False),  # scancel
        (75, "0", "COMPLETING None", " PreemptTime=None", False),
        (75, "0", "COMPLETING None", " PreemptTime=2026-11-30T23:59:41", True),
    ],
)
def test_a_job_passes_the_signal_on_waits_for_the_save_and_is_requeued_unless_it_is_cancelled(
    code, restarts, state, preempted, requeued, tmp_path, monkeypatch
):
    for name, text in (
        ("python", STUB.format(folder=tmp_path, code=code)),
        ("scontrol", SCONTROL.format(folder=tmp_path, preempted=preempted)),
        ("squeue", f'#!/bin/sh\necho "{state}"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "job").write_text(text_of(spec(), "/runs/a"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": restarts}
    job = subprocess.Popen(["bash", str(tmp_path / "job")], env=environment, start_new_session=True)
    until = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < until:
        time.sleep(0.02)
    if state.startswith("COMPLETING"):
        os.killpg(job.pid, signal.SIGTERM)  # as Slurm does where it ends a job
    else:
        os.kill(job.pid, signal.SIGTERM)
    assert job.wait(120) == code
    commands = (tmp_path / "commands").read_text().splitlines()
    assert commands == [
        "-m ftcli train --resume /runs/a", "stopping", *(["scontrol requeue 17"] if requeued else [])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("hardware.num_processes=null", "how many GPUs each has"),
        ("hardware.time_limit=tomorrow", "not a time as Slurm writes it"),
        ("hardware.sbatch={wrap: x}", "sbatch.wrap is not an option that a job takes from here"),
        ("hardware.account='a\n#SBATCH --wrap=x'", "does not stand on a line of options"),
        ("hardware.sbatch={comment: 'a b'}", "does not stand on a line of options"),
        ("hardware.node_rank=0", "is Slurm's to say"),
    ],
)
def test_what_a_job_is_not_asked_with(override, what, problems):
    words = ["hardware=slurm", "run.dir=r", *([] if "num_processes" in override else ["hardware.num_processes=8"])]
    [found] = problems(*words, override)
    assert what in found


def test_settings_of_a_job_without_one_are_refused(problems):
    [found] = problems("hardware=multi_gpu", "hardware.account=lab")
    assert "hardware.account is read only for a Slurm job" in found


def test_a_recipe_may_not_name_a_container_elsewhere(here, capsys):
    Path("r.yaml").write_text(
        "# A job.\nhardware:\n  type: slurm\n  num_processes: 1\n  container: /etc/image.sif\n", encoding="utf-8"
    )
    assert main(["check", "recipe=r.yaml"]) == EXIT_CONFIG
    assert "--allow-path" in capsys.readouterr().err


def test_without_sbatch_nothing_is_written_and_a_dry_run_shows_the_text(here, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    words = ["train", "hardware=slurm", "hardware.num_processes=1", "run.dir=a"]
    assert main([*words, "--dry-run"]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "#SBATCH --gpus-per-node=1" in shown
    assert f"run={here / 'a'}" in shown
    assert main(words) == EXIT_CONFIG
    assert "no sbatch on this machine" in capsys.readouterr().err
    assert not Path("a").exists()


NAMES = ("learning_rate-0.0001", "learning_rate-0.0002")
SBATCH = '#!/bin/sh\necho "$2" >> submitted\necho 42\n'


def test_a_run_and_a_sweep_are_submitted_and_resumed_as_jobs(here, capsys, monkeypatch):
    (here / "sbatch").write_text(SBATCH)
    (here / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    words = ["train", "hardware=slurm", "hardware.num_processes=1"]
    assert main([*words, "run.dir=one"]) == EXIT_DONE
    assert "job 42" in capsys.readouterr().err
    assert main(["train", "--resume", "one"]) == EXIT_DONE
    assert main([*words, "-m", "train.learning_rate=1e-4,2e-4", "run.dir=both"]) == EXIT_DONE
    one, array = here / "one" / rundir.JOB, here / "both" / "learning_rate-0.0001-to-learning_rate-0.0002.sbatch"
    assert (here / "submitted").read_text().splitlines() == [str(one), str(here / "one" / rundir.JOB), str(array)]
    assert "#SBATCH --array=0-1" in array.read_text()
    rates = [RunSpec.load(here / "both" / name / rundir.SPEC).train["learning_rate"] for name in NAMES]
    assert rates == [1e-4, 2e-4]


def test_what_a_resume_changes_is_said_to_the_job(here, capsys, monkeypatch):
    (here / "sbatch").write_text(SBATCH)
    (here / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert main(["train", "hardware=slurm", "hardware.num_processes=1", "run.dir=one"]) == EXIT_DONE
    assert 'train --resume "$run" &' in (here / "one" / rundir.JOB).read_text()
    assert main(["train", "--resume", "one", "train.max_steps=9"]) == EXIT_DONE
    assert '--resume "$run" train.max_steps=9 &' in (here / "one" / rundir.JOB).read_text()


def test_what_sbatch_says_in_several_lines_is_one_sentence_without_its_name(here, capsys, monkeypatch):
    (here / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: lab has no account\nsbatch: fatal: not submitted' >&2\nexit 1\n"
    )
    (here / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    assert main(["train", "hardware=slurm", "hardware.num_processes=1", "run.dir=one"]) == EXIT_CONFIG
    assert "sbatch refuses it: lab has no account; not submitted\n" in capsys.readouterr().err


def ended(run: Path, loss: float) -> None:
    """Leave a run as a finished job does."""
    result = {"schema": 1, "eval_loss": {"before": 9.0, "after": loss}, "score": None, "seconds": 1.0, "steps": 1}
    rundir.write_json(run / rundir.RESULT, result)


def test_a_search_that_learns_nothing_is_an_array_and_ends_in_its_table(here, capsys, monkeypatch):
    pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    for name, text in (("sbatch", SBATCH), ("squeue", '#!/bin/sh\necho "$*" >> asked\ncat queue\n')):
        (here / name).write_text(text)
        (here / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    words = ["sweep", "hardware=slurm", "hardware.num_processes=1", "train.learning_rate=interval(1e-4,1e-3)"]
    words += ["sweep.trials=3", "data.eval_share=0.1", "data.path=builtin:tiny", "run.dir=found"]
    assert main(words) == EXIT_CONFIG
    told = capsys.readouterr().err
    assert "sweep.sampler=random sweep.pruner=none draws them all beforehand" in told
    assert "start it inside an allocation" in told
    assert main([*words, "sweep.sampler=random", "sweep.pruner=none"]) == EXIT_DONE
    assert "ftcli sweep --resume found prints the table" in capsys.readouterr().err
    sweep = read_sweep(here / "found")
    assert (sweep.array, len(sweep.jobs)) == ("42", 3)
    [script] = (here / "found").glob("*.sbatch")
    assert "#SBATCH --array=0-2" in script.read_text()
    assert all(str(here / "found" / job.name) in script.read_text() for job in sweep.jobs)
    rates = [RunSpec.load(here / "found" / job.name / rundir.SPEC).train["learning_rate"] for job in sweep.jobs]
    assert len(set(rates)) == 3

    first, second, third = (here / "found" / job.name for job in sweep.jobs)
    ended(first, 2.0)
    (here / "queue").write_text("COMPLETED\nRUNNING\nPENDING\n")
    assert main(["sweep", "--resume", "found"]) == EXIT_DONE
    assert "array 42 is at work, or waits: 2 of 3 jobs are open" in capsys.readouterr().err
    assert len((here / "submitted").read_text().splitlines()) == 1
    assert "--jobs 42" in (here / "asked").read_text()

    run_end.write(second, RunEnd(code=3, message="bad rows"))
    run_end.write(third, RunEnd(code=75))  # stopped, more often than it may be requeued
    (here / "queue").write_text("COMPLETED\nFAILED\nFAILED\n")
    assert main(["sweep", "--resume", "found"]) == EXIT_DONE
    assert (here / "submitted").read_text().splitlines()[1:] == [str(third / rundir.JOB)]

    ended(third, 1.0)
    capsys.readouterr()
    assert main(["sweep", "--resume", "found", "--json"]) == EXIT_DONE
    table = json.loads(capsys.readouterr().out)["runs"]
    assert [(row["name"], row["state"], row["held_out_loss"]) for row in table] == [
        (third.name, "done", 1.0),
        (first.name, "done", 2.0),
        (second.name, "failed", None),
    ]
    assert "bad rows" in table[2]["cause"]
    assert main(["sweep", "--resume", "found", "sweep.trials=9"]) == EXIT_CONFIG
    assert "changes nothing of a sweep whose jobs are a Slurm array" in capsys.readouterr().err


def test_a_sweep_over_every_combination_is_gathered_too(here, capsys, monkeypatch):
    (here / "sbatch").write_text(SBATCH)
    (here / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    words = ["train", "-m", "hardware=slurm", "hardware.num_processes=1", "train.learning_rate=1e-4,2e-4"]
    assert main([*words, "run.dir=both"]) == EXIT_DONE
    raw = json.loads((here / "both/sweep.json").read_text(encoding="utf-8"))
    rundir.write_json(here / "both/sweep.json", {**raw, "array": None})  # as of a version that did not keep it
    for name, loss in zip(NAMES, (2.0, 1.0), strict=True):
        ended(here / "both" / name, loss)
    capsys.readouterr()
    assert main(["sweep", "--resume", "both"]) == EXIT_DONE
    told = capsys.readouterr()
    assert "2 of 2 jobs done" in told.err
    assert told.out.index(NAMES[1]) < told.out.index(NAMES[0])
    assert len((here / "submitted").read_text().splitlines()) == 1


@pytest.mark.parametrize("number", ["42; rm -rf /", "-1", 42, "", "1" * 30])
def test_the_number_of_an_array_in_a_strangers_sweep_is_one(number, here):
    Sweep(folder=here, kind="grid", words=[], place="", array=number).write()
    with pytest.raises(ConfigError, match="is damaged"):
        read_sweep(here)
