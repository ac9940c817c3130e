"""An object store in memory: no rename, a file appears whole when its writer closes it, folders are only prefixes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow as pa
from pyarrow import fs

from cluster.storage import Location


class ObjectStore(fs.FileSystemHandler):
    """S3's manners. ``before_put`` is called with the name of every file that is about to appear."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.before_put: Callable[[str], None] = lambda _: None

    def location(self) -> Location:
        return Location(fs.PyFileSystem(self), "bucket/run", "fake://bucket/run")

    def get_type_name(self) -> str:
        return "objects"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        prefix = f"{selector.base_dir}/"
        below = [name.removeprefix(prefix) for name in self.objects if name.startswith(prefix)]
        names = {part for name in below for part in _prefixes(name, deep=selector.recursive)}
        if not below and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        return [self._info(prefix + name) for name in sorted(names)]

    def create_dir(self, path: str, recursive: bool) -> None:  # noqa: ARG002
        raise PermissionError(f"no right to make {path}: it may be a bucket")

    def delete_dir(self, path: str) -> None:
        for name in [name for name in self.objects if name.startswith(f"{path}/")]:
            del self.objects[name]

    def delete_file(self, path: str) -> None:
        del self.objects[path]

    def move(self, src: str, dest: str) -> None:
        raise OSError(f"an object store cannot rename {src} to {dest}")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return pa.BufferReader(self.objects[path])

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:  # noqa: ARG002 - pyarrow's arguments
        return pa.PythonFile(_Upload(self, path), mode="w")

    def open_append_stream(self, path: str, metadata: object) -> pa.NativeFile:  # noqa: ARG002 - pyarrow's arguments
        raise OSError(f"an object store cannot append to {path}")

    def copy_file(self, src: str, dest: str) -> None:
        self.objects[dest] = self.objects[src]

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:  # noqa: ARG002
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        self.objects.clear()

    def _info(self, path: str) -> fs.FileInfo:
        if path in self.objects:
            return fs.FileInfo(path, fs.FileType.File, size=len(self.objects[path]))
        folder = any(name.startswith(f"{path}/") for name in self.objects)
        return fs.FileInfo(path, fs.FileType.Directory if folder else fs.FileType.NotFound)


class _Upload(io.BytesIO):
    def __init__(self, store: ObjectStore, path: str) -> None:
        super().__init__()
        self._store = store
        self._path = path

    def close(self) -> None:
        if not self.closed:
            self._store.before_put(self._path)
            self._store.objects[self._path] = self.getvalue()
        super().close()


def _prefixes(name: str, *, deep: bool) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)] if deep else parts[:1]
