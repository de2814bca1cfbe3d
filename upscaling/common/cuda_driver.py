"""Asks the CUDA driver for its devices: a script for a process of its own, as a broken driver may crash or hang.

    python -I -S cuda_driver.py     prints one line of JSON:

    {"version": 13000, "devices": [["NVIDIA GeForce RTX 4090", [8, 9], bytes of memory], …]}
    {"error": 803, "call": "cuInit", "words": "…", "library": "535.129.03"}
    {"unloadable": "…"}

The functions are the CUDA Driver API's (cuda.h), which honours CUDA_VISIBLE_DEVICES as torch does. Standard library
only.
"""

import ctypes
import json
import re

LIBRARY = "libcuda.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…


class DriverError(Exception):
    """A function's name and the number that it returned."""


class Driver:
    """The functions of the library; they raise DriverError."""

    def __init__(self, library: ctypes.CDLL):
        self._library = library

    def call(self, function: str, *arguments: object) -> None:
        if status := getattr(self._library, function)(*arguments):
            raise DriverError(function, status)

    def number(self, function: str, *arguments: object) -> int:
        """What a function writes into the int that its first argument points to."""
        value = ctypes.c_int(0)
        self.call(function, ctypes.byref(value), *arguments)
        return value.value

    def device(self, index: int) -> list:
        """[name, [major, minor], bytes of memory]."""
        device, name, memory = self.number("cuDeviceGet", index), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
        self.call("cuDeviceGetName", name, len(name), device)
        self.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        capability = [
            self.number("cuDeviceGetAttribute", attribute, device) for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
        ]
        return [name.value.decode("utf-8", "replace"), capability, memory.value]

    def words(self, status: int) -> str:
        """The name and the meaning of an error, as far as the library has them."""
        found = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            if hasattr(self._library, function):
                getattr(self._library, function)(status, ctypes.byref(text))
            found.append((text.value or b"").decode("ascii", "replace"))
        return ": ".join(filter(None, found))


def ask() -> dict:
    """The answer, JSON-able."""
    try:
        driver = Driver(ctypes.CDLL(LIBRARY))
        try:
            driver.call("cuInit", 0)
            version, count = driver.number("cuDriverGetVersion"), driver.number("cuDeviceGetCount")
            return {"version": version, "devices": [driver.device(index) for index in range(count)]}
        except DriverError as error:
            call, status = error.args
            return {"error": status, "call": call, "words": driver.words(status), "library": library_version()}
    except (OSError, AttributeError) as error:  # AttributeError: it lacks a function
        return {"unloadable": str(error)}


def library_version() -> str:
    """The driver's version in the name of the file that was loaded, such as 535.129.03; empty if it has none."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        match = re.search(r"libcuda\.so\.([0-9]+\.[0-9.]+)$", maps.read(), re.MULTILINE)
    return match[1] if match else ""


if __name__ == "__main__":
    print(json.dumps(ask()), flush=True)
