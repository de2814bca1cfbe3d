"""Retry policy: which manifest is to blame for a worker's death, and how often a manifest may fail."""

from collections.abc import Sequence
from pathlib import Path

MAX_FAILURES = 3  # of one manifest; also attempts in a row to start a worker


class RetryPolicy:
    """Counts the failures of manifests; does no work itself.

    A manifest that a dead worker had, to blame or not, is a suspect: workers get it alone from then on, so
    that the next death has one possible cause.
    """

    def __init__(self):
        self.failures: dict[Path, int] = {}  # of every suspect

    def is_suspect(self, manifest: Path) -> bool:
        return manifest in self.failures

    def record_failure(self, manifest: Path) -> bool:
        """Count a failed attempt; return whether another one is allowed."""
        self.failures[manifest] = self.failures.get(manifest, 0) + 1
        return self.failures[manifest] < MAX_FAILURES

    def record_death(self, outstanding: Sequence[Path], loaded: bool, reported: bool) -> Path | None:
        """Mark the suspects of a worker's death; return the manifest to blame, or None.

        `outstanding` are the manifests that the worker had, in the order in which it got them. One that died
        before its model was loaded died of none of them. One that reported an error has named the manifest.
        """
        if not loaded:
            return None
        for manifest in outstanding:
            self.failures.setdefault(manifest, 0)
        return outstanding[0] if outstanding and not reported else None

    def may_restart(self, failed_starts: int) -> bool:
        """Return whether a worker that failed to start so many times in a row is started again."""
        return failed_starts < MAX_FAILURES

    def clear(self) -> None:
        self.failures.clear()
