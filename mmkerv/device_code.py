"""GPU architectures of a compiled library, read from the file; needs neither a GPU nor CUDA's tools.

nvcc puts device code into a library as containers: a header (magic number, version, its own size, size of the rest),
then one entry for each architecture. An entry is machine code, which runs on GPUs of the same major version and an
equal or later minor one, or PTX, which the driver compiles for this architecture and every later one.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

MAGIC = 0xBA55ED50.to_bytes(4, 'little')
# magic, version, size of this header, size of the entries
CONTAINER = struct.Struct('<IHHQ')
# kind, version, size of this header, size of the code after it
ENTRY = struct.Struct('<HHIQ')
ARCHITECTURE = struct.Struct('<I')
ARCHITECTURE_OFFSET = 28
KINDS = {1: 'compute', 2: 'sm'}


def device_code(file: Path) -> tuple[str, ...]:
    """List what device code a library holds: `sm_90` is machine code for GPUs of 9.0, `compute_90` PTX.

    Example:
        >>> device_code(Path(__file__))
        ()
    """
    if not file.stat().st_size:
        return ()
    with file.open('rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = set(entries(content))
    return tuple(f'{KINDS[kind]}_{number}' for kind, number in sorted(found, key=lambda code: (-code[0], code[1])))


def entries(content: mmap.mmap | bytes) -> Iterator[tuple[int, int]]:
    """Yield kind and architecture of each entry of each container in a file.

    Example:
        >>> entry = ENTRY.pack(2, 0x101, 64, 8) + bytes(12) + ARCHITECTURE.pack(90) + bytes(32 + 8)
        >>> list(entries(b'text' + CONTAINER.pack(0xBA55ED50, 1, 16, len(entry)) + entry))
        [(2, 90)]
    """
    start = content.find(MAGIC)
    while start >= 0:
        end = start + CONTAINER.size
        if end <= len(content):
            _, version, header, size = CONTAINER.unpack_from(content, start)
            # The four bytes can stand anywhere by chance; a container's sizes fit the file.
            if version == 1 and start + header + size <= len(content):
                yield from container_entries(content, start + header, start + header + size)
                end = max(end, start + header + size)
        start = content.find(MAGIC, end)


def container_entries(content: mmap.mmap | bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield kind and architecture of each entry between two offsets."""
    while start + ARCHITECTURE_OFFSET + ARCHITECTURE.size <= stop:
        kind, _, header, size = ENTRY.unpack_from(content, start)
        if header < ARCHITECTURE_OFFSET + ARCHITECTURE.size:
            return
        if kind in KINDS:
            yield kind, ARCHITECTURE.unpack_from(content, start + ARCHITECTURE_OFFSET)[0]
        start += header + size


def runs_on(code: Iterable[str], capability: tuple[int, int]) -> bool:
    """Return whether a GPU of a compute capability can run some of the code.

    Args:
        code: what `device_code` returned.
        capability: such as `(9, 0)`.

    Example:
        >>> runs_on(['sm_80'], (8, 6)), runs_on(['sm_86'], (8, 0)), runs_on(['sm_80'], (9, 0))
        (True, False, False)
        >>> runs_on(['sm_80', 'compute_80'], (9, 0))
        True
    """
    for name in code:
        kind, _, number = name.partition('_')
        built = divmod(int(number), 10)
        if built <= capability and (kind == 'compute' or built[0] == capability[0]):
            return True
    return False
