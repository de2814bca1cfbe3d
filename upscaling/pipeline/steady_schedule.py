"""`--steady`: which batches can be steadied, and which frames are still needed for that.

    upscaled batches ─► SteadySchedule ─► SteadyBatch: all its frames and their neighbours are upscaled

The unit is the batch that went through the network. A frame's neighbours are the frames before and after it that have
other pixels, so a batch waits for the last frame of the batch before it and for the first one of the batch after it. A
picture that stands still for more than MAX_STILL frames is not steadied: nothing has to wait for its end, and a run
that begins or ends within it need not look further. Everything here happens in the main loop.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_STILL = 16  # frames


@dataclass
class _Batch:
    numbers: tuple[int, ...]
    is_context: bool  # frames before or after the job's own, which are not steadied
    upscaled: bool = False
    dealt: bool = False  # to a worker that steadies it
    done: bool = False


@dataclass(frozen=True)
class SteadyBatch:
    """A batch that can be steadied: its frames, those of them that stand still, and the frames around it."""

    numbers: tuple[int, ...]
    stills: frozenset[int]
    context: tuple[int, ...]

    @property
    def moving(self) -> tuple[int, ...]:
        """The frames that are to be steadied."""
        return tuple(number for number in self.numbers if number not in self.stills)


class SteadySchedule:
    """The batches of a job in order, from their submission until no other batch needs them."""

    def __init__(self):
        self._batches: deque[_Batch] = deque()
        self._stills: set[int] = set()
        self._stored: set[int] = set()
        self._ended = False

    def add(self, numbers: Sequence[int], is_context: bool) -> None:
        """The next batch was submitted to the network. Of context only one frame is needed on either side."""
        self._batches.append(_Batch(tuple(numbers), is_context, dealt=is_context))
        self._stored.update(numbers)

    def mark_still(self, number: int) -> None:
        """The frame is shown for more than MAX_STILL frames; called before the next batch is added."""
        self._stills.add(number)

    def end(self) -> None:
        """No more batches will be added."""
        self._ended = True

    def upscaled(self, numbers: Sequence[int]) -> None:
        """A batch has come from the network."""
        batch = self._find(numbers)
        batch.upscaled, batch.done = True, batch.is_context

    def finish(self, numbers: Sequence[int]) -> None:
        """A batch is steadied."""
        self._find(numbers).done = True

    def _find(self, numbers: Sequence[int]) -> _Batch:
        return next(batch for batch in self._batches if batch.numbers == tuple(numbers))

    def _with_neighbours(self) -> Iterator[tuple[_Batch | None, _Batch, _Batch | None]]:
        """(the batch before, a batch, the one after it) of all."""
        batches = list(self._batches)
        return zip([None, *batches], batches, [*batches[1:], None], strict=False)

    def take_ready(self) -> list[SteadyBatch]:
        """The batches that can be steadied now; each is returned once."""
        ready = []
        for before, batch, after in self._with_neighbours():
            stops = batch.numbers[-1] in self._stills or (self._ended and after is None)
            if batch.dealt or not batch.upscaled or not (before is None or before.upscaled):
                continue
            if stops or (after is not None and after.upscaled):
                batch.dealt = True
                around = (*(before.numbers[-1:] if before else ()), *(after.numbers[:1] if after and not stops else ()))
                ready.append(SteadyBatch(batch.numbers, frozenset(self._stills.intersection(batch.numbers)), around))
        return ready

    def take_unneeded(self) -> list[int]:
        """The frames that no batch needs any more, as itself or as context; each is returned once."""
        needed: set[int] = set()
        for before, batch, after in self._with_neighbours():
            if not batch.done:
                needed.update(batch.numbers)
                needed.update(before.numbers[-1:] if before else ())
                needed.update(after.numbers[:1] if after else ())
        if self._batches and not self._ended:
            needed.add(self._batches[-1].numbers[-1])
        while len(self._batches) > 1 and self._batches[0].done and self._batches[1].done:
            self._stills.difference_update(self._batches.popleft().numbers)
        unneeded = sorted(self._stored - needed)
        self._stored &= needed
        return unneeded
