"""Frames through a network in patches of one shape that fit the memory, none of them computed twice.

A patch whose input, overlap included, equals the same patch of the frame before is computed once for both.
What is given to the network has the same shape whatever is skipped, so the result is the same to the bit:
one patch a pass on a CPU (batches gain nothing there), a full batch on CUDA, the last one filled with copies.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from errors import UpscaleError
from memory import is_out_of_memory
from network import Network
from patches import Grid, Span, grid

SMALLEST = 32  # pixels, side of the smallest patch that is tried when memory runs out
WHOLE = 1 << 62  # a budget in pixels: no limit

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
    """

    def __init__(self, run: Run, network: Network, budget: int, batch: int, beat: Callable[[], None]):
        self.run, self.network, self.beat = run, network, beat
        self.budget, self.batch = budget, batch
        self.computed = self.reused = 0
        self.notes: list[str] = []

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W), float32 in [0, 1], to (N, 3, H * factor, W * factor), clipped to [0, 1].

        Raises UpscaleError where the smallest patch, or the result itself, does not fit the memory.
        """
        network = self.network
        rows, columns = frames.shape[-2:]
        padded = _padded(frames, network.multiple, network.minimum)
        out = _result(padded, network.factor)
        plan = self._grid(padded)
        tasks, done = _tasks(padded, plan), 0
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
                tasks = _tasks(padded, plan)
        self.computed += len(tasks)
        self.reused += len(frames) * len(plan.patches()) - len(tasks)
        return out[..., : rows * network.factor, : columns * network.factor]

    def _grid(self, frames: torch.Tensor) -> Grid:
        network = self.network
        rows, columns = frames.shape[-2:]
        return grid(rows, columns, self.budget, network.halo, network.multiple, network.minimum)

    def _compute(self, frames: torch.Tensor, plan: Grid, chunk: list[Task]) -> torch.Tensor:
        """One forward pass: (B, 3, height * factor, width * factor), at least a picture for each task, clipped."""
        inputs = [_window(frames[task.first], plan, task.rows, task.columns) for task in chunk]
        if frames.device.type == "cuda":
            inputs += inputs[-1:] * (self.batch - len(inputs))
        self.beat()
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
        self.budget = max(plan.area // 4, SMALLEST**2)
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


def _result(frames: torch.Tensor, factor: int) -> torch.Tensor:
    """The empty result for these frames."""
    number, channels, rows, columns = frames.shape
    try:
        return torch.empty((number, channels, rows * factor, columns * factor), device=frames.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UpscaleError(
            f"{number} frames of {columns * factor}x{rows * factor} do not fit the memory of the device: "
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


def _tasks(frames: torch.Tensor, plan: Grid) -> list[Task]:
    """The patches to compute, patch by patch and frame by frame."""
    patches, number = plan.patches(), len(frames)
    changed = torch.ones(len(patches), number, dtype=torch.bool)
    if number > 1:
        pixels = (frames[1:] != frames[:-1]).any(1)  # (N - 1, H, W)
        changed[:, 1:] = torch.stack([_window(pixels, plan, y, x).flatten(1).any(1) for y, x in patches]).cpu()
    tasks = []
    for (rows, columns), flags in zip(patches, changed.tolist(), strict=True):
        starts = [n for n, flag in enumerate(flags) if flag]
        tasks += [Task(rows, columns, *run) for run in zip(starts, [*starts[1:], number], strict=True)]
    return tasks


def _window(frames: torch.Tensor, plan: Grid, rows: Span, columns: Span) -> torch.Tensor:
    """The patch of frames (…, H, W): (…, height, width), a view."""
    return frames[..., rows.start : rows.start + plan.height, columns.start : columns.start + plan.width]
