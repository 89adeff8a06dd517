"""What `img build` and `img list` give back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Built:
    """A finished image.

    Args:
        image: the image in the cache; read-only, to be copied.
        user: the guest's account.
        size_bytes: space used on the disk.
        packages: version of each Debian package in it.
        fresh: this call made it.
        seconds: how long the build took (this call's, or the one that made it).
        output: where a copy was written to, if one was asked for.
    """

    name: str
    image: str
    user: str
    size_bytes: int
    packages: dict[str, str]
    fresh: bool
    seconds: float
    output: str | None = None

    def __str__(self) -> str:
        how = f"built in {self.seconds:.1f} s" if self.fresh else "already built"
        return f"{self.output or self.image} ({self.size_bytes >> 20} MiB, {how}; user {self.user})"

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "image": self.image,
            "user": self.user,
            "size_bytes": self.size_bytes,
            "packages": dict(self.packages),
            "fresh": self.fresh,
            "seconds": round(self.seconds, 3),
            "output": self.output,
        }


@dataclass(frozen=True)
class Listed:
    """A guest in the list: `image` and `size_bytes` are None while it is not built."""

    name: str
    user: str
    summary: str
    image: str | None
    size_bytes: int | None

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "user": self.user,
            "summary": self.summary,
            "built": self.image is not None,
            "image": self.image,
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True)
class Listing:
    """All guests that qvm can build."""

    images: tuple[Listed, ...]

    def __str__(self) -> str:
        wide = max(len(one.name) for one in self.images)
        lines = []
        for one in self.images:
            where = "not built" if one.image is None else f"{(one.size_bytes or 0) >> 20} MiB  {one.image}"
            lines.append(f"{one.name:{wide}}  {where}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        return {"images": [one.as_json() for one in self.images]}
