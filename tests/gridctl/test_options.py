import click
import pytest

from gridctl.options import Settings, confirm
from gridnode.errors import UsageError


def test_nobody_to_ask_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridctl.options.is_terminal", lambda stream: False)
    with pytest.raises(UsageError) as caught:
        confirm("It is large.", Settings())
    assert caught.value.hint == "-y goes ahead without asking"
    confirm("It is large.", Settings(yes=True))


def test_a_no_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridctl.options.is_terminal", lambda stream: True)
    asked = []

    def answer(text: str, **options: object) -> bool:
        asked.append(text)
        raise click.Abort

    monkeypatch.setattr("gridctl.options.click.confirm", answer)
    with pytest.raises(click.Abort):
        confirm("It is \x1blarge.", Settings())
    assert asked == ["It is \\x1blarge. Go ahead?"]
