"""Sound in the output: what each codec becomes in each container, AAC frames repacked, and real files of each kind."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from clips import make_clip, video_frame
from passthrough import passthrough, see
from runs import ROOT
from sound_clips import RATE, aac_frames, adts, likeness, loas, noise, s302m, sound_of, with_packets, with_sound

from upscaling import upscale_video
from upscaling.common.errors import InputError
from upscaling.common.languages import by_language, parse_languages, same_language
from upscaling.demux.channels import channel_order
from upscaling.demux.input_file import open_input
from upscaling.folders.due import requested_parameters
from upscaling.job.options import Options
from upscaling.mux.aac_frames import AdtsParser, Bits, LatmParser, read_config
from upscaling.mux.audio_encode import SoundEncoder
from upscaling.mux.audio_formats import encodings, holds
from upscaling.mux.stream_selection import StreamChoice
from upscaling.mux.subtitles import ASS_HEADER

MS = Fraction(1, 1000)
CONTAINERS = ("mkv", "mp4", "mov", "webm")


# The decision, as a table: codec, its decoder's samples, and what it becomes in mkv, mp4, mov and webm


@pytest.mark.parametrize(
    ("codec", "samples", "wanted"),
    [
        # PCM stays PCM, or becomes FLAC if that has the bits
        ("pcm_bluray", "s16", ("pcm_s16le", "flac", "pcm_s16le", "libopus")),
        ("pcm_bluray", "s32", ("pcm_s24le", "flac", "pcm_s24le", "libopus")),
        ("pcm_dvd", "s16", ("pcm_s16le", "flac", "pcm_s16le", "libopus")),
        ("s302m", "s32", ("pcm_s24le", "flac", "pcm_s24le", "libopus")),
        ("pcm_u8", "u8", ("pcm_u8", "flac", "pcm_u8", "libopus")),
        ("pcm_s8", "u8", ("pcm_u8", "flac", "pcm_u8", "libopus")),
        ("pcm_s16le_planar", "s16p", ("pcm_s16le", "flac", "pcm_s16le", "libopus")),
        ("pcm_u24be", "s32", ("pcm_s24le", "flac", "pcm_s24le", "libopus")),
        ("pcm_u32le", "s32", ("pcm_s32le", "pcm_s32le", "pcm_s32le", "libopus")),
        ("pcm_f32be", "flt", ("pcm_f32le", "pcm_f32le", "pcm_f32le", "libopus")),
        ("pcm_f64be", "dbl", ("pcm_f64le", "pcm_f64le", "pcm_f64le", "libopus")),
        # what is compressed without loss stays so
        ("pcm_mulaw", "s16", ("flac", "flac", "alac", "libopus")),
        ("ape", "s16p", ("flac", "flac", "alac", "libopus")),
        ("tta", "s32", ("flac", "flac", "alac", "libopus")),
        ("truehd", "s32", ("flac", "flac", "alac", "libopus")),
        ("wmalossless", "s16p", ("flac", "flac", "alac", "libopus")),
        ("wavpack", "s16p", ("flac", "flac", "alac", "libopus")),
        ("wavpack", "s32p", ("pcm_s32le", "pcm_s32le", "pcm_s32le", "libopus")),
        ("wavpack", "fltp", ("pcm_f32le", "pcm_f32le", "pcm_f32le", "libopus")),
        # sound with losses
        ("wmav2", "fltp", ("flac", "aac", "aac", "libopus")),
        ("adpcm_ms", "s16p", ("flac", "aac", "aac", "libopus")),
        ("amr_nb", "fltp", ("flac", "aac", "aac", "libopus")),
        ("gsm", "s16", ("flac", "aac", "aac", "libopus")),
        ("cook", "fltp", ("flac", "aac", "aac", "libopus")),
        ("qdm2", "s16", ("flac", "aac", "aac", "libopus")),
        ("aac", "fltp", ("flac", "aac", "aac", "libopus")),
    ],
)
def test_what_sound_becomes_if_it_cannot_be_copied(codec, samples, wanted):
    found = [encodings(codec, samples, container) for container in CONTAINERS]
    assert tuple(ways[0].encoder for ways in found) == wanted
    is_pcm = codec == "s302m" or (codec.startswith("pcm_") and codec != "pcm_mulaw")
    is_kept = is_pcm or codec in ("pcm_mulaw", "ape", "tta", "truehd", "wmalossless", "wavpack")
    assert [ways[0].lossless for ways in found] == [is_kept, is_kept, is_kept, False]
    assert all("aac" in [way.encoder for way in ways] for ways in found[:3])  # the last resort
    for audio, encoder in (("aac", "aac"), ("opus", "libopus"), ("flac", "flac")):
        assert [way.encoder for way in encodings(codec, samples, "mkv", audio)] == [encoder]
    repacked = [way.encoder for way in encodings(codec, samples, "mkv", "copy")]
    assert repacked == [wanted[0]] * is_pcm


def test_containers_hold_what_they_are_asked_for():
    table = {audio: [name for name in CONTAINERS if holds(name, audio)] for audio in ("auto", "aac", "opus", "flac")}
    assert table["auto"] == [*CONTAINERS]
    assert table["aac"] == ["mkv", "mp4", "mov"]
    assert table["opus"] == ["mkv", "mp4", "webm"]
    assert table["flac"] == ["mkv", "mp4"]
    for container, audio, words in (("webm", "aac", ".mp4, .mkv, .mov can"), ("mov", "flac", ".mp4, .mkv can")):
        with pytest.raises(InputError, match=f"--audio {audio}: .{container} can't hold it; {words}"):
            StreamChoice(audio=audio).check(container)


@pytest.mark.parametrize(
    ("encoder", "rate", "wanted"),
    [
        ("libopus", 44100, 48000), ("libopus", 22050, 24000), ("libopus", 8000, 8000), ("libopus", 192000, 48000),
        ("aac", 44100, 44100), ("aac", 5512, 7350), ("aac", 192000, 96000), ("flac", 22254, 22254),
    ],
)  # fmt: skip
def test_rates_are_those_that_the_codec_has(encoder, rate, wanted):
    audio = {"libopus": "opus"}.get(encoder, encoder)
    assert encodings("wmav2", "fltp", "mkv", audio)[0].rate(rate) == wanted


# Languages


def test_a_language_is_one_however_it_is_spelled():
    assert {same_language(code) for code in ("de", "ger", "deu", "DE", "de-AT", "deu_DE")} == {"deu"}
    assert {same_language(code) for code in ("zh", "chi", "zho", "zh-Hans")} == {"zho"}
    assert [same_language(code) for code in ("sve", "", None, "und", "tlh")] == ["swe", "und", "und", "und", "tlh"]
    assert parse_languages("en, ger,de,und") == ("en", "ger", "und")
    for wrong in ("", "english", "e", "en,,de", "12", "xx", "en;de"):
        with pytest.raises(InputError, match="ISO 639"):
            parse_languages(wrong)


def test_streams_by_language_in_the_order_of_the_list():
    streams = ["eng", "fre", None, "ger", "eng"]
    assert by_language(streams, ("de", "en")) == [3, 0, 4]
    assert by_language(streams, ("und", "fra")) == [2, 1]
    with pytest.raises(InputError, match=r"no stream has the language ja; choose from eng, fre, und, ger$"):
        by_language(streams, ("en", "ja"))


# AAC frames


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("size", [1, 254, 255, 700])
def test_frames_come_out_of_latm_as_they_went_in(version, size):
    config, first, second = b"\x11\x90", bytes(range(7)) * size, b"\xff" * size
    parser = LatmParser()
    found = parser.frames(loas(config, first, second, version=version)) + parser.frames(loas(None, second, first))
    assert [frame.data for frame in found] == [first, second, second, first]
    assert {frame.config.data for frame in found} == {config}
    assert (found[0].config.rate, found[0].config.channels, found[0].config.samples) == (48000, 2, 1024)


def test_latm_without_a_configuration_or_cut_off_is_damaged():
    whole = loas(b"\x11\x90", b"frame")
    for wrong in (loas(None, b"x"), whole[:-1], whole[1:], b"", b"\x56\xe0\x00", loas(b"\xff\xff", b"x")):
        with pytest.raises(ValueError, match=r"."):
            LatmParser().frames(wrong)


@pytest.mark.parametrize(
    ("bits", "rate", "channels", "samples"),
    [
        ("0001000110010000", 48000, 2, 1024),
        ("0001000110010100", 48000, 2, 960),
        ("0010101100001001100010000", 24000, 1, 1024),  # HE-AAC
        ("1110101100001001100010000", 24000, 1, 1024),  # with parametric stereo
        ("000101111" + f"{44056:024b}" + "0001000", 44056, 1, 1024),
        ("101110011001000000", 48000, 2, 512),  # low delay
    ],
)
def test_configurations_are_read_to_their_end(bits, rate, channels, samples):
    reader = Bits(int("101" + bits + "1" * 13, 2).to_bytes(-(-(len(bits) + 16) // 8), "big"))
    reader.read(-(len(bits) + 16) % 8 + 3)
    start = reader.position
    found = read_config(reader)
    assert reader.position - start == len(bits)
    assert found.data == int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")
    assert (found.rate, found.channels, found.samples) == (rate, channels, samples)


def test_adts_headers_with_and_without_a_checksum():
    plain = adts(b"\x11\x90", b"frame")
    checked = bytearray(adts(b"\x11\x90", b"\0\0frame"))
    checked[1] &= 0xFE
    assert [f.data for f in AdtsParser().frames(plain + bytes(checked))] == [b"frame", b"frame"]
    for wrong in (b"frame", plain[:-1], plain[:5]):
        with pytest.raises(ValueError, match=r"ADTS|early"):
            AdtsParser().frames(wrong)


# Real files


def _bluray(path, sound):
    options = {"mpegts_m2ts_mode": "1"}
    return with_sound(path / "in.m2ts", "pcm_bluray", sound, sample_format="s16", container="mpegts", options=options)


LOSSLESS = {
    "bluray": _bluray,
    "dvd": lambda path, sound: with_sound(path / "in.vob", "pcm_dvd", sound),
    "s302m": lambda path, sound: with_packets(path / "in.ts", "s302m", s302m(sound)),
    "u24be": lambda path, sound: with_sound(path / "in.nut", "pcm_u24be", sound),
    "avi, layout untold": lambda path, sound: with_sound(path / "in.avi", "pcm_s16le", sound),
    "wavpack": lambda path, sound: with_sound(path / "in.mkv", "wavpack", sound, sample_format="s16p"),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_sound_is_the_same_to_the_bit(tmp_path, kind):
    sound = noise(2)
    source = LOSSLESS[kind](tmp_path, sound)
    start, before = sound_of(source)
    assert np.array_equal(before * 32768, sound)
    for container in ("mkv", "mp4", "mov"):
        result = passthrough(source, tmp_path / f"o.{container}", length=100)
        assert all("without loss: " in note for note in result.notes) and result.warnings == []
        again, after = sound_of(result.path)
        assert np.array_equal(after, before), container
        assert abs(again - start) <= MS / 2


def test_24_bits_and_six_channels_stay(tmp_path):
    sound = noise(6)
    source = with_sound(tmp_path / "in.mov", "pcm_s24be", sound)
    with av.open(str(with_sound(tmp_path / "in.nut", "pcm_u32be", sound))) as container:
        assert container.streams.audio[0].codec_context.format.name == "s32"
    for name, container in (("in.mov", "mkv"), ("in.nut", "mp4"), ("in.nut", "mov")):
        after = sound_of(passthrough(tmp_path / name, tmp_path / f"{name}.{container}", length=100).path)[1]
        assert np.array_equal(after * 32768, sound)
    result = passthrough(source, tmp_path / "o.webm", length=100)
    assert result.notes == ["audio stream 1 (pcm_s24be) is converted to Opus: webm can't hold it as it is"]
    assert sound_of(result.path)[1].shape[0] == 6


def _aac(path, packed: str, *parts: tuple[bytes, list[bytes]]):
    """A transport stream whose sound has those parts (configuration, frames), one after the other."""
    pack = {"aac": adts, "aac_latm": loas}[packed]
    packets, now = [], Fraction(0)
    for config, frames in parts:
        span = Fraction(1024, RATE // (2 if config[0] & 7 == 3 else 1))
        for frame in frames:
            packets.append((pack(config, frame), now, span))
            now += span
    return with_packets(path, packed, packets)


@pytest.mark.parametrize("packed", ["aac", "aac_latm"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_aac_of_transport_streams_is_repacked(tmp_path, packed, channels):
    config, frames = aac_frames(noise(channels))
    source = _aac(tmp_path / "in.ts", packed, (config, frames))
    start, before = sound_of(source)
    for container in ("mkv", "mp4", "mov"):
        result = passthrough(source, tmp_path / f"o.{container}", length=100)
        assert result.notes == result.warnings == []
        assert see(result.path)[1].data == frames
        again, after = sound_of(result.path)
        assert np.array_equal(after, before) and abs(again - start) <= MS / 2


@pytest.mark.parametrize("packed", ["aac", "aac_latm"])
@pytest.mark.parametrize("other", [(6, 48000), (2, 24000)])
def test_aac_that_changes_on_the_way_goes_on_in_the_first_format(tmp_path, packed, other):
    channels, rate = other
    sound = noise(2, RATE)
    config, frames = aac_frames(sound[:, : RATE // 2])
    middle = np.repeat(sound[:1, RATE // 2 :: 48000 // rate], channels, 0)
    changed = aac_frames(middle, rate)
    source = _aac(tmp_path / "in.ts", packed, (config, frames), changed, (config, frames))
    result = passthrough(source, tmp_path / "o.mp4", length=100)
    (line,) = result.notes + result.warnings  # before the start, if the places that are looked at show it
    assert line.startswith(f"audio stream 1 ({packed}) changes its format ")
    assert line.endswith(": what is not 48000 Hz, 2 channels is converted to that")
    out = see(result.path)[1].data
    assert out[: len(frames)] == frames and out[-len(frames) :] == frames  # the rest is untouched
    _, after = sound_of(result.path)
    assert after.shape[0] == 2 and np.abs(after[:, len(frames) * 1024 + 4096 : -len(frames) * 1024]).max() > 0.1


@pytest.mark.parametrize("packed", ["aac", "aac_latm"])
def test_the_format_of_most_of_the_file_is_kept(tmp_path, packed):
    """A recording that begins with the end of an advertisement in stereo, before a film in 5.1."""
    advertisement, film = aac_frames(noise(2, 9600)), aac_frames(noise(6, RATE))
    source = _aac(tmp_path / "in.ts", packed, advertisement, film)
    result = passthrough(source, tmp_path / "o.mkv", length=100)
    wanted = f"audio stream 1 ({packed}) changes its format on the way: what is not 48000 Hz, 6 channels is converted"
    assert result.notes == [f"{wanted} to that"] and result.warnings == []
    out = see(result.path)[1].data
    assert out[-len(film[1]) :] == film[1] and len(out) == len(film[1]) + len(advertisement[1])
    assert sound_of(result.path)[1].shape[0] == 6


def test_one_damaged_header_is_no_change(tmp_path):
    config, frames = aac_frames(noise(2))
    source = _aac(tmp_path / "in.ts", "aac", (config, frames[:9]), (b"\x13\x10", frames[9:10]), (config, frames[10:]))
    result = passthrough(source, tmp_path / "o.mkv", length=100)
    assert see(result.path)[1].data == frames[:9] + frames[10:]
    assert result.warnings == ["audio stream 1 (aac): 1 damaged packet left out"]


def test_pcm_that_changes_its_channels_is_mixed_into_the_first_layout(tmp_path):
    sound = noise(2)[:, :9600]
    packets = [*s302m(sound), *s302m(sound, channels=4, start=Fraction(1, 5))]
    result = passthrough(with_packets(tmp_path / "in.ts", "s302m", packets), tmp_path / "o.mkv", length=100)
    _, after = sound_of(result.path)
    assert after.shape == (2, 9600 + 4800)
    assert result.warnings == [
        "audio stream 1 (s302m) changes its format at 0:00:00: what is not 48000 Hz, 2 channels is converted to that"
    ]
    assert np.array_equal(after[:, :9600] * 32768, sound)


def test_sound_with_eight_channels_of_no_common_layout(tmp_path):
    """SMPTE 302M with 5.1 and a stereo downmix, and PCM with sixteen channels."""
    sound = noise(2)
    source = with_packets(tmp_path / "in.ts", "s302m", s302m(sound, channels=8))
    wanted = sound.T.reshape(-1, 8).T
    for container in ("mkv", "mp4", "mov"):
        after = sound_of(passthrough(source, tmp_path / f"o.{container}", length=100).path)[1]
        assert np.array_equal(after * 32768, wanted), container
    many = with_sound(tmp_path / "in.avi", "pcm_s16le", noise(16, 4800), layout="hexadecagonal")
    assert passthrough(many, tmp_path / "p.mov", length=100).notes == []
    (note,) = passthrough(many, tmp_path / "p.mp4", length=100).notes
    assert note == "audio stream 1 (pcm_s16le) is left out: mp4 can't hold it, mkv could"


def test_frames_with_the_times_of_their_blocks_are_all_kept():
    """RealMedia: a time for several frames. A frame that comes late in its own time is left out."""
    found: list[av.AudioFrame] = []
    encoder = SoundEncoder(lambda frame: found.append(frame) or [], "s16", "mono", 8000)
    for time in [0] * 25 + [500] * 25 + [*range(1000, 1500, 20), *range(1400, 1900, 20)]:
        frame = av.AudioFrame(format="s16", layout="mono", samples=160)
        frame.sample_rate, frame.pts, frame.time_base = 8000, time, MS
        list(encoder.encode(frame))
    late = 3  # of the 5 frames that overlap: two are less than 50 ms
    assert [frame.pts for frame in found] == [160 * number for number in range(100 - late)]


def test_amr_becomes_what_the_container_holds(tmp_path):
    source = with_sound(tmp_path / "in.3gp", "libopencore_amrnb", noise(1, 4000), rate=8000)
    before = sound_of(source)[1]
    for container, codec in (("mkv", "flac"), ("mp4", "aac"), ("mov", "amr_nb"), ("webm", "opus")):
        result = passthrough(source, tmp_path / f"o.{container}", length=100)
        assert see(result.path)[1].codec == codec
        assert len(result.notes) == (codec != "amr_nb")
        after = sound_of(result.path)[1]
        assert codec != "flac" or np.abs(after - before).max() <= 1 / 65536
        assert codec != "aac" or likeness(before, after) > 0.99


def test_sound_without_a_decoder_is_kept_where_it_can_be_and_named(tmp_path):
    source = with_sound(tmp_path / "in.mp4", "ac3", noise(2))
    data = source.read_bytes()
    source.write_bytes(data.replace(b"ac-3", b"ac-4").replace(b"dac3", b"dac4"))
    kept = passthrough(source, tmp_path / "o.mov", length=100)
    assert kept.notes == kept.warnings == []
    assert b"ac-4" in kept.path.read_bytes() and see(kept.path)[1].data == see(source)[1].data
    for container in ("mkv", "webm"):
        (note,) = passthrough(source, tmp_path / f"o.{container}", length=100).notes
        assert note == f"audio stream 1 (ac4) is left out: {container} can't hold it, mov could"


# The user's choices


COMMAND = (sys.executable, str(ROOT / "upscale.py"))
QUICK = ("2", "--model", "lanczos", "--workers", "1", "--overwrite")


def upscale(*words) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An mkv with sound in English, Japanese, German and no language; the first one is the default."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    return with_sound(path, "aac", [noise(1, 9600, seed=i) for i in range(4)], languages=("eng", "jpn", "ger", "und"))


def tracks(path) -> list[tuple[str, str, bool]]:
    return [
        (one.codec, one.metadata.get("language", "und"), bool(one.disposition & Disposition.default))
        for one in see(path)
        if one.kind == "audio"
    ]


def test_what_is_left_out_is_said_even_with_q(tmp_path, film):
    run = upscale(film, tmp_path / "o.webm", *QUICK, "-q", "--audio", "copy", "--audio-language", "de,ja")
    assert run.returncode == 0 and run.stdout == ""
    assert run.stderr.splitlines() == [
        f"upscale: warning: {film}: audio stream {index} (aac, {language}) is left out: webm can't hold it, "
        "mkv could, and --audio auto converts it"
        for index, language in ((2, "jpn"), (3, "ger"))
    ]


def test_languages_are_chosen_in_order_and_the_first_is_the_default(tmp_path, film):
    run = upscale(film, tmp_path / "o.mkv", *QUICK, "--audio-language", "ja,deu,und", "--progress", "plain")
    assert run.returncode == 0 and "left out" not in run.stderr
    assert tracks(tmp_path / "o.mkv") == [("aac", "jpn", True), ("aac", "ger", False), ("aac", "und", False)]
    run = upscale(film, tmp_path / "none.mkv", *QUICK, "--audio-language", "en,fr")
    assert run.returncode == 2 and not (tmp_path / "none.mkv").exists()
    assert run.stderr == (
        "upscale: error: --audio-language: no stream has the language fr; choose from eng, jpn, ger, und\n"
    )


def test_the_dry_run_says_what_becomes_of_each_stream(tmp_path, film):
    words = ("--audio", "flac", "--audio-language", "en", "--dry-run", "--progress", "json")
    plan = json.loads(upscale(film, tmp_path / "o.mp4", *QUICK, *words).stdout)
    assert plan["streams"] == [
        "video stream 0 (mpeg4): upscaled",
        "audio stream 1 (aac, eng): converted to FLAC",
        *(
            f"audio stream {i} (aac{more}): left out, as was asked for"
            for i, more in ((2, ", jpn"), (3, ", ger"), (4, ""))
        ),
    ]
    assert plan["warnings"] == ["colours are not tagged; assuming BT.601"]


def test_choices_from_python(tmp_path, film):
    result = upscale_video(
        film, tmp_path / "o.mp4", 2, model="lanczos", workers=1, audio="opus", audio_bitrate=64000,
        audio_language=["ja", "en"],
    )  # fmt: skip
    assert tracks(tmp_path / "o.mp4") == [("opus", "jpn", True), ("opus", "eng", False)]
    assert not any("audio" in line for line in result.warnings)
    for wrong, words in (
        ({"audio": "mp3"}, "audio: "), ({"audio_bitrate": 128}, "audio_bitrate: .*such as 128k"),
        ({"audio_language": "english"}, "audio_language: .*ISO 639"),
        ({"audio": "flac", "audio_bitrate": "64k"}, "--audio-bitrate is for"),
        ({"audio": "opus", "audio_bitrate": "9M"}, "--audio-bitrate 9000000: Opus of 1 channel can't have it"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            upscale_video(film, tmp_path / "p.mp4", 2, model="lanczos", workers=1, **wrong)


def test_bit_rates_are_the_users(tmp_path):
    source = with_sound(tmp_path / "in.mkv", "pcm_s16le", noise(2, 3 * RATE), frames=75)
    sizes = {}
    for rate in (32_000, 256_000):
        choice = StreamChoice(audio="opus", audio_bitrate=rate)
        path = passthrough(source, tmp_path / f"{rate}.mkv", length=100, choice=choice).path
        sizes[rate] = sum(map(len, see(path)[1].data)) * 8 / 3
    assert sizes[32_000] < 64_000 < 160_000 < sizes[256_000]


def test_a_run_is_resumed_with_another_choice_of_sound(tmp_path, film):
    """Finished frames do not depend on sound; a folder's results do."""
    output = tmp_path / "o.mkv"
    run = upscale(film, output, *QUICK, "--keep-work", "--audio", "none", "-q")
    assert (run.returncode, run.stderr, tracks(output)) == (0, "", [])  # nothing is lost that was not asked for
    run = upscale(film, output, *QUICK, "--audio-language", "en", "--progress", "plain")
    assert run.returncode == 0 and "resuming: all 12 frames are done" in run.stderr
    assert tracks(output) == [("aac", "eng", True)]
    options = Options(film, output)
    assert requested_parameters(options) != requested_parameters(replace(options, audio="flac"))


