#!/bin/sh
# Finishes the file tree that mmdebstrap has made. $1 is its root; the host runs this, so every path starts there.
set -eu
root=$1

# The whole Python belongs to the sandbox, so pip may install into it, as in any image made for one program.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED

# What a sandbox never reads.
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/* "$root"/usr/share/locale/* \
    "$root"/usr/share/lintian "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/var/log/apt

# The host's own name and resolver are the engine's to give.
: > "$root"/etc/hostname
: > "$root"/etc/resolv.conf
