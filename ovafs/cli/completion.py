"""Shell completion: the script that a shell loads, and the names that it completes."""

from __future__ import annotations

import contextlib

import click
from click.shell_completion import CompletionItem, get_completion_class

from ovafs.inventory.source import open_inventory

_SHELLS = ("bash", "zsh", "fish")


def complete_machine(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of machines of the SOURCE that stands before, for ``shell_complete=``; none if it cannot be read."""
    # Whatever goes wrong, a shell that completes must not print it over the user's command line.
    with contextlib.suppress(Exception), contextlib.closing(open_inventory(ctx.params["source"])) as inventory:
        names = {machine.name for machine in inventory.machines()}
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return []


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    For bash, put this line into ~/.bashrc: eval "$(ovafs completion bash)"
    """
    script_class = get_completion_class(shell)
    assert script_class is not None  # noqa: S101 - click has the three shells built in
    click.echo(script_class(ctx.find_root().command, {}, "ovafs", "_OVAFS_COMPLETE").source())