def test_styled_subtitles_say_what_is_lost(tmp_path):
    def styled(out, _):
        stream = out.add_stream("ass")
        stream.codec_context.subtitle_header, stream.time_base = ASS_HEADER, MS
        stream.metadata["language"] = "ger"
        packet = av.Packet(b"0,0,Default,,0,0,0,,{\\pos(1,2)}Hallo")
        packet.pts = packet.dts = 0
        packet.duration, packet.time_base, packet.stream = 100, MS, stream
        return [packet]

    source = make_clip(tmp_path / "in.mkv", 6, setup=styled)
    for container, codec in (("mp4", "mov_text"), ("webm", "webvtt")):
        result = passthrough(source, tmp_path / f"o.{container}", length=100)
        assert result.notes == [
            f"subtitle stream 1 (ass, ger) is converted to {codec}: its styling is lost but for bold, italic and "
            "underlined text, mkv could keep it"
        ]
    assert passthrough(source, tmp_path / "o.mkv", length=100).notes == []
    chosen = passthrough(source, tmp_path / "p.mp4", length=100, choice=StreamChoice(subtitle_language=("de",)))
    assert len(see(chosen.path)) == 2
    with pytest.raises(InputError, match="--subtitle-language: no stream has the language en; choose from ger"):
        passthrough(source, tmp_path / "q.mp4", length=100, choice=StreamChoice(subtitle_language=("en",)))


