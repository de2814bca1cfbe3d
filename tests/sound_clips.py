"""Clips with sound of kinds that PyAV writes with help only, and the samples of a file's sound."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clips import video_frame

RATE = 48000


def noise(channels: int, samples: int = RATE // 2, peak: int = 20_000, seed: int = 1) -> np.ndarray:
    """(channels, samples) int16: smoothed noise, so that a shift by one sample shows, and losses can be small."""
    steps = np.random.default_rng(seed).normal(size=(channels, samples + 31))
    smooth = np.apply_along_axis(lambda row: np.convolve(row, np.hanning(32), "valid"), 1, steps)
    return (smooth / np.abs(smooth).max() * peak).astype(np.int16)


def encoded(stream, samples: np.ndarray, rate: int, start: Fraction = Fraction(0)) -> list[av.Packet]:
    """The packets of a stream's encoder for (channels, samples) int16, whose first is at `start` seconds."""
    layout = stream.codec_context.layout.name
    convert = av.AudioResampler(stream.codec_context.format.name, layout, rate)
    packets = []
    for first in range(0, samples.shape[1], 960):
        packed = samples[:, first : first + 960].T.reshape(1, -1).copy()
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, first + round(start * rate), Fraction(1, rate)
        for converted in convert.resample(frame):
            packets += stream.encode(converted)
    return packets + stream.encode(None)


def with_packets(
    path: Path, codec: str, packets: Iterable[tuple[bytes, Fraction, Fraction]], rate: int = RATE, **more
) -> Path:
    """A clip whose sound has these packets (bytes, start and duration in seconds), of a codec without an encoder."""

    def add(out) -> list[av.Packet]:
        stream, found = out.add_mux_stream(codec, rate=rate), []
        for data, start, duration in packets:
            packet = av.Packet(data)
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 90000), stream, True
            packet.pts = packet.dts = round(start * 90000)
            packet.duration = round(duration * 90000)
            found.append(packet)
        return found

    return _clip(path, add, **more)


def with_sound(
    path: Path, codec: str, samples: Sequence[np.ndarray] | np.ndarray, *, rate: int = RATE, layout: str = "",
    sample_format: str = "", languages: Sequence[str] = (), **more,
) -> Path:  # fmt: skip
    """A clip with one stream of sound for each array of (channels, samples) int16."""
    tracks = [samples] if isinstance(samples, np.ndarray) else samples

    def add(out) -> list[av.Packet]:
        packets, streams = [], []
        for index, track in enumerate(tracks):
            stream = out.add_stream(codec, rate=rate)
            stream.codec_context.layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(track)]
            if sample_format:
                stream.codec_context.format = sample_format
            if languages:
                stream.metadata["language"] = languages[index]
            streams.append((stream, track))
        for stream, track in streams:
            packets += encoded(stream, track, rate)
        return packets

    return _clip(path, add, **more)


def _clip(path: Path, add, *, frames: int = 12, video: str = "", container: str | None = None, options=None) -> Path:
    video = video or {".ts": "libx264", ".m2ts": "libx264", ".vob": "mpeg2video"}.get(path.suffix, "mpeg4")
    with av.open(str(path), "w", format=container, container_options=options or {}) as out:
        picture = out.add_stream(video, rate=25, options={"preset": "ultrafast"} if video == "libx264" else {})
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        packets = add(out)
        for index in range(frames):
            frame = video_frame(index)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            packets += picture.encode(frame)
        for packet in sorted(packets + picture.encode(None), key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def sound_of(path: Path, index: int = 0) -> tuple[Fraction, np.ndarray]:
    """(time of the first sample in seconds, samples as float64 (channels, samples) in [-1, 1])."""
    with av.open(str(path)) as container:
        convert = av.AudioResampler("dbl")  # packed: PyAV reads past the planes of eight channels
        frames = list(container.decode(audio=index))
        start = frames[0].pts * frames[0].time_base
        packed = np.concatenate([one.to_ndarray()[0] for frame in frames for one in convert.resample(frame)])
        return start, packed.reshape(-1, frames[0].layout.nb_channels).T  # (channels, samples)


def likeness(before: np.ndarray, after: np.ndarray, lag: int = 0) -> float:
    """The correlation of the first channels, if `after` begins `lag` samples after `before`."""
    one, other = before[0, max(lag, 0) :], after[0, max(-lag, 0) :]
    count = min(len(one), len(other))
    return float(np.corrcoef(one[:count], other[:count])[0, 1])


# SMPTE 302M: AES3 pairs in transport streams, bits reversed


def s302m(
    samples: np.ndarray, channels: int = 2, start: Fraction = Fraction(0), size: int = 1920
) -> Iterable[tuple[bytes, Fraction, Fraction]]:
    """Packets of two channels of 16 bits, `size` samples each; a reader takes them for `channels`."""
    reverse = [int(f"{byte:08b}"[::-1], 2) for byte in range(256)]
    for first in range(0, samples.shape[1], size):
        data = b""
        part = samples[:, first : first + size].astype(np.int64) & 0xFFFF
        for number, (left, right) in enumerate(part.T.tolist()):
            block = 0x10 if number % 192 == 0 else 0
            data += bytes([
                reverse[left & 0xFF], reverse[left >> 8], reverse[right & 0xF] >> 4 | block,
                reverse[right >> 4 & 0xFF], reverse[right >> 12],
            ])  # fmt: skip
        header = len(data) << 16 | (channels // 2 - 1) << 14  # 16 bits
        yield header.to_bytes(4, "big") + data, start + Fraction(first, RATE), Fraction(part.shape[1], RATE)


# LOAS and LATM (ISO/IEC 14496-3, 1.7)


def aac_frames(samples: np.ndarray, rate: int = RATE) -> tuple[bytes, list[bytes]]:
    """(AudioSpecificConfig, raw frames) of an AAC encoder."""
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout = rate, {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    context.format, context.bit_rate, context.time_base = "fltp", 96_000 * len(samples), Fraction(1, rate)
    convert = av.AudioResampler("fltp", context.layout, rate)
    frame = av.AudioFrame.from_ndarray(samples.copy(), format="s16p", layout=context.layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    packets = [p for converted in convert.resample(frame) for p in context.encode(converted)] + context.encode(None)
    return context.extradata[:2], [bytes(packet) for packet in packets]


def loas(config: bytes | None, *frames: bytes, version: int = 0) -> bytes:
    """One LOAS packet of those frames; without a configuration the last one counts."""
    bits = "1" if config is None else "0"
    if config is not None:
        asc = "".join(f"{byte:08b}" for byte in config)
        bits += "10" + "00" + "11111111" if version else "0"  # with the buffer's fullness
        bits += "1" + f"{len(frames) - 1:06b}" + "0000" + "000"
        bits += "" if not version else "00" + f"{len(asc):08b}"
        bits += asc + "000" + "11111111" + "0" + "0"
    for frame in frames:
        bits += "11111111" * (len(frame) // 255) + f"{len(frame) % 255:08b}"
        bits += "".join(f"{byte:08b}" for byte in frame)
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return (0x2B7 << 13 | len(body)).to_bytes(3, "big") + body


def adts(config: bytes, frame: bytes) -> bytes:
    """One frame with its ADTS header (1.A.2), without a CRC."""
    number = int.from_bytes(config, "big")
    object_type, rate, channels = number >> 11, number >> 7 & 15, number >> 3 & 15
    head = 0xFFF1 << 40 | (object_type - 1) << 38 | rate << 34 | channels << 30 | (len(frame) + 7) << 13 | 0x7FF << 2
    return head.to_bytes(7, "big") + frame
