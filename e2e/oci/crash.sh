# Commands that are killed at any moment leave nothing that delete does not take away. Sourced by
# parts/oci.

config crash '["sleep","1000"]'
# microseconds NUMBER: as sleep takes it.
microseconds() { printf '%d.%06d' $(($1 / 1000000)) $(($1 % 1000000)); }
# killed_after MICROSECONDS COMMAND...: runs a command and kills it after that time.
killed_after() {
  local time="$1" pid
  shift
  "$@" >/dev/null 2>&1 </dev/null &
  pid=$!
  sleep "$(microseconds "$time")"
  kill -9 "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
}
remains() {
  minke list -q
  ls "$dir/minke"
  find /sys/fs/cgroup -type d -path "*/$group/crash*" 2>/dev/null
  grep -l "^sleep.1000" /proc/[0-9]*/cmdline 2>/dev/null | while read -r file; do
    grep -q "/$group/crash" "${file%cmdline}cgroup" 2>/dev/null && echo "$file"
  done
}
left=""
for step in $(seq 0 39); do
  killed_after $((step * 150)) "$MINKE_OCI" --root "$dir/minke" create -b "$dir/crash" crash
  minke delete --force crash || left+="delete failed after $step; "
  left+=$(remains)
done
check "create killed at 40 moments, then deleted" is "$left" ""
left=""
for step in $(seq 0 19); do
  quietly minke create -b "$dir/crash" crash
  killed_after $((step * 150)) "$MINKE_OCI" --root "$dir/minke" start crash
  minke state crash | grep -qE '"status": "(created|running)"' || left+="after $step: $(minke state crash); "
  minke delete --force crash || left+="delete failed after $step; "
  left+=$(remains)
done
check "start killed at 20 moments: created or running, then deleted" is "$left" ""
left=""
for step in $(seq 0 19); do
  quietly minke run --detach -b "$dir/crash" crash
  killed_after $((step * 150)) "$MINKE_OCI" --root "$dir/minke" delete --force crash
  minke delete --force crash || left+="delete failed after $step; "
  left+=$(remains)
done
check "delete killed at 20 moments, then repeated" is "$left" ""
minke run -b "$dir/crash" crash >/dev/null 2>&1 &
runner=$!
wait_until 5 bash -c '"$1" --root "$2" state crash | grep -q running' - "$MINKE_OCI" "$dir/minke"
kill -9 $runner; wait $runner 2>/dev/null
check "a container outlives its run" has "$(minke state crash)" '"status": "running"'
check "and is deleted" minke delete --force crash
check "without a trace" is "$(remains)" ""
