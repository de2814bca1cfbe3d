"""The claim directory: manifests handed to workers on other nodes by renames within the shared work directory.

    coordinator                     out.mp4.work/                       a task on some node
      give a manifest ────────────► queue/manifest_000012.txt
                                    claims/manifest_000012.3-1a2b3c4d.txt ◄── claim: rename from queue/
      take back an old claim: rename to queue/                            ◄── give back: rename to queue/
      hear ◄─────────────────────── results/manifest_000012.3-1a2b3c4d.txt ◄─ done: rename from claims/
                                    results/….json (why), then the same ◄──── failed
      tasks/coordinator.json ──────────────────────────────────────────► alive? over?
      alive? bars ◄──────────────── tasks/task_3.json ◄───────────────────── a counter, its row

A manifest is in one of the three folders at any time, and every move is one rename of one name: of two who
want to move it one succeeds, and the other finds nothing. That holds on NFS, Lustre and GPFS alike, and is
all that is asked of them: no lock crosses nodes. What was renamed into sight had been fsynced before.

What NFS may delay is sight: a client may go on believing for a while that a file it just asked for is not
there. Opening a directory asks the server afresh (close-to-open consistency, nfs(5)), so lists are current,
and `wait_until_seen` lists the directory before it looks again.

Clocks of nodes differ: whoever watches another watches a counter in its file, by its own clock (`Pulse`).

Standard library only.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

QUEUE, CLAIMS, RESULTS, TASKS = "queue", "claims", "results", "tasks"
COORDINATOR, SETTINGS, TOKEN, SLURM_JOBS = "coordinator.json", "settings.json", "token", "slurm_jobs"
# The files of each folder, as job.FOLDERS has them: what a clean-up may remove.
FOLDERS = {
    QUEUE: r"manifest_[0-9]+\.txt",
    CLAIMS: r"manifest_[0-9]+\.[0-9]+-[0-9a-f]{8}\.txt",
    RESULTS: r"manifest_[0-9]+\.[0-9]+-[0-9a-f]{8}\.(txt|json(\.[0-9]+\.tmp)?)",
    TASKS: r"(task_[0-9]+\.json|coordinator\.json|settings\.json|token|slurm_jobs)(\.[0-9]+\.tmp)?",
}
AFRESH = 75  # exit status of a worker that failed at a manifest: its script starts a fresh one (see slurm.script)
MAX_FILE = 1 << 20  # bytes; more is none of ours
SEEN_SECONDS = 30.0  # that a file on shared storage may take to be seen: nfs(5), acdirmin
LOOK_AGAIN_SECONDS = 0.1
MANIFEST = re.compile(r"(manifest_[0-9]{1,12})\.txt", re.ASCII)
CLAIM = re.compile(r"(manifest_[0-9]{1,12})\.([0-9]{1,6}-[0-9a-f]{8})\.txt", re.ASCII)


def new_claimant(task: int) -> str:
    """A name for one life of task `task`: a requeued task has another one than the life before it."""
    return f"{task}-{secrets.token_hex(4)}"


def make_folders(job: Path) -> None:
    """The folders of the claim directory, within a job's directory."""
    for name in FOLDERS:
        (job / name).mkdir(mode=0o700, exist_ok=True)


def split_claim(name: str) -> tuple[str, str] | None:
    """(manifest's file name, claimant) of a file in claims/ or results/; None for any other name."""
    match = CLAIM.fullmatch(name)
    return (f"{match[1]}.txt", match[2]) if match else None


# The moves


def publish(job: Path, manifest: Path) -> None:
    """Coordinator: a complete manifest into the queue; it is on the disk before anyone can see it there."""
    _sync(manifest)
    os.rename(manifest, job / QUEUE / manifest.name)
    _sync(job / QUEUE)


def waiting(job: Path) -> list[str]:
    """Names of the manifests in the queue, earliest frames first."""
    names = [name for name in listed(job / QUEUE) if MANIFEST.fullmatch(name)]
    return sorted(names, key=lambda name: int(name[len("manifest_") : -len(".txt")]))


def claim(job: Path, name: str, claimant: str) -> Path | None:
    """Task: take a manifest out of the queue; its path in claims/, or None where another was first."""
    mine = job / CLAIMS / f"{name.removesuffix('.txt')}.{claimant}.txt"
    return mine if _move(job / QUEUE / name, mine) else None


def finish(claimed: Path) -> bool:
    """Task: the manifest is done; False where the claim was taken back meanwhile, and another does it again."""
    return _move(claimed, claimed.parent.parent / RESULTS / claimed.name)


def fail(claimed: Path, why: str, final: bool = False) -> bool:
    """Task: the manifest can't be done here, for the reason `why`; False where the claim was taken back."""
    reason = claimed.parent.parent / RESULTS / f"{claimed.name.removesuffix('.txt')}.json"
    put_json(reason, {"why": why, "final": final})
    if finish(claimed):
        return True
    reason.unlink(missing_ok=True)
    return False


