"""`gridctl version` and `gridctl completion`."""

import click
from click.shell_completion import get_completion_class

from gridctl.options import Settings, examples, json_option, pass_settings, verbose_option
from gridctl.render import print_json
from gridnode import __version__

__all__ = ["completion_command", "version_command"]


@click.command("version", epilog=examples("gridctl version", "gridctl version --json"))
@json_option
@verbose_option
@pass_settings
def version_command(settings: Settings) -> None:
    """Print gridctl's version."""
    if settings.as_json:
        print_json({"version": __version__})
    else:
        click.echo(__version__)


@click.command(
    "completion",
    epilog=examples(
        'eval "$(gridctl completion bash)"        # in ~/.bashrc',
        "gridctl completion fish > ~/.config/fish/completions/gridctl.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@verbose_option
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(context.find_root().command, {}, "gridctl", "_GRIDCTL_COMPLETE").source())
