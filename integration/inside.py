"""Runs inside a node's container, on its bare python3: HTTP requests to the node's own API. One JSON line on stdin:

{method, path, headers, body (base64), jobs, rate}. jobs 0: one request, a JSON line {status, headers, body} on stdout.
jobs N: N threads repeat it until stdin ends, each response as a JSON line [status, node, error code, seconds], with
status 0 and code lost where none came. Without pause, or together `rate` times a second, each then timed from when
it was due.
"""

import base64
import contextlib
import http.client
import json
import sys
import threading
import time

PORT = 10000


def once(connection, ask):
    body = base64.b64decode(ask["body"])
    connection.putrequest(ask["method"], ask["path"], skip_host="Host" in ask["headers"])
    for name, value in ask["headers"].items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    with contextlib.suppress(ConnectionError):  # refused before the end of a large body: the answer is there to read
        connection.endheaders(body)
    response = connection.getresponse()
    return response, response.read()


def repeat(ask, over, number):
    step = ask["jobs"] / ask["rate"] if ask["rate"] else 0
    due = time.monotonic() + step * number / ask["jobs"]
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    while not over.wait(max(0, due - time.monotonic())):
        start = due if step else time.monotonic()
        due += step
        try:
            response, body = once(connection, ask)
            code = json.loads(body)["error"]["code"] if response.status >= 400 else ""
            row = [response.status, response.getheader("Grid-Node", ""), code, time.monotonic() - start]
        except (OSError, http.client.HTTPException):
            connection.close()
            row = [0, "", "lost", time.monotonic() - start]
        sys.stdout.write(json.dumps(row) + "\n")
        if step:
            sys.stdout.flush()


def main():
    ask = json.loads(sys.stdin.readline())
    if not ask["jobs"]:
        response, body = once(http.client.HTTPConnection("127.0.0.1", PORT, timeout=60), ask)
        text = base64.b64encode(body).decode()
        print(json.dumps({"status": response.status, "headers": dict(response.getheaders()), "body": text}))
        return
    over = threading.Event()
    threads = [threading.Thread(target=repeat, args=(ask, over, number)) for number in range(ask["jobs"])]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


main()
