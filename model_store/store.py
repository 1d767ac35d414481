"""Model versions on a disk or share that many processes read and several write at once.

    root/<name>/versions/0007/    manifest.json, manifest.sha256 and the files the manifest lists; read-only
    root/<name>/staging/<random>/ a version in the making; nobody looks here but `sweep`
    root/<name>/aliases.json      {"candidate": 8, "production": 7}
    root/<name>/aliases.log       one JSON line for each move of an alias

A version appears by one rename and never changes. The rename is also the claim of its number: it fails when another
process has taken the number, and leaves no gap when the process dies before it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from base.names import MODEL_NAME
from model_store.aliases import AliasMove, locked, move, previous_version, read_aliases, read_log
from model_store.errors import ChecksumError, ManifestError, ModelNotFound, StoreError, StoreUnavailable
from model_store.files import available, read_bounded, seal, sync_folder, write_sealed
from model_store.manifest import MAX_BYTES, FileEntry, Manifest, ManifestDraft

MANIFEST, MANIFEST_SUM = "manifest.json", "manifest.sha256"
PRODUCTION = "production"
DAY_S = 86_400.0

_VERSION_FOLDER = re.compile(r"[0-9]{4,9}")
_REFERENCE = re.compile(rf"(?P<name>{MODEL_NAME})(?:@(?P<alias>{MODEL_NAME})|:(?P<version>[0-9]{{1,9}}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A published version and where its files are; read them with `ModelStore.open_file`, which verifies them."""

    manifest: Manifest
    folder: Path

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> int:
        return self.manifest.version


