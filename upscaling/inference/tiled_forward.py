"""Frames through a network, tile by tile.

Tiles that did not change since the frame before are not computed (tile_reuse.py). If the device runs out of memory,
the pass is tried again with fewer or smaller tiles (memory.PassLimits). A pass always has the same shape, whatever is
skipped, so that the result is the same to the bit: one tile on a CPU (batches gain nothing there), a full batch on
CUDA, the last one filled up with copies.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from upscaling.common.errors import UpscaleError
from upscaling.inference.memory import MIN_TILE, PassLimits, is_out_of_memory
from upscaling.inference.tile_reuse import FrameChanges, TileRun, tile_runs
from upscaling.inference.tiling import Grid, Span, make_grid
from upscaling.models.network import Network

RunNetwork = Callable[[torch.Tensor], torch.Tensor]  # (B, C, h, w) to (B, C, h * scale, w * scale), float32


class TiledForward:
    """A network for frames of any size.

    `run` computes a pass of `network`; `limits` bounds a pass. `computed` and `reused` count tiles. The result lies in
    a buffer of this object, which the next call overwrites: tiles that did not change need no copy there.
    """

    def __init__(self, run: RunNetwork, network: Network, limits: PassLimits, heartbeat: Callable[[], None]):
        self.run, self.network, self.limits, self.heartbeat = run, network, limits, heartbeat
        self.computed = self.reused = 0
        self._checksum: torch.Tensor | None = None
        self._results: torch.Tensor | None = None  # (n, C, H * scale, W * scale)
        self._previous: tuple[Grid, int] | None = None  # of the last frame: its tiles, index of its result

    def take_checksum(self) -> torch.Tensor | None:
        """The sum of all that the network has returned since the last call, (), on the device: NaN or infinite if any
        value was. None if the network was not run."""
        checksum, self._checksum = self._checksum, None
        return checksum

    def release(self) -> None:
        """Free the result's buffer; the next call computes all tiles."""
        self._results = self._previous = None

    def __call__(self, frames: torch.Tensor, changes: FrameChanges | None = None) -> torch.Tensor:
        """(N, C, H, W), float32 in [0, 1], to (N, C, H * scale, W * scale), clipped to [0, 1].

        `changes` between the frames tell which tiles need not be computed; if frame 0 follows another one there, that
        was the last frame of the call before. Without them all are computed. The result is valid until the next call.
        UpscaleError if the smallest tile or the result does not fit into memory.
        """
        scale = self.network.scale
        rows, columns = frames.shape[-2:]
        padded = _padded(frames, self.network.multiple_of, self.network.minimum)
        out = self._result_buffer(padded)
        grid = self._grid(padded)
        runs = self._changed_tiles(changes, grid, out)
        done = 0
        while done < len(runs):
            part = runs[done : done + self.limits.batch]
            failure = self._compute(padded, grid, part, out)
            if failure is None:
                done += len(part)
            elif not self.limits.halve_batch():
                grid = self._smaller_grid(padded, grid, failure)
                runs, done = (
                    tile_runs(len(frames), grid, changes)[0],
                    0,
                )  # all of them: other tiles may differ in the last bit
        self._previous = grid, len(frames) - 1
        self.computed += len(runs)
        self.reused += len(frames) * len(grid.tiles()) - len(runs)
        return out[..., : rows * scale, : columns * scale]

    def _result_buffer(self, frames: torch.Tensor) -> torch.Tensor:
        """The part of the buffer for the results of these frames."""
        number, channels, rows, columns = frames.shape
        shape = (channels, rows * self.network.scale, columns * self.network.scale)
        results = self._results
        if results is None or results.shape[1:] != shape or len(results) < number or results.device != frames.device:
            self._results = self._previous = results = None  # free the old one before the new one is allocated
            results = self._results = _allocated((number, *shape), frames.device)
        return results[:number]

    def _changed_tiles(self, changes: FrameChanges | None, grid: Grid, out: torch.Tensor) -> list[TileRun]:
        """The tiles to compute; the others are in `out`, copied from the result of the frame before if necessary."""
        previous, self._previous = self._previous, None  # until this call has succeeded
        if previous is None or previous[0] != grid or changes is None or not changes.follows:
            return tile_runs(len(out), grid, changes)[0]  # results of other tiles may differ in the last bit
        runs, kept = tile_runs(len(out), grid, changes, after=True)
        assert self._results is not None  # it holds the result of the frame before
        _copy_kept(kept, out, self._results[previous[1]], self.network.scale)
        return runs

    def _grid(self, frames: torch.Tensor) -> Grid:
        network, (rows, columns) = self.network, frames.shape[-2:]
        alignment = math.lcm(network.alignment, network.multiple_of)
        return make_grid(rows, columns, self.limits.tile_area, network.overlap, alignment, network.minimum)

    def _smaller_grid(self, frames: torch.Tensor, grid: Grid, failure: str) -> Grid:
        """Tiles of half the side; UpscaleError if they cannot be smaller."""
        self.limits.tile_area = max(grid.area // 4, MIN_TILE**2)
        smaller = self._grid(frames)
        if smaller.area >= grid.area:
            raise UpscaleError(
                f"a single tile of {grid.width}x{grid.height} pixels does not fit into the memory of the device "
                f"({failure}); use fewer workers or another device"
            )
        self.limits.notes.append(f"out of memory: using tiles of {smaller.width}x{smaller.height} from now on")
        return smaller

    def _compute(self, frames: torch.Tensor, grid: Grid, runs: list[TileRun], out: torch.Tensor) -> str | None:
        """One pass, its result pasted into `out`. Return the error's first line if memory ran out, else None."""
        try:
            inputs = [window(frames[run.first], grid, run.rows, run.columns) for run in runs]
            if frames.device.type == "cuda":
                inputs += inputs[-1:] * (self.limits.batch - len(inputs))
            self.heartbeat()
            batch = torch.stack(inputs).contiguous(memory_format=torch.channels_last)  # (B, C, height, width)
            result = self.run(batch)  # (B, C, height * scale, width * scale)
            total = result.sum()  # before clipping, which hides infinities
            self._checksum = total if self._checksum is None else self._checksum + total
            _paste(runs, result.clamp(0, 1), out, self.network.scale)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error).split("\n")[0]
        # The caller retries after this function has returned: a traceback would keep the activations in memory.
        return None


