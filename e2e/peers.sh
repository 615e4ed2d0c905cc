# The runtimes that minke is compared with: containerd, runc and the CNI plugins, from their Go
# modules, built once per version of peers/*/go.mod, youki from the registry of crates, crun from its
# package; all kept in the cache.
# Sourced; needs common.sh and images/packages.sh.

# peer MODULE PROGRAM PACKAGE [GO_BUILD_ARGS...]: builds a program that peers/MODULE pins and prints
# its path.
peer() {
  local module="$1" program="$2" package="$3" key dir
  shift 3
  key=$(cat "$E2E/peers/$module/go.mod" "$E2E/peers/$module/go.sum" | sha256sum | cut -c1-16)
  dir="$MINKE_CACHE/peers-$module-$key"
  if [ ! -x "$dir/$program" ]; then
    have_go
    mkdir -p "$dir"
    # By rename, because two runs may build at once.
    (cd "$E2E/peers/$module" && go build -trimpath -o "$dir/$program.$$" "$@" "$package" &&
      mv "$dir/$program.$$" "$dir/$program") >&2 || return 1
  fi
  printf '%s\n' "$dir/$program"
}

# peer_version MODULE GO_MODULE: prints the version that go.mod pins.
peer_version() { awk -v module="$2" '$1 == "require" && $2 == module { print $3 }' "$E2E/peers/$1/go.mod"; }

# libseccomp_dir: the folder of the static libseccomp, which the others link; its package is unpacked
# into $MINKE_CACHE/libseccomp.
libseccomp_dir() {
  local library="$MINKE_CACHE/libseccomp"
  if [ ! -e "$library/complete" ]; then
    unpack_packages "$library" libseccomp-dev >&2 && touch "$library/complete" || return 1
  fi
  dirname "$(find "$library" -name libseccomp.a | head -n 1)"
}

# runc_path: runc with seccomp.
runc_path() {
  local runc=github.com/opencontainers/runc found
  found=$(libseccomp_dir) || return 1
  CGO_ENABLED=1 PKG_CONFIG_PATH="$found/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$MINKE_CACHE/libseccomp" \
    peer runc runc $runc -tags "seccomp netgo osusergo" \
    -ldflags "-X main.version=$(peer_version runc $runc) -extldflags -static"
}

# youki_path: youki with seccomp, for both kinds of cgroups.
youki_path() {
  local version=0.7.0 dir found
  dir="$MINKE_CACHE/youki-$version"
  if [ ! -x "$dir/bin/youki" ]; then
    found=$(libseccomp_dir) || return 1
    CARGO_TARGET_DIR="$dir/build" LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH="$found" \
      cargo install --locked --quiet --root "$dir" --version "$version" --no-default-features --features v1,v2,seccomp youki >&2 ||
      return 1
    rm -rf "$dir/build"
  fi
  printf '%s\n' "$dir/bin/youki"
}

# crun_dir: the folder of crun and its library, from packages of the release that nodes are made of. Needs
# images/archive.sh.
crun_dir() {
  local dir="$MINKE_CACHE/crun"
  if [ ! -e "$dir/complete" ]; then
    { later_release && unpack_later_packages "$dir" crun libyajl2; } >&2 && touch "$dir/complete" || return 1
  fi
  printf '%s\n' "$dir"
}

# containerd_path: containerd, with its shim beside it.
containerd_path() {
  local containerd=github.com/containerd/containerd/v2
  CGO_ENABLED=0 peer containerd containerd-shim-runc-v2 $containerd/cmd/containerd-shim-runc-v2 >/dev/null &&
    CGO_ENABLED=0 peer containerd containerd $containerd/cmd/containerd \
      -ldflags "-X $containerd/version.Version=$(peer_version containerd $containerd)"
}

# cni_dir: the folder of the CNI plugins.
cni_dir() {
  local plugins=github.com/containernetworking/plugins/plugins plugin path
  for plugin in ipam/host-local main/bridge main/loopback meta/portmap; do
    path=$(CGO_ENABLED=0 peer cni "$(basename $plugin)" $plugins/$plugin) || return 1
  done
  dirname "$path"
}

# have_nft: bridge and portmap write their rules with the nft program.
have_nft() {
  have nft nftables
}

# start_containerd DIR [HANDLER...]: serves below DIR; sets CONTAINERD_PID and CONTAINERD_SOCK. The pods'
# links are on a bridge that is named after this process. The handlers are other names for runc.
start_containerd() {
  local dir="$1" containerd runc plugins handler
  shift
  containerd=$(containerd_path) && runc=$(runc_path) && plugins=$(cni_dir) && have_nft || return 1
  mkdir -p "$dir/net.d" "$dir/certs.d"
  [ -z "${REGISTRY:-}" ] || mirror_all "$dir/certs.d"
  cat >"$dir/net.d/10-bridge.conflist" <<F
{ "cniVersion": "1.1.0", "name": "peer", "plugins": [
  { "type": "bridge", "bridge": "cni$$", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
    "promiscMode": true,
    "ipam": { "type": "host-local", "dataDir": "$dir/ipam", "ranges": [[{ "subnet": "10.89.0.0/16" }]],
              "routes": [{ "dst": "0.0.0.0/0" }] } },
  { "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } } ] }
F
  # Without CAP_SYS_RESOURCE no process may lower its oom_score_adj, hence restrict_oom_score_adj.
  cat >"$dir/config.toml" <<F
version = 3
root = "$dir/root"
state = "$dir/state"
[grpc]
  address = "$dir/containerd.sock"
[ttrpc]
  address = "$dir/containerd.ttrpc"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "$dir/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["$plugins"]
  conf_dir = "$dir/net.d"
F
  for handler in runc "$@"; do
    cat >>"$dir/config.toml" <<F
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.$handler]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.$handler.options]
  BinaryName = "$runc"
  Root = "$dir/state/runc"
F
  done
  PATH="$(dirname "$containerd"):$PATH" "$containerd" --config "$dir/config.toml" >>"$dir/containerd.log" 2>&1 &
  CONTAINERD_PID=$!
  CONTAINERD_SOCK="$dir/containerd.sock"
  wait_until 20 test -S "$CONTAINERD_SOCK"
}
