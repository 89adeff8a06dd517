"""Guests that qvm builds itself: from Debian packages, as any user, into the user's cache.

`builtin` is the way in (which guests there are, build one, where it lies); `tiny` is the recipe of
the one there is; `packages` (apt, dpkg), `filesystem` (cpio, FAT, ext4, MBR), `kernel` (modules),
`elf` (libraries) and `workbench` (the programs that do the work) are what recipes are made from.
"""
