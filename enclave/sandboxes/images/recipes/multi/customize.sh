#!/bin/sh
# Finishes the file tree that mmdebstrap has made, for the recipes of toolchains. $1 is its root; the host runs this, so every path
# starts there. The packages of npm follow.
set -eu
root=$1
shift

# Packages of npm. The host's own npm brings them, since Debian's is a few hundred packages.
npm=$(command -v npm) || { echo 'building this image needs npm on this host: apt-get install npm' >&2; exit 1; }
"$npm" install --global --prefix "$root/usr/local" --no-audit --no-fund --loglevel=error "$@"

# The whole Python belongs to the sandbox, so pip may install into it, as in any image made for one program.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED

# The classes that javac starts with, in a form that every start can map. Programs cannot change it for others: each sandbox has
# the image's own.
mkdir -p "$root"/usr/local/lib/enclave "$root"/tmp/javac
printf 'import java.util.*;\npublic class Hello { public static void main(String[] a) { System.out.println(List.of(1).stream().count()); } }\n' \
    > "$root"/tmp/javac/Hello.java
chroot "$root" java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ArchiveClassesAtExit=/usr/local/lib/enclave/javac.jsa \
    -m jdk.compiler/com.sun.tools.javac.Main -d /tmp/javac /tmp/javac/Hello.java
rm -rf "$root"/tmp/javac

# What a sandbox never reads.
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/* "$root"/usr/share/locale/* \
    "$root"/usr/share/lintian "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/var/log/apt "$root"/root/.npm

# The host's own name and resolver are the engine's to give.
: > "$root"/etc/hostname
: > "$root"/etc/resolv.conf
