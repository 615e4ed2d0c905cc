# Pulling: policies, failures and their delay, credentials, runtime classes.
in_namespace images

apply <<Y
apiVersion: v1
kind: Secret
metadata: { name: login }
type: kubernetes.io/dockerconfigjson
stringData: { .dockerconfigjson: '{"auths":{"$PRIVATE_REGISTRY":{"username":"minke","password":"secret word"}}}' }
---
apiVersion: v1
kind: Secret
metadata: { name: wrong }
type: kubernetes.io/dockerconfigjson
stringData: { .dockerconfigjson: '{"auths":{"$PRIVATE_REGISTRY":{"username":"minke","password":"other"}}}' }
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: { name: named }
handler: $RUNTIME_HANDLER
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: { name: unknown }
handler: no-such-handler
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: { name: other }
handler: other
Y
{
  of() { # POD IMAGE [POD-FIELDS]
    printf -- '---\napiVersion: v1\nkind: Pod\nmetadata: { name: %s }\nspec: { terminationGracePeriodSeconds: 0, %s containers: [{ name: main, image: "%s", command: [sleep, "1000000"], imagePullPolicy: %s }] }\n' "$1" "${4:+$4, }" "$2" "$3"
  }
  of always "$BUSYBOX_IMAGE" Always
  of never "registry.k8s.io/e2e-test-images/httpd:2.4.39-4" Never
  of absent registry.k8s.io/no/such-image:1 IfNotPresent
  of no-host no-such-host.invalid/image:1 IfNotPresent
  of bad-name "bad/UPPER:name" IfNotPresent
  of login "$PRIVATE_REGISTRY/library/busybox:latest" Always "imagePullSecrets: [{ name: login }]"
  of wrong "$PRIVATE_REGISTRY/library/busybox:1.36" Always "imagePullSecrets: [{ name: wrong }]"
  of anonymous "$PRIVATE_REGISTRY/library/busybox:1" Always
  of named "$BUSYBOX_IMAGE" IfNotPresent "runtimeClassName: named"
  of other "$BUSYBOX_IMAGE" IfNotPresent "runtimeClassName: other"
  of unknown "$BUSYBOX_IMAGE" IfNotPresent "runtimeClassName: unknown"
} | apply
waiting() { has "$(status "$1" '.containerStatuses[0].state.waiting.reason')" "$2"; }
check "pull policy Always" ready always
check "pull policy Never" wait_until 30 waiting never ErrImageNeverPull
# refused POD PART: a pull has failed, and names this.
refused() { has "$(events "$1" | grep "^$1 Failed ")" "$2"; }
check "an image that is not there" wait_until 180 refused absent "no/such-image:1"
check "is tried again later" wait_until 180 waiting absent ImagePullBackOff
check "a host that is not there is named" wait_until 180 refused no-host "no-such-host.invalid"
check "a name that is none" wait_until 30 waiting bad-name InvalidImageName
check "credentials of a pod" ready login
check "wrong ones are refused by name" wait_until 180 refused wrong "$PRIVATE_REGISTRY/library/busybox:1.36"
check "and none" wait_until 180 refused anonymous "$PRIVATE_REGISTRY/library/busybox:1"
check "a runtime class" ready named
check "another one" ready other
handler() { "$CRICTL" pods -q --label "io.kubernetes.pod.name=$1" | head -n 1 | xargs "$CRICTL" inspectp -o go-template --template '{{.status.runtimeHandler}}'; }
check "each with its handler" is "$(handler named) $(handler other)" "$RUNTIME_HANDLER other"
check "one whose handler is not there is named" wait_until 30 event unknown no-such-handler
check "the image's digest is told" has "$(status always '.containerStatuses[0].imageID')" "@sha256:"
described() { has "$(kn describe pod "$1" | sed -n '/^Events:/,$p')" "$2"; }
check "a pod's description says why it cannot start" described absent "no/such-image:1"
check "and which handler it lacks" described unknown no-such-handler
k delete runtimeclass named other unknown >/dev/null
done_with_namespace
