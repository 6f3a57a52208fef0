"""Labels, names and times as people read them."""

LONGEST_LABEL = 28  # characters


def shorten(name: str) -> str:
    """The name, its end replaced by dots where it is too long for a picture."""
    # A folder's name need not be of any encoding; matplotlib draws only what is.
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def hours(seconds: float, point: str = ".") -> str:
    """Such as 01:02:03.450."""
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{whole:02}{point}{milliseconds:03}"


def clock_time(seconds: float, digits: int = 0) -> str:
    """Such as 1:02, or 1:02.5."""
    units = round(seconds * 10**digits)
    minutes, rest = divmod(units, 60 * 10**digits)
    return f"{minutes}:{rest / 10**digits:0{2 + (digits and digits + 1)}.{digits}f}"
