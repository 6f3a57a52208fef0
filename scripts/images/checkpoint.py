"""The state of a training in one file, which is replaced whole: a stopped training goes on.

    python scripts/images/classify.py --data cifar100 --checkpoint snl.pt

The same command continues from the file; the network is its `network`, a state dict.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from actionrec.errors import ActionrecError, UsageError
from actionrec.files import replacing


class Checkpoint:
    """The state of the `parts` of a training (network, optimiser and so on) after so many rounds.

    Args:
        path: The file; None where nothing is kept.
        settings: What must be the same in a training that goes on.
        parts: Objects with `state_dict` and `load_state_dict`, by name.
    """

    def __init__(
        self, path: Path | None, settings: Mapping[str, Any], parts: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.settings = dict(settings)
        self.parts = parts

    def load(self) -> int:
        """Load the parts' state where there is a file; the number of rounds that it has seen.

        Raises:
            ActionrecError: the file is no checkpoint.
            UsageError: it is one of a training with other settings.
        """
        if self.path is None or not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            rounds, settings = int(state["rounds"]), state["settings"]
        # A damaged file fails in any way.
        except Exception as error:
            raise ActionrecError(
                f"{self.path} is no checkpoint of this script ({type(error).__name__}); delete it "
                "or name another file."
            ) from error
        for name, value in self.settings.items():
            if settings.get(name) != value:
                raise UsageError(
                    f"{self.path} is of a training with {name} {settings.get(name)}, not {value}; "
                    "name another file."
                )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return rounds

    def save(self, rounds: int) -> None:
        """Write the parts' state.

        Raises:
            ActionrecError: the file can't be written.
        """
        if self.path is None:
            return
        states = {name: part.state_dict() for name, part in self.parts.items()}
        with replacing(self.path) as temporary:
            torch.save({"rounds": rounds, "settings": self.settings, **states}, temporary)
