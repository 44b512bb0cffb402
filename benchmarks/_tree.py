"""A tree like a deployed project with its packages, a large random file and an image's tar; and ways to change it."""

import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

MB = 1_000_000
_WORDS = [
    f"{stem}{ending}"
    for stem in ("self", "value", "index", "return", "import", "config", "request", "handler", "buffer", "result")
    for ending in ("", "s", "_name", "_type", "ed", "ing", "(", ") ->", " = ", ":\n    ")
]
ECHO = "def handler(event):\n    return event\n"


def make(directory: Path, size: int, seed: int = 1) -> None:
    """About `size` bytes: two thirds source text in small files, a fifth noise, the rest a tar of such text."""
    chance = random.Random(seed)
    (directory / "tasks").mkdir(parents=True)
    (directory / "tasks" / "echo.py").write_text(ECHO)
    left, number = int(size * 0.66), 0
    while left > 0:
        length = min(int(chance.paretovariate(1.1) * 4000), 400_000)
        path = directory / "packages" / f"package{number // 40}" / f"part{number // 8 % 5}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_text(chance, length))
        left, number = left - length, number + 1
    (directory / "noise.bin").write_bytes(chance.randbytes(int(size * 0.2)))
    _tar(directory / "image.tar", chance, int(size * 0.14))


def _text(chance: random.Random, length: int) -> str:
    lines = []
    while length > 0:
        line = " ".join(chance.choices(_WORDS, k=8)) + f" {chance.getrandbits(40):x}\n"
        lines.append(line)
        length -= len(line)
    return "".join(lines)


def _tar(path: Path, chance: random.Random, size: int) -> None:
    directory = path.with_suffix(".files")
    directory.mkdir()
    for number in range(max(1, size // 50_000)):
        (directory / f"lib{number}.so").write_text(_text(chance, 50_000))
    with tarfile.open(path, "w") as archive:
        archive.add(directory, "usr")
    shutil.rmtree(directory)


def one_byte(directory: Path) -> None:
    """In the middle of the random file."""
    with (directory / "noise.bin").open("r+b") as file:
        file.seek((directory / "noise.bin").stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 255]))


def one_kilobyte(directory: Path) -> None:
    """Inserted near the front of the random file."""
    content = (directory / "noise.bin").read_bytes()
    at = len(content) // 3
    (directory / "noise.bin").write_bytes(content[:at] + random.Random(9).randbytes(1024) + content[at:])


def renamed(directory: Path) -> None:
    """The directory that holds most."""
    (directory / "packages").rename(directory / "vendored")


def small_files(directory: Path) -> None:
    """A hundred new ones of 4 KB."""
    chance = random.Random(11)
    (directory / "new").mkdir()
    for number in range(100):
        (directory / "new" / f"file{number}.py").write_text(_text(chance, 4096))


CASES: dict[str, Callable[[Path], None]] = {
    "first copy": lambda directory: None,
    "1 byte changed": one_byte,
    "1 KB inserted": one_kilobyte,
    "directory renamed": renamed,
    "100 small files": small_files,
}
