"""miStudio: a desktop studio for looking inside language models."""

__version__ = "0.1.0"
