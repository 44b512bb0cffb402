"""`gridctl cloud-init`: servers that become nodes when they boot, with no SSH at all."""

import sys
from pathlib import Path

import click

from gridctl.access import label_option, labels_of, seconds_of, write_secret
from gridctl.new import card_text
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import print_json
from gridctl.units import cloud_init_texts, environment_text, unit_texts
from gridctl.user_data import Boot, user_data
from gridnode import __version__
from gridnode.gridfile import Gridfile

__all__ = ["cloud_init_command"]

IMAGE = f"gridcontrol/gridnode:{__version__}"


@click.command(
    "cloud-init",
    epilog=examples(
        "gridctl cloud-init -o user-data", "gridctl cloud-init --name spot --ttl 7d --label zone=paris -o user-data"
    ),
)
@click.option(
    "--name", default="cloud-init", show_default=True, metavar="NAME", help="Whom `gridctl revoke` shuts out."
)
@click.option("--ttl", default="90d", show_default=True, metavar="TIME", help="30m, 12h, 90d.")
@label_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write it there, mode 0600, instead.")
@json_option
@gridfile_option
@pass_settings
def cloud_init_command(settings: Settings, name: str, ttl: str, labels: tuple[str, ...], output: Path | None) -> None:
    """Print user-data for servers that join the grid when they boot; the same for as many as you start.

    The nodes are good for --ttl, counted from now: renew the user-data of an autoscaling group before. It is secret.
    """
    gridfile = settings.gridfile()
    text = boot_text(gridfile, card_text(gridfile, name, seconds_of(ttl), labels_of(labels)))
    if settings.as_json:
        print_json({"name": name, "user_data": text})
        return
    click.echo(_about(gridfile, name), err=True)
    if output:
        write_secret(output, text)
        click.echo(f"wrote {output}: secret", err=True)
        return
    if sys.stdout.isatty():
        click.echo("this is secret; keep it out of your terminal: gridctl cloud-init -o user-data", err=True)
    click.echo(text, nl=False)


def boot_text(gridfile: Gridfile, card: str) -> str:
    """The user-data that brings this card, and the image the Gridfile says."""
    template, script = cloud_init_texts()
    url, image = gridfile.image_url, gridfile.image
    boot = Boot(card, environment_text(), dict(unit_texts()), image or IMAGE, url, is_pulled=bool(image) and not url)
    return user_data(template, script, boot)


def _about(gridfile: Gridfile, name: str) -> str:
    """Where servers get the image, and how they are shut out."""
    image = gridfile.image or IMAGE
    if gridfile.image_url:
        source = f"load {image} from image_url"
    elif gridfile.image:
        source = f"pull {image}"
    else:
        source = f"must have {image} already: name `image` or `image_url` in the Gridfile where they have not"
    return f"servers that boot with it {source}; to shut them all out: gridctl revoke {name}"
