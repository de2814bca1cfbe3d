"""A job's frames in shared storage: what the decoder gives goes in, what the workers made of it comes out.

`.npy` files hold frames as the decoder gives them and the encoder takes them. With --frame-format png they are
pictures that a person can open: 8-bit RGB, so they are converted on the way in and on the way out.
"""

from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError
from upscaling.frames import pixel_formats
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.frame_files import npy_bytes, read_frame, write_frame, write_npy
from upscaling.frames.swscale import Resizer
from upscaling.job.plan import Plan
from upscaling.job.work_dir import WorkDir
from upscaling.workers.pool import WorkerError


class FrameStore:
    """Frames of one job. `put` is for the decode thread alone, `planes` for the encode thread, `samples` for any."""

    def __init__(self, plan: Plan, work_dir: WorkDir):
        self.conversion = plan.stored  # what manifests say of the frames
        self._work_dir = work_dir
        self._decoded, self._encoded = plan.conversion.source, plan.conversion.target
        self._input, self._output = plan.stored.source, plan.stored.target.padded
        self._extension = plan.options.frame_format
        self._file_bytes = npy_bytes(self._output) if self._extension == "npy" else -1
        self._to_rgb = self._from_rgb = None
        if self._extension == "png":
            self._to_rgb = Resizer(FrameConversion(source=self._decoded, target=self._decoded.as_rgb24))
            self._from_rgb = Resizer(FrameConversion(source=self._encoded.as_rgb24, target=self._encoded))

    def name(self, number: int) -> str:
        return pixel_formats.frame_name(number, self._extension)

    def flat(self, planes: list[np.ndarray]) -> np.ndarray:
        """A decoded frame's planes one after another without padding: a flat array."""
        samples = self._decoded.empty()
        for target, plane in zip(self._decoded.planes(samples), planes, strict=True):
            target[...] = plane.reshape(target.shape)
        return samples

    def put(self, number: int, samples: np.ndarray) -> None:
        """Store a decoded frame, flat, for the workers; OSError where the disk does not take it."""
        path = self._file("input_frames", number)
        if self._to_rgb is not None:
            out = self._input.empty()
            self._to_rgb(samples, out)
            write_frame(path, out.reshape(self._input.stored_shape))
            return
        with path.open("wb") as file:
            write_npy(file, samples.reshape(self._input.stored_shape))

    def has_its_size(self, number: int) -> bool:
        """Whether an upscaled frame's file is as long as it must be, which is quick to tell; False for pictures."""
        try:
            return self._file("output_frames", number).stat().st_size == self._file_bytes
        except OSError:
            return False

    def samples(self, number: int) -> np.ndarray:
        """An upscaled frame as it is stored; WorkerError where it is not whole."""
        try:
            samples = read_frame(self._file("output_frames", number))
        except (OSError, InputError) as error:
            raise WorkerError(f"frame {number} came back damaged: {error}") from error
        if samples.dtype != self._output.format.dtype or samples.size != self._output.sample_count:
            raise WorkerError(f"frame {number} came back with the wrong size")
        return samples

    def planes(self, number: int) -> list[np.ndarray]:
        """The planes of an upscaled frame as the encoder takes them; memory-mapped where they are stored so."""
        samples, encoded = self.samples(number), self._encoded.padded
        if self._from_rgb is not None:
            out = encoded.empty()
            self._from_rgb(samples, out)
            samples = out
        return encoded.planes(samples)

    def discard(self, number: int) -> None:
        """Forget what a worker made of a frame."""
        self._file("output_frames", number).unlink(missing_ok=True)

    def remove(self, number: int) -> None:
        """Forget a frame."""
        for folder in ("input_frames", "output_frames"):
            self._file(folder, number).unlink(missing_ok=True)

    def _file(self, folder: str, number: int) -> Path:
        return self._work_dir.folder(folder) / self.name(number)
