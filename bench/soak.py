"""Random faults over and over: each round breaks a run several times, resumes it, and compares what comes out.

    python bench/soak.py --rounds 50 --seed 1

A line a round. Exit status 1 at the first round whose result is not, frame by frame, that of an undisturbed
run, or that leaves a process or a file behind; that round's directory is kept then.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from runs import LOSSLESS, ROOT, Run, frames_of, make_input, records, streams_of

OUTPUT = "out.mp4"


class Round:
    """One job in a directory of its own, broken by what `chance` says."""

    def __init__(self, place: Path, source: Path, chance: random.Random):
        self.place, self.source, self.chance = place, source, chance
        self.work = place / f"{OUTPUT}.work"
        self.run: Run | None = None
        self.runs: list[Run] = []

    def start(self, fault: str = "slow:0") -> Run:
        """Start the job, or go on with it; with `fault` of tests/faulty.py."""
        counter = self.place / f"fault-{len(self.runs)}"
        counter.mkdir()
        script = ROOT / "tests" / "faulty.py"
        self.run = Run(self.place, self.source, self.place / OUTPUT, *LOSSLESS, "--stall-timeout", "2",
                       script=script, env={"FAULT": f"{fault}:{counter}"})  # fmt: skip
        self.runs.append(self.run)
        return self.run

    def pause(self) -> None:
        time.sleep(self.chance.uniform(0.1, 2.5))

    def finish(self, *statuses: int) -> None:
        """Wait for the end of the run; AssertionError for another exit status."""
        status = self.run.wait()
        assert status in statuses, f"exit status {status} instead of {statuses}: {self.run.errors}"

    # The faults. Each leaves the run ended, unless it has survived.

    def kill_main(self) -> None:
        self.run.signal(signal.SIGKILL)
        self.finish(0, -signal.SIGKILL)

    def kill_all(self) -> None:
        self.run.kill_all()

    def kill_worker(self) -> None:
        self._to_workers(signal.SIGKILL)

    def stop_worker(self) -> None:
        self._to_workers(signal.SIGSTOP)

    def _to_workers(self, number: int) -> None:
        for pid in self.run.workers():
            if self.chance.random() < 0.6:
                _send(pid, number)

    def kill_fork_server(self) -> None:
        server = self.run.fork_server()
        if server is not None:
            _send(server, signal.SIGKILL)

    def kill_all_workers(self) -> None:
        """All workers or the fork server, up to four times in a row: nobody's fault, so that the run goes on."""
        for _ in range(self.chance.randint(1, 4)):
            workers = self.run.workers()
            if self.chance.random() < 0.5:
                self.kill_fork_server()
            for pid in workers:
                _send(pid, signal.SIGKILL)
            self.pause()
        assert "given up" not in self.run.errors and "could not start" not in self.run.errors, self.run.errors

    def end(self) -> None:
        number = self.chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        to_process, to_group = self.chance.choice(((True, False), (False, True), (True, True)))
        if to_process:
            self.run.signal(number)
        if to_group:
            try:
                os.killpg(self.run.pid, number)
            except ProcessLookupError:
                pass
        started = time.monotonic()
        self.finish(0, 128 + number, -number)  # -number: it came before the interpreter had started
        assert time.monotonic() - started < 12, "it took too long to end"

    def second_run(self) -> None:
        first, alive = self.run, self.run.process.poll() is None
        second = self.start()
        status = second.wait()
        assert status == 75 or first.process.poll() is not None or not alive, f"a second run ended with {status}"
        self.run = first

    def tear(self) -> None:
        """A power cut: end the run, then cut or spoil one of its files."""
        self.kill_all()
        files = [path for path in self.work.rglob("*") if path.is_file() and path.name != "lock"]
        if not files:
            return
        path = self.chance.choice(files)
        data = bytearray(path.read_bytes())
        if data and self.chance.random() < 0.5:
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        path.write_bytes(data[: self.chance.randint(len(data) // 2, len(data))])

    def faulty_worker(self) -> None:
        """Another run, with a worker that goes wrong by itself."""
        self.kill_main()
        kinds = ("raise", "die", "exit", "silent", "cut", "wrong_size", "die_before_report", "die_loading")
        self.start(f"{self.chance.choice(kinds)}:{self.chance.randint(1, 2)}")

    def break_it(self) -> str:
        """One fault; its name."""
        fault = self.chance.choice(FAULTS)
        self.pause()
        fault(self)
        if self.run.process.poll() is not None:
            if self.chance.random() < 0.7:  # else the next run meets what is still ending
                self.run.check_gone()
            self.start()
        return fault.__name__

    def check(self, expected) -> None:
        """The end of the round: the job done, the result right, nothing left."""
        while self.run.wait() != 0:
            assert self.run.process.returncode in (1, 75), f"{self.run.process.returncode}: {self.run.errors}"
            self.start()
            assert len(self.runs) < 30, f"it never ends: {self.run.errors}"
        for run in self.runs:
            run.check_gone()
        assert (frames_of(self.place / OUTPUT), streams_of(self.place / OUTPUT)) == expected, "the result differs"
        assert not self.work.exists(), "the work directory is left"
        assert not [path for path in self.place.iterdir() if path.name.startswith(".")], "a temporary file is left"


FAULTS: tuple[Callable[[Round], None], ...] = (
    Round.kill_main, Round.kill_all, Round.kill_worker, Round.stop_worker, Round.kill_fork_server,
    Round.kill_all_workers, Round.end, Round.second_run, Round.tear, Round.faulty_worker,
)  # fmt: skip


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def soak(rounds: int, seed: int, folder: Path) -> int:
    """That many rounds; the exit status."""
    source = make_input(folder / "in.mkv")
    Run(folder, source, folder / "expected.mp4", *LOSSLESS).succeed()
    expected = frames_of(folder / "expected.mp4"), streams_of(folder / "expected.mp4")
    for number in range(1, rounds + 1):
        place = folder / f"round-{number}"
        place.mkdir()
        broken = Round(place, source, random.Random(f"{seed} {number}"))
        started, faults = time.monotonic(), []
        try:
            broken.start()
            for _ in range(broken.chance.randint(1, 5)):
                faults.append(broken.break_it())
            kept = records(broken.work)
            broken.check(expected)
        except Exception as error:
            print(f"round {number}: LOST after {', '.join(faults)}: {error}\nsee {place}", flush=True)
            for run in broken.runs:
                run.kill_all()
            return 1
        seconds = time.monotonic() - started
        print(f"round {number}: {', '.join(faults)}; {kept} segments then; clean, {seconds:.1f} s", flush=True)
        shutil.rmtree(place)
    print(f"{rounds} rounds clean")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGHUP, lambda *_: None)  # under nohup the runs would be deaf to it as well
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    status = soak(args.rounds, args.seed, folder)
    if status == 0:
        shutil.rmtree(folder)
    return status


if __name__ == "__main__":
    sys.exit(main())
