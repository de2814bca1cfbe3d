"""One batch of a steady manifest: its upscaled frames read with their neighbours, steadied and written one by one."""

from collections.abc import Callable, Sequence

from upscaling.frames.conversion import FrameConversion
from upscaling.frames.frame_files import read_frame, write_frame
from upscaling.workers.manifest import Manifest, frame_number


def steady_batch(
    manifest: Manifest, names: Sequence[str], conversion: FrameConversion, heartbeat: Callable[[], None]
) -> None:
    """Steady the frames `names` of a manifest with `upscaled_dir`; OpenCV is imported here.

    A frame's neighbours are those before and after it, by number, among all frames that the manifest names. Few frames
    are in memory at a time: `.npy` files are mapped.
    """
    from upscaling.inference.steady import steady_frames

    assert manifest.upscaled_dir is not None, "not a steady manifest"
    listed = sorted((*manifest.frames, *manifest.context), key=frame_number)
    places = sorted(map(listed.index, names))
    around = listed[max(0, places[0] - 1) : places[-1] + 2]
    steadied = steady_frames(
        [read_frame(manifest.input_dir / name) for name in around],
        [read_frame(manifest.upscaled_dir / name) for name in around],
        [around.index(name) for name in names],
        conversion,
        heartbeat,
    )
    shape = conversion.target.padded.stored_shape
    for name, samples in zip(names, steadied, strict=True):
        write_frame(manifest.output_dir / name, samples.reshape(shape))
