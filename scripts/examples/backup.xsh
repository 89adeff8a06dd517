#!/usr/bin/env -S qvm sh
# Copy folders of the running guest into an archive on the host, check it, keep the newest three.
#
#   ./backup.xsh DIRECTORY [FOLDER ...]       FOLDER: in the guest; default: the whole home
import datetime
import glob
import os
import sys

KEEP = 3
if len(sys.argv) < 2:
    sys.exit("usage: backup.xsh DIRECTORY [FOLDER ...]")
where = os.path.join($VM_CALLING_DIR, sys.argv[1])
folders = sys.argv[2:] or ["."]
stamp = datetime.datetime.now().strftime("%Y%m%dT%H%M%S")
archive = f"{where}/{$VM_MACHINE_NAME}-{stamp}.tar.gz"

status -q || exit 1
mkdir -p @(where)
vm ssh sync
vm ssh tar -czf - @(folders) > @(archive + ".part")
gzip -dc @(archive + ".part") | tar -tf - > /dev/null
mv @(archive + ".part") @(archive)
for old in sorted(glob.glob(f"{glob.escape(where)}/{$VM_MACHINE_NAME}-*.tar.gz"))[:-KEEP]:
    rm @(old)
echo @(archive)
