"""The scripts show complete commands, run exactly those, and see a run to its end.

Programs that stand in for the real ones come first in PATH: they write down how they were called.
"""

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLOUD = ROOT / "cloud"
DOCUMENT = ROOT / "docs" / "cloud.md"
SCRIPTS = [script.name for script in CLOUD.glob("*.sh") if os.access(script, os.X_OK)]
PROGRAMS = ("docker", "gcloud", "sbatch", "scontrol", "sky", "srun", "xpk")

SLICE = ["--project=my-project", "--zone=us-west4-a", "--name=flow"]
RUN = ["--workdir=gs://bucket/run", "--config=configs/digits.py"]
FLAGS = [
    "--",
    "--config.batch_size=64",
    """--config.path={'name': 'vp', "kwargs": {}}""",
    "--x=it's",
]
CODE = ["--repository=https://example.org/jaxflow.git", "--data=gs://bucket/data"]
GKE = ["--project=my-project", "--zone=us-west4-a", "--cluster=shared", "--name=flow"]

COMMANDS = {
    "tpu create": ["tpu_vm.sh", "create", *SLICE],
    "tpu create spot": ["tpu_vm.sh", "create", *SLICE, "--spot", "--service-account=a@b.c"],
    "tpu setup": ["tpu_vm.sh", "setup", *SLICE, *CODE],
    "tpu run": ["tpu_vm.sh", "run", *SLICE, *RUN, *FLAGS],
    "tpu sample": ["tpu_vm.sh", "run", *SLICE, RUN[0], "--task=sample", "--", "--num=8"],
    "tpu watch": ["tpu_vm.sh", "watch", *SLICE],
    "tpu logs": ["tpu_vm.sh", "logs", *SLICE],
    "tpu logs follow": ["tpu_vm.sh", "logs", *SLICE, "--worker=0", "--follow"],
    "tpu stop": ["tpu_vm.sh", "stop", *SLICE],
    "tpu delete": ["tpu_vm.sh", "delete", *SLICE],
    "xpk image": ["xpk.sh", "image", "--image=registry/jaxflow:v1"],
    "xpk create": ["xpk.sh", "create", *GKE, "--image=registry/jaxflow:v1", *RUN, *FLAGS],
    "xpk list": ["xpk.sh", "list", *GKE],
    "xpk watch": ["xpk.sh", "watch", *GKE],
    "xpk delete": ["xpk.sh", "delete", *GKE],
    "sky launch": ["sky.sh", "launch", "--name=flow", *RUN, *FLAGS],
    "sky launch gpu": ["sky.sh", "launch", "--name=flow", "--accelerators=H100:8", "--spot", *RUN],
    "sky queue": ["sky.sh", "queue"],
    "sky logs": ["sky.sh", "logs", "--name=flow"],
    "sky cancel": ["sky.sh", "cancel", "--name=flow"],
    "slurm submit": ["slurm.sh", "submit", "--partition=gpu", "--account=us", *RUN, *FLAGS],
    "slurm submit node": ["slurm.sh", "submit", "--nodes=2", "--per=node", *RUN],
    "slurm job": ["slurm.sh", "job", *RUN, *FLAGS],
    "slurm job node": ["slurm.sh", "job", "--per=node", "--gpus=4", *RUN],
}
SPOT = ["--type=v5litepod-64", "--spot"]
WATCH = ["tpu_vm.sh", "watch", "--restart", "--poll=0", *SLICE, *SPOT, *CODE, *RUN]

FAKE = """#!/bin/bash
{ printf %s "${0##*/}"; printf ' %q' "$@"; echo; } >> "$CALLS"
[[ ! -f $ANSWERS ]] || . "$ANSWERS"
"""


@dataclass
class Desk:
    """A folder with the programs that stand in, what they were asked, and what they answer."""

    folder: Path
    environment: dict[str, str]

    def answer(self, line: str) -> None:
        """What every program does, as bash: `$0` and `$*` say which, and how it was called."""
        (self.folder / "answers").write_text(line)

    def run(self, arguments: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(CLOUD / arguments[0]), *arguments[1:]],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**self.environment, **more},
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        written = self.folder / "calls"
        return [shlex.split(line) for line in written.read_text().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in PROGRAMS:
        (programs / program).write_text(FAKE)
        (programs / program).chmod(0o755)
    (tmp_path / "calls").touch()
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "ANSWERS": str(tmp_path / "answers"),
    }
    return Desk(tmp_path, environment)


