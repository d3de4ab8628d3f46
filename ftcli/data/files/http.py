"""A file behind http(s), read as a stream with the standard library alone, so that the web needs no driver package.

To the standard library, a lost connection looks like the end of the file, and rows would be missing silently. Here the
bytes are counted, and reading resumes where it stopped, or fails.
"""

from __future__ import annotations

import base64
import http.client
import io
import netrc
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from ftcli import __version__
from ftcli.core.errors import ConfigError, Problem
from ftcli.data.files.urls import Unreachable, shown

TIMEOUT_SECONDS = 30.0
_ATTEMPTS = 4


class WebFile(io.RawIOBase):
    """The bytes behind an address; seekable where the server can send parts.

    Raises:
        HTTPError, OSError: the first request fails.
        Unreachable: from `readinto`, the connection is lost and cannot be resumed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0
        self._answer: http.client.HTTPResponse | None = _request(url, 0)
        headers = self._answer.headers
        length = headers.get("Content-Length", "")
        self.size = int(length) if length.isdigit() else None
        """In bytes; None if the server does not say."""
        self.tag = headers.get("ETag") or headers.get("Last-Modified") or ""
        """The server's tag for this version of the file; "" for none."""
        self.media_type = headers.get_content_type() if "Content-Type" in headers else ""
        self._parts = headers.get("Accept-Ranges", "").lower() == "bytes"

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """Whether the server supports ranges and gives the size."""
        return self._parts and self.size is not None

    def tell(self) -> int:
        """The current position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; the next read requests the bytes there."""
        if not self.seekable():
            raise io.UnsupportedOperation("the server does not send parts of the file")
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size or 0}[whence]
        if position != self._position:
            self._drop()
            self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with the bytes that have arrived."""
        why = "it ended early"
        for attempt in range(_ATTEMPTS):
            if self.size is not None and self._position >= self.size:
                return 0
            if attempt and not self._parts:
                break
            try:
                self._answer = self._answer or self._resumed()
                got = self._answer.readinto(buffer)
            except (OSError, http.client.HTTPException) as fault:
                why = _short(fault)
                self._drop()
                continue
            if got or self.size is None:
                self._position += got
                return got
            self._drop()
        raise Unreachable(f"the connection was lost after {self._position} bytes ({why})")

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        super().close()

    def _resumed(self) -> http.client.HTTPResponse:
        answer = _request(self._url, self._position)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if answer.status != 206 or tag != self.tag:
            answer.close()
            changed = (
                "the file changed during the download"
                if tag != self.tag
                else "the server does not send parts of the file"
            )
            raise Unreachable(changed)
        return answer

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._answer = None


def look(url: str, where: str) -> WebFile:
    """The file behind an address, with the first request made.

    Raises:
        ConfigError: it does not exist, access is denied, it is a web page, or the server cannot be reached.
    """
    name = shown(url)
    try:
        file = WebFile(url)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            problem = Problem(
                where, f"access to {name} is denied (HTTP {error.code})", "download it and use the local file"
            )
        elif error.code in (404, 410):
            problem = Problem(where, f"{name} does not exist (HTTP {error.code})", "check the address")
        else:
            problem = Problem(where, f"{name} cannot be downloaded (HTTP {error.code})", "try again later")
        raise ConfigError(problem) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        fix = "check the address and the network, or download it elsewhere and use the local file"
        raise ConfigError(Problem(where, f"{name} cannot be reached ({_short(error)})", fix)) from None
    if file.media_type in ("text/html", "application/xhtml+xml"):
        file.close()
        fix = "use the address of the file itself, as its download button has it"
        raise ConfigError(Problem(where, f"{name} is a web page, not a file of rows", fix))
    return file


def _request(url: str, start: int) -> http.client.HTTPResponse:
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    user = user or _of_netrc(parts.hostname or "")
    plain = urllib.parse.urlunsplit(
        (parts.scheme, host, urllib.parse.quote(parts.path, "/%:@!$&'()*+,;=~"), parts.query, "")
    )
    request = urllib.request.Request(plain, headers={"User-Agent": f"ftcli/{__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if user:
        # Unredirected, so that a redirect to another server does not get the password.
        word = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {word}")
    answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    return answer


def _of_netrc(host: str) -> str:
    """USER:PASSWORD of a host in ~/.netrc, or in the file that NETRC names; "" where there is none."""
    file = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        found = netrc.netrc(file).hosts.get(host)
    except (OSError, netrc.NetrcParseError):
        return ""
    if found is None:
        return ""
    login, _, password = found
    return f"{urllib.parse.quote(login or '', safe='')}:{urllib.parse.quote(password or '', safe='')}"


def _short(fault: BaseException) -> str:
    reason = getattr(fault, "reason", None) or fault
    return str(reason).splitlines()[0][:200] if str(reason) else type(fault).__name__
