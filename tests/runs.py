"""Whole runs of the command in processes of their own, to be killed, stopped and looked at; tests and bench/soak.py.

Every run carries a mark in its environment, by which all of its processes are found in /proc, and has a temp
directory of its own, which must be empty in the end.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clips import add_sound, fill_plane

ROOT = Path(__file__).parent.parent
MARK = "UPSCALE_TEST_RUN"
LOSSLESS = ("2", "--model", "lanczos", "--crf", "0", "--preset", "ultrafast", "--workers", "2", "--batch-size", "4",
            "--segment-frames", "16", "--progress", "plain")  # fmt: skip
SECONDS = 60.0  # for what takes a second: the machine may be busy


def make_input(path: Path, frames: int = 160, sound: bool = True) -> Path:
    """A clip of 64x48 in which no two frames are alike but for a still, with times that are not all equal."""
    with av.open(str(path), "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=Fraction(25), options={"crf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        packets = add_sound(out, Fraction(frames, 25))[1] if sound else []
        for number in range(frames):
            seed = 40 if 40 <= number < 56 else number  # a still of 16 frames: none but the first is computed
            noise = np.random.default_rng(seed).integers(16, 236, (72, 64), np.uint8)
            picture = av.VideoFrame(64, 48, "yuv420p")
            fill_plane(picture.planes[0], np.repeat(np.repeat(noise[:12, :16], 4, 0), 4, 1))
            for plane in picture.planes[1:]:
                fill_plane(plane, noise[48:72, :32] // 8 + 112)
            picture.pts, picture.time_base = number * 40 + (number % 7), Fraction(1, 1000)
            packets += stream.encode(picture)
        for packet in sorted(packets + stream.encode(None), key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def frames_of(path: Path) -> list[tuple[Fraction, str]]:
    """(time in seconds, digest of the pixels) of every frame of a video."""
    found = []
    with av.open(f"file:{os.path.abspath(path)}", metadata_errors="surrogateescape") as container:
        for frame in container.decode(container.streams.video[0]):
            found.append((frame.pts * frame.time_base, hashlib.md5(frame.to_ndarray().tobytes()).hexdigest()))
    return found


def streams_of(path: Path) -> list[tuple[str, int]]:
    """(type, packets) of every stream of a file."""
    with av.open(f"file:{os.path.abspath(path)}", metadata_errors="surrogateescape") as container:
        counts = [0] * len(container.streams)
        for packet in container.demux():
            counts[packet.stream_index] += packet.size > 0
        return [(stream.type, count) for stream, count in zip(container.streams, counts, strict=True)]


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS):
    """What `condition` returns once that is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
    return value


class Run:
    """One run of a script, in a session of its own."""

    def __init__(self, place: Path, *arguments, script: Path = ROOT / "upscale.py", cwd: Path | None = None,
                 env: dict[str, str] | None = None, shell: str | None = None, **popen):  # fmt: skip
        """`place` takes its stderr and its temp directory; `shell`: a command in its place."""
        self.mark = uuid.uuid4().hex
        self.temp = place / f"temp-{self.mark}"
        self.temp.mkdir()
        self.error_path = place / f"stderr-{self.mark}"
        environment = {
            **os.environ,
            "TMPDIR": str(self.temp),
            "XDG_CACHE_HOME": str(place / "cache"),
            MARK: self.mark,
            "PYTHONWARNINGS": "error",
            **(env or {}),
        }
        command = ["sh", "-c", shell] if shell is not None else [sys.executable, script, *arguments]
        with self.error_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=environment, start_new_session=True,
                **{"stdin": subprocess.DEVNULL, "stdout": stderr, "stderr": stderr, **popen},
            )  # fmt: skip
        self.pid = self.process.pid

    @property
    def errors(self) -> str:
        return self.error_path.read_text(errors="backslashreplace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = SECONDS) -> int:
        """The exit status."""
        return self.process.wait(seconds)

    def succeed(self) -> "Run":
        assert self.wait() == 0, self.errors
        return self.check_gone()

    def fail(self, status: int) -> str:
        """The one line that it ended with."""
        assert self.wait() == status, (self.process.returncode, self.errors)
        self.check_gone()
        assert "Traceback" not in self.errors, self.errors
        lines = [line for line in self.errors.splitlines() if line.startswith("upscale: error: ")]
        assert len(lines) == 1 and self.errors.splitlines()[-1] == lines[0], self.errors
        return lines[0]

    # Its processes

    def processes(self) -> dict[int, int]:
        """{pid: parent's pid} of every process of the run that is not dead."""
        found = {}
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                if f"{MARK}={self.mark}".encode() in Path(f"/proc/{name}/environ").read_bytes():
                    state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
                    if state not in "ZX":
                        found[int(name)] = int(parent)
            except OSError:
                continue
        return found

    def fork_server(self) -> int | None:
        workers = self.workers()
        return self.processes().get(workers[0]) if workers else None

    def workers(self) -> list[int]:
        """The pids of its workers: the processes that a child of the main process has forked."""
        processes = self.processes()
        return sorted(pid for pid, parent in processes.items() if parent in processes and parent != self.pid)

    def check_gone(self) -> "Run":
        """No process of it is left, nor a temporary file."""
        wait_until(lambda: not self.processes(), "all processes are gone", 15)
        assert list(self.temp.iterdir()) == []
        assert not [name for name in os.listdir("/dev/shm") if f"-{self.pid}-" in name]
        return self

    def kill_all(self) -> None:
        """For the end of a test that failed."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def records(work: Path) -> int:
    """Whole lines in a job's ledger."""
    try:
        return (work / "ledger.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0
