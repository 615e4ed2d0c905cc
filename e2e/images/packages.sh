# Packages of Debian or Ubuntu as files: fetched once by version, unpacked into a folder, never installed.
# Sourced by the other scripts; needs MINKE_CACHE.

# fetch_packages NAME...: puts each package's newest .deb into the cache and prints their paths.
fetch_packages() {
  local debs="$MINKE_CACHE/debs" name version file
  mkdir -p "$debs"
  if ! apt-cache show "$1" >/dev/null 2>&1; then
    apt-get update -qq >&2
  fi
  for name in "$@"; do
    version=$(apt-cache policy "$name" | awk '/Candidate:/ { print $2 }')
    if [ -z "$version" ] || [ "$version" = "(none)" ]; then
      echo "apt has no package $name for this release" >&2
      return 1
    fi
    file="$debs/${name}_${version//:/%3a}_$(dpkg --print-architecture).deb"
    if [ ! -s "$file" ]; then
      (cd "$debs" && apt-get -o APT::Sandbox::User=root download -qq "$name=$version" >/dev/null)
      # Packages for all architectures say so in their name; ours do not need to.
      [ -s "$file" ] || mv "$debs/${name}_${version//:/%3a}_all.deb" "$file"
    fi
    printf '%s\n' "$file"
  done
}

# unpack_packages DIR NAME...: unpacks the files of the packages below DIR.
unpack_packages() {
  local dir="$1" file
  shift
  mkdir -p "$dir"
  fetch_packages "$@" | while read -r file; do
    dpkg-deb --fsys-tarfile "$file" | tar -x -C "$dir"
  done
}