def printed(desk: Desk, arguments: Sequence[str], **more: str) -> list[list[str]]:
    """The commands that `--print` shows, each checked to be complete; none may run."""
    done = desk.run([*arguments, "--print"], **more)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert commands
    for command in commands:
        assert command[0] in PROGRAMS
        for word in command:
            assert word, f"an empty word in {command}"
            assert not re.fullmatch(r"--?[\w-]+=", word), f"{word} has no value in {command}"
            assert "JAXFLOW_" not in word
            if word.startswith("--command="):
                subprocess.run(["bash", "-n", "-c", word.removeprefix("--command=")], check=True)
    assert desk.calls() == []
    return commands


def test_shellcheck_passes():
    program = Path(sys.executable).parent / "shellcheck"
    scripts = sorted(CLOUD.glob("*.sh"))
    done = subprocess.run(
        [program, "--external-sources", *scripts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arguments", [*COMMANDS.values(), WATCH], ids=[*COMMANDS, "tpu restart"])
def test_print_shows_complete_commands(desk, arguments):
    printed(desk, arguments)


def test_every_verb_is_tried():
    for script in CLOUD.glob("*.sh"):
        if not (told := re.search(r"is not one of ([a-z, ]+)\"", script.read_text())):
            continue
        tried = {arguments[1] for arguments in COMMANDS.values() if arguments[0] == script.name}
        assert tried == set(told[1].split(", ")), script.name


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_runs_exactly_what_it_prints(desk, arguments):
    desk.answer("[[ $* != *describe* ]] || echo ACTIVE")
    expected = printed(desk, arguments)
    done = desk.run(arguments, SLURM_JOB_ID="7")
    assert done.returncode == 0, done.stderr
    assert desk.calls() == expected


@pytest.mark.parametrize("name", ["tpu run", "xpk create", "sky launch", "slurm submit"])
def test_print_counts_wherever_it_stands(desk, name):
    expected = printed(desk, COMMANDS[name])
    words = COMMANDS[name]
    for place in range(1, len(words)):
        done = desk.run([*words[:place], "--print", *words[place:]])
        assert done.returncode == 0, done.stderr
        assert [shlex.split(line) for line in done.stdout.splitlines()] == expected
    assert desk.calls() == []


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"sky queue"}))
def test_what_is_missing_is_one_sentence(desk, name):
    arguments = COMMANDS[name]
    done = desk.run(arguments[:2])
    assert done.returncode == 2
    assert re.fullmatch(r"error: no [\w-]+: give --[\w-]+=VALUE or set JAXFLOW_\w+\n", done.stderr)
    assert done.stdout == ""
    assert desk.calls() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tpu_vm.sh", "fly"], "fly is not one of create"),
        (["tpu_vm.sh", "create", "--zoen=x"], "there is no --zoen: known are project zone"),
        (["tpu_vm.sh", "create", "--zone", "x"], "--zone needs a value"),
        (["tpu_vm.sh", "create", "--spot=yes"], "--spot takes no value: give --spot alone"),
        (["tpu_vm.sh", "create", "x"], "unexpected argument x"),
        (["tpu_vm.sh", "run", *SLICE, RUN[1], "--workdir=runs/a"], "--workdir must be gs://"),
        (["tpu_vm.sh", "run", *SLICE, *RUN, "--task=tain"], "--task must be train, sample or"),
        (["slurm.sh", "submit", *RUN, "--per=core"], "--per must be gpu or node"),
    ],
)
def test_mistakes_end_in_one_sentence(desk, arguments, sentence):
    done = desk.run(arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}")
    assert done.stderr.count("\n") == 1
    assert desk.calls() == []


@pytest.mark.parametrize("workdir", ["gs://", "gs://b", "gs://b/", "gs:///", "gs:///runs/a"])
def test_the_folder_of_the_run_names_a_bucket_and_a_run(desk, workdir):
    for name in ("tpu run", "xpk create", "sky launch"):
        done = desk.run([*COMMANDS[name][: -len(RUN + FLAGS)], f"--workdir={workdir}", RUN[1]])
        assert done.returncode == 2
        hint = ": is a variable unset?" if workdir.startswith("gs:///") else ""
        sentence = f"must be gs://BUCKET/RUN, which all hosts share; it is {workdir}{hint}"
        assert done.stderr == f"error: --workdir {sentence}\n"


