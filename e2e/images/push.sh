# Makes images and pushes them to a registry.
# Sourced; needs work, a folder for what is made on the way, and registry, HOST:PORT.

arch=$(dpkg --print-architecture)

# layer NAME DIR [zstd]: packs DIR as a layer, gzip unless said; its digests are kept under NAME.
layer() {
  local tar="$work/$1.tar"
  tar --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 --format=posix \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -C "$2" -cf "$tar" .
  printf 'sha256:%s' "$(sha256sum "$tar" | cut -d' ' -f1)" >"$work/$1.diff"
  case "${3:-gzip}" in
    gzip) gzip -n -1 <"$tar" ;;
    zstd) zstd -q -3 <"$tar" ;;
  esac >"$work/$1.layer"
  printf 'application/vnd.docker.image.rootfs.diff.tar.%s' "${3:-gzip}" >"$work/$1.type"
  rm "$tar"
}

# blob REPOSITORY FILE: uploads FILE and prints its digest.
blob() {
  local digest location
  digest="sha256:$(sha256sum "$2" | cut -d' ' -f1)"
  if ! curl -fsI -o /dev/null "http://$registry/v2/$1/blobs/$digest"; then
    location=$(curl -fsS -X POST -D - -o /dev/null "http://$registry/v2/$1/blobs/uploads/" |
      tr -d '\r' | awk 'tolower($1) == "location:" { print $2 }')
    case "$location" in *\?*) location="$location&digest=$digest" ;; *) location="$location?digest=$digest" ;; esac
    curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" "$location" >/dev/null
  fi
  printf '%s' "$digest"
}

# pushed NAME REPOSITORY:TAG: takes up the first layer of an image that the registry has, as NAME.
pushed() {
  local from="http://$registry/v2/${2%:*}" manifest
  manifest=$(curl -fsS -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "$from/manifests/${2##*:}")
  curl -fsS "$from/blobs/$(jq -r '.layers[0].digest' <<<"$manifest")" >"$work/$1.layer"
  curl -fsS "$from/blobs/$(jq -r .config.digest <<<"$manifest")" | jq -j '.rootfs.diff_ids[0]' >"$work/$1.diff"
  jq -j '.layers[0].mediaType' <<<"$manifest" >"$work/$1.type"
}

# image REPOSITORY TAGS CONFIG LAYER...: pushes an image; CONFIG is the JSON of its "config".
image() {
  local repository="$1" tags="$2" config="$3" diffs="" layers="" digest tag
  shift 3
  for name in "$@"; do
    digest=$(blob "$repository" "$work/$name.layer")
    diffs="$diffs${diffs:+,}\"$(cat "$work/$name.diff")\""
    layers="$layers${layers:+,}{\"mediaType\":\"$(cat "$work/$name.type")\",\"size\":$(stat -c %s "$work/$name.layer"),\"digest\":\"$digest\"}"
  done
  printf '{"architecture":"%s","os":"linux","created":"2020-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]}}' \
    "$arch" "$config" "$diffs" >"$work/config.json"
  digest=$(blob "$repository" "$work/config.json")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":%s,"digest":"%s"},"layers":[%s]}' \
    "$(stat -c %s "$work/config.json")" "$digest" "$layers" >"$work/manifest.json"
  for tag in $tags; do
    curl -fsS -X PUT -H 'Content-Type: application/vnd.docker.distribution.manifest.v2+json' \
      --data-binary "@$work/manifest.json" "http://$registry/v2/$repository/manifests/$tag" >/dev/null
  done
  echo "$repository: $tags"
}
