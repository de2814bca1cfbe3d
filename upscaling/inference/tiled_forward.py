"""Frames through a network in patches of one shape that fit the memory, none of them computed twice.

A patch whose input, overlap included, equals the same patch of the frame before is computed once for both, also
where that frame came with the call before (a frame of a large video is a call by itself).
What is given to the network has the same shape whatever is skipped, so the result is the same to the bit:
one patch a pass on a CPU (batches gain nothing there), a full batch on CUDA, the last one filled with copies.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn import functional as F

from upscaling.common.errors import UpscaleError
from upscaling.inference.memory import is_out_of_memory
from upscaling.inference.network import Network
from upscaling.inference.tiling import Grid, Span, grid

MIN_TILE = 32  # pixels, side of the smallest patch that is tried when memory runs out
NO_LIMIT = 1 << 62  # a budget in pixels: no limit

Run = Callable[[torch.Tensor], torch.Tensor]  # (B, 3, h, w) to (B, 3, h * factor, w * factor), float32


@dataclass(frozen=True)
class Task:
    """A patch to compute: taken from frame `first`, good for frames [first, last)."""

    rows: Span
    columns: Span
    first: int
    last: int


class Forward:
    """A network that takes frames of any size.

    `run` is the network; `network` says its factor, its halo and which sizes it takes. `budget` is the most
    pixels of a patch, overlap included, and `batch` the patches in one pass: both go down when the device
    runs out of memory and stay there. `computed` and `reused` count patches; `notes` are lines for a log.
    The result lies in a buffer of this object that the next call writes to: what did not change is there already.
    """

    def __init__(self, run: Run, network: Network, budget: int, batch: int, heartbeat: Callable[[], None]):
        self.run, self.network, self.heartbeat = run, network, heartbeat
        self.budget, self.batch = budget, batch
        self.computed = self.reused = 0
        self.notes: list[str] = []
        self._results: torch.Tensor | None = None  # (n, 3, H * factor, W * factor)
        self._before: tuple[Grid, torch.Tensor, int] | None = None  # the last frame (3, H, W), where its result is

    def forget(self) -> None:
        """The next frame follows none: it is computed whole."""
        self._before = None

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W), float32 in [0, 1], to (N, 3, H * factor, W * factor), clipped to [0, 1].

        The first frame follows the last one of the call before, unless `forget` was called. The result is valid
        until the next call. Raises UpscaleError where the smallest patch, or the result, does not fit the memory.
        """
        network = self.network
        rows, columns = frames.shape[-2:]
        padded = _padded(frames, network.multiple, network.minimum)
        out = self._room(padded)
        plan = self._grid(padded)
        before, self._before = self._before, None  # until this call has ended well
        if before is None or before[0] != plan:  # results of other patches may differ in the last bit
            tasks, _ = _tasks(padded, plan)
        else:
            tasks, kept = _tasks(padded, plan, before[1])
            _carry(kept, out, self._results[before[2]], network.factor)
        done = 0
        while done < len(tasks):
            try:
                chunk = tasks[done : done + self.batch]
                _paste(chunk, self._compute(padded, plan, chunk), out, network.factor)
                done += len(chunk)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                words = str(error).split("\n")[0]
            # Here, not in the handler: the error's traceback would hold on to the activations.
            smaller = self._shrink(padded, plan, words)
            if smaller is not plan:
                plan, done = smaller, 0
                tasks, _ = _tasks(padded, plan)  # all of it, as above
        self._before = plan, padded[-1].clone(), len(frames) - 1
        self.computed += len(tasks)
        self.reused += len(frames) * len(plan.patches()) - len(tasks)
        return out[..., : rows * network.factor, : columns * network.factor]

    def _room(self, frames: torch.Tensor) -> torch.Tensor:
        """The part of `_results` for these frames' result."""
        number, channels, rows, columns = frames.shape
        shape = (channels, rows * self.network.factor, columns * self.network.factor)
        results = self._results
        if results is None or results.shape[1:] != shape or len(results) < number or results.device != frames.device:
            self._results = self._before = results = None  # the old one goes before the new one comes
            self._results = _empty((number, *shape), frames.device)
        return self._results[:number]

    def _grid(self, frames: torch.Tensor) -> Grid:
        network = self.network
        rows, columns = frames.shape[-2:]
        return grid(rows, columns, self.budget, network.halo, math.lcm(network.step, network.multiple), network.minimum)

    def _compute(self, frames: torch.Tensor, plan: Grid, chunk: list[Task]) -> torch.Tensor:
        """One forward pass: (B, 3, height * factor, width * factor), at least a picture for each task, clipped."""
        inputs = [_window(frames[task.first], plan, task.rows, task.columns) for task in chunk]
        if frames.device.type == "cuda":
            inputs += inputs[-1:] * (self.batch - len(inputs))
        self.heartbeat()
        batch = torch.stack(inputs).contiguous(memory_format=torch.channels_last)  # (B, 3, height, width)
        return self.run(batch).clamp(0, 1)

    def _shrink(self, frames: torch.Tensor, plan: Grid, words: str) -> Grid:
        """Half the batch, else patches of half the side: the patches to go on with. UpscaleError at the end."""
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if self.batch > 1:
            self.batch //= 2
            self.notes.append(f"out of memory: {self.batch} patches at a time from now on")
            return plan
        self.budget = max(plan.area // 4, MIN_TILE**2)
        smaller = self._grid(frames)
        if smaller.area >= plan.area:
            raise UpscaleError(
                f"a single patch of {plan.width}x{plan.height} pixels does not fit the memory of the device "
                f"({words}): use fewer workers or another device"
            )
        self.notes.append(f"out of memory: patches of {smaller.width}x{smaller.height} from now on")
        return smaller


def _padded(frames: torch.Tensor, multiple: int, minimum: int) -> torch.Tensor:
    """Frames whose sides are multiples and at least the minimum: mirrored at the right and bottom edge.

    Mirrored as realesrgan's `pre_process` does; repeated where there is too little to mirror.
    """
    rows, columns = frames.shape[-2:]
    down = max(-(-rows // multiple) * multiple, -(-minimum // multiple) * multiple) - rows
    right = max(-(-columns // multiple) * multiple, -(-minimum // multiple) * multiple) - columns
    if not down and not right:
        return frames
    mode = "reflect" if down < rows and right < columns else "replicate"
    return F.pad(frames, (0, right, 0, down), mode=mode)


def _empty(shape: tuple[int, int, int, int], device: torch.device) -> torch.Tensor:
    """Room for a result of that shape, not filled."""
    try:
        return torch.empty(shape, device=device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UpscaleError(
            f"{shape[0]} frames of {shape[3]}x{shape[2]} do not fit the memory of the device: "
            "use a smaller batch size or fewer workers"
        ) from error


def _paste(chunk: list[Task], pictures: torch.Tensor, out: torch.Tensor, factor: int) -> None:
    """The given part of each task's picture into its frames."""
    for task, picture in zip(chunk, pictures, strict=False):
        y, x = [slice(s.first * factor, s.last * factor) for s in (task.rows, task.columns)]  # in the result
        v, u = [
            slice((s.first - s.start) * factor, (s.last - s.start) * factor) for s in (task.rows, task.columns)
        ]  # in the picture
        out[task.first : task.last, :, y, x] = picture[:, v, u]


def _tasks(frames: torch.Tensor, plan: Grid, before: torch.Tensor | None = None) -> tuple[list[Task], list[Task]]:
    """(patches to compute, patch by patch and frame by frame; patches that are as in the frame `before`)."""
    patches, number = plan.patches(), len(frames)
    changed = torch.ones(len(patches), number, dtype=torch.bool)
    if number > 1:
        changed[:, 1:] = _changes(frames[1:], frames[:-1], plan)
    if before is not None:
        changed[:, :1] = _changes(frames[:1], before[None], plan)
    tasks, kept = [], []
    for (rows, columns), flags in zip(patches, changed.tolist(), strict=True):
        starts = [n for n, flag in enumerate(flags) if flag]
        tasks += [Task(rows, columns, *run) for run in pairwise([*starts, number])]
        kept.append(Task(rows, columns, 0, starts[0] if starts else number))
    return tasks, kept


def _changes(frames: torch.Tensor, earlier: torch.Tensor, plan: Grid) -> torch.Tensor:
    """Which patches differ between frames (n, 3, H, W) and the ones before them: (patches, n), bool, on the CPU."""
    pixels = (frames != earlier).any(1)  # (n, H, W)
    return torch.stack([_window(pixels, plan, y, x).flatten(1).any(1) for y, x in plan.patches()]).cpu()


def _carry(kept: list[Task], out: torch.Tensor, before: torch.Tensor, factor: int) -> None:
    """The given parts of patches that are as in the frame before from its result, which may be one of `out`."""
    for task in kept:
        y, x = [slice(s.first * factor, s.last * factor) for s in (task.rows, task.columns)]
        for target in out[task.first : task.last, :, y, x]:
            source = before[:, y, x]
            if target.data_ptr() != source.data_ptr():
                target.copy_(source)


def _window(frames: torch.Tensor, plan: Grid, rows: Span, columns: Span) -> torch.Tensor:
    """The patch of frames (…, H, W): (…, height, width), a view."""
    return frames[..., rows.start : rows.start + plan.height, columns.start : columns.start + plan.width]
