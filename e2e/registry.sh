# A real image registry on loopback, from Debian's package, with the test images in it.
# Sourced; needs MINKE_CACHE and images/packages.sh.

# image_store: prints the folder of the images that the present scripts build.
image_store() {
  echo "$MINKE_CACHE/images-$(cat "$E2E/images/build" "$E2E/images/packages.sh" "$E2E/images/push.sh" | sha256sum | cut -c1-16)"
}

# start_registry DIR: serves on a free port and sets REGISTRY and REGISTRY_PID. The images are built
# once per version of what builds them and kept in the cache.
start_registry() {
  local dir="$1" store program="$MINKE_CACHE/docker-registry" port
  if [ ! -x "$program/usr/bin/docker-registry" ]; then
    unpack_packages "$program" docker-registry
  fi
  store=$(image_store)
  port=$(free_port)
  REGISTRY="127.0.0.1:$port"
  mkdir -p "$dir"
  cat >"$dir/registry.yml" <<F
version: 0.1
log: { level: warn }
storage: { filesystem: { rootdirectory: $store }, delete: { enabled: true } }
http: { addr: "$REGISTRY" }
F
  OTEL_TRACES_EXPORTER=none "$program/usr/bin/docker-registry" serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 &
  REGISTRY_PID=$!
  wait_until 10 curl -fs -o /dev/null "http://$REGISTRY/v2/"
  if [ ! -e "$store/complete" ]; then
    "$E2E/images/build" "$REGISTRY" >"$dir/images.log" 2>&1 || {
      cat "$dir/images.log" >&2
      return 1
    }
    touch "$store/complete"
  fi
}

# with_registry COMMAND...: runs it while a registry serves.
with_registry() {
  local dir code=0
  dir=$(mktemp -d)
  start_registry "$dir" && "$@" || code=1
  kill "$REGISTRY_PID" && wait "$REGISTRY_PID" 2>/dev/null
  rm -rf "$dir"
  return $code
}

# build_images: makes sure that the images are there, for a run that serves them where nothing can be
# fetched.
build_images() { [ -e "$(image_store)/complete" ] || with_registry true; }

# mirror_all DIR: writes hosts.toml files that lead every registry of the test images to ours.
mirror_all() {
  local host
  for host in docker.io registry.k8s.io gcr.io k8s.gcr.io; do
    mkdir -p "$1/$host"
    printf '[host."http://%s"]\ncapabilities = ["pull", "resolve"]\n' "$REGISTRY" >"$1/$host/hosts.toml"
  done
}
