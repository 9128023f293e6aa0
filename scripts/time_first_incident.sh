#!/usr/bin/env bash
# How long a newcomer takes: a clone of this repository, `make run`, the two commands that it prints, pasted. In a folder
# of its own with an empty home and an empty cache of packages; what it prints last is the time in seconds until the
# incident was there with its recipe. What it needs beside make and Python is curl.
#
#     scripts/time_first_incident.sh [PORT]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
port=${1:-8017}
folder=$(mktemp -d)
make=
finish() {
  if [ -n "$make" ]; then
    kill -INT -- "-$make" 2>/dev/null || true  # the group that setsid has made, as Ctrl-C would
    wait "$make" || true
  fi
  rm -rf "$folder"
}
trap finish EXIT

mkdir "$folder/home"
export HOME=$folder/home XDG_CACHE_HOME=$folder/cache PIP_CACHE_DIR=$folder/cache OPENREMEDY_PORT=$port
unset DATABASE_URL REDIS_URL SECRET_KEY ENCRYPTION_KEYS OPENAI_BASE_URL OPENAI_API_KEY OPENREMEDY_DATA_DIR BROWSER

started=$(date +%s%N)
since() { printf '%d.%d' $((($(date +%s%N) - started) / 1000000000)) $((($(date +%s%N) - started) / 100000000 % 10)); }

git clone --quiet "$root" "$folder/openremedy"
echo "$(since) s: cloned"
cd "$folder/openremedy"
setsid make run >"$folder/output" 2>&1 &
make=$!
until grep -q 'Stop with Ctrl-C' "$folder/output"; do
  kill -0 "$make" 2>/dev/null || { cat "$folder/output" >&2; exit 1; }
  sleep 0.1
done
echo "$(since) s: ready"

# What a newcomer pastes.
send=$(grep -A1 'Send a first alert:' "$folder/output" | tail -1)
read=$(grep -A1 'Read it back, classified:' "$folder/output" | tail -1)
bash -c "$send" | grep -q '"outcome":"created"'
echo "$(since) s: sent"
until bash -c "$read" | grep -q '"classification":"done"'; do sleep 0.1; done
echo "$(since) s: classified, $(bash -c "$read" | grep -o '"recipe":"[^"]*"' | head -1)"
