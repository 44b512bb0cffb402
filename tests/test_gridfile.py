import base64
import json
import string
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import CardInvalid, GridfileInvalid, UsageError
from gridnode.gridfile import (
    Card,
    Gridfile,
    Server,
    Share,
    parse_address,
    parse_card,
    parse_gridfile,
    parse_secret,
    parse_server,
    render_card,
    render_gridfile,
    render_secret,
    render_share,
)
from gridnode.model import Address

SECRET = render_secret(bytes(range(32)))
ORIGINAL = """#
# Gridfile Server Access ID Card
#

grid_name     = 'quiet-river'
#grid_password = '2938475610'

servers = [
  'ubuntu@10.0.0.1',
  'ubuntu@10.0.0.2',
  'ubuntu@10.0.0.3'
]

ssh_key = '''
-----BEGIN RSA PRIVATE KEY-----
MIIB
-----END RSA PRIVATE KEY-----
'''

ssh_public_key = '''
ssh-rsa AAAA user@host
'''
"""
KEYMETRICS = """grid_name = 'grid-test-1'
grid_password = 'password'
keymetrics_public = 'p'
keymetrics_secret = 's'
servers = ['root@212.47.227.158']
"""
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
CARD = Card(
    grid="g",
    tag="0123456789abcdef",
    ca=CERTIFICATE,
    issuer=CERTIFICATE,
    issuer_key="-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n",
    network_key=b"n" * 32,
    deploy_key=b"d" * 32,
    seeds=(Address("::1", 7401),),
    labels={"host": "web1", "zone": "it's"},
)


def test_a_gridfile_of_the_original_parses_with_a_word_on_its_secret() -> None:
    gridfile = parse_gridfile(ORIGINAL, "old/Gridfile")
    assert gridfile.grid_name == "quiet-river"
    assert gridfile.servers[1] == Server("10.0.0.2", "ubuntu")
    assert gridfile.ssh_key.startswith("-----BEGIN RSA PRIVATE KEY-----\n")
    assert gridfile.ssh_public_key == "ssh-rsa AAAA user@host"
    assert "old/Gridfile: missing key `grid_password`" in gridfile.warnings[0]
    commented = parse_gridfile(ORIGINAL.replace("#grid_password", "grid_password"))
    assert "`grid_password` is weak" in commented.warnings[0]


def test_keys_that_lost_their_use_are_ignored_with_a_word() -> None:
    warnings = parse_gridfile(KEYMETRICS).warnings
    assert [word for word in warnings if "keymetrics_public" in word]
    assert [word for word in warnings if "keymetrics_secret" in word]


def test_seeds_default_to_the_servers() -> None:
    assert parse_gridfile("grid_name='g'\nservers=['u@a:2222', 'u@[::1]']").seeds == (
        Address("a", 7400),
        Address("::1", 7400),
    )
    assert parse_gridfile("grid_name='g'\nservers=['u@a']\nseeds=['b:1']").seeds == (Address("b", 1),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("servers = []", "missing key `grid_name`"),
        ("grid_name = 'g'", "missing key `servers`"),
        ("grid_name = 3\nservers = []", "`grid_name` must be a string, not a whole number"),
        ("grid_name = 'g'\nservers = 'a@b'", "`servers` must be a list, not a string"),
        ("grid_name = 'g'\nservers = [3]", "`servers` entry 1 must be 'user@host' or 'user@host:port', not 3"),
        ("grid_name = 'g'\nservers = ['a', '-oProxyCommand=x']", "`servers` entry 2 must be"),
        ("grid_name = 'g'\nservers = ['a:99999']", "`servers` entry 1 must be"),
        ("grid_name = 'g'\nservers = []\nseeds = ['u@a']", "`seeds` entry 1 must be 'host:port'"),
        ("grid_name = 'a b'\nservers = []", "`grid_name` must be 1 to 63"),
        ("grid_nam = 'g'\nservers = []", "unknown key `grid_nam`"),
        ("grid_name = 'g'\nservers = []\n[settings]\nlocal_deploy = true", "unknown key `settings.local_deploy`"),
        ("grid_name = 'g'\nservers = []\n[settings]\nlocal_deploys = 1", "`settings.local_deploys` must be true or"),
        ("grid_name = 'g'\nallow_weak_password = 'yes'\nservers = []", "`allow_weak_password` must be true or false"),
        ("grid_name 'g'", "not valid TOML at line 1, column 11: "),
        ("grid_name = 'g'\n\nservers = [\n  'a'", "not valid TOML at line 4, column 6: "),
        ("\nx", "not valid TOML at line 2, column 2: "),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("#" * 1_100_000, "longer than"),
    ],
)
def test_faults_name_the_file_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(GridfileInvalid) as caught:
        parse_gridfile(text, "some/Gridfile")
    assert caught.value.message.startswith("some/Gridfile: ")
    assert message in caught.value.message
    assert caught.value.hint


