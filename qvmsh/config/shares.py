"""Lines of VM_SHARE: directories of the host that the guest can mount.

    parse("src:code:ro:mount=/srv/code").tag        # "code"
    parse("/a:b:data:9p").path                      # "/a:b"

The form is HOSTDIR:TAG[:ro][:9p|virtiofs][:mount=PATH]. It is read from its end, so that the directory may
hold colons.
"""

from __future__ import annotations

P9, VIRTIOFS = "9p", "virtiofs"
KINDS = (P9, VIRTIOFS)
READ_ONLY = "ro"
MOUNT = "mount="
FORM = "one HOSTDIR:TAG[:ro][:9p|virtiofs][:mount=PATH] per line"

MOST_BYTES = {P9: 31, VIRTIOFS: 36}
"""The longest tag. Source: QEMU hw/9pfs/virtio-9p.h, include/standard-headers/linux/virtio_fs.h."""


class ShareLine:
    """One line of VM_SHARE.

    Args:
        path: the directory, as written.
        tag: what the guest mounts it by.
        kind: `9p` or `virtiofs`; "" leaves the choice to qvm.
        mount: where the guest mounts it; "" leaves that to the guest.
        is_read_only: the guest cannot change it.
    """

    __slots__ = ("is_read_only", "kind", "mount", "path", "tag")

    def __init__(
        self, path: str, tag: str, *, kind: str = "", mount: str = "", is_read_only: bool = False
    ) -> None:
        self.path = path
        self.tag = tag
        self.kind = kind
        self.mount = mount
        self.is_read_only = is_read_only

    def __str__(self) -> str:
        parts = [self.path, self.tag, *([READ_ONLY] if self.is_read_only else [])]
        parts += [self.kind] if self.kind else []
        return ":".join([*parts, *([MOUNT + self.mount] if self.mount else [])])

    def is_mounted_as(self, other: ShareLine) -> bool:
        """True if both are to be mounted at the same place."""
        one, two = (_place(each.mount) for each in (self, other))
        return bool(one) and one == two

    @property
    def id(self) -> str:
        """QEMU's name of the device, which has fewer characters than a tag."""
        plain = (each if (each.isascii() and each.isalnum()) or each in "-." else f"_{ord(each):x}_"
                 for each in self.tag)  # fmt: skip
        return "share-" + "".join(plain)


def _place(mount: str) -> list[str]:
    return [each for each in mount.split("/") if each not in ("", ".")]


def parse(line: str) -> ShareLine:
    """Parse one line.

    Raises:
        ValueError: it is invalid; the text says why.
    """
    parts = line.strip().split(":")
    found: dict[str, str] = {}
    while len(parts) > 1 and (parts[-1] in (READ_ONLY, *KINDS) or parts[-1].startswith(MOUNT)):
        word = parts.pop()
        name = "mount" if word.startswith(MOUNT) else "kind" if word in KINDS else READ_ONLY
        if name in found:
            raise ValueError(f"both {word} and {found[name]}" if word != found[name] else f"{word} twice")
        found[name] = word
    tag = parts.pop()
    path = ":".join(parts)
    if not path:
        raise ValueError("it needs a directory and a tag, HOSTDIR:TAG")
    if f":{MOUNT}" in path or any(tag == each for each in ("", "mount")):
        raise ValueError("the tag is missing" if not tag else f"{MOUNT}PATH cannot hold a colon")
    kind, mount = found.get("kind", ""), found.get("mount", "").removeprefix(MOUNT)
    _require_tag(tag, kind)
    if "mount" in found and (not mount.startswith("/") or mount.strip("/") in ("", ".", "..")):
        raise ValueError(f"{MOUNT}{mount} is not an absolute path in the guest")
    return ShareLine(path, tag, kind=kind, mount=mount, is_read_only=READ_ONLY in found)


def _require_tag(tag: str, kind: str) -> None:
    most = MOST_BYTES[kind or P9]
    if tag[0] == "-" or not tag.isprintable() or any(each in tag for each in " ,\\"):
        raise ValueError(f"the tag {tag!r} must not begin with -, or hold a blank, comma or backslash")
    if len(tag.encode(errors="surrogateescape")) > most:
        what = kind or "9p, which is chosen where it fits better; `:virtiofs` allows 36"
        raise ValueError(f"the tag {tag} is longer than the {most} bytes of {what}")


def parse_all(text: str) -> list[ShareLine]:
    """The shares of all lines.

    Raises:
        ValueError: a line is invalid, or two have the same tag or place in the guest.
    """
    found: list[ShareLine] = []
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            share = parse(line)
        except ValueError as error:
            raise ValueError(f"{line.strip()!r}: {error}") from None
        for other in found:
            if other.tag == share.tag:
                raise ValueError(f"{line.strip()!r}: another line has the tag {share.tag} already")
            if share.is_mounted_as(other):
                raise ValueError(f"{line.strip()!r}: another line is mounted at {share.mount} already")
        found.append(share)
    return found
