"""The file that rows are added to: one writer, one whole line at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from benchmarks.rows import Row
from benchmarks.study.plan import known_rows


class ResultsFile:
    """Rows on disk, locked while the context is entered.

    The lock is the operating system's: it ends with this process, however it ends.

    Args:
      path: of the file; it is made if it is not there.
      say: told about a half-written last line, which is dropped.
      read: reads the rows of a file, with their keys as of today.

    Raises:
      ValueError: on entering, another process adds rows to the same file, or a line is no row.
    """

    def __init__(
        self,
        path: Path,
        say: Callable[[str], None],
        read: Callable[[Path], list[Row]] = known_rows,
    ) -> None:
        self.path = path
        self._say = say
        self._read = read
        self.keys: set[str] = set()

    def __enter__(self) -> ResultsFile:
        self._open()
        try:
            self._drop_half_a_line()
            self.keys = {row["key"] for row in self._read(self.path)}
        except ValueError:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._file.close()

    def add(self, row: Row) -> None:
        """Write a row through to the disk."""
        if not self._in_place():
            self._say(f"{self.path}: was replaced meanwhile; rows go to the new file")
            self._file.close()
            self._open()
        self._file.write((json.dumps(row) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.keys.add(row["key"])

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(
                "Another run adds rows to this file. Wait for it, stop it, or give another "
                f"--results. Received: {self.path}"
            ) from error

    def _in_place(self) -> bool:
        """Whether the open file still has its name: git and editors write anew, not over."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _drop_half_a_line(self) -> None:
        """What a kill left behind the last line that is complete."""
        text = self.path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            self._file.truncate(whole)
            self._say(f"{self.path}: dropped a half-written last line, its cell is measured again")
