# Debian packages as files: fetched once by version, unpacked into a folder, never installed.
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
      echo "Debian has no package $name for this release" >&2
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

# debian_mirror: prints the address that apt has Debian from.
debian_mirror() {
  local mirror
  mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')
  [ -n "$mirror" ] || { echo "apt knows no Debian mirror on this machine" >&2; return 1; }
  printf '%s\n' "$mirror"
}

# debian_keyring: prints the folder with the keys of Debian's releases.
debian_keyring() {
  local keyring="$MINKE_CACHE/keyring"
  [ -d "$keyring/usr/share/keyrings" ] || unpack_packages "$keyring" debian-archive-keyring || return 1
  printf '%s\n' "$keyring/usr/share/keyrings"
}

# unpack_suite_packages SUITE DIR NAME...: unpacks packages of another release below DIR; apt's own
# lists and sources stay as they are.
unpack_suite_packages() {
  local suite="$1" dir="$2" apt="$MINKE_CACHE/apt-$1" mirror keys file
  shift 2
  mirror=$(debian_mirror) && keys=$(debian_keyring) || return 1
  mkdir -p "$dir" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
  echo "deb [signed-by=$keys/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
  local options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/nonexistent
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update && (cd "$apt/debs" && apt-get "${options[@]}" download "$@") || return 1
  for file in "$apt"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$file" | tar -x -C "$dir" || return 1
  done
  rm -rf "$apt"
}