class ModelStore:
    """The versions and aliases of all models under ``root``, which `publish` creates.

    Every method raises StoreUnavailable when the disk fails, StoreError for a name that could never be right, and
    ModelNotFound, with what there is, for what does not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Return the models with at least one version, sorted."""
        return [name for name in self._listed(self.root) if re.fullmatch(MODEL_NAME, name) and self._numbers(name)]

    def versions(self, name: str) -> list[int]:
        """Return the version numbers of a model, lowest first, at least one."""
        numbers = self._numbers(_checked(name, "model"))
        if not numbers:
            known = ", ".join(self.names()) or "none"
            raise ModelNotFound(f"no model {name!r} in {self.root} (it has {known}); train or import one first")
        return numbers

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version meant by "name:7", "name@alias" or "name", which is "name@production".

        Raises:
            ManifestError, ChecksumError: as `manifest`.
        """
        parts = _REFERENCE.fullmatch(reference)
        if parts is None:
            raise ModelNotFound(f'{reference!r} is no model; write "name", "name@alias" or "name:version"')
        name, alias, version = parts["name"], parts["alias"] or PRODUCTION, parts["version"]
        known = self.versions(name)
        number = int(version) if version else self.aliases(name).get(alias)
        if number is None:
            raise ModelNotFound(
                f"model {name} has no alias {alias!r} (it has versions {', '.join(map(str, known))}); "
                f'name one, such as "{name}:{known[-1]}", or promote it to {alias} first'
            )
        return ModelVersion(manifest=self.manifest(name, number), folder=self._folder(name, number))

    def manifest(self, name: str, version: int) -> Manifest:
        """Return the manifest of a version, verified.

        Raises:
            ManifestError: it is not the manifest of this version, or was changed by hand.
            ChecksumError: it is not what was published.
        """
        known = self.versions(name)
        if version not in known:
            raise ModelNotFound(f"model {name} has no version {version} (it has {', '.join(map(str, known))})")
        path = self._folder(name, version) / MANIFEST
        data = read_bounded(path, MAX_BYTES)
        manifest = Manifest.from_bytes(data, str(path))
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(f"{path} is the manifest of {manifest.reference}; a version's folder must not be moved")
        if read_bounded(path.with_name(MANIFEST_SUM), 1000) != _sum_line(manifest):
            raise ChecksumError(f"{path} is not what was published; restore it or publish the model again")
        return manifest

    def open_file(self, name: str, version: int, filename: str) -> bytes:
        """Return a file's bytes, of which size and sha256 are those of the manifest.

        Raises:
            ChecksumError: the file is missing or is not what was published.
            ManifestError: as `manifest`.
        """
        files = self.manifest(name, version).files
        if filename not in files:
            raise ModelNotFound(f"{name}:{version} has no file {filename!r} (it has {', '.join(sorted(files))})")
        path, entry = self._folder(name, version) / filename, files[filename]
        try:
            data = read_bounded(path, entry.bytes)
        except ModelNotFound as error:
            raise ChecksumError(f"{path} is missing; restore it or publish the model again") from error
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ChecksumError(f"{path} is not what was published; restore it or publish the model again")
        return data

    def publish(self, name: str, write: Callable[[Path], ManifestDraft]) -> ModelVersion:
        """Let ``write`` put files into an empty folder and describe them, and return the new version made of both.

        Whatever ``write`` raises passes through and leaves nothing behind.

        Raises:
            ManifestError: a file has a name or kind that does not belong into a version.
        """
        base = self.root / _checked(name, "model")
        staging = base / "staging" / secrets.token_hex(8)
        with available(base):
            (base / "versions").mkdir(parents=True, exist_ok=True)
            staging.mkdir(parents=True)
        try:
            draft = write(staging)
            with available(base):
                files = {path.name: seal(path) for path in sorted(staging.iterdir())}
                return self._appear(name, staging, draft, files)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def aliases(self, name: str) -> dict[str, int]:
        self.versions(name)
        with available(self.root / name):
            return read_aliases(self.root / name)

    def set_alias(self, name: str, alias: str, version: int, *, who: str, why: str) -> int | None:
        """Let an alias mean this version, log the move, and return what it meant before.

        Raises:
            ManifestError, ChecksumError: the version is damaged; see `manifest`.
        """
        _checked(alias, "alias")
        self.manifest(name, version)
        with available(self.root / name), locked(self.root / name):
            return move(self.root / name, alias, version, action="set", who=who, why=why)

    def rollback(self, name: str, alias: str = PRODUCTION, *, who: str, why: str) -> int:
        """Undo the last move of an alias and return the version it means now; a second rollback undoes the one before.

        Raises:
            ModelNotFound: no earlier version is left.
            ManifestError, ChecksumError: that version is damaged.
        """
        self.versions(name)
        with available(self.root / name), locked(self.root / name):
            version = previous_version(self.root / name, alias)
            if version is None:
                raise ModelNotFound(f"alias {alias!r} of {name} has no earlier version to go back to; set it to one")
            self.manifest(name, version)
            move(self.root / name, alias, version, action="rollback", who=who, why=why)
            return version

    def delete(self, name: str, version: int) -> None:
        """Remove a version for good.

        Raises:
            StoreError: an alias means it.
        """
        self.manifest(name, version)
        base = self.root / name
        with available(base), locked(base):
            held = [alias for alias, number in read_aliases(base).items() if number == version]
            if held:
                raise StoreError(f"{name}:{version} is {name}@{held[0]}; let that mean another version first")
            (base / "staging").mkdir(exist_ok=True)
            gone = base / "staging" / secrets.token_hex(8)
            self._folder(name, version).rename(gone)  # at once; a crash from here on leaves what `sweep` removes
            shutil.rmtree(gone)

    def history(self, name: str) -> list[AliasMove]:
        """Return all moves of a model's aliases, the oldest first."""
        self.versions(name)
        with available(self.root / name):
            return read_log(self.root / name)

    def sweep(self, *, older_than_s: float = DAY_S) -> list[Path]:
        """Remove stagings untouched for so long, whose publishers died, and return them."""
        removed: list[Path] = []
        for staging in self.abandoned(older_than_s=older_than_s):
            with available(staging), contextlib.suppress(FileNotFoundError):  # published or removed meanwhile
                shutil.rmtree(staging)
                removed.append(staging)
        return removed

    def abandoned(self, *, older_than_s: float = DAY_S) -> list[Path]:
        """Return the stagings untouched for so long, whose publishers died."""
        found: list[Path] = []
        for staging in sorted(self.root.glob("*/staging/*")):
            with available(staging), contextlib.suppress(FileNotFoundError):  # published or removed meanwhile
                touched = max(path.lstat().st_mtime for path in (staging, *staging.iterdir()))
                if time.time() - touched > older_than_s:
                    found.append(staging)
        return found

    def _appear(self, name: str, staging: Path, draft: ManifestDraft, files: dict[str, FileEntry]) -> ModelVersion:
        created = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        number = max([0, *self._numbers(name), *self._deleted(name)]) + 1
        while True:
            try:
                manifest = Manifest(**dict(draft), name=name, version=number, created=created, files=files)
                data = manifest.to_bytes()
            except ValueError as error:
                raise ManifestError(f"no manifest can be made for {name}: {error}") from error
            Manifest.from_bytes(data, f"the manifest of {name}")  # what can't be read again must not appear
            write_sealed(staging / MANIFEST, data)
            write_sealed(staging / MANIFEST_SUM, _sum_line(manifest))
            sync_folder(staging)
            folder = self._folder(name, number)
            try:
                staging.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                number += 1  # another publisher was faster
                continue
            sync_folder(folder.parent)
            return ModelVersion(manifest=manifest, folder=folder)

    def _deleted(self, name: str) -> list[int]:
        """Return numbers that had an alias once: given again, they would mean two versions in old reports."""
        with contextlib.suppress(StoreError):  # a damaged log is no reason to publish nothing
            return [step.new for step in read_log(self.root / name)]
        return []

    def _folder(self, name: str, version: int) -> Path:
        return self.root / name / "versions" / f"{version:04d}"

    def _numbers(self, name: str) -> list[int]:
        folder = self.root / name / "versions"
        return sorted(int(entry) for entry in self._listed(folder) if _VERSION_FOLDER.fullmatch(entry))

    def _listed(self, folder: Path) -> list[str]:
        if not self.root.is_dir():
            raise StoreUnavailable(f"the model store {self.root} does not exist; mount it, or train a model first")
        with available(folder):
            return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _checked(name: str, what: str) -> str:
    if not re.fullmatch(MODEL_NAME, name):
        raise StoreError(
            f"{name!r} can't name a {what}; use up to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
        )
    return name


def _sum_line(manifest: Manifest) -> bytes:
    return f"{manifest.digest}  {MANIFEST}\n".encode()  # for `sha256sum --check`