@pytest.mark.parametrize(
    ("command", "name", "least"),
    [
        ("tpu_vm.sh watch", "max-restarts", 0),
        ("tpu_vm.sh watch", "poll", 0),
        ("tpu_vm.sh logs", "tail", 0),
        ("xpk.sh create", "max-restarts", 0),
        ("xpk.sh create", "grace", 0),
        ("xpk.sh create", "slices", 1),
        ("sky.sh launch", "nodes", 1),
        ("slurm.sh submit", "max-restarts", 0),
        ("slurm.sh submit", "nodes", 1),
        ("slurm.sh submit", "gpus", 1),
        ("slurm.sh submit", "cpus", 1),
    ],
)
def test_numbers_are_read_before_anything_runs(desk, command, name, least):
    for value in ("many", "08", "a100:8", str(least - 1)):
        done = desk.run([*command.split(), f"--{name}={value}"])
        assert done.returncode == 2
        sentence = f"--{name} must be a whole number, {least} or more; it is {value}"
        assert done.stderr == f"error: {sentence}\n"


def test_options_come_from_the_environment_too(desk):
    environment = {"JAXFLOW_PROJECT": "p", "JAXFLOW_ZONE": "z", "JAXFLOW_NAME": "mine"}
    (command,) = printed(desk, ["tpu_vm.sh", "delete"], **environment)
    assert {"mine", "--project=p", "--zone=z"} <= set(command)
    (command,) = printed(desk, ["tpu_vm.sh", "delete", "--name=given"], **environment)
    assert "given" in command


