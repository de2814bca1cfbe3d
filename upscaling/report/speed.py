"""The frames of a run over time, in a bounded number of samples, and its frame rate in equal stretches of time."""

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_SAMPLES = 600  # then every second one is dropped
MOST_RESTARTS = 200  # whose times are kept
MOST_STRETCHES = 60
FRAMES_A_STRETCH = 32  # at least, as a mean: frames end in batches, so that the rate of a shorter time says nothing
SHORTEST_SECONDS = 2.0  # of a run whose rate is worth a plot


@dataclass
class Speed:
    """Samples of (seconds since the start of the run, frames done in it), and the times of restarts of workers."""

    seconds: list[float] = field(default_factory=lambda: [0.0])
    frames: list[int] = field(default_factory=lambda: [0])  # by this run: without frames that were resumed
    restarts: list[float] = field(default_factory=list)  # in seconds, in order; the first MOST_RESTARTS
    _interval: float = 1.0  # seconds between two samples

    def add(self, seconds: float, frames: int, restarts: int, last: bool = False) -> None:
        """Take the counts at a time; most calls add no sample. `last`: this is the end of the run."""
        self.restarts += [seconds] * (min(restarts, MOST_RESTARTS) - len(self.restarts))
        if seconds - self.seconds[-1] < self._interval and not last:
            return
        self.seconds.append(max(seconds, self.seconds[-1]))
        self.frames.append(frames)
        if len(self.seconds) > MOST_SAMPLES:
            del self.seconds[1:-1:2], self.frames[1:-1:2]
            self._interval *= 2

    def rates(self) -> list[float]:
        """Frames/s in equal stretches of the run, from its start to the last sample; empty for a short run."""
        length, frames = self.seconds[-1], self.frames[-1]
        if length < SHORTEST_SECONDS or frames < FRAMES_A_STRETCH:
            return []
        stretches = max(2, min(MOST_STRETCHES, frames // FRAMES_A_STRETCH, int(length)))
        ends = [length * number / stretches for number in range(stretches + 1)]
        done = [self._done(seconds) for seconds in ends]
        return [(b - a) * stretches / length for a, b in itertools.pairwise(done)]

    def _done(self, seconds: float) -> float:
        """Frames done at a time, in proportion between two samples."""
        at = min(max(bisect_left(self.seconds, seconds), 1), len(self.seconds) - 1)
        before, after = self.seconds[at - 1], self.seconds[at]
        share = (seconds - before) / (after - before) if after > before else 1.0
        return self.frames[at - 1] + share * (self.frames[at] - self.frames[at - 1])


@dataclass(frozen=True)
class Share:
    """What one worker has done."""

    device: str
    frames: int
    restarts: int


def percentages(shares: Sequence[Share]) -> list[float]:
    """The share of each worker in the frames of all, in percent; zeros if there are none."""
    total = sum(share.frames for share in shares)
    return [100 * share.frames / total if total else 0.0 for share in shares]
