# The opening of a part that boots a node: everything such a part needs, its kernel and its folder, dir,
# which is removed at the end. Sourced.

# shellcheck source=e2e/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
. "$E2E/check.sh"
. "$E2E/images/packages.sh"
. "$E2E/registry.sh"
. "$E2E/daemon.sh"
. "$E2E/node/node.sh"
. "$E2E/node/stage.sh"

kernel=$(node_kernel) || not_run "$kernel"
dir=$(mktemp -d -t minke-node-XXXXXX)
trap '[ -n "${KEEP:-}" ] || rm -rf "$dir" "$dir".disk' EXIT

# staged COMMAND...: fills the folder; says what went wrong, and ends the part.
staged() { "$@" >>"$dir/stage.log" 2>&1 || { tail -n 40 "$dir/stage.log"; exit 1; }; }

# boots [SECONDS]: a boot of the node; the part ends here, with what the node has said, if it leaves no
# result.
boots() { boot_node "$kernel" "$dir" "${MINKE_NODE_SECONDS:-${1:-1200}}" || exit 1; }

# runs_part SECONDS [NAME=VALUE]... PART [ARGUMENT]...: boots, runs a part of the end-to-end run on the node
# with these settings, takes over its result and succeeds if it has.
runs_part() {
  local seconds="$1" settings=(PART_RESULT=/host/result)
  shift
  while [[ "$1" = *=* ]]; do
    settings+=("$1")
    shift
  done
  printf '. /host/e2e/node/guest.sh\nenv %sbash /host/e2e/parts/%s\n' "$(printf '%q ' "${settings[@]}")" \
    "$(printf '%q ' "$@")" >"$dir/run.sh"
  : >"$dir/result"
  boots "$seconds"
  cat "$dir/output"
  cat "$dir/result" >>"$PART_RESULT"
  return "$(cat "$dir/code")"
}
