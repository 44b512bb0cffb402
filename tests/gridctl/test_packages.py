from gridctl.packages import is_vendored, packages_of


def test_packages_are_told_by_their_paths() -> None:
    entries: dict[str, object] = {
        "tasks/a.py": 1,
        ".vendor/python/3.13-x86_64/requests/api.py": 2,
        ".vendor/python/3.13-x86_64/requests-2.32.0.dist-info/METADATA": 3,
        ".vendor/python/3.13-x86_64/requests-2.32.0.dist-info/RECORD": 4,
        "node_modules/left/index.js": 5,
        "node_modules/@us/right/index.js": 6,
        "node_modules/.bin/left": 7,
        "node_modules/linked": 8,
    }
    assert packages_of(entries) == {
        "requests (3.13-x86_64)": "2.32.0",
        "left (node_modules)": [("node_modules/left/index.js", 5)],
        "@us/right (node_modules)": [("node_modules/@us/right/index.js", 6)],
        "linked (node_modules)": [("node_modules/linked", 8)],
    }
    assert [path for path in entries if not is_vendored(path)] == ["tasks/a.py"]
