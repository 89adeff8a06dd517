"""The shapes of the answers of QEMU and of the guest agent, as far as they are read.

    fits({"status": "running"}, SHAPES["query-status"])     # True

Whoever answers may be hostile, so what does not fit is no answer.
Source: QEMU qapi/*.json, qga/qapi-schema.json.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SNAPSHOT = {"id": str, "name": str, "date-sec": int, "vm-state-size": int}
_IMAGE: dict[str, Any] = {
    "filename": str, "format": str, "virtual-size": int, "snapshots?": [_SNAPSHOT],
    "format-specific?": {"data?": dict},
}  # fmt: skip
_IMAGE["backing-image?"] = _IMAGE
_NODE = {
    "node-name": str, "ro": bool, "drv": str, "file": str, "image": _IMAGE, "backing_file?": str,
    "backing_file_depth": int,
    "dirty-bitmaps?": [{"name?": str, "recording": bool, "inconsistent?": bool}],
}  # fmt: skip
_ENTITY = {
    "name": str, "meta-type": str, "members?": [{"name?": str, "type?": str}], "arg-type?": str, "tag?": str,
    "json-type?": str, "variants?": [{"case": str, "type": str}], "values?": [str],
}  # fmt: skip
_JOB = {"id": str, "status": str}
ERROR = {"class": str, "desc": str}
EVENT = {"event": str, "data?": dict, "timestamp?": {"seconds": int}}
SHAPES: dict[str, Any] = {
    "JOB_STATUS_CHANGE": _JOB,
    "guest-exec": {"pid": int},
    "guest-exec-status": {
        "exited": bool,
        "exitcode?": int,
        "signal?": int,
        "out-data?": str,
        "err-data?": str,
        "out-truncated?": bool,
        "err-truncated?": bool,
    },
    "guest-file-open": int,
    "guest-file-read": {"count": int, "buf-b64": str, "eof": bool},
    "guest-file-write": {"count": int, "eof": bool},
    "guest-fsfreeze-freeze": int,
    "guest-fsfreeze-status": str,
    "guest-fsfreeze-thaw": int,
    "guest-get-fsinfo": [
        {"name": str, "mountpoint": str, "type": str, "used-bytes?": int, "total-bytes?": int}
    ],
    "guest-get-host-name": {"host-name": str},
    "guest-get-osinfo": {
        "id?": str,
        "name?": str,
        "pretty-name?": str,
        "version-id?": str,
        "kernel-release?": str,
        "machine?": str,
    },
    "guest-get-time": int,
    "guest-get-users": [{"user": str, "domain?": str}],
    "guest-info": {"version?": str, "supported_commands": [{"name": str, "enabled": bool}]},
    "guest-network-get-interfaces": [
        {
            "name": str,
            "hardware-address?": str,
            "ip-addresses?": [{"ip-address": str, "ip-address-type": str, "prefix?": int}],
        }
    ],
    "human-monitor-command": str,
    "qom-list": [{"name": str, "type": str}],
    "qom-list-types": [{"name": str, "parent?": str}],
    "query-block": [{"device": str, "qdev?": str, "inserted?": _NODE}],
    "query-blockstats": [{"stats": {"rd_bytes": int, "wr_bytes": int}}],
    "query-chardev": [{"label": str, "filename": str}],
    "query-cpus-fast": [{"cpu-index": int}],
    "query-jobs": [{**_JOB, "type?": str, "error?": str}],
    "query-migrate": {"blocked-reasons?": [str]},
    "query-migrate-capabilities": [{"capability": str}],
    "query-migrate-parameters": dict,
    "query-named-block-nodes": [_NODE],
    "query-qmp-schema": [_ENTITY],
    "query-rx-filter": [{"promiscuous": bool}],
    "query-status": {"status": str},
    "query-version": {"qemu": {"major": int, "minor": int, "micro": int}},
}
"""What is read of the answers, and of the data of events; a key with `?` may be missing."""


def fits(value: Any, shape: Any) -> bool:
    """True if a value of JSON has that shape; a whole number is one of 64 bits."""
    if isinstance(shape, type):
        if shape is int:
            return type(value) is int and -(2**63) <= value < 2**64
        return type(value) is shape
    if isinstance(shape, list):
        return type(value) is list and all(fits(each, shape[0]) for each in value)
    return type(value) is dict and all(
        fits(value[key], inner) if (key := name.rstrip("?")) in value else name.endswith("?")
        for name, inner in shape.items()
    )


def fits_event(message: Any) -> bool:
    """True for an event whose fields have the shapes that are read."""
    return fits(message, EVENT) and fits(message.get("data", {}), SHAPES.get(message["event"], dict))
