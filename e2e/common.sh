# What the parts of the end-to-end run share: the cache, built tools, free ports, waiting.
# Sourced; sets E2E, E2E_TARGET, TOP, MINKE_CACHE.

E2E=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(dirname "$E2E")
: "${MINKE_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/minke}"
# Where the workspaces of the tests build.
E2E_TARGET="${CARGO_TARGET_DIR:-$TOP/target}/e2e"
export E2E TOP MINKE_CACHE
mkdir -p "$MINKE_CACHE"

# wait_until SECONDS COMMAND...: runs COMMAND until it succeeds or the time is over, which is PATIENCE
# times as long on a slow machine; prints what it said last.
wait_until() {
  local end=$((SECONDS + $1 * ${PATIENCE:-1})) said
  shift
  until said=$("$@" 2>/dev/null); do
    if [ "$SECONDS" -ge "$end" ]; then
      printf '%s\n' "$said"
      echo "gave up waiting for: $*" >&2
      return 1
    fi
    sleep 0.1
  done
  printf '%s' "${said:+$said$'\n'}"
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

# have_go: makes sure that a Go toolchain is on the path that can fetch the one a go.mod asks for (1.21
# or newer): the machine's, or else that of a later release, unpacked into the cache.
have_go() {
  local dir="$MINKE_CACHE/go" home
  case "$(go env GOVERSION 2>/dev/null)" in
    go1.2[1-9]* | go1.[3-9][0-9]*) return ;;
  esac
  if [ ! -e "$dir/complete" ]; then
    # shellcheck source=e2e/images/packages.sh
    . "$E2E/images/packages.sh"
    # shellcheck source=e2e/images/archive.sh
    . "$E2E/images/archive.sh"
    rm -rf "$dir"
    { later_release && unpack_later_packages "$dir" "$GO-go" "$GO-src"; } >&2 || return 1
    touch "$dir/complete"
  fi
  home=$(echo "$dir"/usr/lib/go-*)
  export PATH="$home/bin:$PATH" GOROOT="$home" GOTOOLCHAIN=auto
}

# have PROGRAM PACKAGE: makes sure that a program is on the path, from that package if there is none.
have() {
  command -v "$1" >/dev/null && return
  install_package "$2" || { apt-get update -qq >&2 && install_package "$2"; } ||
    { echo "$1 is missing, and the package $2 cannot be installed" >&2; return 1; }
}
install_package() { apt-get install -y -qq --no-install-recommends "$1" >&2; }

# go_tool MODULE NAME PACKAGE [FLAG...]: builds a Go program that MODULE/go.mod pins, once per version
# of that file, and prints its path. A package of tests becomes a program with the flag "-c".
go_tool() {
  local module="$E2E/$1" name="$2" package="$3" verb=build key dir
  shift 3
  case " $* " in *" -c "*) verb="test" ;; esac
  key=$(cat "$module/go.mod" "$module/go.sum" | sha256sum | cut -c1-16)
  dir="$MINKE_CACHE/${module##*/}-$key"
  if [ ! -x "$dir/$name" ]; then
    have_go || return 1
    mkdir -p "$dir"
    (cd "$module" && CGO_ENABLED=0 go $verb -trimpath "$@" -o "$dir/$name.$$" "$package" &&
      mv "$dir/$name.$$" "$dir/$name") >&2 || return 1
  fi
  printf '%s\n' "$dir/$name"
}
crictl_path() { go_tool tools crictl sigs.k8s.io/cri-tools/cmd/crictl; }
critest_path() { go_tool tools critest sigs.k8s.io/cri-tools/cmd/critest -c; }

# kubernetes_path NAME [FOLDER [FLAG...]]: one of Kubernetes' own programs, from cmd/NAME unless said. Built
# from a module they do not know their version, and a kubelet that calls itself v0.0.0 is refused.
kubernetes_path() {
  local version
  version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' "$E2E/kubernetes/go.mod")
  go_tool kubernetes "$1" "k8s.io/kubernetes/${2:-cmd/$1}" "${@:3}" -ldflags "-X k8s.io/component-base/version.gitVersion=$version"
}
etcd_path() { go_tool kubernetes etcd go.etcd.io/etcd/server/v3; }
agnhost_path() { go_tool kubernetes agnhost k8s.io/kubernetes/test/images/agnhost; }
metrics_server_path() { go_tool metrics-server metrics-server sigs.k8s.io/metrics-server/cmd/metrics-server; }
coredns_path() { go_tool coredns coredns github.com/coredns/coredns; }

# protoc_path: prints the path of Debian's protoc, unpacked into the cache: k8s-cri needs it to build.
# Needs images/packages.sh.
protoc_path() {
  local dir="$MINKE_CACHE/protoc" library
  if [ ! -x "$dir/protoc" ]; then
    library=$(apt-cache depends protobuf-compiler | sed -n 's/.*Depends: \(libprotoc.*\)/\1/p')
    unpack_packages "$dir" protobuf-compiler "$library" \
      "$(apt-cache depends "$library" | sed -n 's/.*Depends: \(libprotobuf.*\)/\1/p')" || return 1
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' \
      "$(dirname "$(find "$dir" -name 'libprotoc.so*' | head -n 1)")" "$dir/usr/bin/protoc" >"$dir/protoc.new"
    chmod 755 "$dir/protoc.new" && mv "$dir/protoc.new" "$dir/protoc"
  fi
  printf '%s\n' "$dir/protoc"
}
