"""A decoder that crashes on videos named *crash*, hangs on those named *hang*, and on those named
*fatal* ends the process that holds the model.

    PYTHONPATH=scripts/faulty_decoder actionrec predict ... --timeout 5

Python imports this module when it starts, also in the processes that read videos. It replaces the
function that reads a video there, when the module that defines it is imported.
"""

import importlib.machinery
import os
import signal
import sys
import time
from pathlib import Path

MODULE = "actionrec.models.shared_batches"


class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target) if name == MODULE else None
        if spec is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (load(module), break_decoder(module))
        return spec


def break_decoder(module):
    read = module.read_frames

    def read_frames(file, *arguments, **options):
        name = Path(str(file)).name
        if "crash" in name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in name:
            time.sleep(1e6)
        if "fatal" in name:
            # The parent of this process is the server of forks.
            server = Path(f"/proc/{os.getppid()}/stat").read_text()
            os.kill(int(server.rpartition(")")[2].split()[1]), signal.SIGKILL)
        return read(file, *arguments, **options)

    # It goes to other processes by its name.
    read_frames.__module__, read_frames.__qualname__ = MODULE, "read_frames"
    module.read_frames = read_frames


sys.meta_path.insert(0, Finder)