def window(frames: torch.Tensor, grid: Grid, rows: Span, columns: Span) -> torch.Tensor:
    """The tile of frames (…, H, W): (…, grid.height, grid.width), a view."""
    return frames[..., rows.start : rows.start + grid.height, columns.start : columns.start + grid.width]


def _padded(frames: torch.Tensor, multiple: int, minimum: int) -> torch.Tensor:
    """Frames mirrored at the right and bottom edge until their sides are multiples and at least the minimum.

    Mirrored as realesrgan's `pre_process` does; the edge is repeated if there is too little to mirror.
    """
    rows, columns = frames.shape[-2:]
    down = max(-(-rows // multiple) * multiple, -(-minimum // multiple) * multiple) - rows
    right = max(-(-columns // multiple) * multiple, -(-minimum // multiple) * multiple) - columns
    if not down and not right:
        return frames
    mode = "reflect" if down < rows and right < columns else "replicate"
    return F.pad(frames, (0, right, 0, down), mode=mode)


def _allocated(shape: tuple[int, int, int, int], device: torch.device) -> torch.Tensor:
    """A new tensor, its values undefined; UpscaleError if there is too little memory."""
    try:
        return torch.empty(shape, device=device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UpscaleError(
            f"{shape[0]} frames of {shape[3]}x{shape[2]} do not fit into the memory of the device; "
            "use a smaller batch size or fewer workers"
        ) from error


def _paste(runs: list[TileRun], pictures: torch.Tensor, out: torch.Tensor, scale: int) -> None:
    """Copy what each tile contributes into its frames; `pictures` (B, C, h, w) may have copies at the end."""
    for run, picture in zip(runs, pictures, strict=False):
        y, x = [slice(s.first * scale, s.last * scale) for s in (run.rows, run.columns)]  # in the result
        v, u = [slice((s.first - s.start) * scale, (s.last - s.start) * scale) for s in (run.rows, run.columns)]
        out[run.first : run.last, :, y, x] = picture[:, v, u]


def _copy_kept(kept: list[TileRun], out: torch.Tensor, previous: torch.Tensor, scale: int) -> None:
    """Copy tiles that did not change from the result of the frame before, (C, H, W), which may be one of `out`."""
    for run in kept:
        y, x = [slice(s.first * scale, s.last * scale) for s in (run.rows, run.columns)]
        for target in out[run.first : run.last, :, y, x]:
            source = previous[:, y, x]
            if target.data_ptr() != source.data_ptr():
                target.copy_(source)
