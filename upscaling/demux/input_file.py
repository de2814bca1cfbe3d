"""An input opened with FFmpeg: the named file alone, with read errors kept apart from damage.

FFmpeg does not open the file. It reads through an `InputFile`, and may use no protocol at all, so nothing inside the
file (a playlist, a reference to another file or address) can make it open anything else. FFmpeg takes a read error
for damage, or for the end of the file; `InputFile` raises it.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from io import BytesIO
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.stream import Stream

from upscaling.common.errors import InputError, UnsuitableInput, UpscaleError
from upscaling.common.memory_limits import check_memory
from upscaling.common.text import display_name
from upscaling.demux.channels import settle_layouts
from upscaling.demux.container_crop import read_crops

MAX_PIXELS = 8192 * 8192  # of a frame; 8K is half of that
MAX_READ_ERRORS = 100  # one after another; the file then counts as ended
_NO_LIMIT = str(1 << 60)  # µs
SLOW_SECONDS = 2.0  # of reading before the start, after which it is said
_BUFFER = 1 << 17  # bytes a read; FFmpeg reads packets that are larger in one piece
# Demuxers that open further files or addresses.
_PLAYLISTS = {
    "concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp", "smoothstreaming", "vobsub", "webm_dash_manifest",
}  # fmt: skip
_PICTURES = {"png", "jpg", "jpeg", "mpo", "webp", "tif", "tiff", "tga"}
# How playlists begin, for the message.
_PLAYLIST_STARTS = (b"ffconcat", b"#EXTM3U", b"v=0", b"# VobSub", b"[playlist]", b"rtsp:")
_PLAYLIST_ELEMENTS = (b"<MPD", b"<CompositionPlaylist", b"<SmoothStreamingMedia", b"<smil", b"<asx", b"<playlist")
# Errors that tell of the path, not of the disk or the connection behind it.
_PATH_ERRORS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO,
}  # fmt: skip


class VideoError(InputError):
    """The input is not a video that can be decoded; the message is one line that names the file."""


class UnsuitableVideo(VideoError, UnsuitableInput):
    """There is no video in the file that could be decoded, whole as it is."""


class ReadError(UpscaleError):
    """The file system cannot read the input now; what is done is kept."""


_slow_reading: ContextVar["_SlowReading | None"] = ContextVar("_slow_reading", default=None)


@contextlib.contextmanager
def tell_if_slow(say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block `say` is called with one line if a file is still being read after SLOW_SECONDS.

    That is for what reads files before a run starts: in this thread, and with nothing else on the screen.
    """
    token = _slow_reading.set(_SlowReading(say))
    try:
        yield
    finally:
        _slow_reading.reset(token)