def test_switches_come_from_the_environment_too(desk):
    for arguments in (COMMANDS["tpu create"], COMMANDS["sky launch"]):
        given = printed(desk, [*arguments[:2], "--spot", *arguments[2:]])
        assert printed(desk, arguments, JAXFLOW_SPOT="yes") == given
        assert printed(desk, arguments, JAXFLOW_SPOT="no") == printed(desk, arguments) != given
    (command,) = printed(desk, COMMANDS["tpu logs"], JAXFLOW_FOLLOW="yes")
    assert " -F " in command[-1]
    watch = [word for word in WATCH if word != "--restart"]
    assert printed(desk, watch, JAXFLOW_RESTART="yes") == printed(desk, WATCH)
    done = desk.run(COMMANDS["tpu create"], JAXFLOW_SPOT="1")
    assert done.returncode == 2
    assert done.stderr == "error: JAXFLOW_SPOT must be yes or no; it is 1\n"
    assert desk.calls() == []


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("word", ["help", "--help"])
def test_help_from_the_folder_of_the_scripts_too(desk, script, word):
    done = subprocess.run(
        [f"./{script}", word], capture_output=True, text=True, cwd=CLOUD, env=desk.environment
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert f"cloud/{script}" in done.stdout
    assert "#" not in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_exported_cdpath_leads_nowhere_else(desk, script):
    (desk.folder / "cloud").mkdir()
    done = subprocess.run(
        ["bash", f"cloud/{script}", "help"],
        capture_output=True, text=True, cwd=ROOT, env={**desk.environment, "CDPATH": desk.folder},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"cloud/{script}" in done.stdout
    assert str(desk.folder) not in done.stdout


def test_help_that_cannot_be_read_is_an_end_too(desk):
    (desk.folder / "bin/sed").symlink_to("gcloud")
    desk.answer("exit 1")
    for word in ("help", "--help"):
        done = desk.run(["tpu_vm.sh", word])
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def experiment(words: Sequence[str]) -> list[str]:
    """The `experiments.X` inside a command, and its flags; inside a quoted one too."""
    for word in words:
        inner = re.match(r"--(?:command|env=COMMAND)=(.*)", word)
        if inner and "experiments." in inner[1]:
            words = shlex.split(inner[1])
    start = next(i for i, word in enumerate(words) if word.startswith("experiments."))
    end = words.index("<") if "<" in words else len(words)
    return list(words[start:end])


@pytest.mark.parametrize(
    "name", ["tpu run", "xpk create", "sky launch", "slurm submit", "slurm job"]
)
def test_flags_of_the_run_survive_every_shell(desk, name):
    (words,) = printed(desk, COMMANDS[name])
    if name == "slurm submit":
        assert words[words.index("--") :] == FLAGS
    else:
        assert experiment(words) == ["experiments.train", *reversed(RUN), *FLAGS[1:]]


class Worker:
    """A folder that stands for the home of a worker, with a Python that waits for its end."""

    PYTHON = """#!/bin/bash
trap 'exit 75' TERM
printf '%s\\n' "$@" > arguments
echo started
for _ in {1..400}; do [[ ! -f end ]] || exit "$(cat end)"; sleep 0.05; done
"""

    def __init__(self, home: Path):
        self.home = home
        python = home / "jaxflow/.venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(self.PYTHON)
        python.chmod(0o755)

    def end(self, code: int) -> None:
        (self.home / "jaxflow/end").write_text(str(code))

    def read(self, name: str, part: str = "") -> str:
        """A file of the run, once something is in it, and `part` is."""
        path = self.home / "jaxflow/runs/tpu_vm" / name
        for _ in range(400):
            if path.exists() and (text := path.read_text().strip()) and part in text:
                return text
            time.sleep(0.05)
        raise AssertionError(f"{path} has no {part or 'text'}")

    def shell(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Do what `gcloud ... ssh` would have done here."""
        (line,) = [word for word in command if word.startswith("--command=")]
        return subprocess.run(
            ["bash", "-c", line.removeprefix("--command=")],
            capture_output=True,
            text=True,
            cwd=self.home,
            env={"PATH": f"{self.home}/bin:{os.environ['PATH']}", "HOME": str(self.home)},
            timeout=60,
        )


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path / "worker")
    yield worker
    worker.end(0)


def reported(desk: Desk, worker: Worker) -> str:
    (command,) = [c for c in printed(desk, WATCH) if "worker none" in c[-1]]
    done = worker.shell(command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_setup_takes_the_branch_as_it_is_now_and_installs_it(desk, worker, tmp_path):
    source, installed = tmp_path / "source", worker.home / "installed"
    git = ["git", "-C", source, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "--quiet", "--initial-branch=work", source], check=True)
    for name in ("python3", "gcloud"):
        program = worker.home / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/bash\necho {name} "$@" >> {installed}\n')
        program.chmod(0o755)
    options = ["--data=gs://bucket/data", f"--repository={source}", "--branch=work"]
    (setup,) = printed(desk, ["tpu_vm.sh", "setup", *SLICE, *options])
    for version in ("1", "2"):
        (source / "version").write_text(version)
        subprocess.run([*git, "add", "version"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message=a"], check=True)
        done = worker.shell(setup)
        assert done.returncode == 0, done.stderr
        assert (worker.home / "jaxflow/version").read_text() == version
    lines = installed.read_text().splitlines()
    constraints = "--constraints=constraints/py313.txt --editable=.[tpu]"
    assert lines[2] == f"python3 -m uv pip install --quiet --python=.venv/bin/python {constraints}"
    copied = f"gs://bucket/data {worker.home}/tensorflow_datasets"
    assert lines[3] == f"gcloud storage rsync --recursive {copied}"


def test_a_run_on_a_worker_leaves_its_log_and_its_code(desk, worker):
    (start,) = printed(desk, COMMANDS["tpu run"])
    assert reported(desk, worker) == "worker none"
    assert worker.shell(start).returncode == 0
    assert worker.read("log") == "started"
    assert reported(desk, worker) == "worker running"
    given = (worker.home / "jaxflow/arguments").read_text().splitlines()
    assert given == ["-m", "experiments.train", *reversed(RUN), *FLAGS[1:]]
    second = worker.shell(start)
    assert second.returncode == 1
    assert second.stderr == "already running: stop it first\n"
    worker.end(76)
    assert worker.read("exit") == "76"
    assert reported(desk, worker) == "worker 76"


def test_stop_sends_sigterm_and_is_remembered_until_the_next_run(desk, worker):
    (start,) = printed(desk, COMMANDS["tpu run"])
    (stop,) = printed(desk, COMMANDS["tpu stop"])
    worker.shell(start)
    worker.read("log")
    assert worker.shell(stop).returncode == 0
    assert worker.read("exit") == "75"
    assert reported(desk, worker) == "worker stopped"
    (worker.home / "jaxflow/runs/tpu_vm/exit").unlink()  # as before it is written
    assert reported(desk, worker) == "worker stopped"
    worker.end(0)
    worker.shell(start)
    assert worker.read("exit") == "0"
    assert reported(desk, worker) == "worker 0"


def test_stop_waits_until_the_run_has_saved(desk, worker):
    python = worker.home / "jaxflow/.venv/bin/python"
    python.write_text(python.read_text().replace("'exit 75'", "'sleep 2; touch saved; exit 75'"))
    (start,) = printed(desk, COMMANDS["tpu run"])
    (stop,) = printed(desk, COMMANDS["tpu stop"])
    worker.shell(start)
    worker.read("log")
    assert worker.shell(stop).returncode == 0
    assert (worker.home / "jaxflow/saved").exists()


def test_stop_where_nothing_is_running_is_remembered_too(desk, worker):
    (start,) = printed(desk, COMMANDS["tpu run"])
    (stop,) = printed(desk, COMMANDS["tpu stop"])
    for _ in range(2):  # nothing was ever run; the run has ended
        done = worker.shell(stop)
        assert (done.returncode, done.stdout, done.stderr) == (0, "nothing is running\n", "")
        worker.end(76)
        worker.shell(start)
        assert worker.read("exit") == "76"
    assert reported(desk, worker) == "worker 76"
    worker.shell(stop)
    assert reported(desk, worker) == "worker stopped"


def test_a_killed_run_has_a_code_and_a_lost_one_is_known(desk, worker):
    (start,) = printed(desk, COMMANDS["tpu run"])
    worker.shell(start)
    os.kill(int(worker.read("pid")), signal.SIGKILL)
    assert worker.read("exit") == "137"
    (worker.home / "jaxflow/runs/tpu_vm/exit").unlink()  # as after the machine was started anew
    assert reported(desk, worker) == "worker lost"


def test_a_code_that_is_not_on_the_disk_whole_is_no_code(desk, worker):
    folder = worker.home / "jaxflow/runs/tpu_vm"
    folder.mkdir(parents=True)
    (folder / "exit").touch()
    assert reported(desk, worker) == "worker lost"
    (folder / "exit.part").symlink_to("/dev/full")
    worker.end(0)
    (start,) = printed(desk, COMMANDS["tpu run"])
    worker.shell(start)
    worker.read("log", "No space left")
    assert not (folder / "exit").exists()
    assert reported(desk, worker) == "worker lost"


def test_another_process_with_the_number_of_the_run_is_left_alone(desk, worker):
    (start,) = printed(desk, COMMANDS["tpu run"])
    (stop,) = printed(desk, COMMANDS["tpu stop"])
    folder = worker.home / "jaxflow/runs/tpu_vm"
    folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (folder / "pid").write_text(str(bystander.pid))
        assert reported(desk, worker) == "worker lost"
        assert worker.shell(stop).stdout == "nothing is running\n"
        assert worker.shell(start).returncode == 0
        assert bystander.poll() is None
        bystander.terminate()
    worker.end(0)
    assert worker.read("exit") == "0"


def test_logs_say_whose_they_are(desk, worker):
    folder = worker.home / "jaxflow/runs/tpu_vm"
    folder.mkdir(parents=True)
    (show,) = printed(desk, [*COMMANDS["tpu logs"], "--tail=1"])
    assert worker.shell(show).returncode == 1  # there is none yet
    (folder / "log").write_text("a\nb\n")
    assert re.fullmatch(r"\S+: b\n", worker.shell(show).stdout)


# What gcloud answers: one line of `states` for each look at the queue, one of `words` for each look
# at the workers; the last one stays. A slow worker takes three seconds to answer, and those of
# another slice answer what is in `anew`.
STORY = """
next() { head -n 1 "$HOME/$1"; [[ $(wc -l < "$HOME/$1") == 1 ]] || sed -i 1d "$HOME/$1"; }
case $* in
  *queued-resources\\ describe*) next states ;;
  *queued-resources\\ create*)
    [[ ! -s $HOME/refusals ]] || { sed -i 1d "$HOME/refusals"; exit 1; }
    [[ ! -f $HOME/anew ]] || mv "$HOME/anew" "$HOME/words"
    ;;
  *tpu-vm\\ describe*) echo "${NODE:-READY}" ;;
  *worker\\ none*) for word in $(next words); do
    [[ $word != silent ]] || exit 255
    [[ $word != slow ]] || { sleep 3; word=running; }
    echo "worker $word"
  done ;;
