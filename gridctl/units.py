"""What every server gets of deploy/, as text: systemd units, and the template of cloud-init."""

from pathlib import Path

__all__ = ["cloud_init_texts", "environment_text", "unit_texts"]

_PACKAGE = Path(__file__).parent
_HOMES = (_PACKAGE, _PACKAGE.parent / "deploy")
"""Where they are in an installed wheel, and in a checkout."""
_UNITS = ("gridnode.service", "gridnode.path")


def unit_texts() -> tuple[tuple[str, str], ...]:
    """(file name, text) of each unit."""
    return tuple((name, _text("systemd", name)) for name in _UNITS)


def environment_text() -> str:
    """gridnode.env as a new server gets it, but for the image's name."""
    return _text("systemd", "gridnode.env")


def cloud_init_texts() -> tuple[str, str]:
    """The template of user-data, and of the script that it runs at first boot."""
    return _text("cloud-init", "user-data"), _text("cloud-init", "first-boot")


def _text(directory: str, name: str) -> str:
    home = next(home / directory for home in _HOMES if (home / directory).is_dir())
    return (home / name).read_text()