def test_the_nearest_known_key_is_named() -> None:
    with pytest.raises(GridfileInvalid) as caught:
        parse_gridfile("grid_name = 'g'\nserver = []")
    assert caught.value.hint == "did you mean `servers`?"
    with pytest.raises(GridfileInvalid) as caught:
        parse_gridfile("grid_name = 'g'\nservers = []\n[settings]\nlocal_deploy = true")
    assert caught.value.hint == "did you mean `settings.local_deploys`?"


def test_a_mistyped_secret_is_detected_and_never_shown() -> None:
    for place in range(6, len(SECRET)):
        typo = SECRET[:place] + ("a" if SECRET[place] != "a" else "b") + SECRET[place + 1 :]
        with pytest.raises(GridfileInvalid) as caught:
            parse_gridfile(f"grid_name='g'\nservers=[]\ngrid_password='{typo}'")
        assert typo[6:] not in str(caught.value)
    assert parse_secret(f" {SECRET.upper()}\n") == bytes(range(32))
    assert parse_secret("password") is None
    with pytest.raises(ValueError, match="32 bytes"):
        render_secret(b"short")


def test_repr_holds_no_secret() -> None:
    gridfile = Gridfile("g", (), grid_password="hunter2", ssh_key="KEY")
    assert "hunter2" not in repr(gridfile)
    assert "KEY" not in repr(gridfile)
    assert "SECRET" not in repr(CARD)
    assert "nnnn" not in repr(CARD)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("root@h", Server("h", "root")),
        ("root@h:2222", Server("h", "root", 2222)),
        ("h:22", Server("h")),
        ("u@[fe80::1]:24", Server("fe80::1", "u", 24)),
        ("", None),
        ("@h", None),
        ("u@", None),
        ("u@h:0", None),
        ("u@h\n", None),
        ("u@h u", None),
        ("-u@h", None),
        ("u@-h", None),
        ("u@h:٣", None),
    ],
)
def test_servers(text: str, server: Server | None) -> None:
    assert parse_server(text) == server
    if server:
        assert parse_server(str(server)) == server


hosts = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=9)
ports = st.integers(1, 65535)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(lambda text: text.replace("\r", ""))


@given(
    st.builds(
        Gridfile,
        grid_name=hosts,
        servers=st.lists(st.builds(Server, hosts, st.none() | hosts, ports), min_size=1, unique=True).map(tuple),
        grid_password=texts,
        ssh_key=texts.map(lambda text: text.lstrip("\n")),
        ssh_public_key=texts.map(str.strip),
        seeds=st.lists(st.builds(Address, hosts, ports), min_size=1, unique=True).map(tuple),
        allow_weak_password=st.booleans(),
        local_deploys=st.booleans(),
    )
)
def test_gridfiles_survive_the_round_trip(gridfile: Gridfile) -> None:
    assert parse_gridfile(render_gridfile(gridfile)) == gridfile


