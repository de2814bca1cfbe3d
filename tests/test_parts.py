"""A video as several jobs: together they have every frame once, and joined they are what one job gives."""

import hashlib
import json
import os
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import changing_clips
import clips
import field_clips
import paff
import pytest
from clips import make_clip
from kinds import clocks
from passthrough import see

from upscaling.cli import run as cli
from upscaling.common.errors import InputError, UpscaleError
from upscaling.common.notation import parse_part
from upscaling.decode.decoder import Decoder
from upscaling.decode.part_decoder import PartDecoder, SeekFailed
from upscaling.decode.probe import probe
from upscaling.demux.packet_index import PacketIndex, read_packet_index
from upscaling.demux.reader import Reader
from upscaling.job.options import make_options
from upscaling.mux.subtitles import ASS_HEADER
from upscaling.terminal.progress import Progress
from upscaling.terminal.signals import Signals
from upscaling.workers.pool_cache import PoolCache

ROOT = Path(__file__).parent.parent
FRAMES = 40
MS = Fraction(1, 1000)
GOP = {"crf": "10", "preset": "veryfast", "g": "6", "keyint_min": "6", "sc_threshold": "0"}
OPEN_GOP = GOP | {"bf": "3", "x264-params": "open-gop=1:b-pyramid=normal"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=8:min-keyint=8:bframes=3:open-gop=1"}
QUICK = ("2", "--model", "lanczos", "--crf", "0", "--preset", "ultrafast", "--workers", "1", "--segment-frames", "7")


# Clips


def rich(path):
    """Sound that starts late, text subtitles and chapters."""

    def more(out, _):
        text = out.add_stream("subrip")
        text.codec_context.subtitle_header = ASS_HEADER
        text.codec_context.time_base = text.time_base = MS
        out.set_chapters([
            {"id": n + 1, "start": n * 500, "end": n * 500 + 500, "time_base": MS, "metadata": {"title": str(n)}}
            for n in range(3)
        ])  # fmt: skip
        packets = []
        for start in (40, 600, 1200):
            packet = av.Packet(f"at {start}".encode())
            packet.pts = packet.dts = start
            packet.duration, packet.time_base, packet.stream = 300, MS, text
            packets.append(packet)
        return packets

    return make_clip(path, FRAMES, options=GOP | {"bf": "2"}, sound="ac3", sound_start=Fraction(1, 10), setup=more)


def uneven(path):
    """Variable frame rate, with a gap of 5 s."""
    times = [n * 40 + n % 7 + (5000 if n > 25 else 0) for n in range(FRAMES)]
    return make_clip(path, FRAMES, codec="ffv1", options={"g": "5"}, time_base=MS, pts=times)


def interlaced(path):
    fields = [field_clips.moving(time, "160x120") for time in range(2 * FRAMES)]
    pictures = [field_clips.woven(a, b) for a, b in zip(fields[0::2], fields[1::2], strict=True)]
    return make_clip(path, FRAMES, width=160, height=120, pictures=field_clips.flagged_as(pictures, "tff"),
                     options=GOP | {"flags": "+ildct+ilme"})  # fmt: skip


def trimmed(path):
    """An edit list hides the first eight frames, which begin two groups of pictures."""
    make_clip(path, FRAMES, options=GOP | {"bf": "0"})
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + 8 * 512).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def damaged(path):
    """Some packets are overwritten, among them those of two keyframes at which parts begin."""
    make_clip(path, FRAMES, options=GOP | {"bf": "2"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for number in (12, 13, 24, 31):
        start, size = packets[number]
        data[start + size // 3 : start + size] = random.Random(number).randbytes(size - size // 3)
    path.write_bytes(data)
    return path


def avi(path):
    return make_clip(path, FRAMES, codec="mpeg4", options={"bf": "2", "g": "8", "q": "3"})


CLIPS = {
    "b_frames.mp4": lambda path: make_clip(path, FRAMES, options=GOP | {"bf": "2"}, sound=True),
    "open_gop.mp4": lambda path: make_clip(path, FRAMES, options=OPEN_GOP),
    "open_gop.mkv": lambda path: make_clip(path, FRAMES, options=OPEN_GOP),
    "open_gop.ts": lambda path: make_clip(path, FRAMES, options=OPEN_GOP, sound="mp2"),
    "ten_bit.mkv": lambda path: make_clip(path, FRAMES, codec="libx265", width=128, height=96, pix_fmt="yuv420p10le",
                                          options=X265),
    "mpeg2.mpg": lambda path: make_clip(path, FRAMES, codec="mpeg2video", options={"bf": "2", "g": "8", "q": "3"}),
    "vp9.webm": lambda path: make_clip(path, FRAMES, codec="libvpx-vp9",
                                       options={"b": "0", "crf": "20", "g": "8", "cpu-used": "8"}),
    "rich.mkv": rich,
    "uneven.mkv": uneven,
    "late.mkv": lambda path: clips.late(path)[0],
    "restarts.ts": lambda path: clocks.joined({}, {})(path.parent),
    "negative.ts": lambda path: clips.negative(path)[0],
    "trimmed.mp4": trimmed,
    "interlaced.mp4": interlaced,
    "stretches.ts": lambda path: changing_clips.interlaced_stretches(path, [(k % 2 == 1, 7) for k in range(6)]),
    "fields.ts": lambda path: changing_clips.paff_clip(path, FRAMES, mixed=True),
    "fields.mp4": lambda path: changing_clips.paff_clip(path, FRAMES, paff.BOTTOM),
    "hevc_fields.mkv": changing_clips.hevc_fields,
    "shapes.ts": lambda path: changing_clips.joined(path, [{"sar": (16, 11)}, {"sar": (12, 11)}, {"width": 96}]),
    "rotated.mp4": lambda path: clips.rotated(path, 90, frames=FRAMES, options=GOP),
    "resized.ts": clips.resized_on_the_way,
    "damaged.mp4": damaged,
    "damaged_intra.mp4": clips.damaged,
    "truncated.mkv": clips.truncated,
    "decoding_times.avi": avi,
    "intra.avi": lambda path: make_clip(path, FRAMES, codec="mjpeg", pix_fmt="yuvj420p", options={"q": "3"}),
    "wrong_times.mkv": lambda path: clips.wrong_times(path, [0, 40, 120, 80, 160, 160, 240, 280]),
    "colours.gif": lambda path: make_clip(path, 20, codec="gif", pix_fmt="rgb8"),
    "raw.h264": lambda path: make_clip(path, FRAMES, options=GOP, container="h264"),
    "intra_refresh.mp4": lambda path: make_clip(path, FRAMES, options=GOP | {"x264-params": "intra-refresh=1"}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_decoding_thread_for_damage(request, monkeypatch):
    """FFmpeg conceals damage with what its other threads have decoded by then: that is not the same each time."""
    parameters = getattr(request.node, "callspec", None)
    if parameters and str(parameters.params.get("name", "")).startswith("damaged"):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")


def digests(decoder) -> list[tuple[int, str]]:
    """[(pts, MD5 of the planes)] of all frames."""
    return [digest for _, digest in with_digests(decoder)]


def with_digests(decoder):
    """(frame, (pts, MD5 of the planes)) of all frames."""
    return [(f, (f.pts, hashlib.md5(b"".join(plane.tobytes() for plane in f.planes)).hexdigest())) for f in decoder]


def decoded_whole(folder, name):
    """(info, packet index, digests of all frames) of a clip of CLIPS."""
    clip = CLIPS[name](folder / name)
    info = probe(clip)
    with Decoder(info) as decoder:
        return info, read_packet_index(clip, info.field_gap), digests(decoder)


@pytest.mark.parametrize("name", CLIPS)
def test_parts_have_the_frames_and_times_of_the_whole(tmp_path, name):
    info, index, whole = decoded_whole(tmp_path, name)
    if "fields" in name:
        assert sum(index.part(number, 3).frames for number in (1, 2, 3)) == len(whole) == info.frame_count
    for count in (3, 7, 60):
        found = []
        for number in range(1, count + 1):
            part = index.part(number, count)
            if not part.is_empty:
                with PartDecoder(info, part, index, 0) as decoder:
                    found += digests(decoder)
        different = [at for at, (one, other) in enumerate(zip(found, whole, strict=False)) if one != other]
        assert found == whole, (count, len(found), len(whole), different)


@pytest.mark.parametrize("name", CLIPS)
def test_a_part_decodes_the_frames_around_it_as_the_whole_has_them(tmp_path, name):
    info, index, whole = decoded_whole(tmp_path, name)
    first = 0
    for number in (1, 2, 3):
        part = index.part(number, 3)
        if part.is_empty:
            continue
        with PartDecoder(info, part, index, -5, after=4) as decoder:
            found = [(f.number, f.after_part, digest) for f, digest in with_digests(decoder)]
        inside = sum(place > 0 and not after for place, after, _ in found)
        if not inside:  # only decoding tells that this part is empty
            assert not found
            continue
        expected = whole[max(0, first - 5) : first + inside + 4]
        places = list(range(max(1 - first, -4), inside + 1 + min(4, len(whole) - first - inside)))
        assert found == [(p, p > inside, digest) for p, digest in zip(places, expected, strict=True)]
        first += inside
    assert first == len(whole)


@pytest.mark.parametrize("name", ["open_gop.mkv", "interlaced.mp4", "damaged.mp4", "stretches.ts", "hevc_fields.mkv"])
@pytest.mark.parametrize("skip", [1, 3, 8])
def test_a_part_is_resumed_in_its_middle(tmp_path, name, skip):
    clip = CLIPS[name](tmp_path / name)
    info = probe(clip)
    index = read_packet_index(clip, info.field_gap)
    part = index.part(2, 3)
    with PartDecoder(info, part, index, 0) as decoder:
        frames = digests(decoder)
    with PartDecoder(info, part, index, skip) as decoder:
        assert digests(decoder) == frames[skip:]


@pytest.mark.parametrize(
    "name", ["b_frames.mp4", "open_gop.mkv", "open_gop.ts", "vp9.webm", "uneven.mkv", "fields.ts", "fields.mp4"]
)
def test_a_part_does_not_decode_what_comes_before(tmp_path, monkeypatch, name):
    clip = CLIPS[name](tmp_path / name)
    info, index = probe(clip), read_packet_index(clip)
    part = index.part(7, 7)
    fed = []
    decode = Reader._decode
    monkeypatch.setattr(Reader, "_decode", lambda self, packet: fed.append(packet) or decode(self, packet))
    with PartDecoder(info, part, index, 0) as decoder:
        assert len(digests(decoder)) == part.frames
        assert not [line for line in decoder.warnings if "from the start" in line]
    each = 2 if "fields" in name else 1  # packets of a frame
    assert len([packet for packet in fed if packet is not None]) <= each * (part.frames + 24) < each * FRAMES


def test_a_file_that_cannot_be_sought_in_is_decoded_from_its_start(tmp_path, monkeypatch):
    clip = CLIPS["b_frames.mp4"](tmp_path / "c.mp4")
    info, index = probe(clip), read_packet_index(clip)
    with PartDecoder(info, index.part(7, 7), index, 0) as decoder:
        sought = digests(decoder)
    wrong = PacketIndex(index.pts.tolist(), (index.size + 1).tolist(), index.key.tolist(), index.shown.tolist())
    with PartDecoder(info, index.part(7, 7), wrong, 0) as decoder:
        assert digests(decoder) == sought
        assert any("decoded from the start" in line for line in decoder.warnings)
    assert issubclass(SeekFailed, UpscaleError)


# Cuts


def starts(index: PacketIndex, count: int) -> list[int | None]:
    return [index.part(number, count).first for number in range(1, count + 1)]


def test_cuts_are_the_keyframes_nearest_to_equal_shares_of_time():
    pts = [0, 40, 80, 120, 1000, 1040, 1080, 1120, 1160, 1200]  # most frames are in the last fifth of the time
    key = [at in (0, 80, 1000, 1120) for at in pts]
    index = PacketIndex(pts, [1] * 10, key, [True] * 10)
    assert index.fault == ""
    assert starts(index, 2) == [None, 1000] and starts(index, 3) == [None, 80, 1000]
    assert starts(index, 12) == [None, 80, 80, 80, 80, 1000, 1000, 1000, 1000, 1000, 1120, 1120]
    parts = [index.part(number, 12) for number in range(1, 13)]
    assert [part.frames for part in parts] == [2, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 3]
    assert [part.is_empty for part in parts] == [part.frames == 0 for part in parts]


def test_without_a_second_keyframe_the_first_part_is_all_there_is():
    index = PacketIndex([0, 40, 80], [1] * 3, [True, False, False], [True] * 3)
    assert [index.part(n, 3).frames for n in (1, 2, 3)] == [3, 0, 0]
    assert index.part(2, 3).is_empty and index.part(3, 3).is_empty


@pytest.mark.parametrize(
    ("pts", "key", "words"),
    [
        ([0, None, 80], [1, 0, 1], "no times"),
        ([0, 40, 40], [1, 0, 1], "same time"),
        ([0, 80, 40], [1, 1, 1], "go backward"),
        ([0, *range(100, 120), 50], [1] + [0] * 21, "go backward"),
    ],
)
def test_times_that_cannot_be_trusted(pts, key, words):
    index = PacketIndex(pts, [1] * len(pts), list(map(bool, key)), [True] * len(pts))
    assert words in index.fault
    assert index.part(1, 2).by_number and index.start_before(80) is None


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/1", "1/9999", "1", "a/b", "1/2/3", "-1/2", ""])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(InputError, match="choose a part such as"):
        parse_part(text)


# Whole jobs


class Said(Progress):
    """Keeps what the user is told."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def job():
    """Runs a job in this process, with workers that outlive it: (result, lines)."""
    with PoolCache(keep=True) as pools:

        def run(source, output, **more):
            said = Said()
            if "part" in more:
                more["part"] = "{}/{}".format(*more["part"])
            options = make_options(**{"input": source, "output": output, "model": "lanczos", "workers": 1,
                                      "codec": "ffv1", "segment_frames": 7, **more})  # fmt: skip
            result = cli.join(options, said) if options.join else cli.run(options, said, Signals(), pools)
            return result, said.lines

        yield run


def frames_of(path) -> list[tuple[Fraction, str]]:
    """[(time, MD5 of the planes)] of all frames, as framemd5 has it."""
    with av.open(str(path)) as container:
        return [
            (f.pts * f.time_base, hashlib.md5(b"".join(map(bytes, f.planes))).hexdigest())
            for f in container.decode(video=0)
        ]


def others_of(path) -> tuple[list, list]:
    """The packets of all streams but the picture, and the chapters."""
    with av.open(str(path)) as container:
        chapters = [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in container.chapters()
        ]
    return [(s.kind, s.codec, s.pts, s.durations, s.data, s.metadata) for s in see(path)[1:]], chapters


def same(path, other) -> bool:
    """Whether two files show the same: frames, packets and their times, sound, subtitles, chapters."""
    pictures = [see(each)[0] for each in (path, other)]
    assert [(p.pts, p.durations) for p in pictures[:1]] == [(p.pts, p.durations) for p in pictures[1:]]
    assert frames_of(path) == frames_of(other)
    assert others_of(path) == others_of(other)
    return True


@pytest.mark.parametrize(
    "name", ["b_frames.mp4", "open_gop.ts", "ten_bit.mkv", "rich.mkv", "uneven.mkv", "late.mkv", "negative.ts",
             "trimmed.mp4", "interlaced.mp4", "rotated.mp4", "damaged.mp4", "truncated.mkv", "decoding_times.avi",
             "wrong_times.mkv"],
)  # fmt: skip
def test_three_parts_joined_are_what_one_job_gives(job, tmp_path, name):
    clip = CLIPS[name](tmp_path / name)
    alone, output = tmp_path / "alone.mkv", tmp_path / "out.mkv"
    whole, _ = job(clip, alone)
    assert not whole.missing_frames  # hidden by an edit list, or lost where the container does not list them
    for number in (3, 1, 2):
        job(clip, output, part=(number, 3))
        assert not output.exists()
    result, lines = job(clip, output, join=3)
    assert result.frames == whole.frames and same(output, alone), lines
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith((".parts", ".work"))]


def test_the_join_has_the_sound_that_it_is_asked_for(job, tmp_path):
    clip = rich(tmp_path / "in.mkv")
    for number in (1, 2):
        job(clip, tmp_path / "out.mkv", part=(number, 2))
    job(clip, tmp_path / "out.mkv", join=2, audio="opus", subtitle_language="und")
    with av.open(str(tmp_path / "out.mkv")) as container:
        codecs = [stream.codec_context.codec.canonical_name for stream in container.streams]
        assert sorted(codecs) == ["ffv1", "opus", "subrip"]


def test_more_parts_than_keyframes(job, tmp_path):
    clip = CLIPS["late.mkv"](tmp_path / "in.mkv")
    job(clip, tmp_path / "alone.mkv")
    counts = [job(clip, tmp_path / "out.mkv", part=(number, 5))[0].frames for number in range(1, 6)]
    assert counts == [4, 0, 0, 0, 0]
    assert job(clip, tmp_path / "out.mkv", join=5)[0].frames == 4
    assert same(tmp_path / "out.mkv", tmp_path / "alone.mkv")


def part_files(output, number, count) -> list[str]:
    place = output.with_name(output.name + ".parts") / f"part_{number:04d}_of_{count:04d}"
    return sorted(f"{path.parent.name}/{path.name}" for path in place.glob("*/*"))


def test_a_part_goes_on_on_another_node_from_its_closed_segments(job, tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "in.mkv", FRAMES, options=GOP)
    output, disks = tmp_path / "out.mkv", [tmp_path / "disk1", tmp_path / "disk2"]
    for disk in disks:
        disk.mkdir()
    from upscaling.pipeline import segments

    write, written = segments.OpenSegment.write, []

    def failing(self, planes, pts, messages):
        written.append(pts)
        if len(written) == 10:
            raise OSError(5, "the node is lost")
        write(self, planes, pts, messages)

    with monkeypatch.context() as patch:
        patch.setattr(segments.OpenSegment, "write", failing)
        with pytest.raises(OSError, match="the node is lost"):
            job(clip, output, part=(2, 2), work_dir=disks[0])
    assert "run_0001/segment_000000.mkv" in part_files(output, 2, 2)
    job(clip, output, part=(1, 2), work_dir=disks[1])
    result, lines = job(clip, output, part=(2, 2), work_dir=disks[1])
    assert any("resuming: 9 frames" in line for line in lines), lines
    assert "run_0002/part.json" in part_files(output, 2, 2)
    again, lines = job(clip, output, part=(2, 2), work_dir=disks[1])
    assert again.frames == result.frames and any("finished already" in line for line in lines)
    assert not list(disks[1].iterdir())
    job(clip, output, join=2)
    job(clip, tmp_path / "alone.mkv")
    assert same(output, tmp_path / "alone.mkv")
    assert not list(tmp_path.rglob("frame_*")) or not list(output.with_name("out.mkv.parts").rglob("frame_*"))


def upscale(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "upscale.py"), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_part_that_is_missing_other_or_damaged_is_told_and_nothing_touched(job, tmp_path):
    clip, output = make_clip(tmp_path / "in.mp4", FRAMES, options=GOP, sound=True), tmp_path / "out.mkv"
    job(clip, output, part=(1, 2))
    with pytest.raises(UpscaleError, match="not finished: part 2 of 2"):
        job(clip, output, join=2)
    job(clip, output, part=(2, 2))
    with pytest.raises(UpscaleError, match=r"part 1 of 2 was made with other options.*encoding.codec"):
        job(clip, output, join=2, codec="libx264")
    segment = tmp_path / "out.mkv.parts" / "part_0002_of_0002" / "run_0001" / "segment_000000.mkv"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-9] + b"damaged!!")
    with pytest.raises(UpscaleError, match="part 2 of 2 is damaged"):
        job(clip, output, join=2)
    assert not output.exists() and not output.with_name("out.mkv.work").exists()
    job(clip, output, part=(2, 2))
    assert job(clip, output, join=2, keep_work=True)[0].frames == FRAMES
    assert os.listdir(tmp_path / "out.mkv.parts")
    job(clip, output, join=2)
    job(clip, tmp_path / "alone.mkv")
    assert same(output, tmp_path / "alone.mkv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.mkv", "in.mp4", "out.mkv"]


def test_the_commands(tmp_path):
    clip, output = make_clip(tmp_path / "in.mp4", FRAMES, options=GOP, sound=True), tmp_path / "out.mp4"
    for part in ("2/2", "1/2"):
        done = upscale(clip, output, *QUICK, "--part", part)
        assert done.returncode == 0 and "--join 2" in done.stderr and not output.exists(), done.stderr
    joined = upscale(clip, output, *QUICK, "--join", "2", "--progress", "json")
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout.splitlines()[-1])["frames"] == FRAMES
    assert len(frames_of(output)) == FRAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--frames", "1:5"], "--part splits a whole video"), (["--join", "2"], "choose one of --part")],
)
def test_what_a_part_cannot_be_combined_with(tmp_path, more, words):
    clip = make_clip(tmp_path / "in.mp4", 6)
    done = upscale(clip, tmp_path / "out.mp4", *QUICK, "--part", "1/2", *more)
    assert done.returncode == 2 and words in done.stderr, done.stderr
