"""Slurm runs the parts of a video as one array job and joins them in a second job; here they are submitted and watched.

Plain sbatch, squeue and scancel, each started with a list of arguments and no shell. Jobs are found again by their
name, which follows from the output: no file says what was submitted.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from upscaling.common.errors import BusyError, InputError, UpscaleError
from upscaling.common.text import printable
from upscaling.job.parts import finished_frames, part_directory, parts_directory

COMMAND_SECONDS = 60.0  # for one of Slurm's commands: its own timeouts are 10 s, and some are repeated
SIGNAL_SECONDS, EXIT_SECONDS = 60, 45  # before its time limit a task is told to end, and the time that it has for it
NODE_DISK = '"${TMPDIR:-/tmp}"'  # a word of the shell: where a task keeps its frames
NO_STORAGE = 3  # exit status of a task that does not see the output's directory
# States of squeue(1) in which a task runs or will run.
RUNNING = frozenset(["CONFIGURING", "RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED"])
WAITING = frozenset(["PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "RESIZING"])
FIELDS, COLUMNS = "ArrayJobID:20,ArrayTaskID:16,State:24,exit_code:16,Reason:64", (0, 20, 36, 60, 76, 140)
RESERVED = re.compile(  # options of sbatch that are set here
    r"--(array|output|error|wrap|parsable|test-only|chdir|ntasks|wait|job-name|comment|dependency|help|version)(=.*)?"
    r"|-[aoeWDhVnJd].*"
)

TASK = """\
#!/bin/sh
# One part of {output}. SIGTERM before the time limit closes the open segment and requeues the task.
cd {parts}/part_$(printf %04d "$SLURM_ARRAY_TASK_ID")_of_{count:04d} || exit {no_storage}
exec >>task_"$SLURM_ARRAY_JOB_ID"_"${{SLURM_RESTART_COUNT:-0}}".log 2>&1 </dev/null
cd {cwd} || exit {no_storage}
task="$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"
disk={disk}/upscale-"$task"
mkdir -p "$disk" || exit 1
export UPSCALE_EXIT_SECONDS={exit_seconds}
again=
trap '[ "$(squeue --noheader --jobs="$task" --format=%T)" = RUNNING ] && again=yes && kill -TERM $child' TERM
{command} --part "$SLURM_ARRAY_TASK_ID/{count}" --work-dir "$disk" {arguments} &
child=$!
wait $child
code=$?
while kill -0 $child 2>/dev/null; do
    wait $child
    code=$?
done
rm -rf "$disk"
[ -z "$again" ] || [ $code = 0 ] || scontrol requeue "$task"
exit $code
"""
JOIN = """\
#!/bin/sh
# The parts of {output} are joined.
cd {cwd} || exit {no_storage}
log=$(mktemp) || exit 1
{command} --join {count} {arguments} >"$log" 2>&1 </dev/null
code=$?
[ $code = 0 ] || cp "$log" {parts}/join.log
rm -f "$log"
exit $code
"""


class SlurmError(UpscaleError):
    """A command of Slurm failed; the message has what it said."""


@dataclass(frozen=True)
class Task:
    """A task of a job as Slurm sees it; `index` is 0 for a job that is no array. `exit_status` < 0 is a signal."""

    job: str
    index: int
    state: str
    exit_status: int
    reason: str


@dataclass(frozen=True)
class Work:
    """One output to be made in `count` parts, at most `at_once` at the same time.

    `identity` is the whole video's. A task runs `command`, then its --part or --join, then `arguments`. `disk` is the
    node's directory for frames, as a word of the shell; `options` are the words of --sbatch.
    """

    output: Path
    identity: dict
    count: int
    at_once: int | None
    options: Sequence[str]
    command: Sequence[str]
    arguments: Sequence[str]
    disk: str
    streams: str = ""  # what was chosen of sound and subtitles, if that is not everything

    @property
    def name(self) -> str:
        """The first part of the jobs' names; it depends on the output alone."""
        return "upscale-" + hashlib.sha256(os.fsencode(os.path.realpath(self.output))).hexdigest()[:16]

    @property
    def comment(self) -> str:
        """What tells jobs with other options from these."""
        return f"{hashlib.sha256((repr(self.identity) + self.streams).encode()).hexdigest()[:16]}/{self.count}"

    def script(self, template: str) -> str:
        """A batch script."""
        return template.format(
            output=self.output.name.encode("ascii", "replace").decode().replace("\n", "?"),
            parts=quoted(parts_directory(self.output)),
            cwd=shlex.quote(os.getcwd()),
            count=self.count,
            disk=self.disk,
            command=shlex.join(self.command),
            arguments=shlex.join(self.arguments),
            no_storage=NO_STORAGE,
            exit_seconds=EXIT_SECONDS,
        )

    def frames_of(self, number: int) -> int | None:
        """The frames of a part that a run has finished; None if none has."""
        return finished_frames(part_directory(self.output, number, self.count), self.identity)

    def finished(self) -> dict[int, int]:
        """The numbers of the parts that are finished, and their frames."""
        found = {number: self.frames_of(number) for number in range(1, self.count + 1)}
        return {number: frames for number, frames in found.items() if frames is not None}


