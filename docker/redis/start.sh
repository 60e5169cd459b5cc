#!/bin/sh
# redis-server with the password from a file: on a command line or in the environment others could read it.
set -eu
secret=${REDIS_PASSWORD_FILE:-/run/secrets/redis_password}
if [ ! -r "$secret" ] || [ ! -f "$secret" ]; then
    echo "redis: user $(id -u) may not read $secret; make it with docker/make-secrets.sh" >&2
    exit 1
fi
password=$(cat "$secret")
case $password in
'' | *[!A-Za-z0-9_-]*)
    echo "redis: $secret must hold one line of letters, digits, - and _ (docker/make-secrets.sh makes one)" >&2
    exit 1
    ;;
esac
exec redis-server - <<EOF
$(cat "${REDIS_CONFIG:-/usr/local/etc/redis/redis.conf}")
requirepass $password
EOF
