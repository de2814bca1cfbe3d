"""A pretend CUDA device for a machine without one: tensors say `cuda:0`, compute on the CPU, every use is checked.

What a card does in some order that streams and events leave open is done at once here, so results are right whatever
the order; what is checked is that the order is not left open:

- operands of an operator are on one device;
- two uses of the same memory, one of them a write, are ordered (vector clocks of the streams and the host, as
  torch.cuda._sanitizer keeps them), in device memory and in pinned host memory;
- memory is not freed while a stream other than its own may use it (`record_stream`);
- each wait of the host is recorded with the line of the project that causes it.

It needs private functions of torch, seen with 2.14 and 2.15: `missing_hooks` says which one a version lacks.
"""

import linecache
import sys
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PROJECT = f"{Path(__file__).resolve().parent.parent / 'upscaling'}/"
DEVICE = torch.device("cuda:0")
HOST, DEFAULT_STREAM = "the host", "the default stream"
ALLOCATIONS = {"empty", "new_empty", "empty_strided", "empty_like", "new_empty_strided"}  # no kernel runs
# Operators whose result the host needs: it waits for the stream.
WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2"}
Memory = tuple[str, int]  # "device" or "pinned", and its address


def missing_hooks() -> str:
    """The private function of torch that this version lacks; empty if all are there."""
    needed = [(torch._C, "_ensureCUDADeviceGuardSet"), (torch._C, "_dispatch_has_kernel_for_dispatch_key"),
              (torch.Tensor, "_make_wrapper_subclass")]  # fmt: skip
    return next((name for owner, name in needed if not hasattr(owner, name)), "")


