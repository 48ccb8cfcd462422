"""The environments of the libraries that we are set beside: made once, with uv, and anew when the versions change."""

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENTS = Path.home() / ".cache" / "rayrec-benchmarks"


@dataclass(frozen=True)
class Peer:
    script: str
    package: str  # pinned
    needs: tuple[str, ...] = ()  # what it imports, for packages that are installed without what they declare


def environment(peer: Peer, library: str, folder: Path) -> Path:
    """The Python of a library's environment, which is made when it is not there or was made for other versions."""
    home = folder / library
    same = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "numpy", "scikit-learn")]
    wanted, stamp, python = " ".join([peer.package, *peer.needs, *same]), home / "made-of.txt", home / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    uv = shutil.which("uv")
    if uv is None:
        raise SystemExit("the peers' environments are made with uv: pip install uv")
    shutil.rmtree(home, ignore_errors=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
    subprocess.run([*install, *same, *(peer.needs or (peer.package,))], check=True)
    if peer.needs:
        subprocess.run([*install, "--no-deps", peer.package], check=True)
    stamp.write_text(wanted)
    return python
