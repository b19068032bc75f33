"""`python -m roseinfer`."""

from roseinfer.cli.app import main

if __name__ == "__main__":
    main()
