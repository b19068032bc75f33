"""Entry point of `python -m roseinfer` and of the command `roseinfer`."""

import gc
import sys


def main() -> None:
    """Run the command line. Ctrl-C during its imports exits silently, with code 130."""
    gc.disable()  # imports leave next to no garbage, and looking for it takes a tenth of their time; commands enable it
    try:
        from roseinfer.cli import app
    except KeyboardInterrupt:
        sys.exit(130)
    app.main()


if __name__ == "__main__":
    main()
