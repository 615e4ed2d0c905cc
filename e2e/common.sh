# What the parts of the end-to-end run share: the cache, built tools, free ports, waiting.
# Sourced; sets E2E, TOP, MINKE_CACHE.

E2E=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(dirname "$E2E")
: "${MINKE_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/minke}"
export E2E TOP MINKE_CACHE
mkdir -p "$MINKE_CACHE"

# wait_until SECONDS COMMAND...: runs COMMAND until it succeeds or the time is over.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@" 2>/dev/null; do
    [ "$SECONDS" -lt "$end" ] || { echo "gave up waiting for: $*" >&2; return 1; }
    sleep 0.1
  done
}

# free_port: prints a TCP port of loopback on which nothing listens now.
free_port() {
  local port
  for _ in $(seq 50); do
    port=$((20000 + RANDOM % 10000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  echo "no free port between 20000 and 30000" >&2
  return 1
}

# have_go: makes sure that a Go toolchain is on the path, from Debian's package if there is none.
have_go() {
  command -v go >/dev/null && return
  apt-get install -y -qq --no-install-recommends golang-go ca-certificates >&2
}

# go_tool NAME PACKAGE [test]: builds a Go program that tools/go.mod pins, once per version of that
# file, and prints its path.
go_tool() {
  local key dir
  key=$(cat "$E2E/tools/go.mod" "$E2E/tools/go.sum" | sha256sum | cut -c1-16)
  dir="$MINKE_CACHE/tools-$key"
  if [ ! -x "$dir/$1" ]; then
    have_go
    mkdir -p "$dir"
    if [ "${3:-}" = test ]; then
      (cd "$E2E/tools" && CGO_ENABLED=0 go test -c -o "$dir/$1" "$2") >&2
    else
      (cd "$E2E/tools" && CGO_ENABLED=0 go build -trimpath -o "$dir/$1" "$2") >&2
    fi
  fi
  printf '%s\n' "$dir/$1"
}
crictl_path() { go_tool crictl sigs.k8s.io/cri-tools/cmd/crictl; }
critest_path() { go_tool critest sigs.k8s.io/cri-tools/cmd/critest test; }
