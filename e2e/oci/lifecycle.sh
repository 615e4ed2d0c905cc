# A container's life, command by command. Sourced by parts/oci.

# Exit codes.
for case in 'zero ["true"]' 'seven ["sh","-c","exit 7"]' 'killed ["sh","-c","sh -c \"kill -9 \\$\\$\""]' \
  'absent ["no-such-program"]' 'forbidden ["/bin/forbidden"]' 'directory ["/etc"]'; do
  name=${case%% *}
  config "$name" "${case#* }"
  check "exit code: $name" is "$(code minke run -b "$dir/$name" "$name")" "$(code runc run -b "$dir/$name" "$name")"
done
config text '["/bin/nothing"]'
check "what is no program fails before it starts; with runc it ends with 255" \
  is "$(code minke run -b "$dir/text" text) $(code runc run -b "$dir/text" text)" "1 255"
check "an error names program and cause" has "$(fails minke run -b "$dir/absent" absent)" '"no-such-program": No such file'
check "a failed run leaves no container" is "$(minke list -q)" ""
check "a missing bundle is named" has "$(fails minke create -b "$dir/gone" x)" "$dir/gone"
check "a bad id is refused" has "$(fails minke create -b "$dir/zero" a/b)" "no container id"
check "--systemd-cgroup is refused" has "$(fails minke --systemd-cgroup list)" "--systemd-cgroup is not supported"
check "--no-pivot is refused" has "$(fails minke run --no-pivot -b "$dir/zero" x)" "--no-pivot is not supported"
linux=',"personality":{"domain":"LINUX32"}' config personality '["true"]'
check "what cannot be followed is refused by name" has "$(fails minke run -b "$dir/personality" x)" "linux.personality: is not supported"
fails minke --log "$dir/log" --log-format json run -b "$dir/gone" x >/dev/null
check "--log-format json" has "$(cat "$dir/log")" '"level":"error","msg":"cannot find the bundle'

# states ID: the fields of runtime-spec as both print them, one a line, ids of processes aside.
states() {
  "$1" state "$2" | tr -d ' ",' | grep -E '^(ociVersion|id|status|bundle|rootfs|org.example.colour|pid:0)' | sort
}
config life '["sleep","1000"]'
for runtime in minke runc; do
  {
    $runtime create -b "$dir/life" --pid-file "$dir/pid" life && states $runtime life
    [ "$(cat "$dir/pid")" = "$($runtime state life | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')" ] && echo "pid file"
    $runtime create -b "$dir/life" life 2>/dev/null || echo "the id is taken"
    $runtime list -q
    $runtime start life && states $runtime life | grep status
    $runtime start life 2>/dev/null || echo "it cannot be started again"
    $runtime delete life 2>/dev/null || echo "it cannot be deleted"
    $runtime exec life sh -c 'cat /proc/1/cmdline | tr "\0" " "; exit 5'; echo "exec $?"
    $runtime exec --user 1000:7 --additional-gids 8 --cwd /tmp --env A=B --cap CAP_NET_ADMIN --no-new-privs life \
      sh -c 'id -u; id -g; id -G | tr " " "\n" | sort -u; pwd; env | sort; grep -E "Cap|NoNew|Umask|Sig[BI]" /proc/self/status; ls /proc/self/fd | tr "\n" " "'; echo "exec $?"
    echo in | $runtime exec life cat
    $runtime exec life no-such-program >/dev/null 2>&1 || echo "exec fails"
    $runtime ps --format json life | tr -d '[]' | grep -qw "$(cat "$dir/pid")" && echo "ps"
    $runtime ps life | grep -c 'sleep 1000'
    $runtime pause life && states $runtime life | grep status
    $runtime exec life true 2>/dev/null || echo "no exec while paused"
    $runtime resume life && states $runtime life | grep status
    $runtime update --memory 64m --pids-limit 30 --cpu-share 256 life
    cat /sys/fs/cgroup/{memory/$group/life/memory.limit_in_bytes,pids/$group/life/pids.max,cpu/$group/life/cpu.shares,$group/life/{memory,pids}.max} 2>/dev/null
    $runtime events --stats life | grep -o '"pids":{"current":1,"limit":30}'
    $runtime kill life USR2 && $runtime kill life KILL
    wait_until 5 bash -c '! kill -0 $(cat '"$dir"'/pid)'
    states $runtime life
    $runtime kill life 2>/dev/null || echo "nobody to kill"
    $runtime delete life && $runtime list -q
    $runtime state life 2>/dev/null || echo "it is gone"
    $runtime delete --force life && echo "--force forgives"
  } >"$dir/$runtime.life" 2>&1