@given(st.binary(min_size=32, max_size=32), st.dictionaries(hosts, texts, max_size=5))
def test_cards_survive_the_round_trip(key: bytes, labels: dict[str, str]) -> None:
    card = replace(CARD, network_key=key, labels=labels)
    assert parse_card(render_card(card)) == card


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "card version 2"),
        ("tag", "../../etc", "`tag` must be 16 hex digits"),
        ("grid", "", "`grid` must be"),
        ("ca", "nothing", "`ca` must be a PEM certificate"),
        ("issuer_key", CERTIFICATE, "`issuer_key` must be a PEM private key"),
        ("network_key", "%%%", "`network_key` must be base64"),
        ("deploy_key", base64.b64encode(b"x" * 31).decode(), "`deploy_key` must be base64 of 32 bytes, not 31"),
        ("seeds", ["a b"], "`seeds` entry 1"),
        ("labels", {"a": 1}, "`labels.a` must be"),
        ("labels", {"a b": "c"}, "`labels.a b` must be"),
        ("labels", {f"k{n}": "" for n in range(65)}, "`labels` has more than 64"),
        ("lable", "x", "unknown key `lable`"),
        ("tag", None, "missing key `tag`"),
    ],
)
def test_card_faults(key: str, value: object, message: str) -> None:
    table = tomllib.loads(render_card(CARD))
    table[key] = value
    text = "\n".join(f"{name} = {_toml(item)}" for name, item in table.items() if item is not None)
    with pytest.raises(CardInvalid) as caught:
        parse_card(text, "/etc/card")
    assert caught.value.message.startswith("/etc/card: ")
    assert message in caught.value.message
    assert caught.value.hint


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{key}' = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f"'''{value}'''" if isinstance(value, str) else str(value)


@given(st.text(max_size=200))
def test_garbage_is_a_usage_error(text: str) -> None:
    for parse in (parse_gridfile, parse_card):
        with pytest.raises(UsageError):
            parse(text)
    parse_server(text)
    parse_address(text)
    parse_secret(text)


toml_values = st.recursive(
    st.booleans() | st.integers() | hosts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hosts, inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["version", "grid", "grid_name", "servers", "seeds", "settings"]), toml_values))
def test_wrong_types_are_a_usage_error(table: dict[str, object]) -> None:
    text = "\n".join(f"{key} = {_toml(value).lower()}" for key, value in table.items())
    with pytest.raises(UsageError):
        parse_card(text)
    try:
        parse_gridfile(text)
    except GridfileInvalid:
        return


SHARE = Share(
    "alice",
    CERTIFICATE,
    CERTIFICATE + CERTIFICATE,
    "-----BEGIN PRIVATE KEY-----\nS\n-----END PRIVATE KEY-----\n",
    b"d" * 32,
)


def test_a_users_gridfile_comes_back_as_it_was() -> None:
    text = render_share("g", [Address("10.0.0.1", 7400)], SHARE)
    gridfile = parse_gridfile(text)
    assert (gridfile.share, gridfile.seeds, gridfile.warnings) == (SHARE, (Address("10.0.0.1", 7400),), ())
    assert (gridfile.grid_password, gridfile.ssh_key) == ("", "")


def share_text(keys: dict[str, str]) -> str:
    body = "".join(f"{name} = {json.dumps(text)}\n" for name, text in keys.items())
    return f"grid_name = 'g'\nservers = []\n[share]\n{body}"


@pytest.mark.parametrize(
    ("key", "value"), [("key", CERTIFICATE), ("certificate", "x"), ("deploy_key", "YQ=="), ("name", "-"), ("more", "x")]
)
def test_a_broken_share_is_refused(key: str, value: str) -> None:
    whole = tomllib.loads(render_share("g", (), SHARE))["share"]
    parse_gridfile(share_text(whole))
    with pytest.raises(GridfileInvalid, match=f"`(share.)?{key}`"):
        parse_gridfile(share_text(whole | {key: value}))
    if key in whole:
        with pytest.raises(GridfileInvalid, match=f"missing key `share.{key}`"):
            parse_gridfile(share_text({name: text for name, text in whole.items() if name != key}))


@pytest.mark.parametrize(
    "url", ["http://h/x", "ftp://h/x", "https://h/ x", "https://" + "x" * 1001, "http://h/x#sha256=0"]
)
def test_an_image_url_that_cannot_be_trusted_is_refused(url: str) -> None:
    with pytest.raises(GridfileInvalid, match="image_url"):
        parse_gridfile(f"grid_name = 'g'\nservers = []\nimage_url = '{url}'")


@pytest.mark.parametrize("url", ["https://h/x.tar?sig=a'b", f"http://10.0.0.1/x#sha256={'0' * 64}"])
def test_an_image_url_comes_back_as_it_was(url: str) -> None:
    gridfile = Gridfile("g", (), grid_password="p", image_url=url)
    assert parse_gridfile(render_gridfile(gridfile)).image_url == url


@pytest.mark.parametrize("via", ["auto", "direct", "ssh"])
def test_how_nodes_are_reached_comes_back_as_it_was(via: str) -> None:
    assert parse_gridfile(render_gridfile(Gridfile("g", (), grid_password="p", via=via))).via == via


@pytest.mark.parametrize("via", ["'SSH'", "'carrier pigeon'", "1"])
def test_another_way_to_reach_nodes_is_refused(via: str) -> None:
    with pytest.raises(GridfileInvalid, match="via"):
        parse_gridfile(f"grid_name = 'g'\nservers = []\nvia = {via}")
