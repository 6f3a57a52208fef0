"""Lists and results on any store that fsspec knows: s3://, gs://, hf://, or a plain folder.

    python -c "from actionrec.storage import Folder; print(Folder.at('s3://bucket/actions').names())"

Credentials are those that the store's own library finds, such as AWS_PROFILE or ~/.aws.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from actionrec.errors import ActionrecError, UsageError, reason_of
from actionrec.files import TEMPORARY, replacing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

logger = logging.getLogger("actionrec")

# A file there is whole once it is there; elsewhere it gets its name when it is whole.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "hf"})
# Libraries of stores that the extra `remote` doesn't install.
OTHER_PACKAGES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "oss": "ossfs",
}
WAITS = (1.0, 2.0, 5.0, 15.0)  # seconds before another attempt to write


@dataclass
class Folder:
    """A folder for results.

    Attributes:
        address: As the user wrote it.
        filesystem: Of fsspec.
        root: The folder's path there.
    """

    address: str
    filesystem: "AbstractFileSystem"
    root: str

    @classmethod
    def at(cls, address: str) -> Self:
        """The folder at an address or a path, which need not exist yet.

        Raises:
            ActionrecError: no installed library knows the protocol.
        """
        if "://" not in address:
            address = str(Path(address).expanduser().resolve())
        return cls(address, *_locate(address))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine's file system."""
        return _protocol(self.filesystem) == "file"

    def path(self, name: str) -> str:
        """The path of a file in it, for `filesystem`."""
        return f"{self.root.rstrip('/')}/{name}"

    def names(self) -> list[str]:
        """The names of the files in it, sorted; none if it does not exist.

        Raises:
            UsageError: it is a file.
            ActionrecError: it can't be listed.
        """
        with _explained(self.address, "listed"):
            self.filesystem.invalidate_cache()
            try:
                entries = self.filesystem.ls(self.root, detail=True)
            except FileNotFoundError as error:
                # So S3 and GCS say it; a folder that isn't there is none yet.
                if "bucket does not exist" in str(error):
                    raise ActionrecError(
                        f"{self.address} names a bucket that does not exist; create it, or check "
                        "the address."
                    ) from error
                return []
            except NotADirectoryError:
                entries = [{"name": self.root, "type": "file"}]
        if any(entry["name"].rstrip("/") == self.root.rstrip("/") for entry in entries):
            if len(entries) == 1 and entries[0]["type"] == "file" and entries[0].get("size", 1):
                raise UsageError(f"{self.address} is a file; name a folder.")
        names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(name for name in names if TEMPORARY not in name)

    def read(self, name: str) -> bytes:
        """The contents of a file in it.

        Raises:
            ActionrecError: it can't be read.
        """
        with _explained(f"{self.address}/{name}", "read"):
            return self.filesystem.cat_file(self.path(name))

    def write(self, name: str, data: bytes, waits: tuple[float, ...] = ()) -> None:
        """Write a file, which appears when it is whole.

        Args:
            waits: Seconds before each further attempt, each of which reads the credentials anew.

        Raises:
            ActionrecError: it can't be written.
        """
        if self.is_local:
            with replacing(Path(self.root) / name) as temporary:
                temporary.write_bytes(data)
            return
        for wait in waits:
            try:
                return self._put(name, data)
            except ActionrecError as error:
                logger.warning("%s Trying again in %g s.", error, wait)
                time.sleep(wait)
                self.filesystem, self.root = _locate(self.address, fresh=True)
        self._put(name, data)

    def _put(self, name: str, data: bytes) -> None:
        from fsspec import AbstractFileSystem

        with _explained(f"{self.address}/{name}", "written"):
            if _protocol(self.filesystem) in OBJECT_STORES:
                self.filesystem.pipe_file(self.path(name), data)
                return
            self.filesystem.makedirs(self.root, exist_ok=True)
            temporary = self.path(f".{name}{TEMPORARY}new")
            self.filesystem.pipe_file(temporary, data)
            if type(self.filesystem).mv is not AbstractFileSystem.mv:
                self.filesystem.mv(temporary, self.path(name))
                return
            # fsspec's own takes brackets in a name for a pattern.
            self.filesystem.cp_file(temporary, self.path(name))
            self.filesystem.rm_file(temporary)


def package_for(protocol: str) -> str:
    """What to install for the addresses of a protocol; the extra `remote` if nothing else is
    known."""
    return OTHER_PACKAGES.get(protocol, "'actionrec[remote]'")


def _protocol(filesystem: "AbstractFileSystem") -> str:
    protocol = filesystem.protocol
    return protocol if isinstance(protocol, str) else protocol[0]


def _locate(address: str, fresh: bool = False) -> tuple["AbstractFileSystem", str]:
    # Imported here, so that help answers at once.
    from fsspec.core import url_to_fs

    protocol = address.partition("://")[0].lower()
    try:
        return url_to_fs(address, **({"skip_instance_cache": True} if fresh else {}))
    except ImportError as error:
        known = protocol in OTHER_PACKAGES or protocol in OBJECT_STORES
        install = f"pip install {package_for(protocol)}" if known else str(error)
        raise ActionrecError(f"{address} needs another library: {install}.") from error
    except ValueError as error:
        raise UsageError(
            f"{address} can't be used ({reason_of(error)}); write an address such as "
            "s3://bucket/folder."
        ) from error
    # The errors of the libraries have no base in common.
    except Exception as error:
        raise ActionrecError(f"{address} can't be reached ({reason_of(error)}).") from error


@contextmanager
def _explained(address: str, done: str) -> Iterator[None]:
    """Turn an error of a store, of which each has its own, into an ActionrecError."""
    try:
        yield
    except ActionrecError:
        raise
    except Exception as error:
        raise ActionrecError(
            f"{address} could not be {done} ({reason_of(error)}); check the address, the network "
            "and your credentials."
        ) from error
