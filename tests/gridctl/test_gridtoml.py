import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.gridtoml import MAX_FAULTS, Configured, configure
from gridctl.gridtoml_rules import RULES, TABLES
from gridnode.errors import ProjectInvalid
from gridnode.model import Network, TaskSpec
from gridnode.task_bounds import refused

REQ, DAILY = TaskSpec("req", "tasks/req.py"), TaskSpec("reports.daily", "tasks/reports/daily.py")
PAGE = Path(__file__).parents[2] / "docs" / "grid-toml.md"


def configured(text: str, *specs: TaskSpec) -> dict[str, Configured]:
    return {one.spec.name: one for one in configure(specs or (REQ, DAILY), text.encode())}


def faults(text: str, *specs: TaskSpec) -> list[str]:
    with pytest.raises(ProjectInvalid) as caught:
        configured(text, *specs)
    assert caught.value.hint
    return caught.value.message.split("\n")


def test_without_it_the_built_in_defaults_hold() -> None:
    for text in ("", "# nothing\n", "[defaults]\n[tasks]\n", "[tasks.req]\n"):
        found = configured(text)
        assert [one.spec for one in found.values()] == [REQ, DAILY]
        assert {str(setting) for one in found.values() for setting in one.settings.values()} == {"default"}
        assert list(found["req"].settings) == [*RULES, *TABLES]


def test_a_task_wins_over_defaults_and_defaults_over_what_is_built_in() -> None:
    found = configured('[defaults]\nmemory = "1GB"\ntimeout = 5\n\n[tasks.req]\ntimeout = "2m"\n')
    assert (found["req"].spec.memory, found["req"].spec.timeout, found["req"].spec.cpu) == (1 << 30, 120.0, 1.0)
    assert (found["reports.daily"].spec.memory, found["reports.daily"].spec.timeout) == (1 << 30, 5.0)
    origins = {key: str(setting) for key, setting in found["req"].settings.items()}
    assert (origins["memory"], origins["timeout"]) == ("[defaults] line 2", "[tasks.req] line 6")
    assert origins["cpu"] == "default"


def test_every_key_is_read() -> None:
    text = """
    [tasks.req]
    instances = "max"
    memory = 33554432
    cpu = 2
    timeout = "1.5s"
    concurrency = 8
    network = "egress"
    secrets = ["db", "s3"]
    runtime = "exec"
    image = "a/b:1"
    runtime_class = "runsc"
    idempotent = true
    max_restarts = 0
    min_uptime = "250ms"
    env = { A = "x", B = 1, C = true, D = 0.5, E = "" }
    on = { gpu = true, zone = "attic", rack = 4 }
    """
    assert configured(text)["req"].spec == TaskSpec(
        *("req", "tasks/req.py", "exec"),
        instances=0,
        memory=32 << 20,
        cpu=2.0,
        timeout=1.5,
        concurrency=8,
        network=Network.EGRESS,
        secrets=("db", "s3"),
        image="a/b:1",
        runtime_class="runsc",
        idempotent=True,
        max_restarts=0,
        min_uptime=0.25,
        env={"A": "x", "B": "1", "C": "true", "D": "0.5", "E": ""},
        on={"gpu": "true", "zone": "attic", "rack": "4"},
    )


def test_tables_join_name_by_name() -> None:
    found = configured('[defaults.env]\nA = "1"\nB = "1"\n[tasks.req]\nenv.B = "2"\non = {}\n')
    assert found["req"].spec.env == {"A": "1", "B": "2"}
    assert found["reports.daily"].spec.env == {"A": "1", "B": "1"}
    settings = found["req"].settings
    assert (str(settings["env.A"]), str(settings["env.B"])) == ("[defaults] line 2", "[tasks.req] line 5")
    assert "env" not in settings
    assert settings["on"].value == {}


@pytest.mark.parametrize(
    "text",
    [
        "[tasks.reports.daily]\ncpu = 2",
        '[tasks."reports.daily"]\ncpu = 2',
        "tasks.reports.daily.cpu = 2",
        '[tasks]\nreports = { daily = { "cpu" = 2 } }',
    ],
)
def test_a_task_in_a_directory(text: str) -> None:
    assert configured(text)["reports.daily"].spec.cpu == 2.0
    assert configured(text)["req"].spec.cpu == 1.0


def test_a_task_and_one_below_it() -> None:
    below = TaskSpec("req.b", "tasks/req/b.py")
    found = configured("[tasks.req]\ncpu = 2\n[tasks.req.b]\ncpu = 3\n[tasks.req.env]\nA = 1", REQ, below)
    assert (found["req"].spec.cpu, found["req.b"].spec.cpu) == (2.0, 3.0)
    assert found["req"].spec.env == {"A": "1"}


