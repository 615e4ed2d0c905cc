# The program of the tests in e2e/cri. Sourced; needs common.sh and images/packages.sh.

# build_behaviour: sets BEHAVIOUR to it. A node, which has no compiler, is given it.
build_behaviour() {
  local built
  [ -z "${BEHAVIOUR:-}" ] || return 0
  PROTOC=$(protoc_path) || return 1
  export PROTOC
  built=$(cargo test --quiet --no-run --message-format json --manifest-path "$E2E/cri/Cargo.toml" --target-dir "$E2E_TARGET" \
    --test behaviour) || return 1
  BEHAVIOUR=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built")
}
