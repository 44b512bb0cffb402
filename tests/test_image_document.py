"""Images in the ledger: their names, and what a document may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gridnode.errors import LedgerError
from gridnode.identity import public_key_of
from gridnode.image_document import IMAGE, canonical, open_image, sign_image
from gridnode.ledger import sign_document, verifier
from gridnode.model import Image, Root

KEY = b"k" * 32
SOUND = Image("a" * 64, "b" * 64, Root("c" * 64), 1, 0, "me@here")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("app", "app:latest"),
        ("app:1.0-x_Y", "app:1.0-x_Y"),
        ("docker.io/library/app:1", "app:1"),
        ("docker.io/team/app", "team/app:latest"),
        ("host.example:5000/a/b-c.d__e:t", "host.example:5000/a/b-c.d__e:t"),
        ("host:5000/app", "host:5000/app:latest"),
        ("App", None),
        ("", None),
        ("-app", None),
        ("a//b", None),
        ("../app", None),
        ("app@sha256:" + "0" * 64, None),
        ("sha256:" + "0" * 64, None),
        ("app:1:2", None),
        ("a" * 241, None),
        ("app\n", None),
    ],
)
def test_canonical(given: str, expected: str | None) -> None:
    assert canonical(given) == expected


@given(st.text(max_size=300))
def test_canonical_stays(reference: str) -> None:
    name = canonical(reference)
    assert name is None or canonical(name) == name


def test_a_document_and_back() -> None:
    document = sign_image(KEY, "app:1", SOUND, 7)
    assert verifier(public_key_of(KEY))(document)
    assert (document.kind, document.name, document.sequence, open_image(document)) == (IMAGE, "app:1", 7, SOUND)
    assert open_image(sign_image(KEY, "app:1", None, 8)) is None


@pytest.mark.parametrize(
    "image",
    [
        replace(SOUND, id="A" * 64),
        replace(SOUND, manifest=""),
        replace(SOUND, root=Root("../x")),
        replace(SOUND, size=0),
        replace(SOUND, size=1 << 60),
        replace(SOUND, created=-1),
        replace(SOUND, by="x" * 256),
        replace(SOUND, by="\x1b[2J"),
    ],
)
def test_images_out_of_bounds(image: Image) -> None:
    with pytest.raises(LedgerError):
        sign_image(KEY, "app:1", image, 1)


@pytest.mark.parametrize("name", ["app", "App:1", "app:1\n", "docker.io/app:1"])
def test_names_that_are_not_canonical(name: str) -> None:
    with pytest.raises(LedgerError):
        sign_image(KEY, name, SOUND, 1)


@given(st.binary(min_size=1, max_size=200))
def test_any_body_is_an_image_or_refused(body: bytes) -> None:
    try:
        open_image(sign_document(KEY, IMAGE, "app:1", 1, body))
    except LedgerError:
        return
