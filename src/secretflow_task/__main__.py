"""Entry point. It stays light: every job process imports the main module of its node again."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from secretflow_task.cli import app  # pylint: disable=import-outside-toplevel

    app()


if __name__ == "__main__":
    main()
