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
  of unknown "$BUSYBOX_IMAGE" IfNotPresent "runtimeClassName: unknown"
} | apply
waiting() { has "$(status "$1" '.containerStatuses[0].state.waiting.reason')" "$2"; }
check "pull policy Always" ready always
check "pull policy Never" wait_until 30 waiting never ErrImageNeverPull
check "an image that is not there" wait_until 30 event absent "no/such-image:1"
check "is tried again later" wait_until 180 waiting absent ImagePullBackOff
check "a host that is not there is named" wait_until 180 event no-host "no-such-host.invalid"
check "a name that is none" wait_until 30 waiting bad-name InvalidImageName
check "credentials of a pod" ready login
check "wrong ones are refused by name" wait_until 180 event wrong "$PRIVATE_REGISTRY/library/busybox:1.36"
check "and none" wait_until 180 event anonymous "$PRIVATE_REGISTRY/library/busybox:1"
check "a runtime class" ready named
check "one whose handler is not there is named" wait_until 30 event unknown no-such-handler
check "the image's digest is told" has "$(status always '.containerStatuses[0].imageID')" "@sha256:"
k delete runtimeclass named unknown >/dev/null
done_with_namespace