def place() -> str:
    """The innermost line of the project that is being run."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(PROJECT):
        frame = frame.f_back
    if frame is None:
        return "outside of the project"
    name = frame.f_code.co_filename
    return f"{name[len(PROJECT) :]}: {linecache.getline(name, frame.f_lineno).strip()}"


# Order


@dataclass(frozen=True)
class Use:
    """One use of a piece of memory: who, its how manyth step, and the operator with its place."""

    actor: str  # HOST or a stream
    step: int
    what: str


class Order:
    """What the host and the streams have done, which of it is known to be finished where, and the faults found.

    A clock maps each actor to the last of its steps that is known to be finished.
    """

    def __init__(self) -> None:
        self.clocks: dict[str, Counter[str]] = defaultdict(Counter)
        self.stream = DEFAULT_STREAM
        self.races: list[str] = []
        self.waits: list[tuple[str, str]] = []  # (why, place)
        self.operators: set[tuple[str, torch.dtype]] = set()  # that ran on the device
        self._last_write: dict[Memory, Use] = {}
        self._last_reads: dict[Memory, dict[str, Use]] = defaultdict(dict)
        self._pinned: list[tuple[int, int]] = []  # addresses [first, last)
        self._tensors: Counter[Memory] = Counter()  # on each storage of the device
        self._stream_of: dict[Memory, str] = {}  # on which it was allocated
        self._kept: list[torch.Tensor] = []  # so that no address is used twice

    def step(self, actor: str) -> int:
        self.clocks[actor][actor] += 1
        return self.clocks[actor][actor]

    def learn(self, actor: str, clock: Counter[str]) -> None:
        """Whatever is finished by `clock` is finished for what `actor` does from now on."""
        self.clocks[actor] |= clock

    def host_waits(self, clock: Counter[str], why: str) -> None:
        self.learn(HOST, clock)
        self.waits.append((why, place()))

    def launch(self, name: str, reads: set[Memory], writes: set[Memory]) -> None:
        """Queue a kernel or a copy on the current stream, behind all that the host knows of."""
        self.learn(self.stream, self.clocks[HOST])
        self.step(self.stream)
        what = f"{name} at {place()}"
        for memory in reads | writes:
            self._use(memory, self.stream, memory in writes, what)

    def host_uses(self, memory: Memory | None, write: bool, what: str) -> None:
        if memory is not None:
            self.step(HOST)
            self._use(memory, HOST, write, f"{what} at {place()}")

    def _use(self, memory: Memory, actor: str, write: bool, what: str) -> None:
        clock = self.clocks[actor]
        earlier = [self._last_write[memory]] if memory in self._last_write else []
        if write:
            earlier += self._last_reads[memory].values()
        for use in earlier:
            if use.actor != actor and clock[use.actor] < use.step:
                self.races.append(f"{actor} ({what}) does not wait for {use.actor} ({use.what})")
        use = Use(actor, clock[actor], what)
        if write:
            self._last_write[memory], self._last_reads[memory] = use, {}
        else:
            self._last_reads[memory][actor] = use

    # Memory

    def pin(self, tensor: torch.Tensor) -> None:
        self._pinned.append((tensor.data_ptr(), tensor.data_ptr() + max(1, tensor.nbytes)))
        self._kept.append(tensor)

    def pinned(self, values: torch.Tensor | np.ndarray) -> Memory | None:
        """The pinned memory that they lie in; None if they lie elsewhere."""
        address = values.ctypes.data if isinstance(values, np.ndarray) else values.data_ptr()
        return next((("pinned", first) for first, last in self._pinned if first <= address < last), None)

    def allocated(self, tensor: "DeviceTensor") -> None:
        if tensor.memory not in self._stream_of:
            self._stream_of[tensor.memory] = self.stream
            self._kept.append(tensor.inner)
        self._tensors[tensor.memory] += 1
        weakref.finalize(tensor, self._dropped, tensor.memory)

    def _dropped(self, memory: Memory) -> None:
        """The allocator may give memory without tensors to the next kernel of the stream that it was allocated on."""
        self._tensors[memory] -= 1
        if self._tensors[memory]:
            return
        stream = self._stream_of[memory]
        finished = self.clocks[HOST] | self.clocks[stream]
        uses = [*self._last_reads[memory].values(), *([self._last_write[memory]] if memory in self._last_write else [])]
        for use in uses:
            if use.actor not in (stream, HOST) and finished[use.actor] < use.step:
                self.races.append(f"memory of {stream} is freed while {use.actor} may use it ({use.what})")


order = Order()


# Tensors and operators


class DeviceTensor(torch.Tensor):
    """A tensor on the pretend device; `inner` has its values on the CPU."""

    inner: torch.Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        with torch.inference_mode(False):  # a view of a normal tensor is a normal one
            made = torch.Tensor._make_wrapper_subclass(
                cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
                device=DEVICE, requires_grad=False,
            )  # fmt: skip
        made.inner, made.memory = inner, ("device", inner.untyped_storage().data_ptr())
        order.allocated(made)
        return made

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Takes every operator, those that make tensors included."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatch(function, args, dict(kwargs or {}))


def dispatch(function, args: tuple, kwargs: dict):
    """Run an operator where its operands are, and record it."""
    implicit = torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")
    if implicit and "pin_memory" not in kwargs:
        with _Mode():  # in inference mode such operators arrive whole
            return function.decompose(*args, **kwargs)
    name = function._schema.name.removeprefix("aten::")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_device = [x for x in tensors if isinstance(x, DeviceTensor)]
    on_host = [x for x in tensors if not isinstance(x, DeviceTensor)]
    target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    if not on_device and target != "cuda":
        return _run_on_host(function, name, args, kwargs)
    if name in ("_to_copy", "copy_") and (on_host or target == "cpu"):
        return _copy(function, name, args, kwargs, to_device=target == "cuda" or isinstance(args[0], DeviceTensor))
    if any(x.dim() for x in on_host):  # others are scalars, which are passed by value
        raise RuntimeError(f"{name} at {place()}: operands on cpu and {DEVICE}")
    return _run_on_device(function, name, args, kwargs, on_device)


def _run_on_host(function, name: str, args: tuple, kwargs: dict):
    pin = kwargs.pop("pin_memory", None)
    written = _written(function, args, kwargs)
    for tensor in tree_leaves((args, kwargs)):
        if isinstance(tensor, torch.Tensor) and not _is_view(function):
            order.host_uses(order.pinned(tensor), any(tensor is other for other in written), name)
    result = function(*args, **kwargs)
    if pin:
        order.pin(result)
    return result


def _copy(function, name: str, args: tuple, kwargs: dict, to_device: bool):
    """`_to_copy` (source, device=…) or `copy_` (target, source) between host and device, on the current stream."""
    asynchronous = bool(kwargs.pop("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2]))
    if name == "copy_":
        result, source = args[:2]
        function(_inner(result), _inner(source))
        host, device = (source, result) if to_device else (result, source)
    elif to_device:  # the values are the source's until it is written again
        source = args[0]
        result = DeviceTensor(function(source, **{**kwargs, "device": "cpu"}).clone())
        host, device = source, result
    else:
        device, host = args[0], function(_inner(args[0]), **{**kwargs, "device": "cpu"})
        result = host = host.clone() if host is device.inner else host
    pinned = order.pinned(host)
    ends = {device.memory}, {pinned} if pinned else set()
    order.launch(name, *(ends[::-1] if to_device else ends))
    order.operators.add((name, device.dtype))
    if not (asynchronous and pinned):
        order.host_waits(order.clocks[order.stream], f"{name}: {'a blocking copy' if pinned else 'memory not pinned'}")
    return result


def _run_on_device(function, name: str, args: tuple, kwargs: dict, operands: list[DeviceTensor]):
    plain = {key: _inner(value) for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    if name in WAITING:
        order.launch(name, {x.memory for x in operands}, set())
        order.host_waits(order.clocks[order.stream], name)
        return function(*_inner(args), **plain)
    made = function(*_inner(args), **plain)
    known = {id(x.inner): x for x in operands}

    def on_device(value):
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else DeviceTensor(value)

    result = tree_map(on_device, made)
    if not _is_view(function) and name not in ALLOCATIONS:
        reads = {x.memory for x in operands}
        new = {x.memory for x in tree_leaves(result) if isinstance(x, DeviceTensor)} - reads
        order.launch(name, reads, new | {x.memory for x in _written(function, args, kwargs)})
        order.operators |= {(name, x.dtype) for x in operands}
    return result


def _inner(values):
    """Device tensors replaced by their values."""
    return tree_map(lambda x: x.inner if isinstance(x, DeviceTensor) else x, values)


def _is_view(function) -> bool:
    """Whether an operator makes views of its operands and touches no memory, by its schema."""
    returns = function._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _written(function, args: tuple, kwargs: dict) -> list[torch.Tensor]:
    """The operands that an operator writes, by its schema."""
    found = []
    for index, argument in enumerate(function._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += [x for x in tree_leaves(value) if isinstance(x, torch.Tensor)]
    return found


# torch.cuda


class Stream:
    def __init__(self, _device: object = None):
        self.name = f"stream {1 + sum(actor.startswith('stream ') for actor in order.clocks)}"
        order.step(self.name)

    def wait_event(self, event: "Event") -> None:
        order.learn(self.name, order.clocks[HOST] | event.clock)

    def synchronize(self) -> None:
        order.host_waits(order.clocks[self.name], "stream.synchronize")


class Event:
    def __init__(self, **_: object):
        self.clock: Counter[str] = Counter()

    def record(self, stream: Stream | None = None) -> None:
        actor = stream.name if stream else order.stream
        order.learn(actor, order.clocks[HOST])
        order.step(actor)
        self.clock = order.clocks[actor].copy()

    def synchronize(self) -> None:
        order.host_waits(self.clock, "event.synchronize")


@contextmanager
def _on_stream(stream: Stream) -> Iterator[None]:
    before, order.stream = order.stream, stream.name
    try:
        yield
    finally:
        order.stream = before


def _synchronize(_device: object = None) -> None:
    for clock in list(order.clocks.values()):
        order.learn(HOST, clock)
    order.waits.append(("torch.cuda.synchronize", place()))


@contextmanager
def pretend(name: str = "NVIDIA GeForce RTX 4090", capability: tuple[int, int] = (8, 9), free: int = 20 << 30):
    """Within, torch has a CUDA device `cuda:0` with `free` bytes of memory. Yield the `Order` that is recorded."""
    global order
    order = Order()
    torch._C._ensureCUDADeviceGuardSet()  # guards that do nothing, as FakeTensorMode sets them without a GPU
    replaced = {
        "Stream": Stream, "Event": Event, "stream": _on_stream, "synchronize": _synchronize,
        "set_device": lambda _: None, "is_available": lambda: True, "is_initialized": lambda: True,
        "empty_cache": lambda: None, "mem_get_info": lambda _=None: (free, free),
        "is_bf16_supported": lambda *_: True, "get_device_name": lambda _=None: name,
        "get_device_capability": lambda _=None: capability,
    }  # fmt: skip
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `module.to` makes new parameters
    try:
        with mock.patch.multiple(torch.cuda, **replaced), _Mode():
            yield order
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
