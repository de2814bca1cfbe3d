"""The streams of a transport or program stream, found in its bytes: where each begins, and which programs there are.

FFmpeg looks for streams in the head of a file only. Formats: ISO/IEC 13818-1 (2.4.3 transport packets, 2.4.4 program
tables, 2.5.3 packs); DVDs have further streams within private_stream_1, told apart by their first byte.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

_PACKET_SIZES = (188, 192, 204)  # bytes: plain, with a time stamp in front (Blu-ray), with Reed-Solomon code behind
_ALIGNED = 5 * 204  # bytes in which sync bytes must follow one another
_SYNC, _PAT_PID = 0x47, 0
_PAT_TABLE, _PMT_TABLE = 0, 2
_PES = re.compile(rb"\x00\x00\x01[\xbd\xc0-\xef]", re.DOTALL)
_PES_START = b"\x00\x00\x01"
_PRIVATE_1 = 0xBD
_CHUNK = 8 << 20  # bytes read at a time
_OVERLAP = 300  # bytes: a PES header has up to 264


class Readable(Protocol):
    def read(self, size: int) -> bytes: ...
    def seek(self, offset: int) -> int: ...


@dataclass(frozen=True)
class StreamIds:
    """`begins`: FFmpeg's stream id → the byte at which its first packet begins; `programs`: the ids of each program."""

    begins: Mapping[int, int] = field(default_factory=dict)
    programs: tuple[frozenset[int], ...] = ()

    def belongs(self, stream: int, main: int) -> bool:
        """Whether a stream is in a program of the main stream; True if no program table lists that one."""
        own = [program for program in self.programs if main in program]
        return not own or any(stream in program for program in own)


def find_stream_ids(file: Readable, name: str) -> StreamIds:
    """Reads a whole file; `name` is FFmpeg's of its format: mpegts or mpeg."""
    file.seek(0)
    return _TransportStream(file).find() if name == "mpegts" else StreamIds(dict(_program_stream(file)))


def _program_stream(file: Readable) -> Iterator[tuple[int, int]]:
    """(id, position) of each stream's first packet."""
    seen: set[int] = set()
    position, rest = 0, b""
    while chunk := file.read(_CHUNK):
        data = rest + chunk
        for match in _PES.finditer(data, 0, len(data) - _OVERLAP if len(chunk) == _CHUNK else len(data)):
            stream = _pes_stream(data, match.start())
            if stream is not None and stream not in seen:
                seen.add(stream)
                yield stream, position + match.start()
        keep = min(_OVERLAP, len(data))
        position, rest = position + len(data) - keep, data[len(data) - keep :]


def _pes_stream(data: bytes, at: int) -> int | None:
    """FFmpeg's id of the stream of a PES packet; None if this is none."""
    code = data[at + 3]
    if code != _PRIVATE_1:
        return 0x100 | code
    if len(data) < at + 9 or data[at + 6] & 0xC0 != 0x80:
        return None
    payload = at + 9 + data[at + 8]
    return data[payload] if payload < len(data) else None


class _TransportStream:
    def __init__(self, file: Readable):
        self._file = file
        self._begins: dict[int, int] = {}
        self._tables: dict[int, bytes] = {}  # PID → the section that is being collected
        self._seen: set[tuple[int, bytes]] = set()
        self._programs: list[frozenset[int]] = []
        self._map_pids: set[int] = set()

    def find(self) -> StreamIds:
        for position, size, packets in self._blocks():
            self._read(position, size, packets)
        listed = frozenset().union(*self._programs)
        return StreamIds({pid: at for pid, at in self._begins.items() if pid in listed}, tuple(self._programs))

    def _blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """(position, packet size, packets as (count, size) uint8), aligned anew after bytes that are no packets."""
        size, position, data = 0, 0, b""
        while more := self._file.read(_CHUNK):
            data += more
            is_last = len(more) < _CHUNK
            while len(data) >= (_PACKET_SIZES[0] if is_last else _ALIGNED):
                size, skip = _alignment(data, size)
                position, data = position + skip, data[skip:]
                count = len(data) // size if size else 0
                if not count:
                    break
                packets = np.frombuffer(data, np.uint8, count * size).reshape(count, size)
                wrong = np.flatnonzero(packets[:, 0] != _SYNC)  # not the first one, see _alignment
                count = int(wrong[0]) if len(wrong) else count
                yield position, size, packets[:count, : _PACKET_SIZES[0]]
                position, data = position + count * size, data[count * size :]

    def _read(self, position: int, size: int, packets: np.ndarray) -> None:
        pids = (packets[:, 1].astype(np.int32) & 0x1F) << 8 | packets[:, 2]  # (packets,)
        starts = np.flatnonzero(packets[:, 1] & 0x40)
        for pid, first in zip(*np.unique(pids[starts], return_index=True), strict=True):
            at = int(starts[first])
            if int(pid) not in self._begins and _payload(packets[at]).startswith(_PES_START):
                self._begins[int(pid)] = position + at * size
        self._collect(_PAT_PID, packets, pids)
        for pid in sorted(self._map_pids):
            self._collect(pid, packets, pids)

    def _collect(self, pid: int, packets: np.ndarray, pids: np.ndarray) -> None:
        """Puts the sections of a table together."""
        for at in np.flatnonzero(pids == pid):
            payload, starts = _payload(packets[at]), bool(packets[at, 1] & 0x40)
            if (pid, payload) in self._seen:
                continue  # a whole section again
            if starts and payload:
                self._tables[pid] = payload[1 + payload[0] :]  # after what remains of the section before
            elif pid in self._tables:
                self._tables[pid] += payload
            section = self._tables.get(pid, b"")
            length = 3 + (int.from_bytes(section[1:3], "big") & 0xFFF) if len(section) >= 3 else 0
            if length and len(section) >= length:
                del self._tables[pid]
                if (pid, section[:length]) not in self._seen:
                    self._seen |= {(pid, section[:length]), (pid, payload)}
                    self._enter(section[:length])

    def _enter(self, section: bytes) -> None:
        """Takes in a program association table, or a program map table."""
        if section[0] == _PAT_TABLE:
            for at in range(8, len(section) - 7, 4):
                number, pid = (
                    int.from_bytes(section[at : at + 2], "big"),
                    int.from_bytes(section[at + 2 : at + 4], "big"),
                )
                if number:  # 0 is the network's table
                    self._map_pids.add(pid & 0x1FFF)
        elif section[0] == _PMT_TABLE and len(section) >= 16:
            found, at = set(), 12 + (int.from_bytes(section[10:12], "big") & 0xFFF)
            while at + 5 <= len(section) - 4:
                found.add(int.from_bytes(section[at + 1 : at + 3], "big") & 0x1FFF)
                at += 5 + (int.from_bytes(section[at + 3 : at + 5], "big") & 0xFFF)
            self._programs.append(frozenset(found))


def _payload(packet: np.ndarray) -> bytes:
    """The payload of a transport packet; empty if it has none."""
    control = packet[3] >> 4 & 3
    start = 4 if control & 1 else len(packet)
    if control == 3:
        start = 5 + int(packet[4])
    return packet[start:].tobytes()


def _alignment(data: bytes, size: int) -> tuple[int, int]:
    """(packet size, bytes before the first packet): where sync bytes follow one another; all bytes if nowhere."""
    at = data.find(_SYNC)
    while at >= 0:
        for each in (size,) if size else _PACKET_SIZES:
            if set(data[at : at + _ALIGNED : each]) == {_SYNC}:
                return each, at
        at = data.find(_SYNC, at + 1)
    return size, max(len(data) - _ALIGNED, 1)
