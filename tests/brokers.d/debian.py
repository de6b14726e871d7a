"""Debian's packages, fetched by an apt whose state is its own, so that the machine stays as it is."""

from __future__ import annotations

from pathlib import Path


def isolated(folder: Path) -> list:
    """Options that give an apt lists, cache and a record of installed packages (none) of its own."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "APT::Install-Recommends": "false",
        # Root's cache folder is closed to apt's own download user.
        "APT::Sandbox::User": "root",
    }
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
