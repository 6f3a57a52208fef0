# First of all, because Lightning reads the environment while it is imported.
import actionrec.devices  # noqa: F401
