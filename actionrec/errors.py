"""Errors that reach the user as one sentence: what went wrong, where, and what to do about it.

An error ends a command. A `Failure` is the error of one video, kept in the place of its result.
"""

import re
from dataclasses import dataclass

# User and password in an address, such as ftp://user:password@host/video.mp4, or a token alone. In
# other schemes, what stands alone before @ is no secret, such as the container of abfs.
CREDENTIALS = re.compile(
    r"(?<=://)[^\s/?#@:]*:[^\s/?#]*@|(?:(?<=http://)|(?<=https://)|(?<=ftp://))[^\s/?#]*@"
)


class ActionrecError(Exception):
    """Something of the input failed. The command line prints the message and exits with 1.

    Args:
        message: The sentence; passwords in its addresses are left out, since it may be logged.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(CREDENTIALS.sub("", message))


class UsageError(ActionrecError):
    """The request itself can't work, whatever the input. The command line exits with 2."""

    exit_code = 2


class VideoError(ActionrecError):
    """A video file could not be read as a whole."""


class Stopped(ActionrecError):
    """A run did what was asked for by Ctrl-C (exit code 130) or SIGTERM (143): it kept what it had
    and ended, and can be continued."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# Not frozen: Lightning, which moves a batch to its device, refuses frozen data classes in it.
@dataclass
class Failure:
    """A video that gave no result, and the reason, as a sentence."""

    video: str
    error: str


def reason_of(error: Exception) -> str:
    """What an error of another library says, in one line without a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # OpenVINO begins with places in its own code.
    line = lines[-1] if lines[0].startswith(("Check ", "Exception from ")) else lines[0]
    return line.strip().removeprefix("-- ").rstrip(".:")
