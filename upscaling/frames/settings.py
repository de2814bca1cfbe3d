"""What a worker is asked for: which model on which device, and which picture. Free of heavy imports."""

from dataclasses import dataclass

from upscaling.frames.pixel_formats import FORMATS, pixel_format

LANCZOS = "lanczos"  # the model name that means: no network, a plain resize of the planes


@dataclass(frozen=True)
class ModelSettings:
    """The model and how it runs; one for all frames of a run.

    `model` is a name or the path of a weights file. `device` is "cpu" or "cuda:N". `patch_size` is in
    pixels of the input, 0 for whole frames. `threads` are CPU threads of this worker, `sharers` the workers on
    its device, this one included: each plans with its part of the free memory. `strength` in 0..1 blends
    the network's picture (1) with a plain Lanczos resize (0); `denoise` in 0..1 or None is for
    realesr-general-x4v3 alone.
    """

    model: str = "realesr-animevideov3"
    device: str = "cpu"
    precision: str = "auto"
    patch_size: int = 256
    batch_size: int = 8
    threads: int = 1
    denoise: float | None = None
    strength: float = 1.0
    compile: bool = False
    sharers: int = 1


@dataclass(frozen=True)
class PictureSettings:
    """Input and output frames of a manifest: sizes in pixels, formats of `frame.FORMATS`, colour names of FFmpeg.

    `out_width` × `out_height` is the exact upscaled size; a stored output frame is that, with its last
    column and row repeated up to the multiple that `out_pixel_format` needs (`stored_size`).
    """

    width: int
    height: int
    pixel_format: str
    matrix: str
    full_range: bool
    chroma_location: str
    out_width: int
    out_height: int
    out_pixel_format: str
    out_matrix: str
    out_full_range: bool
    out_chroma_location: str

    def __post_init__(self) -> None:
        for name in (self.pixel_format, self.out_pixel_format):
            pixel_format(name)

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of a stored output frame, in pixels."""
        across, down = FORMATS[self.out_pixel_format].multiple
        return -(-self.out_width // across) * across, -(-self.out_height // down) * down