def test_a_directory_called_as_a_key() -> None:
    spec = TaskSpec("jobs.env", "tasks/jobs/env.py")
    assert configured("[tasks.jobs.env]\ncpu = 3", spec)["jobs.env"].spec.cpu == 3.0
    both = configured('[tasks.jobs.env]\nA = 1\n[tasks."jobs.env"]\ncpu = 3', spec, TaskSpec("jobs", "tasks/jobs.py"))
    assert both["jobs"].spec.env == {"A": "1"}
    assert both["jobs.env"].spec.cpu == 3.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tasks.req]\nmemroy = 1", "line 2: unknown key memroy in [tasks.req]; did you mean memory?"),
        ("[defaults]\n\nCPU = 1\n", "line 3: unknown key CPU in [defaults]"),
        ("[default]\n", "line 1: unknown table default; did you mean defaults?"),
        ("[task.req]\n", "line 1: unknown table task; did you mean tasks?"),
        ("instances = 2", "line 1: unknown table instances"),
        ("[tasks.rq]\ncpu = 1", "line 1: no task file makes a task rq; did you mean req?"),
        ("[tasks.reports.dayly]", "line 1: no task file makes a task reports.dayly; did you mean reports.daily?"),
        ("[tasks.reports]\ncpu = 1", "line 1: no task file makes a task reports; did you mean reports.daily?"),
        ("[tasks.req.envs]\nA = 1", "line 1: unknown key envs in [tasks.req]; did you mean env?"),
        ("[tasks.req.memory]\nmin = 1", "line 1: memory cannot be a table: bytes, or text"),
        ("[tasks.zzz.env]\nA = 1", "line 1: no task file makes a task zzz"),
        ("[[tasks]]\n", "line 1: tasks has to be a table"),
        ("defaults = 1", "line 1: defaults has to be a table"),
        ("[tasks]\nreq = 1", "line 2: tasks.req has to be a table"),
        ('[tasks.reports.daily]\n[tasks."reports.daily"]', "line 2: [tasks.reports.daily] is there twice"),
        (
            "[tasks.req]\non = ['orders.*']",
            "line 2: on has to be a table, such as on = { gpu = true }; for events, write topics = [...]",
        ),
        ("[defaults]\nenv = 'A=1'", "line 2: env has to be a table, such as env = {"),
        ("[defaults.env]\nGRID_NODE = 'x'", 'line 2: env cannot have the name "GRID_NODE": letters'),
        ("[defaults.env]\nPATH = '/task'", 'line 2: env cannot have the name "PATH": letters'),
        ("[defaults.env]\nA = []", "line 2: env.A cannot be []: text, a number, true or false"),
        ("[defaults.on]\n'a b' = 1", 'line 2: on cannot have the name "a b": letters'),
        ("[defaults]\nsecrets = ['a',\n 'a']", 'line 2: secrets cannot be ["a", "a"]: a list of at most 64 names'),
        ("a = 1\nb = ?\n", "line 2, column 5: not valid TOML: Invalid value"),
        ("a = 1\nb =\n", "line 2, column 4: not valid TOML"),
        ("a = 1\nb = [\n1,\n\n", "line 3: not valid TOML"),
        ("a = " + "[" * 50_000, "line 1: not valid TOML"),
    ],
)
def test_a_fault_has_its_line_and_says_what_is_allowed(text: str, said: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith(f"grid.toml, {said}")


def test_all_faults_are_told_in_order() -> None:
    text = "[tasks.req]\ncpu = 0\nmemory = true\n[tasks.x]\n[defaults]\ntimeout = ''\n"
    assert [fault.split(":")[0] for fault in faults(text)] == [f"grid.toml, line {line}" for line in (2, 3, 4, 6)]
    many = faults("[defaults]\n" + "".join(f"k{n} = 1\n" for n in range(MAX_FAULTS + 5)))
    assert (len(many), many[-1]) == (MAX_FAULTS + 1, "and 5 more")


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ProjectInvalid, match=r"grid\.toml, line 2: not UTF-8"):
        configure([REQ], b"a = 1\nb = '\xff'")
    with pytest.raises(ProjectInvalid, match="larger than"):
        configure([REQ], b"#" * (1 << 20) + b"#")
    assert configure([REQ], b"\xef\xbb\xbf[defaults]\r\ncpu = 2\r\n")[0].spec.cpu == 2.0


