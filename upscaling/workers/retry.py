"""Retry policy: which manifest is to blame for a worker's death, and how often a manifest may fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_FAILURES = 3  # of one manifest; also attempts in a row to start a worker
TOGETHER_SECONDS = 0.5  # workers that die within this time died together
MAX_FRUITLESS = 10  # times in a row that workers died together with no batch finished in between


@dataclass(frozen=True)
class Death:
    """A worker's death that it did not report. `manifest` is to blame if it died alone; `time` is monotonic."""

    worker: int
    manifest: Path | None
    reason: str
    time: float
    loaded: bool = True  # it had loaded its model
    with_server: bool = False  # the fork server died, and all its workers with it


@dataclass(frozen=True)
class Verdict:
    """Deaths that belong together. They count as failures of their manifests, or of starting, unless `forgiven`."""

    deaths: tuple[Death, ...]
    forgiven: bool


class RetryPolicy:
    """Counts the failures of manifests; does no work itself.

    A manifest that a dead worker had, to blame or not, is a suspect: workers get it alone from then on, so that the
    next death has one possible cause. Workers that die together, or with the fork server, were killed from outside: no
    manifest is to blame. So a death is judged TOGETHER_SECONDS after it, and until then its manifest is kept back.
    """

    def __init__(self):
        self.failures: dict[Path, int] = {}  # of every suspect
        self.deaths: list[Death] = []  # not judged yet, in order
        self.fruitless = 0  # verdicts in a row that forgave, without progress in between

    def is_suspect(self, manifest: Path) -> bool:
        return manifest in self.failures

    def record_failure(self, manifest: Path) -> bool:
        """Count a failed attempt; return whether another one is allowed."""
        self.failures[manifest] = self.failures.get(manifest, 0) + 1
        return self.failures[manifest] < MAX_FAILURES

    def to_blame(self, outstanding: Sequence[Path], loaded: bool, reported: bool) -> Path | None:
        """Mark the suspects of a worker's death; return the manifest to blame, or None.

        `outstanding` are the manifests that the worker had, in the order in which it got them. One that died
        before its model was loaded died of none of them. One that reported an error has named the manifest.
        """
        if not loaded:
            return None
        for manifest in outstanding:
            self.failures.setdefault(manifest, 0)
        return outstanding[0] if outstanding and not reported else None

    def record_death(self, death: Death) -> None:
        """Remember a death until it is judged."""
        self.deaths.append(death)

    def is_unjudged(self, worker: int) -> bool:
        return any(death.worker == worker for death in self.deaths)

    def judge(self, now: float) -> Verdict | None:
        """The verdict on the oldest deaths, if they are old enough; call it until it returns None."""
        if not self.deaths or now - self.deaths[0].time < TOGETHER_SECONDS:
            return None
        last = self.deaths[0].time + TOGETHER_SECONDS
        together = tuple(death for death in self.deaths if death.time <= last)
        self.deaths = self.deaths[len(together) :]
        forgiven = len({death.worker for death in together}) > 1 or together[0].with_server
        self.fruitless += forgiven
        return Verdict(together, forgiven)

    def record_progress(self) -> None:
        """A batch is finished."""
        self.fruitless = 0

    def may_go_on(self) -> bool:
        """Return whether workers that died together are restarted once more."""
        return self.fruitless < MAX_FRUITLESS

    def may_restart(self, failed_starts: int) -> bool:
        """Return whether a worker that failed to start so many times in a row is started again."""
        return failed_starts < MAX_FAILURES

    def clear(self) -> None:
        """Forget all manifests; deaths of workers are still to be judged."""
        self.failures.clear()
        self.fruitless = 0
