"""Inputs that can be read only in part, through the command: failing disks, damage, encryption, playlists."""

import re
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from clips import make_clip
from PIL import Image
from runs import LOSSLESS, ROOT, Run, frames_of, make_input, streams_of

FAILING = ROOT / "tests" / "failing_disk.py"
EXACT = {"crf": "0", "preset": "ultrafast", "g": "1"}  # each frame decodes by itself
FRAMES = 300


def upscale(tmp_path: Path, source: Path, name: str = "out.mkv", **options) -> Run:
    return Run(tmp_path, source, tmp_path / name, *LOSSLESS, **options)


# A failing disk


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_input(tmp_path_factory.mktemp("source") / "in.mkv", 80)


@pytest.fixture(scope="module")
def expected(source):
    upscale(source.parent, source).succeed()
    return frames_of(source.with_name("out.mkv")), streams_of(source.with_name("out.mkv"))


@pytest.mark.parametrize("thread", ["MainThread", "decode", "join"])
def test_a_read_error_ends_the_run_with_1_and_the_rerun_completes_it(tmp_path, source, expected, thread):
    environment = {"FAILS": f"{thread}:{tmp_path / 'failed'}"}
    line = upscale(tmp_path, source, script=FAILING, env=environment).fail(1)
    assert "cannot read" in line and "in.mkv: Input/output error" in line and "rerun" in line
    assert not (tmp_path / "out.mkv").exists()
    upscale(tmp_path, source, script=FAILING, env=environment).succeed()
    assert (frames_of(tmp_path / "out.mkv"), streams_of(tmp_path / "out.mkv")) == expected