def test_tables_have_bounds_as_a_whole() -> None:
    halves = "".join(
        f"[{at}.env]\n" + "".join(f"{at[0]}{n} = 1\n" for n in range(70)) for at in ("defaults", "tasks.req")
    )
    (fault,) = faults(halves)
    assert fault.startswith("grid.toml, line 142: env of req has 140 names in ")
    (fault,) = faults("[tasks.req.env]\nA = '" + "x" * 17_000 + "'")
    assert "at most 128 in 16384 bytes" in fault
    (fault,) = faults("[tasks.req.on]\n" + "".join(f"a{n} = 1\n" for n in range(65)))
    assert fault == "grid.toml, line 66: on of req has 65 labels: at most 64 are allowed"


def test_an_image_that_speaks_for_itself_has_to_be_named() -> None:
    assert configured('[defaults]\nimage = "a/b"\n[tasks.req]\nruntime = "image"')["req"].spec.runtime == "image"
    (fault,) = faults('[tasks.req]\nruntime = "image"')
    assert fault == 'grid.toml, line 2: req has runtime = "image", but no image'


def test_what_no_ledger_document_holds_is_refused_here() -> None:
    specs = [TaskSpec(f"t{n}", f"tasks/t{n}.py") for n in range(100)]
    (fault,) = faults("[defaults.env]\nA = '" + "x" * 15_000 + "'", *specs)
    assert fault.startswith("grid.toml: the settings of all tasks take")


def test_a_name_as_deep_as_the_text_goes() -> None:
    (fault,) = faults("[tasks." + "a." * 10_000 + "a]")
    assert fault.startswith("grid.toml, line 1: no task")


def test_what_could_break_the_line_is_escaped() -> None:
    (fault,) = faults('[defaults]\n"a\\nb" = 1')
    assert fault.startswith('grid.toml, line 2: unknown key "a\\nb" in [defaults]')


values = st.recursive(
    st.one_of(
        st.integers(-2, 2**70).map(str),
        st.floats().map(str),
        st.sampled_from(["true", "false", '"max"', '"1GB"', '"5m"', '"none"', '""', "1979-05-27", '"\\u0000"']),
        st.sampled_from(["0x" + "f" * 5000]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(st.sampled_from(["A", "b", "env"]), inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"{key} = {value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=4,
)
keys = st.sampled_from([*RULES, *TABLES, "unknown"])


@given(st.dictionaries(keys, values), st.sampled_from(["defaults", "tasks.req", "tasks.other"]))
def test_any_value_is_within_bounds_or_a_fault_on_its_line(table: dict[str, str], section: str) -> None:
    text = f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
    tomllib.loads(text)
    try:
        found = configured(text)
    except ProjectInvalid as exc:
        told = exc.message.split("\n")
    else:
        assert all(refused(one.spec) == [] for one in found.values())
        return
    for fault in told:
        match = re.match(r"grid\.toml, line (\d+): (?:unknown key )?([a-z_]+)", fault)
        assert match
        assert text.split("\n")[int(match[1]) - 1].startswith(match[2]) or section == "tasks.other"


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        configured(text)
    except ProjectInvalid as exc:
        said = exc.message
    else:
        return
    assert said.startswith("grid.toml, line ")


def test_the_sample_in_the_docs() -> None:
    match = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match
    found = configured(match[1], REQ, DAILY, TaskSpec("thumbs", "tasks/thumbs.py"))
    assert all(refused(one.spec) == [] for one in found.values())
    said = {key.partition(".")[0] for one in found.values() for key, at in one.settings.items() if at.line}
    assert said == {*RULES, *TABLES}, "the sample has every key"
    assert found["req"].spec.instances == 2
    assert found["reports.daily"].spec.timeout == 300.0


def test_the_faults_in_the_docs() -> None:
    page = PAGE.read_text()
    text = '[tasks.req]\ncpu = 1\nmemroy = "1GB"\ntimeout = "5 minutes"\n\n[tasks.rq]\n'
    assert "\n".join(faults(text)) in page


def test_health_is_what_the_runtime_can_be_asked() -> None:
    found = configured('[tasks.req]\nhealth = "well"\n')["req"]
    assert (found.spec.health, str(found.settings["health"])) == ("well", "[tasks.req] line 2")
    program = TaskSpec("run", "tasks/run.sh", "exec")
    assert faults('[defaults]\nhealth = "well"\n', REQ, program) == [
        'grid.toml, line 2: health of run cannot be "well": a program that runs once a call cannot be asked'
    ]
    assert faults('[tasks.req]\nmemory = "1GB"\nhealth = "/healthz"\n') == [
        'grid.toml, line 3: health of req cannot be "/healthz": the name of a public function of its file'
    ]
