"""Frames through a network in patches of one shape that fit the memory, none of them computed twice.

A patch whose input, overlap included, equals the same patch of the frame before is copied from there. What
is given to the network has the same shape whatever is skipped, so the result is the same to the bit: one
patch a pass on a CPU (batches gain nothing there), a full batch on CUDA, the last one filled up with copies.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from errors import UpscaleError
from memory import is_out_of_memory
from network import Network
from patches import Grid, Patch, grid

SMALLEST = 32  # pixels, side of the smallest patch that is tried when memory runs out
WHOLE = 1 << 62  # a budget in pixels: no limit

Run = Callable[[torch.Tensor], torch.Tensor]  # (B, 3, h, w) to (B, 3, h * factor, w * factor), float32


class Forward:
    """A network that takes frames of any size.

    `run` is the network; `network` says its factor, halo and what sizes it takes. `budget` is the most
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
        plan, done = self._grid(padded), 0
        todo, same = _changed(padded, plan)
        while done < len(todo):
            try:
                self._compute(padded, plan, todo[done : done + self.batch], out)
                done += self.batch
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                words = str(error).split("\n")[0]
            # Here, not in the handler: the error's traceback would hold on to the activations.
            smaller = self._shrink(padded, plan, words)
            if smaller is not plan:
                plan, done = smaller, 0
                todo, same = _changed(padded, plan)
        for number, patch in same:
            region = _region(patch, network.factor)
            out[number][region] = out[number - 1][region]
        self.computed += len(todo)
        self.reused += len(same)
        return out[..., : rows * network.factor, : columns * network.factor]

    def _grid(self, frames: torch.Tensor) -> Grid:
        network = self.network
        rows, columns = frames.shape[-2:]
        return grid(rows, columns, self.budget, network.halo, network.multiple, network.minimum)

    def _compute(self, frames: torch.Tensor, plan: Grid, chunk: list[tuple[int, Patch]], out: torch.Tensor) -> None:
        """One forward pass: patches of `frames` in, their given parts pasted into `out`."""
        factor = self.network.factor
        inputs = [
            frames[number, :, patch.top : patch.top + plan.height, patch.left : patch.left + plan.width]
            for number, patch in chunk
        ]
        if frames.device.type == "cuda":
            inputs += inputs[-1:] * (self.batch - len(inputs))
        self.beat()
        batch = torch.stack(inputs).contiguous(memory_format=torch.channels_last)  # (B, 3, height, width)
        results = self.run(batch)  # (B, 3, height * factor, width * factor)
        for (number, patch), result in zip(chunk, results, strict=False):
            top, left = patch.top * factor, patch.left * factor
            rows = slice(patch.first_row * factor - top, patch.last_row * factor - top)
            columns = slice(patch.first_column * factor - left, patch.last_column * factor - left)
            out[number][_region(patch, factor)] = result[:, rows, columns].clamp(0, 1)

    def _shrink(self, frames: torch.Tensor, plan: Grid, words: str) -> Grid:
        """Half the batch, else patches of half the side: the patches to go on with. UpscaleError at the end."""
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if self.batch > 1:
            self.batch //= 2
            self.notes.append(f"out of memory: {self.batch} patches at a time from now on")
            return plan
        area = plan.height * plan.width
        self.budget = max(area // 4, SMALLEST**2)
        smaller = self._grid(frames)
        if smaller.height * smaller.width >= area:
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


def _changed(frames: torch.Tensor, plan: Grid) -> tuple[list[tuple[int, Patch]], list[tuple[int, Patch]]]:
    """(frame, patch) pairs to compute, and those whose input equals the frame's before, both in frame order."""
    patches = plan.patches
    differs = torch.ones(len(frames), len(patches), dtype=torch.bool)
    if len(frames) > 1:
        pixels = (frames[1:] != frames[:-1]).any(1)  # (N - 1, H, W)
        windows = [pixels[:, p.top : p.top + plan.height, p.left : p.left + plan.width] for p in patches]
        differs[1:] = torch.stack([window.flatten(1).any(1) for window in windows], 1).cpu()  # (N - 1, patches)
    pairs = [(number, patch) for number in range(len(frames)) for patch in patches]
    flags = differs.flatten().tolist()
    todo = [pair for pair, flag in zip(pairs, flags, strict=True) if flag]
    return todo, [pair for pair, flag in zip(pairs, flags, strict=True) if not flag]


def _region(patch: Patch, factor: int) -> tuple[slice, slice, slice]:
    """The part of a result (3, H * factor, W * factor) that a patch gives."""
    return (
        slice(None),
        slice(patch.first_row * factor, patch.last_row * factor),
        slice(patch.first_column * factor, patch.last_column * factor),
    )
