"""Version of the package, for modules that must not import all of its public names."""

__version__ = "0.1.0"
