"""What a user is told once, at the first run in a terminal: which model suits what."""

from upscaling.common.errors import UpscaleError
from upscaling.job.options import Options
from upscaling.terminal.progress import Progress

HINT = (
    "first run: {default} suits animation and is the fastest model; for film and photographs choose "
    "--model realesr-general-x4v3 (about 2 times the time) or --model RealESRGAN_x4plus (about 18 times); "
    "--list-models says more, --preview sheet.png shows each on your video"
)


def show_hint(options: Options, progress: Progress) -> None:
    """Show the hint if this user has not seen it, nor chosen a model; a file in the cache directory remembers that."""
    from upscaling.models.weights import cache_dir

    default = Options.model
    if options.model != default or not progress.in_terminal:
        return
    try:
        directory = cache_dir()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "first-run-hint-shown").touch(exist_ok=False)
    except (OSError, UpscaleError):  # it was shown, or there is no place to remember it
        return
    progress.say(HINT.format(default=default))
