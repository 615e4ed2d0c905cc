# Puts into a folder what a node needs to run parts of the end-to-end run. Sourced; needs common.sh,
# daemon.sh, registry.sh, images/packages.sh.

# stage_node FOLDER: minke, crictl, the registry with its images, the scripts.
stage_node() {
  local folder="$1"
  build_minke && CRICTL=$(crictl_path) || return 1
  mkdir -p "$folder/cache"
  cp "$MINKE" "$folder/minke"
  cp "$CRICTL" "$folder/crictl"
  cp -r "$E2E" "$folder/e2e"
  # Started once here, so that the images are there.
  start_registry "$folder/registry" || return 1
  kill "$REGISTRY_PID" && wait "$REGISTRY_PID" 2>/dev/null
  cp -r "$MINKE_CACHE/docker-registry" "$folder/cache/"
  cp -r "$(image_store)" "$folder/cache/"
}
