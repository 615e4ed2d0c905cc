# Puts into a folder what a node needs to run parts of the end-to-end run. Sourced; needs common.sh,
# daemon.sh, registry.sh, images/packages.sh.

# stage_node FOLDER: minke, crictl, the registry with its images, the scripts.
stage_node() {
  local folder="$1"
  build_minke && CRICTL=$(crictl_path) || return 1
  mkdir -p "$folder/cache"
  cp "$MINKE" "$folder/minke"
  cp "$CRICTL" "$folder/crictl"
  stage_tool "$folder" "$CRICTL" || return 1
  cp -r "$E2E" "$folder/e2e"
  # Started once here, so that the images are there.
  start_registry "$folder/registry" || return 1
  kill "$REGISTRY_PID" && wait "$REGISTRY_PID" 2>/dev/null
  cp -r "$MINKE_CACHE/docker-registry" "$folder/cache/"
  cp -r "$(image_store)" "$folder/cache/"
}

# stage_tool FOLDER PROGRAM...: built programs, where the functions of common.sh look for them.
stage_tool() {
  local cache="$1/cache" program
  shift
  for program in "$@"; do
    mkdir -p "$(dirname "$cache/${program#"$MINKE_CACHE"/}")" && cp "$program" "$cache/${program#"$MINKE_CACHE"/}" || return 1
  done
}

# stage_behaviour FOLDER: the tests of e2e/cri. Needs behaviour.sh.
stage_behaviour() {
  local folder="$1"
  build_behaviour && cp "$BEHAVIOUR" "$folder/behaviour" && mkdir -p "$folder/probes" || return 1
  "${CC:-cc}" -static -O1 -o "$folder/probes/probe" "$E2E/cri/probe.c" &&
    "${CC:-cc}" -shared -fPIC -O1 -o "$folder/probes/preloaded" "$E2E/cri/preloaded.c" && stage_cc "$folder"
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
  stage_cc "$folder"
}

# stage_cc FOLDER: the node has no compiler; this one hands over what was compiled here.
stage_cc() {
  local folder="$1"
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
