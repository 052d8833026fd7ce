"""Downloads that go on where they stopped, are checked, and appear whole or not at all."""

import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants

from . import cache
from .importing import import_file
from .read import MAX_BYTES
from .sources import Source, by_hand, source

TRIES = 5  # without a byte of progress


def download(name: str, *, local_files_only: bool = False, force: bool = False, progress: bool = False) -> Path:
    """The converted weights `model.tag` (or a model's default ones) in the cache, downloaded if they are not there.

    `local_files_only` (also $HF_HUB_OFFLINE) never asks the network; `force` downloads them again.
    Raises ValueError for weights without a direct link, with the link to open instead, and where `fetch` does;
    OSError if the host does not answer.
    """
    entry = source(name)
    if not force and (path := cache.find(entry.name)):
        return path
    if not entry.url:
        raise ValueError(by_hand(entry))
    if local_files_only or constants.HF_HUB_OFFLINE:
        raise ValueError(offline(entry))
    file = entry.facts.get("file") or entry.url.rsplit("/", 1)[-1].partition("?")[0]
    raw = cache.inside(entry.name + ".download") / cache.inside(file).name
    expected = entry.facts.get("sha256") or entry.facts.get("sha256_prefix")
    fetch(entry.url, raw, sha256=expected, progress=progress)
    _, path = import_file(raw, entry.name, url=entry.url)
    raw.unlink(missing_ok=True)
    return path


def offline(entry: Source) -> str:
    return (
        f"the weights of {entry.name} are not in {cache.folder()}, and downloads are off (HF_HUB_OFFLINE or "
        f"local_files_only): run `python -m backbones.weights download {entry.name}` with a network"
    )


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    timeout: float | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool = False,
) -> Path:
    """Downloads `url` to `path`; processes that ask for the same path take turns, and the later ones find it there.

    `sha256`: the expected hash or its first digits; Hugging Face names that of its files itself. `timeout`: seconds
    without an answer, default $HF_HUB_DOWNLOAD_TIMEOUT. What an interrupted download got stays in `<path>.part` and
    the next one goes on from there, if the server can say that the file is still the same.
    Raises ValueError for a missing page (404), a web page in place of a file, a wrong hash, more than `max_bytes`;
    OSError if the server does not answer or the connection breaks again and again.
    """
    if not re.match(r"https?://", url):
        raise ValueError(f"{url!r} is no http(s) link")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if path.is_file() and (not sha256 or cache.sha256(path).startswith(sha256)):
            return path
        transfer = _Transfer(url, path, timeout or constants.HF_HUB_DOWNLOAD_TIMEOUT, max_bytes, progress)
        transfer.run()
        got = cache.sha256(transfer.part)
        expected = sha256 or transfer.named_hash or ""
        if not got.startswith(expected):
            transfer.discard()
            raise ValueError(f"{url} is not what was published: its sha256 is {got}, not {expected}; nothing was kept")
        os.replace(transfer.part, path)
        transfer.discard()
    return path


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the hash that Hugging Face tells on the way to a file."""

    def __init__(self):
        self.named_hash: str | None = None

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        self.named_hash = _hash_in(headers) or self.named_hash
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Transfer:
    def __init__(self, url: str, path: Path, timeout: float, max_bytes: int, progress: bool):
        self.url, self.timeout, self.max_bytes, self.progress = url, timeout, max_bytes, progress
        self.part = path.with_name(path.name + ".part")
        self.validator = path.with_name(path.name + ".etag")  # says which version of the file the part is of
        self.named_hash: str | None = None

    def run(self) -> None:
        tries, before = 0, -1
        while True:
            try:
                if self.attempt():
                    return
                problem: Any = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code == 416:  # the part is no part of what is there now
                    self.discard()
                elif error.code < 500 and error.code != 429:
                    raise ValueError(
                        f"{self.url} answers {error.code} {error.reason}: the file is not there"
                    ) from error
                problem = f"{error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                problem = getattr(error, "reason", None) or error or type(error).__name__
            kept = self.kept()
            tries = tries + 1 if kept <= before else 1
            before = kept
            if tries >= TRIES:
                late = "timed out" in str(problem)
                what = f"no answer within {self.timeout} s" if late else problem
                raise OSError(f"{self.url} cannot be downloaded: {what}; {kept} bytes are kept, run again to go on")
            time.sleep(min(0.1 * 2**tries, 5))

    def attempt(self) -> bool:
        """One request; whether the file is complete."""
        headers = {"User-Agent": "backbones", "Accept-Encoding": "identity"}
        kept = self.kept()
        if kept and self.validator.is_file():
            headers |= {"Range": f"bytes={kept}-", "If-Range": self.validator.read_text(encoding="utf-8")}
        redirects = _Redirects()
        request = urllib.request.Request(self.url, headers=headers)
        with urllib.request.build_opener(redirects).open(request, timeout=self.timeout) as answer:
            self.named_hash = _hash_in(answer.headers) or redirects.named_hash
            if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
                raise ValueError(f"{self.url} is a web page, not a file: open it with a browser")
            start, total = 0, answer.headers.get("Content-Length")
            if answer.status == 206:
                first, total = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers["Content-Range"]).groups()
                start = int(first)
                if start != kept:
                    raise OSError(f"asked for byte {kept}, got {start}")
            elif tag := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
                self.validator.write_text(tag, encoding="utf-8")
            else:
                self.validator.unlink(missing_ok=True)
            size = start
            with self.part.open("ab" if start else "wb") as file:
                while block := answer.read(2**18):
                    size += len(block)
                    if size > self.max_bytes:
                        file.close()
                        self.discard()
                        raise ValueError(f"{self.url} has more than the limit of {self.max_bytes} bytes")
                    file.write(block)
                    self.show(size, total)
        return total is None or size == int(total)

    def kept(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.validator.unlink(missing_ok=True)

    def show(self, size: int, total: str | None) -> None:
        if self.progress and sys.stderr.isatty():
            of = f" of {int(total) / 2**20:.0f}" if total else ""
            print(f"\r{size / 2**20:.0f}{of} MiB", end="\n" if str(size) == total else "", file=sys.stderr, flush=True)


def _hash_in(headers) -> str | None:
    tag = (headers.get("X-Linked-ETag") or "").strip('"')
    return tag if re.fullmatch(r"[0-9a-f]{64}", tag) else None
