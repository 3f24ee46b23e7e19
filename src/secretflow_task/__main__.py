"""Entry point. It stays light: the forkserver imports the parent's main module again in every job process."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from secretflow_task.cli import app  # pylint: disable=import-outside-toplevel

    app()


if __name__ == "__main__":
    main()