@dataclass
class Jobs:
    """The numbers of the array job and of the join; None if there is none."""

    array: str | None = None
    join: str | None = None

    @property
    def numbers(self) -> list[str]:
        return [number for number in (self.array, self.join) if number]


# Slurm's commands


def check_options(text: str) -> list[str]:
    """The words of --sbatch; InputError if Slurm is not here, or one of them is set by this program."""
    if missing := [name for name in ("sbatch", "squeue", "scancel") if not shutil.which(name)]:
        raise InputError(f"--slurm: {missing[0]} not found; run this on a node from which jobs can be submitted")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--sbatch {text!r}: {error}") from None
    if words and not words[0].startswith("-"):
        raise InputError(f'--sbatch {text!r}: give options of sbatch, such as --sbatch "--partition=gpu --gres=gpu:1"')
    for word in words:
        if RESERVED.fullmatch(word):
            raise InputError(f"--sbatch: {word} is set by this program; remove it")
    return words


def find(work: Work) -> Jobs:
    """The jobs for this output that Slurm has not ended; BusyError if they were submitted with other options."""
    names = {f"{work.name}-parts": "array", f"{work.name}-join": "join"}
    command = [
        "squeue", "--noheader", f"--user={os.getuid()}", f"--name={','.join(names)}", "--format=%F|%j|%k",
        "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED",  # not those that were cancelled and are still ending
    ]  # fmt: skip
    jobs = Jobs()
    for line in _run(command).splitlines():
        number, name, comment = line.split("|", 2)
        if comment.strip() != work.comment:
            raise BusyError(f"Slurm job {number} makes this output with other options; wait for it or scancel {number}")
        setattr(jobs, names[name], number)
    return jobs


def submit(work: Work, jobs: Jobs, parts: Sequence[int]) -> None:
    """Submit the array job of these parts, and the join that waits for it, unless they are there already."""
    if jobs.array is None and parts:
        limit = f"%{work.at_once}" if work.at_once else ""
        for number in parts:
            part_directory(work.output, number, work.count).mkdir(parents=True, exist_ok=True)
        jobs.array = _submit(
            work, "parts", TASK, [f"--array={_ranges(parts)}{limit}", f"--signal=B:TERM@{SIGNAL_SECONDS}"]
        )
    if jobs.join is None:
        after = [f"--dependency=afterok:{jobs.array}", "--kill-on-invalid-dep=yes"] if jobs.array else []
        jobs.join = _submit(work, "join", JOIN, after)


def _submit(work: Work, kind: str, template: str, more: Sequence[str]) -> str:
    command = [
        "sbatch", "--requeue", "--ntasks=1", *more[1:], *work.options, *more[:1], "--parsable", "--chdir=/",
        f"--job-name={work.name}-{kind}", f"--comment={work.comment}", "--output=/dev/null", "--error=/dev/null",
    ]  # fmt: skip
    answer = _run(command, work.script(template)).strip()
    number = answer.partition(";")[0]  # JOB or JOB;CLUSTER
    if not re.fullmatch(r"[0-9]+", number, re.ASCII):
        raise SlurmError(f"sbatch said {answer[:200]!r}, which is not the number of a job")
    return number


def quoted(path: Path) -> str:
    """A path as a word of the shell."""
    return shlex.quote(str(path))


def _ranges(numbers: Sequence[int]) -> str:
    """`1-3,5` for 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def tasks_of(jobs: Jobs) -> list[Task]:
    """All tasks of the jobs that Slurm still knows of, ended ones too."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(jobs.numbers)}"]
    try:
        return parse_tasks(_run([*command, f"--Format={FIELDS}"]))
    except SlurmError as error:
        if "Invalid job id" in str(error):  # all have ended a while ago (MinJobAge in slurm.conf)
            return []
        raise


def parse_tasks(text: str) -> list[Task]:
    """The tasks in what squeue printed."""
    tasks = []
    for line in text.splitlines():
        job, index, state, code, reason = (line[a:b].strip() for a, b in pairwise(COLUMNS))
        if job.isdecimal() and state:
            status = int(code) if code.isascii() and code.isdigit() else 0  # as of waitpid(2)
            number = int(index) if index.isdecimal() else 0
            tasks.append(Task(job, number, state, status >> 8 or -(status & 0x7F), reason))
    return tasks


def cancel(jobs: Jobs) -> None:
    """End the jobs, running or waiting."""
    if jobs.numbers:
        _run(["scancel", "--quiet", *jobs.numbers])


def _run(command: list[str], text: str | None = None) -> str:
    try:
        done = subprocess.run(
            command, input=text, stdin=subprocess.DEVNULL if text is None else None, capture_output=True, text=True,
            errors="surrogateescape", timeout=COMMAND_SECONDS, check=False, env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C in the terminal is for this process alone
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer for {COMMAND_SECONDS:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip() or "nothing").split())
        raise SlurmError(f"{command[0]} failed and said: {printable(said)[:400]}")
    return done.stdout