class _SlowReading:
    """Says once that a file is being read."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say: Callable[[str], None] | None = say
        self._started = time.monotonic()

    def goes_on(self, path: Path) -> None:
        """More of a file is being read."""
        if self._say and time.monotonic() - self._started >= SLOW_SECONDS:
            say, self._say = self._say, None
            size = f"{path.stat().st_size / 1e6:.0f} MB"
            say(f"reading {display_name(path)} ({size}) to find its streams, its times and what changes in it")


class InputFile:
    """A file for `av.open`; after the first error it has no more data.

    FFmpeg may go on reading after an error, and PyAV reports only one exception. A PixelCrop of Matroska that is larger
    than the frame is read as zeros, because FFmpeg would refuse the whole file.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"file:{os.path.abspath(path)}"  # a raw stream is recognised by its extension
        self._path, self._failed = path, False
        self._zeros = [place for crop in read_crops(path).values() if not crop.fits for place in crop.places]
        self._file = path.open("rb", buffering=0)

    def read(self, size: int) -> bytes:
        """At most `size` bytes, empty at the end; ReadError."""
        if self._failed:
            return b""
        try:
            if slow := _slow_reading.get():
                slow.goes_on(self._path)
            position = self._file.tell() if self._zeros else 0
            return self._without_crop(self._file.read(size) or b"", position)
        except OSError as error:
            self._failed = True
            raise read_error(self._path, error) from error

    def _without_crop(self, data: bytes, position: int) -> bytes:
        for start, length in self._zeros:
            first, last = max(start - position, 0), min(start + length - position, len(data))
            if first < last:
                data = data[:first] + bytes(last - first) + data[last:]
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The new position; a negative errno for a position that a damaged file names."""
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class Input:
    """An input file and its open container; a context manager that gives the container."""

    def __init__(self, file: InputFile | BytesIO, container: InputContainer) -> None:
        self._file, self.container = file, container

    def __enter__(self) -> InputContainer:
        return self.container

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()
        self._file.close()  # PyAV does not


def open_input(path: Path | str, probe_bytes: int | None = None) -> Input:
    """Opens a file for reading, whatever its name looks like; close it after use.

    With `probe_bytes`, FFmpeg looks for streams in so many bytes of the file, and keeps none of them in memory; by
    default it looks at a few seconds.

    Metadata that is not UTF-8 is returned with surrogate escapes: an output that it is copied to needs
    metadata_errors="surrogateescape" as well. VideoError: the file is missing, a directory, empty, unreadable,
    a playlist, or not a video. ReadError: the disk or the network does not give it.
    """
    path = Path(path)
    file = _open_file(path)
    with contextlib.ExitStack() as on_error:
        on_error.callback(file.close)
        head = file.read(4096)
        file.seek(0)
        if is_playlist(head):
            raise UnsuitableVideo(f"{display_name(path)} is a playlist; give the video file that it names")
        # One picture, even if several follow each other in the file (phones' MPO in .jpg, animated PNG).
        kind = "image2" if path.suffix.lower().lstrip(".") in _PICTURES else None
        try:
            container = av.open(
                file,
                "r",
                format=kind,
                options=_options(probe_bytes),
                metadata_errors="surrogateescape",
                buffer_size=_BUFFER,
            )
            if probe_bytes:
                container.seek(0, unsupported_byte_offset=True)
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VideoError(f"{display_name(path)} is not a video that can be read ({reason})") from error
        settle_layouts(container)
        on_error.pop_all()
    return Input(file, container)


def _open_file(path: Path) -> InputFile:
    name = display_name(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size:
            return InputFile(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in _PATH_ERRORS:
            raise read_error(path, error) from error
        raise VideoError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISREG(status.st_mode):
        raise VideoError(f"{name} is empty")
    kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    raise VideoError(f"{name} is {kind}; give a video file")


def _options(probe_bytes: int | None) -> dict[str, str]:
    further = {"probesize": str(probe_bytes), "analyzeduration": _NO_LIMIT, "fflags": "nobuffer", "scan_all_pmts": "1"}
    return (further if probe_bytes else {}) | {
        "protocol_whitelist": "none",  # FFmpeg has no protocol of this name
        "format_whitelist": ",".join(sorted(av.formats_available - _PLAYLISTS)),
        "pattern_type": "none",  # a % in the name is a %, not the number of an image sequence
        "max_pixels": str(MAX_PIXELS),
    }


def is_playlist(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a playlist."""
    head = head[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    is_xml = head.startswith(b"<")
    return head.startswith(_PLAYLIST_STARTS) or (is_xml and any(element in head for element in _PLAYLIST_ELEMENTS))


def read_error(path: Path, error: OSError) -> ReadError:
    """The error for a file that exists but can't be read now."""
    return ReadError(
        f"cannot read {display_name(path)}: {error.strerror or error}; check its disk or network, then rerun to resume"
    )


def read_packets(
    container: InputContainer, streams: Stream | Sequence[Stream], failed: Callable[[int], None]
) -> Iterator[av.Packet]:
    """The packets of streams in file order, past damage, without empty ones (PyAV ends with one for each stream).

    `failed` is called with the number of failures one after another; at MAX_READ_ERRORS the file counts as ended.
    ReadError: the file system cannot read the file.
    """
    errors = ends = 0
    while errors + ends < MAX_READ_ERRORS:
        try:
            for packet in container.demux(streams):
                if not packet.size:
                    continue
                if ends and not errors:
                    failed(1)
                errors = ends = 0
                yield packet
            ends += 1  # MP4's demuxer says so, too, for one packet whose damaged position is after the end
        except IndexError:  # PyAV's, at the first packet of a stream that was not there when the file was opened
            continue
        except (av.error.FFmpegError, ValueError) as error:
            check_memory(error)
            errors += 1
            failed(errors)
