# Where apt has its packages from, Debian or Ubuntu, and packages of a later release of that.
# Sourced by the other scripts; needs MINKE_CACHE and packages.sh.

# archive: prints the distribution and the address that apt has it from.
archive() {
  local found
  found=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
    awk '($1 == "Debian" || $1 == "Ubuntu") && $2 !~ /-/ { print $1, $3; exit }')
  [ -n "$found" ] || { echo "apt knows no archive of Debian or Ubuntu on this machine" >&2; return 1; }
  printf '%s\n' "$found"
}

# later_release: sets MIRROR, SUITE, COMPONENTS, KEYRING (its keys) and GO (its package of a Go that can
# fetch newer ones) to those of the release that nodes and missing tools are made from.
later_release() {
  local found keys="$MINKE_CACHE/keyring"
  found=$(archive) || return 1
  MIRROR=${found#* }
  case "$found" in
    Debian*) SUITE=trixie COMPONENTS="main" GO=golang-1.24 KEYRING=debian-archive-keyring ;;
    *) SUITE=noble COMPONENTS="main universe" GO=golang-1.22 KEYRING=ubuntu-keyring ;;
  esac
  [ -d "$keys/usr/share/keyrings" ] || unpack_packages "$keys" "$KEYRING" || return 1
  KEYRING="$keys/usr/share/keyrings/${KEYRING/ubuntu-keyring/ubuntu-archive-keyring}.gpg"
}

# unpack_later_packages DIR NAME...: unpacks packages of that release below DIR; apt's own lists and
# sources stay as they are.
unpack_later_packages() {
  local dir="$1" apt="$MINKE_CACHE/apt-$SUITE" file
  shift
  mkdir -p "$dir" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
  echo "deb [signed-by=$KEYRING] $MIRROR $SUITE $COMPONENTS" >"$apt/sources.list"
  local options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/nonexistent
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update && (cd "$apt/debs" && apt-get "${options[@]}" download "$@") || return 1
  for file in "$apt"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$file" | tar -x -C "$dir" || return 1
  done
  rm -rf "$apt"
}
