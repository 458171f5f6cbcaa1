"""rewarm: teach a language model that somebody else trained a new language or field, and keep what it knew."""

__version__ = "0.1.0"