@pytest.mark.parametrize("bits", [16, 20, 24])
def test_data_in_place_of_sound_is_kept_or_named(tmp_path, bits):
    """SMPTE 337M: what Dolby E looks like in a production's file. Opus would make noise of it."""
    words = {16: (0xF872, 0x4E1F), 20: (0x6F872, 0x54E1F), 24: (0x96F872, 0xA54E1F)}[bits]
    samples = np.random.default_rng(1).integers(-(2**31), 2**31, (2, 4800)).astype(np.int32) & -256
    samples[:, 100] = [np.int64(word << (32 - bits)) - (1 << 32) * (word >> (bits - 1)) for word in words]
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as out:
        picture, sound = out.add_stream("mpeg4", rate=25), out.add_stream("pcm_s24le", rate=RATE)
        picture.width, picture.height = 64, 48
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="s32", layout="stereo")
        frame.sample_rate = RATE
        for packet in [*sound.encode(frame), *picture.encode(video_frame(0)), *picture.encode(None)]:
            out.mux(packet)
    what = "audio stream 1 (pcm_s24le) {} data in place of sound (SMPTE 337M, such as Dolby E)"
    kept = passthrough(source, tmp_path / "o.mkv", choice=StreamChoice(audio="aac"))
    assert kept.notes == [what.format("has") + "; players that can't read it play noise"]
    assert np.array_equal(sound_of(kept.path)[1] * 2**31, samples)
    lost = passthrough(source, tmp_path / "o.webm")
    assert lost.notes == [what.format("is left out: it has") + ", which encoding would destroy; mkv could hold it"]


