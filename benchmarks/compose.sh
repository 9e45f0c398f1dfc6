#!/bin/sh
# Stands in for the engine's compose plug-in, where a machine has none: the few commands that inspect-ai's sandbox asks for, with
# one service `default`, by the engine's own commands. It is put where the docker command looks for plug-ins (benchmarks/field.py).
set -eu

if [ "${1:-}" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion":"0.1.0","Vendor":"enclave","Version":"v2.30.0","ShortDescription":"stands in for compose"}'
    exit 0
fi
[ "${1:-}" = compose ] && shift
project= file=
while :; do
    case "${1:-}" in
        --ansi | --progress) shift 2 ;;
        --project-name) project=$2; shift 2 ;;
        -f) file=$2; shift 2 ;;
        *) break ;;
    esac
done
verb=$1
shift
container="$project-default-1"
case "$verb" in
    version) echo '{"version":"v2.30.0"}' ;;
    config)
        if [ "${1:-}" = --images ]; then sed -n 's/^ *image: *//p' "$file"; else cat "$file"; fi ;;
    build | pull) ;;
    up)
        image=$(sed -n 's/^ *image: *//p' "$file")
        exec docker run -d --init --network none --label enclave.bench=1 --name "$container" "$image" tail -f /dev/null ;;
    ps)
        status=running
        while [ $# -gt 0 ]; do
            case "$1" in --status) status=$2; shift 2 ;; *) shift ;; esac
        done
        exec docker ps -a --filter "name=^$container\$" --filter "status=$status" \
            --format '{"Name":"{{.Names}}","Service":"default","State":"{{.State}}","ExitCode":0}' ;;
    exec)
        options=-i
        while :; do
            case "${1:-}" in
                --workdir | --user | --env) options="$options $1 $2"; shift 2 ;;
                -T) shift ;;
                *) break ;;
            esac
        done
        shift # the service
        # shellcheck disable=SC2086
        exec docker exec $options "$container" "$@" ;;
    cp)
        while [ "${1#-}" != "$1" ]; do shift; done
        exec docker cp -L "$container:${1#*:}" - ;;
    down)
        docker stop -t 1 "$container" >/dev/null
        exec docker rm -v "$container" ;;
    ls) echo '[]' ;;
    *) echo "this stand-in has no $verb" >&2; exit 1 ;;
esac