done
check "create, start, exec, ps, pause, resume, update, events, kill, delete" is "$(cat "$dir/minke.life")" "$(cat "$dir/runc.life")"
check "each of these said something" has "$(cat "$dir/minke.life")" "nobody to kill
it is gone
--force forgives"

# Who may trace everything still cannot write to what the next container will be started by.
caps="$caps"',"CAP_SYS_PTRACE","CAP_SYS_ADMIN","CAP_DAC_OVERRIDE"' config waiting '["true"]'
quietly minke create -b "$dir/waiting" waiting
check "the program of a process that waits cannot be written to" \
  has "$(fails minke exec waiting sh -c 'echo x >/proc/1/exe')" "Read-only file system"
minke delete --force waiting

config late '["no-such-program"]'
quietly minke create -b "$dir/late" late
check "start tells of a program that cannot be executed" has "$(fails minke start late)" "no-such-program"
check "which leaves the container stopped" has "$(minke state late)" '"status": "stopped"'
check "and deletable" minke delete late
config detached '["sleep","1000"]'
check "run --detach" quietly minke run --detach --pid-file "$dir/pid" -b "$dir/detached" detached
check "its parent is gone" is "$(awk '/^PPid/ { print $2 }' "/proc/$(cat "$dir/pid")/status")" 1
check "exec --detach" quietly minke exec --detach --pid-file "$dir/pid2" detached sleep 999
check "it lives in the container" is "$(readlink "/proc/$(cat "$dir/pid2")/ns/pid")" "$(readlink "/proc/$(cat "$dir/pid")/ns/pid")"
echo '{"args":["sh","-c","id -u; pwd; echo $X"],"cwd":"/tmp","env":["PATH=/bin","X=y"],"user":{"uid":12,"gid":0}}' >"$dir/process.json"
check "exec --process" is "$(minke exec --process "$dir/process.json" detached | tr '\n' ' ')" "12 /tmp y "
check "--preserve-fds of exec" is "$(minke exec --preserve-fds 2 detached cat /proc/self/fd/4 4<<<four 3<<<three)" four
check "kill --all" minke kill --all detached KILL
check "and delete" minke delete --force detached
config descriptors '["sh","-c","cat <&3; cat <&5; ls /proc/self/fd | tr \"\\n\" \" \""]'
check "--preserve-fds" is "$(minke run --preserve-fds 3 -b "$dir/descriptors" descriptors 3<<<three 4<<<four 5<<<five 6<<<six | tr '\n' ' ')" "three five 0 1 2 3 4 5 6 "
check "a descriptor that is not open" has "$(fails minke run --preserve-fds 1 -b "$dir/zero" zero 3<&-)" "descriptor 3 is not open"

# A terminal, whose other end goes through a socket or is relayed.
RECVTTY=$(CGO_ENABLED=0 peer runc recvtty github.com/opencontainers/runc/tests/cmd/recvtty) || exit 1
console='["sh","-c","tty; stty size; ls -l /dev/console | cut -c1-10; exec cat /etc/passwd"]'
process=',"consoleSize":{"height":33,"width":44}' terminal=true config console "$console"
"$RECVTTY" "$dir/tty.sock" >"$dir/tty.out" 2>&1 </dev/null &
receiver=$!
wait_until 5 test -S "$dir/tty.sock"
check "create with --console-socket" minke create -b "$dir/console" --console-socket "$dir/tty.sock" console
check "a terminal that nobody would hold is refused" has "$(fails minke create -b "$dir/console" other)" "--console-socket"
minke start console
check "the terminal's other end was sent" wait_until 5 grep -q 'root:x:0:0' "$dir/tty.out"
check "it has the size that was asked for" has "$(tr -d '\r' <"$dir/tty.out")" "/dev/pts/0
33 44
crw--w----"
wait "$receiver"
minke delete --force console
check "run relays a terminal" is "$(minke run -b "$dir/console" console </dev/null | tr -d '\r' | head -n 3)" "/dev/pts/0
33 44
crw--w----"
terminal=false config session '["sleep","1000"]'
quietly minke run --detach -b "$dir/session" session
check "exec --tty relays, both ways" is "$(printf 'echo typed\nexit 9\n' | minke exec --tty session sh | tr -d '\r' | grep -c '^typed$')" 1
check "signals are passed on" is "$(timeout -s TERM 1 "$MINKE_OCI" --root "$dir/minke" exec session sh -c 'trap "echo caught; exit 3" TERM; while :; do sleep 0.1; done'; echo $?)" "caught
124"
minke delete --force session