esac
"""
LOOKS = ("describe", "look")


def told(desk: Desk, states: str, words: str, *more: str, **env: str) -> tuple[int, list[str], str]:
    """The code that `watch --restart` ends with, the steps it took in between, and what it said."""
    desk.answer(STORY)
    (desk.folder / "states").write_text("\n".join(states.split()) + "\n")
    (desk.folder / "words").write_text("\n".join(words.split(";")) + "\n")
    done = desk.run([*WATCH, *more], **env)
    steps = []
    for call in desk.calls():
        verb, last = call[4], call[-1]
        if verb == "ssh":
            verb = "look" if "worker none" in last else "run" if "nohup" in last else "setup"
        steps.append(verb)
    return done.returncode, [s for s in steps if s not in LOOKS], done.stdout + done.stderr


ANEW = ["setup", "run"]
ANOTHER = ["delete", "create"]


@pytest.mark.parametrize(
    ("states", "words", "code", "steps"),
    [
        ("CREATING WAITING_FOR_RESOURCES ACTIVE", "none none;running running;0 0", 0, ANEW),
        ("ACTIVE", "running;75 76;running;0 0", 0, ["run"]),
        ("ACTIVE", "running;137 76;lost 0;0 0", 0, ["run", "run"]),
        ("ACTIVE", "running;running 2;76 2", 2, []),
        ("ACTIVE", "1 1", 1, []),
        ("ACTIVE", "130 76", 130, []),
        ("ACTIVE", "running;stopped stopped", 75, []),
        ("ACTIVE", "silent;silent;running;0", 0, []),
        ("ACTIVE SUSPENDING SUSPENDED WAITING_FOR_RESOURCES ACTIVE", "running;none;0", 0,
         [*ANOTHER, *ANEW]),
        ("FAILED", "", 2, []),
        ("CREATING FAILED", "", 2, []),
        ("SUSPENDED FAILED FAILED ACTIVE", "0", 0, ANOTHER * 3),
        ("ACTIVE FAILED ACTIVE", "running;0", 0, ANOTHER),
        ("SUSPENDED ACTIVE SUSPENDED ACTIVE", "none;none;0", 0,
         [*ANOTHER, *ANEW, *ANOTHER, *ANEW]),
    ],
)  # fmt: skip
def test_watch_sees_a_run_to_its_end(desk, states, words, code, steps):
    ended, taken, said = told(desk, states, words)
    assert (ended, taken) == (code, steps), said


def test_watch_replaces_a_node_that_was_taken_while_the_queue_says_active(desk):
    desk.answer(STORY)
    code, steps, said = told(desk, "ACTIVE", "silent;0", NODE="PREEMPTED")
    assert (code, steps) == (0, ANOTHER), said


def test_watch_gives_up(desk):
    code, steps, said = told(desk, "ACTIVE", "76", "--max-restarts=2")
    assert (code, steps) == (2, ["run", "run"])
    assert "gave up after 2 restarts" in said


def test_watch_gives_up_what_cannot_be_had_again(desk):
    code, steps, said = told(desk, "SUSPENDED FAILED", "", "--max-restarts=3")
    assert (code, steps) == (2, ANOTHER * 3)
    assert "it could not be had: asking for another" in said
    assert "gave up after 3 restarts" in said


def test_watch_asks_again_for_what_it_could_not_ask_for(desk):
    (desk.folder / "refusals").write_text("quota\nquota\n")
    code, steps, said = told(desk, "SUSPENDED ACTIVE", "0")
    assert (code, steps) == (0, ANOTHER * 3), said
    assert said.count("could not be asked for") == 2
    (desk.folder / "refusals").write_text("quota\n" * 9)
    code, _, said = told(desk, "SUSPENDED ACTIVE", "0", "--max-restarts=3")
    assert code == 2
    assert "gave up after 3 restarts" in said


def test_watch_gives_up_workers_that_never_answered(desk):
    code, steps, said = told(desk, "ACTIVE", "silent", PATIENCE="2")
    assert (code, steps) == (2, [])
    assert "the workers of flow never answered" in said
    assert "the workers do not answer: trying again" in said


def test_watch_replaces_workers_that_fell_silent(desk):
    (desk.folder / "anew").write_text("0\n")
    code, steps, said = told(desk, "ACTIVE", "running;silent", PATIENCE="1")
    assert (code, steps) == (0, ANOTHER), said
    assert "its workers fell silent: asking for another" in said


def test_watch_counts_the_time_of_a_silence_and_not_its_looks(desk):
    code, steps, said = told(desk, "ACTIVE", ";".join(["running", *["silent"] * 40, "0"]))
    assert (code, steps) == (0, []), said
    code, steps, said = told(desk, "ACTIVE", "silent;slow;silent;0", PATIENCE="2")
    assert (code, steps) == (0, []), said


def test_watch_replaces_a_slice_by_one_of_its_kind(desk):
    (created,) = [c for c in printed(desk, WATCH) if "create" in c]
    assert {"--accelerator-type=v5litepod-64", "--spot"} <= set(created)
    done = desk.run([word for word in WATCH if not word.startswith("--type")])
    assert done.returncode == 2
    assert done.stderr == "error: no type: give --type=VALUE or set JAXFLOW_TYPE\n"


def test_watch_alone_only_waits(desk):
    desk.answer(STORY)
    (desk.folder / "states").write_text("CREATING\nPROVISIONING\nACTIVE\n")
    done = desk.run([*COMMANDS["tpu watch"], "--poll=0"])
    assert done.returncode == 0
    assert [call[4] for call in desk.calls()] == ["describe"] * 3
    (desk.folder / "states").write_text("SUSPENDED\n")
    done = desk.run([*COMMANDS["tpu watch"], "--poll=0"])
    assert done.returncode == 2
    assert done.stderr == "error: flow was taken away: delete it, then create it again\n"
    (desk.folder / "states").write_text("FAILED\n")
    done = desk.run([*COMMANDS["tpu watch"], "--poll=0"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: flow could not be had: delete it, and ask for another")


@pytest.mark.parametrize(
    ("code", "restarts", "ends", "requeued"),
    [
        (0, 0, 0, False),
        (2, 0, 2, False),
        (75, 0, 0, True),
        (76, 3, 0, True),
        (76, 50, 2, False),
        (130, 0, 130, False),
        (143, 0, 0, True),
    ],
)
def test_a_slurm_job_queues_itself_again(desk, code, restarts, ends, requeued):
    desk.answer(f"[[ $0 != *srun ]] || exit {code}")
    number = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    done = desk.run(COMMANDS["slurm job"], **number)
    assert done.returncode == ends, done.stderr
    again = [call for call in desk.calls() if call[0] == "scontrol"]
    assert again == ([["scontrol", "requeue", "Incomplete", "7"]] if requeued else [])


def test_a_slurm_job_is_refused_outside_slurm(desk):
    done = desk.run(COMMANDS["slurm job"])
    assert done.returncode == 2
    assert done.stderr == "error: no SLURM_JOB_ID: a job is started by slurm.sh submit\n"
    assert desk.calls() == []


def test_a_slurm_job_gets_the_options_of_its_submission(desk, tmp_path):
    (words,) = printed(desk, COMMANDS["slurm submit node"])
    script = words.index(str(CLOUD / "slurm.sh"))
    assert f"--chdir={ROOT}" in words[:script]
    assert "--signal=TERM@120" in words[:script]
    copy = tmp_path / "slurm_script"  # as Slurm has it
    copy.write_bytes((CLOUD / "slurm.sh").read_bytes())
    done = subprocess.run(
        ["bash", copy, *words[script + 1 :], "--print"],
        capture_output=True, text=True, cwd=ROOT, env=desk.environment,
    )  # fmt: skip
    (shown,) = (shlex.split(line) for line in done.stdout.splitlines())
    assert "JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7" in shown
    assert experiment(shown) == ["experiments.train", *reversed(RUN)]


@pytest.mark.parametrize("extra", ["tpu", "cuda"])
def test_the_job_of_skypilot_names_its_peers_on_gpus(desk, tmp_path, extra):
    task = yaml.safe_load((CLOUD / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 76]
    given = dict(word[6:].split("=", 1) for c in printed(desk, COMMANDS["sky launch"]) for word in c
                 if word.startswith("--env="))  # fmt: skip
    assert set(given) == set(task["envs"])
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    node = {"NODE_IPS": "10.0.0.1\n10.0.0.2", "NUM_NODES": "2", "NODE_RANK": "1"}
    environment = {f"SKYPILOT_{name}": value for name, value in node.items()}
    done = subprocess.run(
        ["bash", "-c", task["run"]],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**desk.environment, **environment, **given, "EXTRA": extra},
    )  # fmt: skip
    peers = ["--coordinator=10.0.0.1:8476", "--num_processes=2", "--process_id=1"]
    expected = ["-m", "experiments.train", *reversed(RUN), *FLAGS[1:]]
    assert done.stdout.splitlines() == expected + (peers if extra == "cuda" else [])


def test_the_image_has_all_that_it_copies():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    text = (CLOUD / "Dockerfile").read_text()
    copied = [n for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for n in line.split()]
    assert {"jaxflow", "experiments", "configs", "constraints"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    python = re.search(r"FROM python:3\.(\d+)-slim", text)
    assert python
    assert f"constraints/py3{python[1]}.txt" in text


def blocks() -> list[str]:
    """The commands of the document, each on one line."""
    text = "\n".join(re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S))
    return text.replace("\\\n", " ").splitlines()


EXPORTS = [line for line in blocks() if line.startswith("export ")]
SHOWN = [line for line in blocks() if line.startswith("cloud/")]
PYTHON = [line for line in blocks() if "python -m experiments." in line]


def known_flags(module: str) -> set[str]:
    """The flags that a command defines itself, and those that all have."""
    sources = [
        (ROOT / "experiments" / f"{name}.py").read_text() for name in (module, "run/command")
    ]
    return {"config"}.union(*(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", s) for s in sources))


def check_flags(words: Sequence[str]) -> None:
    """Every flag of `experiments.X --flag=value ...` exists, and every key of its config."""
    name = words[0].removeprefix("experiments.")
    file = next((w.partition("=")[2] for w in words if w.startswith("--config=")), None)
    for word in words[1:]:
        assert word.startswith("--"), f"{word} is no flag"
        flag = word[2:].partition("=")[0]
        assert flag.partition(".")[0] in known_flags(name), f"{name} has no --{flag}"
        if "." in flag and file is not None:
            value = runpy.run_path(str(ROOT / file))["get_config"]()
            for key in flag.split(".")[1:]:
                assert key in value, f"{file} has no {flag}"
                value = value[key]


def test_the_document_shows_every_script():
    assert {line.split()[0] for line in SHOWN} == {f"cloud/{c[0]}" for c in COMMANDS.values()}
    assert EXPORTS
    assert PYTHON


def test_the_cluster_of_the_document_says_what_it_has_besides_slices():
    (line,) = [line for line in blocks() if line.startswith("xpk cluster create")]
    given = {word.partition("=")[0] for word in shlex.split(line)}
    assert {"--default-pool-cpu-machine-type", "--default-pool-cpu-num-nodes"} <= given


@pytest.mark.parametrize("line", SHOWN)
def test_commands_of_the_document_print(desk, line):
    done = subprocess.run(
        ["bash", "-euc", "\n".join([*EXPORTS, f"{line} --print"])],
        capture_output=True, text=True, cwd=ROOT, env=desk.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert desk.calls() == []
    for shown in done.stdout.splitlines():
        words = shlex.split(shown)
        assert words[0] in PROGRAMS
        if words[0] == "sbatch":
            words = ["experiments.train", *(w for w in words[1:] if w.startswith("--config"))]
            check_flags(words)
        elif "experiments." in shown:
            check_flags(experiment(words))


@pytest.mark.parametrize("line", PYTHON)
def test_python_commands_of_the_document_have_flags_that_exist(line):
    check_flags(experiment(shlex.split(line)))


def test_flags_that_do_not_exist_are_found():
    with pytest.raises(AssertionError, match="train has no --workdri"):
        check_flags(["experiments.train", "--workdri=x"])
    with pytest.raises(AssertionError, match=r"has no config\.stepps"):
        check_flags(["experiments.train", "--config=configs/digits.py", "--config.stepps=1"])
