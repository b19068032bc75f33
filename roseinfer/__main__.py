"""`python -m roseinfer`, and the command `roseinfer`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is still being imported ends it in silence."""
    try:
        from roseinfer.cli import app
    except KeyboardInterrupt:
        sys.exit(130)
    app.main()


if __name__ == "__main__":
    main()
