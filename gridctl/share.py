"""`gridctl share`: a Gridfile for somebody who calls tasks and looks at the grid, and may do nothing else."""

import secrets
import sys
import time
from pathlib import Path

import click

from gridctl.access import seconds_of, write_secret
from gridctl.new import MAX_TTL
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import print_json
from gridnode.errors import UsageError
from gridnode.gridfile import Gridfile, is_name, render_share

__all__ = ["share_command", "share_text"]


@click.command(
    "share", epilog=examples("gridctl share alice -o alice.Gridfile", "gridctl share ci --ttl 7d -o Gridfile")
)
@click.argument("name")
@click.option("--ttl", default="90d", show_default=True, metavar="TIME", help="30m, 12h, 90d.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write it there, mode 0600, instead.")
@json_option
@gridfile_option
@pass_settings
def share_command(settings: Settings, name: str, ttl: str, output: Path | None) -> None:
    """Print a Gridfile for NAME, without SSH key, secret and deploy key.

    With it gridctl does invoke, ls, ps, logs and subscribe; nodes refuse anything else. `gridctl revoke --user NAME`
    ends it before its time.
    """
    text = share_text(settings.gridfile(), name, seconds_of(ttl))
    if settings.as_json:
        print_json({"name": name, "gridfile": text})
    elif output:
        write_secret(output, text)
        click.echo(f"wrote {output}: for {name} alone; to end it: gridctl revoke --user {name}", err=True)
    else:
        if sys.stdout.isatty():
            click.echo(f"this is secret; send it to {name} with: gridctl share {name} -o {name}.Gridfile", err=True)
        click.echo(text, nl=False)


def share_text(gridfile: Gridfile, name: str, ttl: float) -> str:
    """A fresh Gridfile for the user `name`, valid for `ttl` seconds."""
    from gridnode.identity import authority_of, mint_share  # certificates take 0.1 s to import

    if not is_name(name):
        raise UsageError(f"{name!r:.80} cannot be a user's name", hint="letters, digits, '.', '_' and '-', 63 at most")
    if not 0 < ttl <= MAX_TTL:
        raise UsageError(f"a Gridfile cannot be valid for {ttl:g} seconds", hint="from a second to 100 years")
    share = mint_share(authority_of(gridfile), name, time.time(), ttl, secrets.token_bytes(32))
    return render_share(gridfile.grid_name, gridfile.seeds, share)
