"""Kinds of sound that containers can't hold as it is: LPCM of discs, LATM, AMR."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from sound_clips import RATE, aac_frames, likeness, loas, noise, sound_of, with_packets, with_sound

from kinds import Kind, Outcome

STEREO = noise(2)


def lines_about_sound(outcome: Outcome) -> list[str]:
    return [line for line in outcome.lines if "audio stream" in line]


def bluray(folder: Path) -> Path:
    options = {"mpegts_m2ts_mode": "1"}
    path = folder / "in.m2ts"
    return with_sound(path, "pcm_bluray", STEREO, sample_format="s16", container="mpegts", options=options)


def dvd(folder: Path) -> Path:
    return with_sound(folder / "in.vob", "pcm_dvd", STEREO)


def check_same_samples(outcome: Outcome) -> None:
    """The same samples at the same time, and a line if the codec is another kind of codec."""
    assert outcome.status == 0, outcome.lines
    start, samples = sound_of(outcome.output)
    assert np.array_equal(samples * 32768, STEREO)
    assert abs(start - sound_of(outcome.source)[0]) <= Fraction(1, 2000)
    is_flac = outcome.output.suffix == ".mp4"
    assert len(lines_about_sound(outcome)) == is_flac
    assert not is_flac or "is converted to FLAC without loss: mp4 can't hold it" in lines_about_sound(outcome)[0]


def latm(folder: Path) -> Path:
    config, frames = aac_frames(STEREO)
    span = Fraction(1024, RATE)
    packets = [(loas(config if i % 5 == 0 else None, data), i * span, span) for i, data in enumerate(frames)]
    return with_packets(folder / "in.ts", "aac_latm", packets)


def check_same_frames(outcome: Outcome) -> None:
    assert outcome.status == 0 and lines_about_sound(outcome) == [], outcome.lines
    with av.open(str(outcome.output)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == "aac"
        found = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    assert found == aac_frames(STEREO)[1]


def amr(folder: Path) -> Path:
    """A telephone's clip; the encoder is in PyAV's wheels."""
    return with_sound(folder / "in.3gp", "libopencore_amrnb", noise(1, 4000), rate=8000)


def check_encoded(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.lines
    (line,) = lines_about_sound(outcome)
    assert "audio stream 1 (amr_nb) is converted to AAC: mp4 can't hold it" in line
    assert likeness(sound_of(outcome.source)[1], sound_of(outcome.output)[1]) > 0.98


KINDS = [
    Kind("LPCM of Blu-ray into mp4", bluray, check_same_samples, "out.mp4"),
    Kind("LPCM of a DVD into mkv", dvd, check_same_samples),
    Kind("AAC in LATM", latm, check_same_frames, "out.mp4"),
    Kind("AMR into mp4", amr, check_encoded, "out.mp4"),
]