# Hooks: the same programs at the same moments in the same namespaces.
cat >"$dir/hook" <<F
#!/bin/bash
{ printf '%s %s %s %s: ' "\$1" "\${PWD##*/}" "\$COLOUR" "\$([ \$(readlink /proc/self/ns/uts) = $(readlink /proc/self/ns/uts) ] && echo here || echo inside)"
  tr -d '" ' | tr '{},' '\n' | grep -E '^(id|bundle)' | sort | tr '\n' ' '; echo; } >>"$dir/hooks.log"
[ "\$1" != createContainer ] || mount -t tmpfs hook "$root/mnt"
[ "\$1" = "\$2" ] && { echo "so it goes" >&2; exit 4; }
exit 0
F
chmod +x "$dir/hook"
hooks() { # FAILING: hooks of every kind that run here
  local kind list=""
  for kind in prestart createRuntime createContainer poststart poststop; do
    list+="\"$kind\":[{\"path\":\"$dir/hook\",\"args\":[\"hook\",\"$kind\",\"$1\"],\"env\":[\"COLOUR=red\",\"PATH=/bin:/usr/bin\"],\"timeout\":10}],"
  done
  printf ',"hooks":{%s"startContainer":[{"path":"/bin/sh","args":["sh","-c","cat >/tmp/state; hostname >>/tmp/state"]}]}' "$list"
}
for failing in none prestart createRuntime createContainer poststart poststop; do
  top=$(hooks $failing) config hooked '["sh","-c","cat /tmp/state | tr , \"\\n\" | grep -oE \"status.*created|box\"; grep -c \" /mnt \" /proc/self/mountinfo; sleep 0.2"]'
  for runtime in minke runc; do
    rm -f "$dir/hooks.log"
    { $runtime run -b "$dir/hooked" hooked 2>"$dir/$runtime.err"; echo "exit $?"; } >"$dir/$runtime.hooks"
    # Whether the program had its say before a poststart hook failed is a matter of luck.
    [ $failing != poststart ] || sed -i '/^exit/!d' "$dir/$runtime.hooks"
    # runc runs in the root file system what it runs inside; here it is the bundle as everywhere.
    sed 's/createContainer rootfs/createContainer hooked/' "$dir/hooks.log" >>"$dir/$runtime.hooks"
    $runtime delete --force hooked
  done
  check "hooks, of which fails: $failing" is "$(grep -v poststop "$dir/minke.hooks")" "$(grep -v poststop "$dir/runc.hooks")"
  [ $failing = none ] || check "the failure names the hook" has "$(cat "$dir/minke.err")" "the $failing hook $dir/hook"
  check "poststop comes last" has "$(tail -n 1 "$dir/hooks.log")" "poststop"
done
top=",\"hooks\":{\"createRuntime\":[{\"path\":\"/bin/sleep\",\"args\":[\"sleep\",\"60\"],\"timeout\":1}]}" config slow '["true"]'
check "a hook that takes too long" has "$(fails minke run -b "$dir/slow" slow)" "did not end within its 1 s"

mkdir "$dir/fresh"
check "spec writes a bundle" minke spec --bundle "$dir/fresh"
check "which is not overwritten" fails minke spec --bundle "$dir/fresh"
keys() { "$1" features | tr -d ' ",' | grep -oE '^(ociVersion|[a-zA-Z]+):' | sort -u; }
check "features says as much as runc's" is "$(comm -13 <(keys minke) <(keys runc) | grep -vE '^(schemata|enableMonitoring|list|runc|org|libseccomp|rdma|potentiallyUnsafe.*|monitoring|memoryPolicy|modes|flags):')" ""
