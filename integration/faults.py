"""A task file that misbehaves in every way we know, and how each call of it ends."""

FAULT = """
import errno, os, time

def bomb():
    while True:
        try:
            os.fork()
        except OSError:
            pass

def hoard():
    held = []
    while True:
        held.append(os.urandom(1 << 20))

def fill():
    with open("/tmp/big", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))

def flood(event):
    line = b"x" * 65535 + b"\\n"
    for _ in range(event * 16):
        os.write(1, line)
    return "flooded"

def spin():
    while True:
        pass

def _connections():
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}"):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                yield int(name)

def close():
    for fd in _connections():
        os.close(fd)
    time.sleep(0.2)

def garbage():
    for fd in _connections():
        os.write(fd, b"\\xff" * 4096)
    time.sleep(0.2)

def _swap(path):
    inside = os.path.join(path, "swap")
    os.symlink("/etc/passwd", inside)
    os.replace(inside, os.path.join(path, "book.txt"))

def swap(event):
    return {path: _why(path) for path in event}

def _why(path):
    try:
        _swap(path)
    except OSError as exc:
        return errno.errorcode[exc.errno]
    return "swapped"

def segfault():
    os.kill(os.getpid(), 11)

def leave():
    os._exit(3)

def quick(event):
    return event
"""

ENDS: dict[str, tuple[str, object, str, str]] = {
    "fork bomb": ("fault.bomb", None, "timeout", "no result before the deadline"),
    "never returns": ("fault.spin", None, "timeout", "no result before the deadline"),
    "memory": ("fault.hoard", None, "task_crashed", "was killed: out of memory (limit 256 MB)"),
    "tmp": ("fault.fill", None, "task_raised", "No space left"),
    "signal": ("fault.segfault", None, "task_crashed", "was killed by SIGSEGV"),
    "exit": ("fault.leave", None, "task_crashed", "exited with code 3"),
    "closed socket": ("fault.close", None, "task_crashed", "with the call inside it"),
    "garbage frames": ("fault.garbage", None, "task_crashed", "with the call inside it"),
}
"""By name: task, its event, the error's code, and words of its message."""
