"""The subcommands of `captioner`, one module each.

A module has `add_parser`, which is cheap, and `run`, which imports the heavy packages and returns
the exit status: 0 for success, 1 if something was found wrong or skipped. Errors that end a command
are raised; `captioner.cli` turns them into one line and status 2.
"""
