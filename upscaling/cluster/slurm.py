"""Slurm's commands: submit an array job, ask how its tasks are, requeue one, cancel all.

Plain sbatch, squeue, scontrol and scancel, each started with a list of arguments and no shell. Nothing is
imported from Slurm, and no library stands between: the commands are what every Slurm has, on the nodes that
users may submit from.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from upscaling.cluster import claims
from upscaling.cluster.claims import AFRESH, COORDINATOR, SLURM_JOBS, TASKS
from upscaling.common.errors import BusyError, InputError, UpscaleError

LOOK_SECONDS = 15.0  # between two questions to Slurm; sooner where a task went silent, but not below
LOOK_AGAIN_SECONDS = 3.0
OTHER_NODE_SECONDS = 6.0  # three beats of a coordinator (cluster.BEAT_SECONDS)
STOP_SECONDS = 20.0  # for Slurm to end what is cancelled
COMMAND_SECONDS = 60.0  # that a command of Slurm may take: its own timeouts are 10 s and some retries
# States of squeue(1) in which a task is there or will be; in all others it has ended.
ALIVE = frozenset(
    ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
     "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"]
)  # fmt: skip
# What --sbatch may not say, because the coordinator relies on it.
RESERVED = re.compile(
    r"(--(array|output|error|wrap|parsable|test-only|chdir|ntasks|wait|help|version|quiet)(=.*)?|-[aoeWDhVnQ].*)"
)


class SlurmError(UpscaleError):
    """Slurm did not do what it was asked for; the message has what it said."""


@dataclass(frozen=True)
class TaskState:
    """A task of the array as Slurm sees it: e.g. "RUNNING", why it waits, and how it ended.

    `exit_status` is negative for a signal, as subprocess has it.
    """

    state: str
    reason: str
    exit_status: int

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


def check(extra: str) -> list[str]:
    """The words of --sbatch; InputError where Slurm is not here, or they say what they may not."""
    if missing := [name for name in ("sbatch", "squeue", "scancel", "scontrol") if not shutil.which(name)]:
        raise InputError(f"--slurm: there is no {missing[0]} here; start on a node that jobs can be submitted from")
    try:
        words = shlex.split(extra)
    except ValueError as error:
        raise InputError(f"--sbatch {extra!r}: {error}") from None
    for word in words:
        if RESERVED.fullmatch(word):
            raise InputError(f"--sbatch: {word} is set by this program; leave it out")
    if words and not words[0].startswith("-"):
        raise InputError(f'--sbatch {extra!r}: give options of sbatch, e.g. --sbatch "--partition=gpu --gres=gpu:1"')
    return words


def script(job: Path, token: str, seen_seconds: float) -> str:
    """The batch script of a task: one worker that serves the work directory, and a fresh one where it crashes.

    A requeued task waits for two minutes in Slurm, so a crash (status 75, or a signal's) is no reason to leave
    the node. Exit status 3: the node does not see the directory, and so can't say it where it would be read.
    """
    worker = Path(__file__).resolve().parents[2] / "worker.py"
    command = [sys.executable, str(worker), "--job", str(job), "--token", token, "--seen", str(seen_seconds)]
    return f"""#!/bin/sh
tries=0
until cd {shlex.quote(str(job / "logs"))}; do
    tries=$((tries + 1))
    [ $tries -lt {max(1, round(seen_seconds))} ] || exit 3
    sleep 1
done
exec >>"worker_$SLURM_ARRAY_TASK_ID.log" 2>&1 </dev/null || exit 3
trap : TERM
while :; do
    {shlex.join(command)}
    code=$?
    case $code in
        {AFRESH} | 132 | 134 | 135 | 136 | 137 | 139) sleep 1 ;;
        *) exit $code ;;
    esac
