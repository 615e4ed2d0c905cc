# Counts checks: `check WORDS COMMAND...` runs a command and reports it, `finish` ends the part.
# Sourced; needs PART_RESULT.

: "${PART_RESULT:=/dev/null}"
passed=0 failed=0

check() {
  local words="$1" output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    printf 'ok      %s\n' "$words"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s: %s\n%s\n' "$words" "$*" "$(printf '%s' "$output" | tail -n 40 | sed 's/^/        /')"
  fi
}

# is GOT WANTED, has GOT PART: what a check compares.
is() { [ "$1" = "$2" ] || { echo "got: $1"; echo "wanted: $2"; return 1; }; }
has() { case "$1" in *"$2"*) ;; *) echo "got: $1"; echo "wanted it to hold: $2"; return 1 ;; esac; }

finish() {
  printf 'passed %s\nfailed %s\n' "$passed" "$failed" >>"$PART_RESULT"
  [ "$failed" -eq 0 ]
  exit
}

# not_run REASON: this part cannot run here.
not_run() {
  echo "not run: $1"
  printf 'reason %s\n' "$1" >>"$PART_RESULT"
  exit 77
}
