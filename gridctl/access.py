"""`gridctl new` and `gridctl card`: who may do what with a grid."""

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from gridctl.new import DEFAULT_TTL, EXAMPLE_SERVERS, card_text, new_gridfile, write_private
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings, verbose_option
from gridctl.render import print_json
from gridnode.errors import UsageError
from gridnode.gridfile import parse_address
from gridnode.model import Address

__all__ = ["card_command", "label_option", "labels_of", "new_command", "seconds_of", "write_secret"]

label_option = click.option(
    "--label", "--labels", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the node; repeat for more."
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command(
    "new",
    epilog=examples("gridctl new", "gridctl new --name shop --server root@10.0.0.1 --server root@10.0.0.2:2222"),
)
@click.option("--force", is_flag=True, help="Replace the Gridfile here; the old one is kept as Gridfile.bak.")
@click.option("--name", metavar="NAME", help="The grid's name; else this directory's.")
@click.option("--server", "servers", multiple=True, metavar="USER@HOST[:PORT]", help="A server; repeat for more.")
@click.option("--seed", "seeds", multiple=True, metavar="HOST[:PORT]", help="Where nodes listen, if not there on 7400.")
@json_option
@verbose_option
@pass_settings
def new_command(
    settings: Settings, force: bool, name: str | None, servers: tuple[str, ...], seeds: tuple[str, ...]
) -> None:
    """Make a Gridfile in this directory: a new grid's secret, its servers, its SSH key."""
    made = new_gridfile(Path.cwd(), name, force, servers or EXAMPLE_SERVERS, seeds)
    if settings.as_json:
        backup = str(made.backup) if made.backup else None
        print_json({"path": str(made.path), "grid": made.gridfile.grid_name, "backup": backup})
        return
    if made.backup:
        click.echo(f"kept the Gridfile that was there as {made.backup.name}", err=True)
    click.echo(f"wrote {made.path}: the grid {made.gridfile.grid_name}. Keep it private, and keep a copy.", err=True)
    if not servers:
        click.echo("next: put your servers into it, then `gridctl card HOST` for each", err=True)


@click.command(
    "card",
    epilog=examples("gridctl card web-1 -o web-1.card", "gridctl card web-1 --ttl 90d --label zone=paris"),
)
@click.argument("host")
@click.option("--ttl", default=f"{DEFAULT_TTL / 86_400:g}d", show_default=True, metavar="TIME", help="30m, 12h, 90d.")
@label_option
@click.option("--seed", "seeds", multiple=True, metavar="HOST[:PORT]", help="A node to join by; else the Gridfile's.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write it there, mode 0600, instead.")
@json_option
@gridfile_option
@pass_settings
def card_command(
    settings: Settings, host: str, ttl: str, labels: tuple[str, ...], seeds: tuple[str, ...], output: Path | None
) -> None:
    """Print a card, with which one server joins the grid.

    It goes to /etc/gridnode/Card on HOST, mode 0600. It holds secrets: of that server, and the key nodes find each
    other by.
    """
    chosen = [_seed(text) for text in seeds] or None
    text = card_text(settings.gridfile(), host, seconds_of(ttl), labels_of(labels), chosen)
    if settings.as_json:
        print_json({"host": host, "card": text})
        return
    if output:
        write_secret(output, text)
        click.echo(f"wrote {output}: secret, for {host} only", err=True)
        return
    if sys.stdout.isatty():
        click.echo(f"this is secret; send it to {host} with: gridctl card {host} -o Card", err=True)
    click.echo(text, nl=False)


def write_secret(path: Path, text: str) -> None:
    """Into a new file that nobody else can read; UsageError when there is one already, or none can be."""
    try:
        write_private(path, text)
    except FileExistsError as exc:
        raise UsageError(f"{path} is there already", hint="remove it first, or choose another name") from exc
    except OSError as exc:
        raise UsageError(f"{path} cannot be written: {exc.strerror}", hint="choose another place") from exc


def seconds_of(text: str) -> float:
    """Of `30m`, `12h` or `90d`; UsageError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        return float(number) * _UNITS[unit]
    except ValueError as exc:
        raise UsageError(f"{text!r:.40} is not a span of time", hint="write it as 30m, 12h or 90d") from exc


def labels_of(texts: Iterable[str]) -> dict[str, str]:
    """Of `key=value` each; UsageError."""
    return dict(map(_label, texts))


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"{text!r:.80} is not a label", hint="write it as key=value")
    return key, value


def _seed(text: str) -> Address:
    address = parse_address(text)
    if address is None:
        raise UsageError(f"{text!r:.80} is not host:port", hint="write it as host or host:port")
    return address
