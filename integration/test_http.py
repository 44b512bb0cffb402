"""The HTTP API of a node, asked from inside its own network namespace."""

import json

import pytest

from integration.grid import Grid
from integration.node import Node, Response

SIX_MEBIBYTES = 6 << 20


def test_a_call_says_where_it_ran(grid: Grid, node: Node) -> None:
    answers = [invoke(grid, node, "probe.whoami") for _ in range(6)]
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["Grid-Node"] for answer in answers} == set(grid.nodes)
    for answer in answers:
        assert answer.json["node"] == answer.headers["Grid-Node"]
        assert len(answer.headers["Grid-Invocation-Id"]) == 32
        assert float(answer.headers["Grid-Duration-Ms"]) > 0
        assert answer.headers["Content-Type"] == "application/json"
    assert len({answer.headers["Grid-Invocation-Id"] for answer in answers}) == 6


def test_json_goes_in_and_comes_out(grid: Grid, node: Node) -> None:
    values: list[object] = [None, [], {"a": "ž"}, "x" * 1_000_000]
    for value in values:
        answer = invoke(grid, node, "echo", json.dumps(value).encode())
        assert (answer.status, answer.json) == (200, value)


def test_a_body_of_six_mebibytes_is_the_most(grid: Grid, node: Node) -> None:
    most = json.dumps("x" * (SIX_MEBIBYTES - 2)).encode()
    answer = invoke(grid, node, "echo?node=node-2", most)
    assert (answer.status, answer.body) == (200, most)
    answer = invoke(grid, node, "echo", most[:-1] + b'x"')
    assert (answer.status, code(answer)) == (413, "body_too_large")


def test_what_a_task_raises_is_a_500_with_its_traceback(grid: Grid, node: Node) -> None:
    answer = invoke(grid, node, "probe.fail?node=node-3", b'"it"')
    error = answer.json["error"]
    assert (answer.status, error["code"], error["node"]) == (500, "task_raised", "node-3")
    assert error["invocation_id"] == answer.headers["Grid-Invocation-Id"]
    assert "cannot take it" in error["message"]
    assert error["trace"].startswith("Traceback")


def test_a_timeout_is_a_504(grid: Grid, node: Node) -> None:
    answer = invoke(grid, node, "probe.nap?timeout=0.3&node=node-2", b"20")
    assert (answer.status, code(answer)) == (504, "timeout")
    assert 200 < float(answer.headers["Grid-Duration-Ms"]) < 3000


@pytest.mark.parametrize(
    ("path", "body", "status", "expected"),
    [
        ("echo", b"{", 400, "body_invalid"),
        ("echo", b"\xff\xfe", 400, "body_invalid"),
        ("echo?timeout=soon", b"1", 400, "body_invalid"),
        ("echo?timeout=-1", b"1", 400, "body_invalid"),
        ("echo?timeout=nan", b"1", 400, "body_invalid"),
        ("probe.whoamy", b"1", 404, "task_not_found"),
        ("..%2f..%2fetc", b"1", 404, "http"),
        ("echo?node=node-9", b"1", 404, "node_not_found"),
    ],
)
def test_what_makes_no_sense_is_refused(
    grid: Grid, node: Node, path: str, body: bytes, status: int, expected: str
) -> None:
    answer = invoke(grid, node, path, body)
    assert (answer.status, code(answer)) == (status, expected)


def test_a_task_that_does_not_exist_names_those_near(grid: Grid, node: Node) -> None:
    assert "probe.whoami" in invoke(grid, node, "probe.whoamy").json["error"]["message"]


def test_what_there_is_can_be_listed(grid: Grid, node: Node) -> None:
    assert node.http("GET", "/healthz").json == {"status": "ok"}
    tasks = node.http("GET", "/v1/tasks").json["tasks"]
    assert {"echo", "probe.fail", "probe.whoami"} <= set(tasks)
    rows = node.http("GET", "/v1/nodes").json["nodes"]
    assert {(row["record"]["name"], row["state"]) for row in rows if row["state"] != "left"} == {
        (name, "alive") for name in grid.nodes
    }


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:10000"}, {"Host": ""}, {"Origin": "http://evil.example"}],
)
def test_web_pages_of_others_are_refused(grid: Grid, node: Node, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/v1/invoke/echo"), ("GET", "/v1/nodes"), ("GET", "/v1/tasks")):
        answer = node.http(method, path, b"1" if method == "POST" else b"", headers)
        assert (answer.status, code(answer)) == (403, "forbidden")


def test_other_paths_and_methods_are_refused(grid: Grid, node: Node) -> None:
    assert node.http("GET", "/v1/invoke/echo").status == 405
    assert node.http("GET", "/v2/nodes").status == 404


def invoke(grid: Grid, node: Node, task: str, body: bytes = b"null") -> Response:
    return node.http("POST", f"/v1/invoke/{task}", body)


def code(answer: Response) -> str:
    return str(answer.json["error"]["code"])
