#!/bin/sh
# Make the files that compose.yaml hands out as secrets; files that are there are left as they are.
#   sudo docker/make-secrets.sh [FOLDER]      (docker/secrets by default)
# Passwords are made here; the tokens are empty files, which means "none": write yours into them.
# Group 10001, which the containers have, may read them; nobody else but their owner.
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"

random() {
    LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c 40
}

make() { # NAME TEXT
    [ -e "$folder/$1" ] || printf '%s\n' "$2" >"$folder/$1"
}

make redis_password "$(random)"
make database_password "$(random)"
make grafana_password "$(random)"
make flower_basic_auth "validator:$(random)"
for token in github_token hf_token submit_results_key monitoring_key judge_key judge_fallback_key; do
    [ -e "$folder/$token" ] || : >"$folder/$token"
done

if chgrp 10001 "$folder"/* 2>/dev/null; then
    chmod 0640 "$folder"/*
    echo "secrets are in $folder, readable for group 10001"
else
    echo "secrets are in $folder, but the containers cannot read them yet; as root: chgrp 10001 $folder/* && chmod 640 $folder/*" >&2
    exit 1
fi
