"""Errors meant for people: what is wrong, with which file, and what to do about it."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. Commands print the message without a traceback.

    Args:
        message: what is wrong, naming the file or option.
        hint: what to do about it, one sentence; empty when the message already says it.
        code: exit status, 1 for a failure and 2 for wrong usage.
    """

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(UserError):
    """A wrong option, argument or configuration key (exit status 2)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, code=2)


class RowError(Exception):
    """Why the row of one photo could not be made this time, in words; the next run tries again."""


EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "safetensors", "sklearn", "albumentations"), "train"),
    "cleanlab": "audit",
    "optuna": "sweep",
    "rembg": "rembg",
    "skimage": "sample",
}
"""The extra that brings a module."""


def missing_extra(package: str, extra: str) -> UserError:
    """The error for an optional package that is not installed."""
    return UserError(f"{package} is not installed.", f"Install it with: pip install 'maskprep[{extra}]'")


def reason(error: BaseException) -> str:
    """Another library's error in one line: the answer of a server, or the first cause."""
    if (answer := getattr(error, "response", None)) is not None:
        return f"HTTP {answer.status_code} {answer.reason}"
    while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = cause
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