def test_eight_channels_in_an_order_of_their_own(tmp_path):
    """MOV's 7.1 with the sides before the backs, which PyAV can't look at without a crash."""
    sound = noise(8, 9600)
    source = with_sound(tmp_path / "in.mov", "pcm_s16le", sound, layout="7.1")
    data = bytearray(source.read_bytes())
    at = data.index(b"chan") + 8  # after version and flags: the layout's tag and bitmap (QuickTime File Format)
    assert data[at : at + 8] == (0x10000).to_bytes(4, "big") + (0x63F).to_bytes(4, "big")
    data[at : at + 8] = (0x800008).to_bytes(4, "big") + bytes(4)
    source.write_bytes(data)
    with open_input(source) as container:
        stream = container.streams.audio[0]
        assert channel_order(stream) == [0, 1, 2, 3, 6, 7, 4, 5]
        assert stream.codec_context.layout.name == "7.1"
    matroska = passthrough(source, tmp_path / "o.mkv", length=100)  # has the one order
    assert np.array_equal(sound_of(matroska.path)[1] * 32768, sound[[0, 1, 2, 3, 6, 7, 4, 5]])
    copied = passthrough(source, tmp_path / "o.mov", length=100)
    assert see(copied.path)[1].data == see(source)[1].data
    with open_input(copied.path) as container:
        assert channel_order(container.streams.audio[0]) == [0, 1, 2, 3, 6, 7, 4, 5]
    assert see(passthrough(source, tmp_path / "o.webm", length=100).path)[1].codec == "opus"
