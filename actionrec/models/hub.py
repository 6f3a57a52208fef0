"""Save, share and load a model in the Hugging Face Hub's own way, if huggingface_hub is installed.

    python -c "from actionrec import VideoClassifier; \\
               print(VideoClassifier.from_pretrained('a_folder_or_owner/name').config.labels)"

A repository or folder holds model.safetensors, which is all that loading needs, config.json for
readers, and a model card.
"""

from typing import Any, NoReturn

from actionrec.errors import UsageError

__all__ = ["MODEL_CARD", "MODEL_FILE", "ModelHubMixin"]

MODEL_FILE = "model.safetensors"
MODEL_CARD = """---
{{ card_data }}
---

A recognizer of human actions in video, for actionrec (`pip install 'actionrec[hub]'`). Its labels,
clips and preprocessing are in `config.json`.

```python
from actionrec import Recognizer, VideoClassifier

model = VideoClassifier.from_pretrained("owner/name")  # the name of this repository
print(Recognizer(model).predict("video.mp4").top[0].label)
```
"""

try:
    from huggingface_hub import ModelHubMixin
except ImportError as error:
    reason = str(error)

    def not_installed(*_: Any, **__: Any) -> NoReturn:
        raise UsageError(
            f"The Hugging Face Hub can't be used ({reason}); `pip install 'actionrec[hub]'`, or "
            "use `save` and `actionrec.load` with a file."
        )

    class ModelHubMixin:  # type: ignore[no-redef]
        """Stands in for the mixin and says that it is not installed."""

        save_pretrained = push_to_hub = from_pretrained = staticmethod(not_installed)

        def __init_subclass__(cls, **model_card: Any) -> None:
            super().__init_subclass__()
