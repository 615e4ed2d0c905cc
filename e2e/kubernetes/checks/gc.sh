# A disk that fills: images that nothing uses go, before any pod has to.
in_namespace gc

# unused_image: pushes one of 200 MB that no packing makes smaller.
unused_image() {
  local work registry="$REGISTRY"
  work=$(mktemp -d "$NODE_DIR/unused-XXXXXX")
  mkdir "$work/root" && head -c 200M /dev/urandom >"$work/root/file"
  . "$E2E/images/push.sh"
  layer unused "$work/root" && image unused 1 "{}" unused
  rm -rf "$work"
}
(unused_image) >/dev/null
apply <<Y
apiVersion: v1
kind: Pod
metadata: { name: stays }
spec: { terminationGracePeriodSeconds: 0, containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000000"] }] }
Y
check "a pod runs" ready stays
images() { "$CRICTL" images; }
check "an image is there that no pod uses" eval '"$CRICTL" pull registry.k8s.io/unused:1 && has "$(images)" registry.k8s.io/unused'
# A kubelet lets alone what it has only just seen; it looks at its start, and then every five minutes.
stop_kubelet
start_joined
check "the kubelet is started again" kubelet_answers
# 100 MB too much for what the kubelet wants to be free.
available=$(df --output=avail --block-size=1 "$IMAGE_DISK" | tail -n 1)
check "the disk is filled" fallocate -l $((available - (1 << 30) + (100 << 20))) "$IMAGE_DISK/filler"
pressed() { has "$(k get events -A -o jsonpath='{.items[?(@.reason=="EvictionThresholdMet")].message}')" ephemeral-storage; }
check "the kubelet sees that its disk is full" wait_until 60 pressed
pressure() { is "$(k get node node -o jsonpath='{.status.conditions[?(@.type=="DiskPressure")].status}')" "$1"; }
check "and the node tells it" wait_until 30 pressure True
is_gone() {
  local there
  there=$(images) && has "$there" "${BUSYBOX_IMAGE%:*}" && fails has "$there" registry.k8s.io/unused
}
check "the image is removed" wait_until 60 is_gone
check "which frees the disk" wait_until 30 eval '[ "$(df --output=avail --block-size=1 "$IMAGE_DISK" | tail -n 1)" -gt $((1 << 30)) ]'
check "the image of the pod is there" has "$(images)" "${BUSYBOX_IMAGE%:*}"
rm "$IMAGE_DISK/filler"
check "the node recovers" wait_until 90 pressure False
check "no pod was evicted" is "$(k get pods -A -o jsonpath='{.items[?(@.status.reason=="Evicted")].metadata.namespace}' | tr ' ' '\n' | grep -vx pressure)" ""
check "the pod has run on" is "$(status stays .phase) $(status stays '.containerStatuses[0].restartCount')" "Running 0"
done_with_namespace
