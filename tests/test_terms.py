from gridnode.model import Release, Root, TaskName, TaskSpec
from gridnode.terms import Terms


def release(sequence: int, *tasks: TaskSpec) -> Release:
    return Release("p", Root("0" * 64), sequence, 0, 0, 0, tasks)


def task(name: str, timeout: float = 30.0, idempotent: bool = False) -> TaskSpec:
    return TaskSpec(name, f"tasks/{name}.py", timeout=timeout, idempotent=idempotent)


def test_a_function_has_the_timeout_of_its_file() -> None:
    terms = Terms(9.0)
    terms.follow(release(1, task("req", 5.0), task("a.b", 6.0)))
    names = ("req", "req.get_ip", "a.b", "a.b.c", "a", "other", "")
    assert [terms.timeout(TaskName(name)) for name in names] == [5.0, 5.0, 6.0, 6.0, 9.0, 9.0, 9.0]
    terms.follow(release(2))
    assert terms.timeout(TaskName("req")) == 9.0


def test_what_may_run_twice_is_remembered_by_release() -> None:
    terms = Terms(9.0)
    echo, part = TaskName("echo"), TaskName("echo.part")
    assert not terms.is_idempotent(echo, 1)
    terms.follow(release(1, task("echo", idempotent=True)))
    terms.follow(release(2, task("echo")))
    assert [terms.is_idempotent(name, 1) for name in (echo, part, TaskName("req"))] == [True, True, False]
    assert [terms.is_idempotent(echo, sequence) for sequence in (2, 3, -1)] == [False, False, False]


def test_releases_of_long_ago_are_forgotten() -> None:
    terms = Terms(9.0)
    for sequence in range(100):
        terms.follow(release(sequence, task("echo", idempotent=True)))
    known = [sequence for sequence in range(100) if terms.is_idempotent(TaskName("echo"), sequence)]
    assert known == list(range(92, 100))
