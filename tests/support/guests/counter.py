"""The `counter` test guest: half a kilobyte that writes numbers to its disks as fast as its BIOS lets it.

No operating system, so it works a moment after power-on, and every write is known: it counts, writes the
number to the first disk, then to the second one (if there is one), and only then prints it on the serial
console. So, whenever it is interrupted, copied, or restored::

    last = counter.last_number(log)    # the last number that reached the console
    numbers = counter.ring(disk)       # the last RING numbers on a disk, by place

- what was printed is on both disks: place n % RING holds n, for the RING numbers up to `last`;
- at one moment the second disk has the number of the first one, or the one before;
- booted again it continues from the largest number on the first disk.

The listing, for GNU as: see SOURCE.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

RING = 256
FIRST_SECTOR = 4096
SECTOR_BYTES = 512

SOURCE = """
.code16
.intel_syntax noprefix
.org 0
start:
  cli
  xor ax, ax
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov sp, 0x7c00
  sti
  mov dword ptr [0x8000], 0
  mov cx, 256
scan:                       /* the largest number in the ring is where it stood */
  push cx
  movzx eax, cx
  dec eax
  add eax, 4096
  mov [0x7c00 + lba - start], eax
  mov word ptr [0x7c00 + dap + 4 - start], 0x8400
  mov ah, 0x42
  mov dl, 0x80
  call disk
  mov eax, [0x8400]
  cmp eax, [0x8000]
  jbe lower
  mov [0x8000], eax
lower:
  pop cx
  loop scan
  mov word ptr [0x7c00 + dap + 4 - start], 0x8000
  cmp dword ptr [0x8000], 0
  jne write                 /* once more: it may not have reached the second disk */
next:
  inc dword ptr [0x8000]
write:
  mov eax, [0x8000]
  mov [0x81fc], eax
  and eax, 255
  add eax, 4096
  mov [0x7c00 + lba - start], eax
  mov ax, 0x4300
  mov dl, 0x80
  call disk
  mov ax, 0x4300
  mov dl, 0x81
  call disk
  mov cx, 8                 /* the number in hexadecimal, and a line's end, to the serial port */
  mov ebx, [0x8000]
digit:
  rol ebx, 4
  mov al, bl
  and al, 15
  add al, 0x30
  cmp al, 0x39
  jbe put
  add al, 0x27
put:
  call serial
  loop digit
  mov al, 10
  call serial
  jmp next

disk:                       /* int 13h; what fails is said once more and more: "!" */
  mov si, 0x7c00 + dap - start
  int 0x13
  jnc done
  cmp dl, 0x81              /* there may be no second disk */
  je done
  mov al, 0x21
  call serial
done:
  ret

serial:
  push ax
  mov dx, 0x3fd
wait:
  in al, dx
  test al, 0x20
  jz wait
  pop ax
  mov dx, 0x3f8
  out dx, al
  ret

.balign 4
dap:
  .byte 16, 0
  .word 1, 0x8000, 0
lba:
  .long 4096, 0
.org 510
  .byte 0x55, 0xaa
"""

SECTOR = (
    bytes.fromhex(
        "fa31c08ed88ec08ed0bc007cfb66c706008000000000b9000151660fb7c1664866050010000066a3d47cc706d07c0084"
        "b442b280e8710066a10084663b060080760466a3008059e2d0c706d07c008066833e008000750566ff06008066a10080"
        "66a3fc816625ff00000066050010000066a3d47cb80043b280e82c00b80043b281e82400b90800668b1e008066c1c304"
        "88d8240f04303c3976020427e81b00e2ebb00ae81400ebafbecc7ccd13730a80fa817405b021e80100c350bafd03eca8"
        "2074fb58baf803eec38d740010000100008000000010"
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)
"""SOURCE, assembled."""


def install(image: Path) -> None:
    """Write the guest to the first sector of a qcow2 image."""
    sector = image.with_name("sector")
    sector.write_bytes(SECTOR)
    write = f"write -q -s {sector.name} 0 {SECTOR_BYTES}"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, f"./{image.name}"], cwd=image.parent, check=True)
    sector.unlink()


def last_number(serial_log: Path) -> int:
    """The last number that the guest has printed, whole; 0 before the first."""
    if not serial_log.exists():
        return 0
    lines = serial_log.read_bytes().split(b"\n")[:-1]
    numbers = [line for line in lines if len(line) == 8 and set(line) <= set(b"0123456789abcdef")]
    return int(numbers[-1], 16) if numbers else 0


def ring(image: Path) -> list[int]:
    """The numbers on a disk that is not in use, with all that it is backed by; 0 = never written."""
    raw = image.with_name(image.name + ".ring")
    words = ["dd", "-U", "-O", "raw", f"bs={SECTOR_BYTES}", f"skip={FIRST_SECTOR}"]
    count = f"count={FIRST_SECTOR + RING}"  # qemu-img counts from the beginning
    argv = ["qemu-img", *words, count, f"if=./{image.name}", f"of=./{raw.name}"]
    done = subprocess.run(argv, cwd=image.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = raw.read_bytes()
    raw.unlink()
    sectors = [data[at * SECTOR_BYTES :][:SECTOR_BYTES] for at in range(RING)]
    found = []
    for sector in sectors:
        (head,), (tail,) = struct.unpack("<I", sector[:4]), struct.unpack("<I", sector[-4:])
        assert head == tail, "half a sector was written"
        found.append(head)
    return found


def newest(image: Path, least: int) -> int:
    """The largest number on a disk, after a look at all of them: each in its place, none is missing.

    Args:
        least: the number that the guest had printed: it must be there.
    """
    numbers = ring(image)
    largest = max(numbers)
    assert largest >= least, f"lost: the guest had printed {least}, {image.name} has {largest}"
    wanted = range(max(1, largest - RING + 1), largest + 1)
    missing = [n for n in wanted if numbers[n % RING] != n]
    assert not missing, f"{image.name}: {missing} are not there, up to {largest}"
    return largest
