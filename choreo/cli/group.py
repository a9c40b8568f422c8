"""A group of commands that names the command which was perhaps meant."""

from difflib import get_close_matches

import click


class Group(click.Group):
    """A group of commands. An unknown command is refused with the one that is most like it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that these arguments begin with, and its own arguments."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            # click compares with the commands that are imported already.
            guess = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not guess or args[0].startswith("-"):
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {guess[0]}?", ctx) from None
