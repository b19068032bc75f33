"""Entry point of `python -m roseinfer` and of the command `roseinfer`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C during its imports exits silently, with code 130."""
    try:
        from roseinfer.cli import app
    except KeyboardInterrupt:
        sys.exit(130)
    app.main()


if __name__ == "__main__":
    main()
