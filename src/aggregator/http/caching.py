"""What may be kept of an answer, and how its keeper asks whether it still holds. Pure.

An answer about a range that is complete may be kept by whoever asked, and is asked for again by its tag: a late call
or a correction can still change it, so it is never shown unasked. An answer about a range that is not is not kept.
Both are for one token only.
"""

from hashlib import blake2b

VARY = "Authorization, xi-api-key, Cookie, Accept, Accept-Encoding"
COMPLETE = "private, no-cache"
OPEN = "private, no-store"

_TAG_BYTES = 16


def tag(*parts: bytes | str) -> str:
    """A weak ETag: the same parts give the same one, in every process and in every coding of the answer."""
    digest = blake2b(digest_size=_TAG_BYTES)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big") + content)
    return f'W/"{digest.hexdigest()}"'


def headers(tag: str | None) -> dict[str, str]:
    """Of an answer with that tag; without one it is not to be kept."""
    kept = {"Cache-Control": COMPLETE, "ETag": tag} if tag else {"Cache-Control": OPEN}
    return {**kept, "Vary": VARY}


def still_holds(tag: str | None, if_none_match: str) -> bool:
    """Whether one of the tags that a reader has (`If-None-Match`) is this one."""
    if not tag or not if_none_match:
        return False
    opaque = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return tag.removeprefix("W/") in opaque or "*" in opaque
