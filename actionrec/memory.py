"""Memory that the command keeps for its next tensors instead of giving it back.

    actionrec predict video.mp4

glibc gives every large block back to the system when it is freed, and asks for the next one, whose
pages come zeroed, one fault a page. A clip of the pretrained I3D met 126,000 faults. Without them
its forward pass takes 0.83 of the time on two cores, and a training step of I3D 0.87.
"""

import ctypes
import sys

# Of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
# Free memory at the end of the heap beyond this is given back all the same.
MOST_KEPT = 2**31 - 1  # bytes


def keep_freed_memory() -> None:
    """Make this process, and those that it forks, use memory again that it has freed.

    Only on Linux with glibc; elsewhere nothing changes. A program that imports actionrec has
    settings of its own, so only the command calls it.
    """
    if sys.platform != "linux":
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    set_option(M_MMAP_MAX, 0)
    set_option(M_TRIM_THRESHOLD, MOST_KEPT)