done
"""


def submit(text: str, tasks: int, name: str, extra: Sequence[str] = ()) -> str:
    """Submit a script as an array of `tasks` tasks; the number that Slurm gave the job. SlurmError if it refuses."""
    command = [
        "sbatch", "--requeue", "--ntasks=1", *extra, f"--job-name=upscale-{name}", "--parsable",
        f"--array=0-{tasks - 1}", "--output=/dev/null", "--error=/dev/null", "--chdir=/", "--open-mode=append",
    ]  # fmt: skip
    said = _run(command, text)
    number = said.strip().partition(";")[0]  # JOB or JOB;CLUSTER
    if not re.fullmatch(r"[0-9]+", number, re.ASCII):
        raise SlurmError(f"sbatch said {said.strip()[:200]!r}, which is no job's number")
    return number


def states(number: str) -> dict[int, TaskState]:
    """The tasks of an array job that Slurm knows of, by their index; one it has forgotten is not among them."""
    fields = "ArrayTaskID:16,State:24,exit_code:16,Reason:64"
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={number}", f"--Format={fields}"]
    try:
        return parse_states(_run(command))
    except SlurmError as error:
        if "Invalid job id" in str(error):  # all have ended a while ago (MinJobAge of slurm.conf)
            return {}
        raise


def parse_states(text: str) -> dict[int, TaskState]:
    """The tasks in what squeue printed, columns of 16, 24, 16 and 64 characters."""
    found = {}
    for line in text.splitlines():
        index, state, code, reason = line[:16].strip(), line[16:40].strip(), line[40:56].strip(), line[56:].strip()
        if re.fullmatch(r"[0-9]{1,9}", index, re.ASCII) and state:
            ended_with = int(code) if code.isascii() and code.isdigit() else 0  # a status as of waitpid(2)
            found[int(index)] = TaskState(state, reason, ended_with >> 8 or -(ended_with & 0x7F))
    return found


def requeue(number: str, index: int) -> None:
    """Have Slurm start a task of the array once more, whether it runs or has ended; SlurmError if it may not."""
    _run(["scontrol", "requeue", f"{number}_{index}"])


def cancel(number: str) -> None:
    """End all tasks of a job, running or waiting; none left is fine."""
    _run(["scancel", "--quiet", number])


def _run(command: list[str], text: str | None = None) -> str:
    try:
        done = subprocess.run(
            command, input=text, stdin=subprocess.DEVNULL if text is None else None, capture_output=True, text=True,
            errors="replace", timeout=COMMAND_SECONDS, check=False, env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # Ctrl+C in the terminal is for the main process
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer for {COMMAND_SECONDS:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip() or "nothing").split())
        raise SlurmError(f"{command[0]} failed and said: {said[:400]}")
    return done.stdout


# Over time


class Watch(threading.Thread):
    """Asks Slurm about the tasks now and then; a slow answer holds up nobody."""

    def __init__(self, number: str):
        super().__init__(name="slurm watch", daemon=True)
        self.number = number
        self.wanted, self.stopped = threading.Event(), False
        self.news: tuple[dict[int, TaskState] | None, float] = (None, 0.0)

    def run(self) -> None:
        self.wanted.wait(LOOK_AGAIN_SECONDS)
        while not self.stopped:
            asked = time.monotonic()
            try:
                self.news = states(self.number), asked
            except SlurmError:
                pass  # a controller that restarts; the tasks do not mind
            self.wanted.clear()
            time.sleep(LOOK_AGAIN_SECONDS)
            self.wanted.wait(LOOK_SECONDS - LOOK_AGAIN_SECONDS)

    def look(self) -> None:
        """Ask soon."""
        self.wanted.set()

    def take(self) -> tuple[dict[int, TaskState] | None, float]:
        """(tasks by index, time.monotonic() of the question), once; (None, 0) where there is nothing new."""
        news, self.news = self.news, (None, 0.0)
        return news

    def end(self) -> None:
        self.stopped = True
        self.wanted.set()


def attempt(function: Callable, *arguments) -> bool:
    """Ask something of Slurm that is no great loss if it refuses; whether it did it."""
    try:
        function(*arguments)
    except SlurmError:
        return False
    return True


def end_job(number: str) -> bool:
    """Cancel a job and wait until none of its tasks runs any more; False where some may."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            cancel(number)
            if not any(state.alive for state in states(number).values()):
                return True
        except SlurmError as error:
            if "Invalid job id" in str(error):
                return True
        time.sleep(0.2)
    return False


def end_earlier_tasks(job: Path) -> None:
    """End what an earlier run left in Slurm, before its work directory is used again: it might still write there.

    BusyError where it can't be ended from here, or where its main process is alive on another node: a lock may
    not be seen from there.
    """
    try:
        numbers = (job / TASKS / SLURM_JOBS).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return
    before = claims.read_json(job / TASKS / COORDINATOR)
    if before.get("node") not in (None, socket.gethostname()) and not before.get("over"):
        time.sleep(OTHER_NODE_SECONDS)
        if claims.read_json(job / TASKS / COORDINATOR).get("count") != before.get("count"):
            raise BusyError(f"another run is at work on this output, on {before.get('node')}; wait for it or stop it")
    for number in numbers:
        if re.fullmatch(r"[0-9]{1,18}", number, re.ASCII) and not end_job(number):
            raise BusyError(
                f"tasks of an earlier run may still be at work (Slurm job {number}); end them with scancel {number}, "
                f"then remove {job / TASKS / SLURM_JOBS}"
            )
