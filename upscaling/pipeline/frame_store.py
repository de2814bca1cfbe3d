"""A job's frames in shared storage: decoded frames in input_frames/, upscaled frames in output_frames/.

With --steady the network's frames are in upscaled_frames/, and the steadied ones in output_frames/.

`.npy` files hold frames in the layouts of the decoder and the encoder. With --frame-format png they are 8-bit RGB
pictures that a person can open, and are converted on the way in and on the way out.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from upscaling.common.errors import InputError
from upscaling.common.files import create_file
from upscaling.common.memory_limits import check_memory
from upscaling.frames import pixel_formats
from upscaling.frames.conversion import FrameConversion
from upscaling.frames.frame_files import npy_bytes, read_frame, write_frame, write_npy
from upscaling.frames.layout import FrameLayout
from upscaling.frames.swscale import Resizer
from upscaling.job.work_dir import WorkDir
from upscaling.pipeline.plan import Plan
from upscaling.workers.manifest import Manifest
from upscaling.workers.pool import WorkerError


class FrameStore:
    """Frames of one job. `put` is for the decode thread only, `decoded` and `planes` for the encode thread only."""

    def __init__(self, plan: Plan, work_dir: WorkDir):
        self._plan, self._work_dir = plan, work_dir
        self._decoded, self._encoded = plan.conversion.source, plan.conversion.target
        self._input, self._output = plan.stored.source, plan.stored.target.padded
        self._upscaled = "upscaled_frames" if plan.steady else "output_frames"  # the network's
        self._extension = plan.options.frame_format
        self._output_bytes = npy_bytes(self._output) if self._extension == "npy" else -1
        self._to_rgb = self._from_rgb = None
        if self._extension == "png":
            self._to_rgb = Resizer(FrameConversion(source=self._decoded, target=self._decoded.as_rgb24))
            self._from_rgb = Resizer(FrameConversion(source=self._encoded.as_rgb24, target=self._encoded))

    # Decoded frames

    def flat(self, planes: list[np.ndarray]) -> np.ndarray:
        """A decoded frame as one flat array: its planes one after another, without padding."""
        samples = self._decoded.empty()
        for target, plane in zip(self._decoded.planes(samples), planes, strict=True):
            target[...] = plane.reshape(target.shape)
        return samples

    def put(self, number: int, samples: np.ndarray) -> None:
        """Store a decoded flat frame for the workers; OSError if it cannot be written."""
        path = self._file("input_frames", number)
        if self._to_rgb is not None:
            out = self._input.empty()
            self._to_rgb(samples, out)
            write_frame(path, out.reshape(self._input.stored_shape))
            return
        # No worker knows of the frame yet, so it need not appear atomically.
        with os.fdopen(create_file(path), "wb") as file:
            write_npy(file, samples.reshape(self._input.stored_shape))

    def decoded(self, number: int) -> np.ndarray:
        """A decoded frame that is still in storage, flat, in the layout `plan.stored.source`; OSError if it is not."""
        return read_frame(self._file("input_frames", number)).reshape(-1)

    def manifest(self, batch: int, numbers: Sequence[int]) -> tuple[Path, Manifest]:
        """The manifest of one batch of stored frames, and the path to write it to."""
        source, target = self._plan.stored.source, self._plan.stored.target
        manifest = Manifest(
            worker=batch % len(self._plan.models),
            input_dir=self._work_dir.folder("input_frames"),
            output_dir=self._work_dir.folder(self._upscaled),
            scale=max(Fraction(target.width, source.width), Fraction(target.height, source.height)),
            batch_size=self._plan.batch_size,
            patch_size=self._plan.models[0].patch_size,
            pixel_format=source.pixel_format,
            colour=_colour(source),
            total_frames=len(numbers),
            batches={batch: tuple(map(self._name, numbers))},
            # A manifest has one; RGB has no chroma planes, so the other side's counts.
            chroma_location=(source if source.format.chroma else target).chroma_location,
            frame_size=(source.width, source.height),
            output_size=(target.width, target.height),
            output_pixel_format=target.pixel_format,
            output_colour=_colour(target),
        )
        return self._work_dir.folder("manifests") / f"manifest_{batch:06d}.txt", manifest

    def steady_manifest(self, batch: int, moving: Sequence[int], context: Sequence[int]) -> tuple[Path, Manifest]:
        """The manifest that steadies upscaled frames of a batch, and the path to write it to."""
        path, manifest = self.manifest(batch, moving)
        manifest = replace(
            manifest,
            output_dir=self._work_dir.folder("output_frames"),
            upscaled_dir=manifest.output_dir,
            context=tuple(map(self._name, context)),
        )
        return path.with_name(f"steady_{batch:06d}.txt"), manifest

    # Upscaled frames

    def damage(self, numbers: Iterable[int], steadied: bool = False) -> str:
        """What is wrong with the upscaled, or steadied, frames of these numbers; empty if they are whole."""
        folder = "output_frames" if steadied else self._upscaled
        for number in numbers:
            if self._has_output_size(folder, number):
                continue  # cheaper than opening it
            try:
                self._samples(folder, number)
            except WorkerError as error:
                return str(error)
        return ""

    def _has_output_size(self, folder: str, number: int) -> bool:
        try:
            return self._file(folder, number).stat().st_size == self._output_bytes
        except OSError:
            return False

    def _samples(self, folder: str, number: int) -> np.ndarray:
        """An upscaled frame in its stored shape; WorkerError if it is missing or damaged."""
        try:
            samples = read_frame(self._file(folder, number))
        except (OSError, InputError) as error:
            check_memory(error)
            raise WorkerError(f"upscaled frame {number} is damaged: {error}") from error
        if samples.dtype != self._output.format.dtype or samples.size != self._output.sample_count:
            raise WorkerError(f"upscaled frame {number} has the wrong size")
        return samples

    def planes(self, number: int) -> list[np.ndarray]:
        """The planes of an upscaled frame for the encoder; .npy files are memory-mapped."""
        samples, encoded = self._samples("output_frames", number), self._encoded.padded
        if self._from_rgb is not None:
            out = encoded.empty()
            self._from_rgb(samples, out)
            samples = out
        return encoded.planes(samples)

    def keep_as_upscaled(self, number: int) -> None:
        """The network's frame is the result: --steady leaves it alone."""
        source, result = self._file(self._upscaled, number), self._file("output_frames", number)
        try:
            os.link(source, result)
        except OSError:  # a file system without links
            shutil.copyfile(source, result)

    # Removal

    def discard_output(self, number: int, steadied: bool = False) -> None:
        """Remove an upscaled, or steadied, frame, so that a worker makes it again."""
        self._file("output_frames" if steadied else self._upscaled, number).unlink(missing_ok=True)

    def remove(self, number: int) -> None:
        """Remove a frame that is encoded; with --steady others may need it, see `remove_sources`."""
        self._file("output_frames", number).unlink(missing_ok=True)
        if not self._plan.steady:
            self._file("input_frames", number).unlink(missing_ok=True)

    def remove_sources(self, number: int) -> None:
        """Remove a decoded frame and the network's result."""
        for folder in ("input_frames", self._upscaled):
            self._file(folder, number).unlink(missing_ok=True)

    def _name(self, number: int) -> str:
        return pixel_formats.frame_name(number, self._extension)

    def _file(self, folder: str, number: int) -> Path:
        return self._work_dir.folder(folder) / self._name(number)


def _colour(layout: FrameLayout) -> str:
    return f"{layout.matrix} {'full' if layout.full_range else 'limited'}"
