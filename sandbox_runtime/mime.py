"""What kind of content a file has, by its first bytes; its name does not count.

The rule is small on purpose. A signature at a known place decides; else text is what has no control
character that text files do not have, and it may say itself that it is HTML, SVG, XML or JSON (the
last only if all of it was seen and parses). Whatever is left is `application/octet-stream`.
"""

from __future__ import annotations

import msgspec

SNIFF_BYTES = 64 * 1024
"""How many bytes from the start decide."""

EMPTY = "inode/x-empty"
BINARY = "application/octet-stream"

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"\0\0\1\0", "image/vnd.microsoft.icon"),
    (0, b"BM", "image/bmp"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"%!PS", "application/postscript"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"\xfd7zXZ\0", "application/x-xz"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/x-rar"),
    (257, b"ustar", "application/x-tar"),
    (0, b"\x7fELF", "application/x-executable"),
    (0, b"\0asm", "application/wasm"),
    (0, b"\xca\xfe\xba\xbe", "application/java-vm"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"ARROW1", "application/vnd.apache.arrow.file"),
    (0, b"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
    (0, b"wOFF", "font/woff"),
    (0, b"wOF2", "font/woff2"),
    (0, b"OTTO", "font/otf"),
    (0, b"\0\1\0\0\0", "font/ttf"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (8, b"WAVE", "audio/x-wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
    (4, b"ftyp", "video/mp4"),
)
_IN_RIFF = {"image/webp", "audio/x-wav", "video/x-msvideo"}
_NOT_IN_TEXT = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\a\x1b")) + b"\x7f"
_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def guess(head: bytes, *, whole: bool) -> str:
    """The MIME type of content.

    Args:
        head: Its first `SNIFF_BYTES`, or all of it.
        whole: Whether it is all.
    """
    if not head:
        return EMPTY
    is_text = head.translate(None, _NOT_IN_TEXT) == head
    for place, signature, kind in _SIGNATURES:
        if head.startswith(signature, place) and (kind not in _IN_RIFF or head[:4] == b"RIFF"):
            # Short ones may begin a text too.
            if is_text and len(signature) <= 4 and kind != "application/postscript":
                continue
            return kind
    if not is_text:
        return "text/plain" if _is_utf16(head) else BINARY
    return _guess_text(head, whole=whole)


def _is_utf16(head: bytes) -> bool:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            try:
                head[: len(head) // 2 * 2].decode(encoding)
            except UnicodeDecodeError as error:
                return error.start >= len(head) - 4  # cut within a character
            return True
    return False


def _guess_text(head: bytes, *, whole: bool) -> str:
    content = head.removeprefix(b"\xef\xbb\xbf")
    start = content.lstrip()[:1024].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "text/html"
    is_xml = start.startswith(b"<?xml")
    if start.startswith(b"<svg") or ((is_xml or start.startswith(b"<!")) and b"<svg" in start):
        return "image/svg+xml"
    if is_xml:
        return "text/xml"
    if whole and start.startswith((b"{", b"[")) and _is_json(content):
        return "application/json"
    return "text/plain"


def _is_json(content: bytes) -> bool:
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def is_binary(mime_type: str) -> bool:
    """Whether content of this type is no text."""
    return not mime_type.startswith("text/") and not any(
        word in mime_type for word in ("json", "xml", "javascript", "x-empty")
    )
