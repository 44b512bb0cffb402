"""Which files of a project are tasks, and what they are called."""

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

from gridnode.errors import ProjectInvalid
from gridnode.model import TaskSpec
from gridnode.sync.manifest import EntryKind

TASKS_DIR = "tasks"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RUNTIMES = {".py": "python", ".js": "node", ".cjs": "node", ".mjs": "node"}
_PROGRAMS = re.compile(r"\.(?:bash|jl|lua|php|pl|r|rb|sh|ts)")
_INERT = re.compile(r"\.(?:cfg|csv|html|ini|json|lock|md|png|pyc|pyi|rst|so|toml|txt|xml|ya?ml)")
"""What is no program even when marked executable, as everything is on some file systems."""

_NO_TASK = "if it is no task, start its name with _ or list it in .gridignore"
_EXPORTS = (
    re.compile(rb"^(?:module\.)?exports\.([A-Za-z_$][\w$]*)\s*=", re.MULTILINE),
    re.compile(rb"^export\s+(?:async\s+)?(?:function\s*\*?|const|let)\s+([A-Za-z_$][\w$]*)", re.MULTILINE),
)

ReadFile = Callable[[str], bytes]


def find_tasks(files: Iterable[tuple[str, EntryKind]], read: ReadFile) -> tuple[TaskSpec, ...]:
    """One spec per task file among `files` (project paths), by name; ProjectInvalid names the file at fault."""
    found: dict[str, str] = {}
    kinds = dict(files)
    for path, kind in sorted(kinds.items()):
        place = PurePosixPath(path)
        if not _is_task(place, kind):
            continue
        name = task_name(place)
        if name in found:
            raise ProjectInvalid(f"{found[name]} and {path} both make the task {name}", hint="rename one of them")
        found[name] = path
    runtimes = {path: _runtime(path, kinds[path]) for path in found.values()}
    if not found:
        raise ProjectInvalid(f"no task in {TASKS_DIR}/", hint="`gridctl sample NAME` makes a project to start from")
    _check_functions(found, {name: _INSPECT[runtimes[path]](path, read(path)) for name, path in found.items()})
    return tuple(TaskSpec(name, path, runtimes[path]) for name, path in sorted(found.items()))


def _is_task(place: PurePosixPath, kind: EntryKind) -> bool:
    """Whether the file is meant to be called; what starts with `_` or `.` is for the tasks to import."""
    if place.parts[0] != TASKS_DIR or kind not in (EntryKind.FILE, EntryKind.EXECUTABLE):
        return False
    if any(part.startswith(("_", ".")) or part == "node_modules" for part in place.parts[1:]):
        return False
    return is_source(place) or (kind is EntryKind.EXECUTABLE and not _INERT.fullmatch(place.suffix.lower()))


def is_source(place: PurePosixPath) -> bool:
    """Whether its name says that it is a program's text."""
    suffix = place.suffix.lower()
    return suffix in _RUNTIMES or _PROGRAMS.fullmatch(suffix) is not None


def task_name(place: PurePosixPath) -> str:
    """Of the file at a project's path, which begins with tasks/; ProjectInvalid when none can be made of it."""
    parts = place.with_suffix("").parts[1:]
    for part in parts:
        if not _NAME.fullmatch(part):
            raise ProjectInvalid(
                f"{place}: {part!r} cannot be part of a task's name",
                hint="use letters, digits and _, or start the name with _ if it is no task",
            )
    return ".".join(parts)


def function_name(place: PurePosixPath, function: str, source: bytes) -> str:
    """What the function of a Python task file is called by: the file's own handler has the file's name."""
    file = task_name(place)
    functions = _python_functions(str(place), source)
    only = next(iter(functions)) if len(functions) == 1 else ""
    default = next((name for name in ("handler", file, only) if name in functions), None)
    return file if function == default else f"{file}.{function}"


def _runtime(path: str, kind: EntryKind) -> str:
    runtime = _RUNTIMES.get(PurePosixPath(path).suffix) or ("exec" if kind is EntryKind.EXECUTABLE else None)
    if runtime is None:
        raise ProjectInvalid(
            f"{path} is not a kind of task that can run; supported: *{', *'.join(sorted(_RUNTIMES))}, executable files",
            hint=f"chmod +x {path}, if it is a program; {_NO_TASK}",
        )
    return runtime


def _check_functions(found: dict[str, str], functions: dict[str, set[str]]) -> None:
    """`a.b` must not be both function b of tasks/a.py and the file tasks/a/b.py."""
    for name, path in found.items():
        above, _, last = name.rpartition(".")
        if last in functions.get(above, ()):
            raise ProjectInvalid(
                f"{path} and the function {last} in {found[above]} both make the task {name}", hint="rename one of them"
            )


def _python_functions(path: str, source: bytes) -> set[str]:
    """Names of the module's own public functions; ProjectInvalid when it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = ast.parse(source, filename=path)
    except SyntaxError as exc:
        raise ProjectInvalid(f"{path}, line {exc.lineno}: {exc.msg}") from exc
    except (ValueError, RecursionError, MemoryError) as exc:
        raise ProjectInvalid(f"{path} is not Python source: {exc}") from exc
    public = (node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for name in public if not name.startswith("_")}


def _javascript_functions(path: str, source: bytes) -> set[str]:
    """Names that the file exports at the start of a line: enough to notice most clashes, and no parser."""
    found = {name.decode() for pattern in _EXPORTS for name in pattern.findall(source)}
    return {name for name in found if not name.startswith("_")}


def _no_functions(path: str, source: bytes) -> set[str]:
    """A program is one task; ProjectInvalid when the kernel could not run it."""
    first, newline, _ = source[:4096].partition(b"\n")
    if not first.startswith((b"#!", b"\x7fELF")):
        raise ProjectInvalid(f"{path} is executable, but has no #! line and is no Linux program", hint=_NO_TASK)
    if newline and first.startswith(b"#!") and first.endswith(b"\r"):
        raise ProjectInvalid(f"{path} has Windows line ends, with which its #! line does not work", hint="use dos2unix")
    return set()


def check_programs(tasks: Iterable[TaskSpec], kinds: Mapping[str, EntryKind], read: ReadFile) -> None:
    """ProjectInvalid for a file that is to run as a program, as grid.toml may say of any, and cannot."""
    for task in tasks:
        if task.runtime in ("exec", "http"):
            if kinds[task.file] is not EntryKind.EXECUTABLE:
                said = f'{task.file} has the runtime "{task.runtime}", but is not executable'
                raise ProjectInvalid(said, hint=f"chmod +x {task.file}")
            _no_functions(task.file, read(task.file))


_INSPECT = {"python": _python_functions, "node": _javascript_functions, "exec": _no_functions}