def give_back(claimed: Path) -> bool:
    """Coordinator or task: a claim back into the queue; False where it is not claimed by that one any more."""
    parts = split_claim(claimed.name)
    return parts is not None and _move(claimed, claimed.parent.parent / QUEUE / parts[0], only_mine=False)


def claims_of(job: Path, claimant: str | None = None) -> dict[str, list[Path]]:
    """Claimed manifests by claimant, earliest frames first; those of `claimant` alone where it is named."""
    found: dict[str, list[Path]] = {}
    for name in sorted(listed(job / CLAIMS), key=lambda name: (len(name.partition(".")[0]), name)):
        parts = split_claim(name)
        if parts and claimant in (None, parts[1]):
            found.setdefault(parts[1], []).append(job / CLAIMS / name)
    return found


@dataclass(frozen=True)
class Result:
    """What came back of a claimed manifest: `why` it failed, or empty; `final` where another try would fail too."""

    path: Path
    manifest: str  # its file name
    claimant: str
    why: str
    final: bool


def results(job: Path) -> list[Result]:
    """Coordinator: what came back and was not heard yet."""
    found = []
    names = listed(job / RESULTS)
    for name in sorted(names):
        parts = split_claim(name)
        if parts:
            reason = f"{name.removesuffix('.txt')}.json"  # written before the manifest was moved
            said = read_json(job / RESULTS / reason) if reason in names else None
            why = "" if said is None else str(said.get("why") or "failed")
            found.append(Result(job / RESULTS / name, *parts, why, bool(said and said.get("final") is True)))
    return found


def hear(result: Path, back: Path | None = None) -> None:
    """Coordinator: a result is heard; its manifest goes to the path `back`, or away."""
    if back is None:
        result.unlink(missing_ok=True)
    else:
        _move(result, back)
    result.with_name(f"{result.name.removesuffix('.txt')}.json").unlink(missing_ok=True)


def _move(source: Path, target: Path, only_mine: bool = True) -> bool:
    """Whether the rename took place; `only_mine`: nobody else can have made a file of the target's name."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # An NFS server's answer can get lost: the request that is sent again then finds that it was done.
        return only_mine and target.exists()
    _sync(target.parent)
    return True


# Files


def put_json(path: Path, content: dict, durable: bool = True) -> None:
    """Replace a small JSON file in one step; `durable` has the disk take it first."""
    put(path, json.dumps(content) + "\n", durable)


def put(path: Path, text: str, durable: bool = True) -> None:
    """Replace a small text file in one step; readers see the old one or the whole new one."""
    # Two lives of a task may write at the same time, from two nodes with the same process number.
    temporary = path.with_name(f"{path.name}.{os.getpid()}{time.time_ns()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            data = text.encode()
            while data:
                data = data[os.write(fd, data) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)  # on NFS this sends the data to the server
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def read_json(path: Path) -> dict:
    """A small JSON object; {} where the file is not there, torn, or not one of ours."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_token(job: Path) -> str:
    """The coordinator's token, "" where it is not seen; the coordinator writes one, each task writes it back."""
    try:
        return (job / TASKS / TOKEN).read_text(encoding="ascii")[:64].strip()
    except (OSError, ValueError):
        return ""


def listed(folder: Path) -> set[str]:
    """Names in a folder, as the server has them now; none where it is gone."""
    try:
        return set(os.listdir(folder))  # opens it, and with that asks the server afresh
    except (FileNotFoundError, NotADirectoryError):
        return set()


def unseen(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that are not there for this node, after one fresh look at their folders."""
    missing = [path for path in paths if not path.exists()]
    for folder in {path.parent for path in missing}:
        listed(folder)
    return [path for path in missing if not path.exists()]


def wait_until_seen(paths: Iterable[Path], seconds: float = SEEN_SECONDS) -> list[Path]:
    """Wait for files that another node has written to be seen here; those that are not after `seconds`."""
    deadline = time.monotonic() + seconds
    while (paths := unseen(paths)) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_SECONDS)
    return paths


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until the storage has these files: a node may go down once it has said that they are done."""
    for path in paths:
        _sync(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# Signs of life


class Pulse:
    """How long others have been silent: the time since a value of theirs last changed, by this process's clock."""

    def __init__(self):
        self.seen: dict[object, tuple[object, float]] = {}  # (value, time.monotonic() of its first sight)

    def see(self, who: object, value: object, now: float | None = None) -> bool:
        """Note a value; True where it is another than before, or the first."""
        if who in self.seen and self.seen[who][0] == value:
            return False
        self.seen[who] = (value, time.monotonic() if now is None else now)
        return True

    def silent(self, who: object, now: float | None = None) -> float:
        """Seconds since `who` changed; 0 for one that was never seen, whose time begins now."""
        now = time.monotonic() if now is None else now
        return now - self.seen.setdefault(who, (None, now))[1]

    def forget(self, who: object) -> None:
        """Its time begins anew."""
        self.seen.pop(who, None)
