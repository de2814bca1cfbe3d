"""What sound becomes if the output's container can't hold it as it is, or if the user wants another codec.

Sound that is stored without loss stays so: as PCM, FLAC or ALAC, whichever the container and its players take.
FLAC goes into MP4 because more players take it there than PCM (Chrome, Firefox, Android, Apple's since 2017, VLC);
QuickTime's own PCM and ALAC go into MOV, which can't hold FLAC. Sound with losses becomes FLAC in Matroska, AAC in
MP4 and MOV, Opus in WebM, which holds nothing else that can be encoded here.
"""

from dataclasses import dataclass

ENCODERS = {"aac": "aac", "opus": "libopus", "flac": "flac"}  # a choice → FFmpeg's encoder
_HELD = {  # container → the encoders whose sound it holds
    "mkv": {"pcm", "flac", "alac", "aac", "libopus"},
    "mp4": {"pcm", "flac", "alac", "aac", "libopus"},
    "mov": {"pcm", "alac", "aac"},
    "webm": {"libopus"},
}

_LOG_PCM = {"pcm_alaw", "pcm_mulaw", "pcm_vidc"}  # decoded exactly to 16 bits
_COMPRESSED = _LOG_PCM | {
    "alac", "ape", "dst", "flac", "mlp", "mp4als", "osq", "ralf", "rka", "shorten", "tak", "truehd", "tta", "wavarc",
    "wavpack", "wmalossless",
}  # fmt: skip
_DEEP = {"alac", "wavpack", "pcm_s32be", "pcm_s32le", "pcm_s32le_planar", "pcm_u32be", "pcm_u32le"}  # may be 32 bits
_LINEAR, _LOSSLESS, _LOSSY = range(3)
# In the order in which they are tried; "pcm" is the one for the samples, see `_pcm`.
_ORDERS = {
    "mkv": (("pcm", "flac", "aac"), ("flac", "pcm", "aac"), ("flac", "aac")),
    "mp4": (("flac", "pcm", "aac"), ("flac", "pcm", "aac"), ("aac", "flac")),
    "mov": (("pcm", "alac", "aac"), ("alac", "pcm", "aac"), ("aac", "pcm")),
    "webm": (("libopus",), ("libopus",), ("libopus",)),
}
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_RATES = {"aac": _AAC_RATES, "libopus": (8000, 12000, 16000, 24000, 48000)}
_BIT_RATES = {"aac": 96_000, "libopus": 64_000}  # bits/s a channel
_BITS_PER_SAMPLE = 6  # that AAC can have at most


@dataclass(frozen=True)
class Encoding:
    """An encoder of FFmpeg, the format of the samples that it gets, and whether its sound equals the source's.

    `is_repacking`: PCM stays PCM, only the packing of its samples changes.
    """

    encoder: str
    sample_format: str
    lossless: bool
    is_repacking: bool = False

    @property
    def name(self) -> str:
        """What a person calls it: PCM, FLAC, AAC, Opus."""
        if self.encoder == "libopus":
            return "Opus"
        return "PCM" if self.encoder.startswith("pcm_") else self.encoder.upper()

    def rate(self, rate: int) -> int:
        """The sample rate in Hz for a source's: the next higher one if the codec does not have it."""
        rates = _RATES.get(self.encoder, (rate,))
        return rate if rate in rates else min((one for one in rates if one > rate), default=rates[-1])

    def bit_rate(self, rate: int, channels: int) -> int | None:
        """The usual bits/s; None if the codec has no bit rate to choose."""
        per_channel = _BIT_RATES.get(self.encoder)
        return per_channel and min(per_channel, _BITS_PER_SAMPLE * rate) * channels


def encodings(codec: str, sample_format: str, container: str, audio: str = "auto") -> list[Encoding]:
    """The ways to encode sound for a container, the best first; for `copy` only those that repack samples.

    `codec` and `sample_format` are FFmpeg's names of the source's codec and of its decoder's samples, `audio` is a
    value of the option --audio.
    """
    packed = sample_format.removesuffix("p")
    kind = _LOSSY if codec == "s302m" and packed == "flt" else _kind(codec)  # its decoder decodes Dolby E
    bits = 64 if packed in ("s64", "dbl") else 32 if packed == "flt" or (codec in _DEEP and packed == "s32") else 24
    names = (ENCODERS[audio],) if audio in ENCODERS else _ORDERS[container][kind]
    found = []
    for name in names:
        if name == "pcm":
            encoder, form = _pcm(packed, bits, container)
            lossless = kind != _LOSSY and packed != "s64"
            found.append(Encoding(encoder, form, lossless, is_repacking=lossless and kind == _LINEAR))
        elif name in ("flac", "alac"):
            deep = kind != _LOSSY and packed not in ("u8", "s16")
            fits = bits == 24 and kind != _LOSSY
            form = "s32" if deep or packed == "s32" else "s16"
            if fits or kind == _LOSSY or audio in ENCODERS:
                found.append(Encoding(name, form + "p" * (name == "alac"), fits))
        else:
            found.append(Encoding(name, "fltp" if name == "aac" else "flt", lossless=False))
    return [one for one in found if one.is_repacking] if audio == "copy" else found


def holds(container: str, audio: str) -> bool:
    """Whether a container holds the codec of a choice; true for choices that are no codec."""
    return audio not in ENCODERS or ENCODERS[audio] in _HELD[container]


def is_linear(codec: str) -> bool:
    """Whether a codec is PCM with linear samples, however they are packed."""
    return (codec.startswith("pcm_") and codec not in _LOG_PCM) or codec in ("s302m", "dvaudio")


def _kind(codec: str) -> int:
    return _LINEAR if is_linear(codec) else _LOSSLESS if codec in _COMPRESSED else _LOSSY


def _pcm(packed: str, bits: int, container: str) -> tuple[str, str]:
    """FFmpeg's PCM encoder for samples of a packed format, and the format that it gets."""
    if packed == "u8" and container != "mp4":
        return "pcm_u8", "u8"
    if packed in ("flt", "dbl"):
        return f"pcm_f{bits}le", packed
    if packed in ("u8", "s16"):
        return "pcm_s16le", "s16"
    return f"pcm_s{min(bits, 32)}le", "s32"
