# As many pods as a node may have, at once.
in_namespace density

room=$((110 - $(k get pods -A --field-selector=status.phase!=Succeeded,status.phase!=Failed -o name | wc -l)))
apply <<Y
apiVersion: apps/v1
kind: Deployment
metadata: { name: many }
spec:
  replicas: 0
  selector: { matchLabels: { app: many } }
  template:
    metadata: { labels: { app: many } }
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000000"] }]
Y
begun=$(date +%s%N)
kn scale deployment/many --replicas "$room" >/dev/null
check "110 pods on the node become ready" kn rollout status deployment/many --timeout=600s
printf '        %s pods ready after %s s\n' "$room" "$(awk -v ns=$(($(date +%s%N) - begun)) 'BEGIN { printf "%.1f", ns / 1e9 }')"
check "each has an address of its own" is "$(kn get pods -o jsonpath='{range .items[*]}{.status.podIP}{"\n"}{end}' | sort -u | wc -l)" "$room"
check "none was restarted" is "$(kn get pods -o jsonpath='{range .items[*]}{.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort -u)" 0
begun=$(date +%s%N)
kn delete deployment many --cascade=foreground --timeout=300s >/dev/null
empty() { is "$(kn get pods -o name)" ""; }
check "and go again" wait_until 300 empty
printf '        gone after %s s\n' "$(awk -v ns=$(($(date +%s%N) - begun)) 'BEGIN { printf "%.1f", ns / 1e9 }')"
done_with_namespace
