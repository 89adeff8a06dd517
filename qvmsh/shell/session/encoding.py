"""UTF-8 that keeps every byte: invalid ones become surrogates, as in file names.

    b"gr\\xfcn".decode(NAME).encode(NAME)        # b"gr\\xfcn"

plumbum names an encoding but decodes with "ignore", so a byte that is not UTF-8 would be lost. Here what the
caller wants done about errors does not matter.
"""

from __future__ import annotations

import codecs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

NAME = "utf_8_surrogateescape"


def _encode(text: str, _errors: str = "") -> tuple[bytes, int]:
    return codecs.utf_8_encode(text, "surrogateescape")


def _decode(data: Buffer, _errors: str = "") -> tuple[str, int]:
    return codecs.utf_8_decode(data, "surrogateescape", True)


class _Decoder(codecs.BufferedIncrementalDecoder):
    def _buffer_decode(self, data: Buffer, _errors: str, final: bool) -> tuple[str, int]:
        return codecs.utf_8_decode(data, "surrogateescape", final)


def _search(name: str) -> codecs.CodecInfo | None:
    return (
        codecs.CodecInfo(_encode, _decode, incrementaldecoder=_Decoder, name=NAME) if name == NAME else None
    )


codecs.register(_search)