def test_reading_that_takes_long_before_the_start_is_said_once(tmp_path):
    script = tmp_path / "at_once.py"  # every reading takes long
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from upscaling.cli.main import console\nfrom upscaling.demux import input_file\n"
        "input_file.SLOW_SECONDS = 0\nconsole()\n"
    )
    source = make_clip(tmp_path / "in.ts", 10)
    command = [sys.executable, script, source, tmp_path / "out.mkv", "2", "--model", "lanczos", "--workers", "1"]
    for more in ((), ("--dry-run",)):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if line.startswith("upscale: reading ")]
        assert done.returncode == 0 and len(said) == 1, done.stderr
        assert re.fullmatch(rf"upscale: reading {source} \(\d+ MB\) to find its streams, its times and .*", said[0])
        assert done.stderr.startswith(said[0]), "before the first frame"
    done = subprocess.run([*command, "-q", "--restart"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Damage


def boxes(data: bytes, start: int, end: int, names: Iterable[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """(name, start of the content, end) of the boxes of these names, containers entered (ISO 14496-12)."""
    while start < end:
        size, name = struct.unpack_from(">I4s", data, start)
        if name in names:
            yield name, start + 8, start + size
        elif name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            yield from boxes(data, start + 8, start + size, names)
        start += size


def lose_chunks(path: Path, handler: bytes, lost: Iterable[int]) -> int:
    """Sets positions in a track's chunk table to ones after the end of the file; returns the number of chunks."""
    data = bytearray(path.read_bytes())
    track = b""
    for name, start, _ in list(boxes(data, 0, len(data), (b"hdlr", b"stco"))):
        if name == b"hdlr":
            track = bytes(data[start + 8 : start + 12])
        elif track == handler:
            (count,) = struct.unpack_from(">I", data, start + 4)
            for chunk in lost:
                struct.pack_into(">I", data, start + 8 + 4 * chunk, 0x7FFFFF00)
            path.write_bytes(data)
            return count
    raise AssertionError(f"no track {handler!r}")


def test_damaged_packets_all_over_a_film_are_skipped(tmp_path):
    source = make_clip(tmp_path / "in.mp4", FRAMES, options=EXACT, sound=True)
    sound = streams_of(source)[1]
    assert lose_chunks(source, b"vide", range(20, FRAMES - 4, 2)) == FRAMES  # a frame a chunk
    run = upscale(tmp_path, source).succeed()
    assert len(frames_of(tmp_path / "out.mkv")) == FRAMES - 138
    assert "138 packets could not be decoded" in run.errors
    assert streams_of(tmp_path / "out.mkv")[1] == sound


def test_sound_goes_on_after_a_place_that_cannot_be_read(tmp_path):
    source = make_clip(tmp_path / "in.mp4", FRAMES, options=EXACT, sound=True)
    before = streams_of(source)
    lose_chunks(source, b"soun", [100, 200])
    run = upscale(tmp_path, source).succeed()
    (_, frames), (kind, packets) = streams_of(tmp_path / "out.mkv")
    assert kind == "audio" and frames == FRAMES and before[1][1] - 10 < packets < before[1][1]
    assert "audio packets are missing at 2 places that cannot be read (after 3.9 s, 8.0 s)" in run.errors


def test_a_video_of_which_less_than_half_decodes_fails(tmp_path):
    source = make_clip(tmp_path / "in.mp4", FRAMES, options=EXACT)
    data = bytearray(source.read_bytes())
    ((_, start, end),) = boxes(data, 0, len(data), (b"mdat",))
    keep = start + (end - start) // 3
    data[keep:end] = b"\xff" * (end - keep)
    source.write_bytes(data)
    line = upscale(tmp_path, source).fail(2)
    assert "less than half of its video decodes" in line
    assert not (tmp_path / "out.mkv").exists()


# Encryption


def encrypted(path: Path, **options) -> Path:
    scheme = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 15 + "01", "encryption_kid": "02" * 16}
    return make_clip(path, 50, container_options=scheme, **options)


def test_an_encrypted_file_ends_with_2_and_leaves_nothing(tmp_path):
    source = encrypted(tmp_path / "in.mp4")
    line = upscale(tmp_path, source).fail(2)
    assert line == f"upscale: error: {source} is encrypted; decrypt it first"
    assert not list(tmp_path.glob("out*"))


def test_encrypted_sound_is_left_out_of_a_clear_video(tmp_path):
    """The file is an encrypted one with the samples of a clear one, and without the marks of its video track."""
    source = encrypted(tmp_path / "in.mp4", sound=True)
    data, clear = bytearray(source.read_bytes()), make_clip(tmp_path / "clear.mp4", 50, sound=True).read_bytes()
    ((_, start, end),) = boxes(data, 0, len(data), (b"mdat",))
    ((_, first, last),) = boxes(clear, 0, len(clear), (b"mdat",))
    data[start:end] = clear[first:last]
    video = next(boxes(data, 0, len(data), (b"trak",)))
    for name in (b"encv", b"sinf", b"senc", b"saiz", b"saio"):
        at = data.index(name, *video[1:])
        data[at : at + 4] = b"avc1" if name == b"encv" else b"free"
    source.write_bytes(data)
    run = upscale(tmp_path, source).succeed()
    assert streams_of(tmp_path / "out.mkv") == [("video", 50)]
    assert "audio stream 1 (aac) is left out: it is encrypted" in run.errors


# Playlists

PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile clip.mkv\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.mkv\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>clip.mkv</BaseURL></MPD>\n',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "vobsub": "# VobSub index file, v7\nsize: 720x480\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"),
    [("concat", "in.mp4"), ("concat", "in.png"), ("hls", "in.m3u8"), ("dash", "in.mkv"), ("sdp", "in.sdp"),
     ("vobsub", "in.idx")],
)  # fmt: skip
def test_a_playlist_is_refused_whatever_it_is_called(tmp_path, kind, name):
    make_clip(tmp_path / "clip.mkv", 10)
    source = tmp_path / name
    source.write_text(PLAYLISTS[kind])
    run = Run(tmp_path, source, tmp_path / "out.mkv", "2", "--model", "lanczos", "--progress", "plain", cwd=tmp_path)
    assert run.fail(2) == f"upscale: error: {source} is a playlist; give the video file that it names"
    assert not list(tmp_path.glob("out*"))


def test_nothing_but_the_named_file_is_opened(tmp_path):
    """With FFmpeg's list of playlists circumvented, its protocols still open no other file."""
    from upscaling.demux import input_file

    make_clip(tmp_path / "clip.mkv", 10)
    (tmp_path / "list.mp4").write_text(PLAYLISTS["concat"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_file, "_PLAYLISTS", set())
        patch.chdir(tmp_path)
        with pytest.raises(input_file.VideoError, match="is a playlist"):
            input_file.open_input("list.mp4")


# Pictures


def test_a_picture_file_is_one_picture_whatever_follows_in_it(tmp_path):
    """Phones append further pictures to a JPEG file (CIPA DC-007), and a PNG file may be animated."""
    pictures = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue")]
    pictures[0].save(tmp_path / "1.mpo", save_all=True, append_images=pictures[1:])
    (tmp_path / "1.mpo").rename(tmp_path / "in_1.jpg")
    pictures[0].save(tmp_path / "in_2.jpg")
    run = Run(tmp_path, tmp_path / "in_%d.jpg", tmp_path / "out.mkv", "2", "--model", "lanczos").succeed()
    assert len(frames_of(tmp_path / "out.mkv")) == 2, run.errors
    pictures[0].save(tmp_path / "in.png", save_all=True, append_images=pictures[1:])
    Run(tmp_path, tmp_path / "in.png", tmp_path / "out.png", "2", "--model", "lanczos").succeed()
    with Image.open(tmp_path / "out.png") as result:
        assert result.size == (128, 96) and result.getpixel((64, 48)) == (255, 0, 0)
