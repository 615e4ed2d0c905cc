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

# stage_tests FOLDER: the tests that face the kernel, built here, and what they would compile there.
stage_tests() {
  local folder="$1" package name file source
  mkdir -p "$folder/tests" "$folder/probes"
  for package in cgroup executor images keeper network; do
    (cd "$TOP" && cargo test --no-run -p "$package" 2>&1) |
      sed -n 's/^ *Executable \(tests[^ ]*\) (\(.*\))$/\1 \2/p' |
      while read -r name file; do
        name=${name#tests/}
        name=${name%/main.rs}
        name=${name%.rs}
        case "$file" in /*) ;; *) file="$TOP/$file" ;; esac
        cp "$file" "$folder/tests/$package-$name"
      done
  done
  [ -n "$(ls "$folder/tests")" ] || { echo "cargo built no tests" >&2; return 1; }
  for source in "$TOP"/crates/*/tests/*/*.c; do
    "${CC:-cc}" -O1 -static -Wall -o "$folder/probes/$(basename "$source" .c)" "$source" || return 1
  done
  # The node has no compiler. This one hands over what was compiled here.
  cat >"$folder/cc" <<'F'
#!/bin/bash
while [ $# -gt 0 ]; do
  case "$1" in -o) out="$2"; shift ;; *.c) source="$1" ;; esac
  shift
done
mkdir -p "$(dirname "$out")" && cp "/host/probes/$(basename "$source" .c)" "$out"
F
  chmod 755 "$folder/cc"
}
